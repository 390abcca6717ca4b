"""Random work, done by the store under test and by the one in memory: every answer must be the same.

A sequence is fixed by its seed. No two runs of a sequence fall due in the same microsecond, since nothing says which of
them goes first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from random import Random
from typing import Any, cast

import pytest

from actorjobs.clock import Clock, VirtualClock
from actorjobs.codec import encode_error
from actorjobs.lifecycle import Ending, Standing, decide
from actorjobs.model import Envelope, ErrorInfo, Outcome, RunState
from actorjobs.ports import (
    Bid,
    Claim,
    Demand,
    Hint,
    LostRun,
    Quarantined,
    Refusal,
    RunFilter,
    RunPage,
    Settlement,
    Store,
    Taken,
)
from actorjobs.testing.memory import MemoryStore
from actorjobs.testing.memory_rows import MemoryDatabase
from actorjobs.testing.store_suite.setting import (
    EVERYTHING,
    NASTY,
    OpenStore,
    StoreSetting,
    Travel,
    ending,
    envelope,
    run_id,
    worker,
)

JOBS, QUEUES, TENANTS = ("suite:one", "suite:two", "suite:three"), ("fast", "slow"), (None, "acme", "other")
OWNERS = ("worker-1", "worker-2", "worker-3")
ENDED = [outcome for outcome in Outcome if outcome is not Outcome.RUNNING]
SHOWN_STEPS = 25
UNORDERED = ("running", "stage")
"""Verbs with answers of any order; hints may be put into the outbox in the same microsecond, and come out alike."""
ALL = 1000


@dataclass(frozen=True)
class Verb:
    """One call of a store."""

    name: str
    arguments: tuple[Any, ...] = ()
    options: Mapping[str, Any] | None = None

    async def on(self, store: Store) -> Any:
        """The answer, in a form that can be compared; an error is an answer too."""
        try:
            answer = await getattr(store, self.name)(*self.arguments, **(self.options or {}))
        except Exception as error:
            return error
        return answer

    def __str__(self) -> str:
        options = [f"{name}={value!r}" for name, value in (self.options or {}).items()]
        return f"{self.name}({', '.join([*map(repr, self.arguments), *options])})"


def verb(name: str, *arguments: Any, **options: Any) -> Verb:
    return Verb(name, arguments, options)


def comparable(answer: Any) -> Any:
    """The answer without what may differ between two stores that do the same."""
    match answer:
        case Exception():
            return (type(answer).__name__, str(answer))
        case Envelope():
            return answer.model_copy(update={"id": "new"})
        case Quarantined():
            return replace(answer, id=None)
        case Taken(next_due=float(seconds)):
            return comparable(replace(answer, next_due=None)), round(seconds, 5)
        case Refusal():
            return replace(answer, seconds=round(answer.seconds, 5))
        case Hint():
            return replace(answer, delay=round(answer.delay, 5))
        case Taken() | RunPage():
            return [comparable(getattr(answer, name)) for name in answer.__dataclass_fields__]
        case str():
            return answer
        case Sequence():
            return [comparable(item) for item in answer]  # pyright: ignore[reportUnknownVariableType]
        case _:
            return answer


class StoreMachine:
    """Thinks of something to do, has it done by each pair of stores' one and other, and holds the answers together."""

    def __init__(
        self, *, pairs: Sequence[tuple[Store, Store]], clock: VirtualClock, seed: int, has_outbox: bool = False
    ) -> None:
        self._pairs = pairs
        self._clock = clock
        self._random = Random(seed)
        self._seed = seed
        self._log: list[str] = []
        self._envelopes: list[Envelope] = []
        self._claims: list[Claim] = []
        self._settled: list[Settlement] = []
        self._lost: list[LostRun] = []
        self._hints: list[Hint] = []
        self._cursor: str | None = None
        self._microseconds = 0
        self._thoughts: dict[Callable[[], Verb], int] = {
            self._insert: 12,
            self._insert_again: 2,
            self._insert_all: 2,
            self._take: 20,
            self._settle: 20,
            self._rescue: 3,
            self._save: 4,
            self._look_after_workers: 10,
            self._sweep: 4,
            self._look_after_queues: 6,
            self._manage: 10,
            self._read: 10,
            self._list: 6,
        }
        if has_outbox:
            self._thoughts |= {self._take: 4, self._stage: 12, self._claim: 12, self._tell: 20, self._look_for_lost: 14}

    async def work(self, steps: int) -> None:
        """Do so many things, then compare everything that is left."""
        for _ in range(steps):
            think = self._random.choices(list(self._thoughts), list(self._thoughts.values()))[0]
            self._learn(await self._do(self._random.choice([*self._pairs, *self._pairs[:2]]), think()))
            pause = self._random.choice([0.001, 0.01, 0.7, 3, 11])
            await self._clock.advance(pause + self._random.randrange(99) / 1000)
        for pair in self._pairs:
            await self._compare_all(pair)

    async def _compare_all(self, pair: tuple[Store, Store]) -> None:
        for name in ("queues", "workers"):
            await self._do(pair, verb(name))
        await self._do(pair, verb("stage", ALL))
        await self._do(pair, verb("quarantined", ALL))
        await self._do(pair, verb("count_by_state", EVERYTHING))
        await self._do(pair, verb("list", EVERYTHING, limit=1000, cursor=None))
        for one in self._envelopes:
            for name in ("get", "attempts", "history"):
                await self._do(pair, verb(name, one.id))

    async def _do(self, pair: tuple[Store, Store], what: Verb) -> Any:
        self._log.append(f"{self._clock.now():%H:%M:%S.%f} {what}")
        answers = [await what.on(store) for store in pair]
        if what.name in UNORDERED:
            answers = [sorted(answer, key=lambda one: one.run_id) for answer in answers]
        ours, theirs = map(comparable, answers)
        steps = "\n".join(self._log[-SHOWN_STEPS:])
        assert ours == theirs, f"seed {self._seed}, step {len(self._log)}: the answers differ after\n{steps}"
        return answers[0]

    def _learn(self, answer: Any) -> None:
        items = cast("Sequence[object]", answer if isinstance(answer, list | tuple) else [answer])
        for item in items:
            match item:
                case Taken():
                    self._claims += item.claims
                case Claim():
                    self._claims.append(item)
                case Hint():
                    self._hints.append(item)
                case LostRun():
                    self._lost.append(item)
                case RunPage():
                    self._cursor = item.cursor or self._cursor
                case Envelope():
                    self._envelopes.append(item)
                case _:
                    pass

    # what to do

    def _some_id(self) -> str:
        ids = [one.id for one in self._envelopes[-12:]] + [claim.run_id for claim in self._claims[-6:]]
        return self._random.choice([*ids, run_id()])

    def _delay(self, seconds: float) -> float:
        """About so many seconds, and never twice the same."""
        self._microseconds += 1
        return seconds + self._microseconds / 1_000_000

    def _new(self, *, is_first: bool) -> Envelope:
        random = self._random
        one = envelope(
            job=random.choice(JOBS),
            queue=random.choice(QUEUES),
            tenant=random.choice(TENANTS),
            payload=random.choice([{"n": random.randrange(3)}, NASTY, None, [2**63 - 1]]),
            priority=random.choice([0, 4, 4, 9]),
            delay=self._delay(random.choice([0.5, 3, 20])) if not is_first or random.random() < 0.3 else None,
            expires_in=random.choice([None, None, None, None, None, None, 0.0, 2.0, 60.0]),
            max_attempts=random.choice([1, 2, 5]),
            retention=random.choice([None, None, 5.0]),
            idempotency_key=random.choice([None, None, "a", "b"]),
            tags=random.choice([(), ("red",), ("red", "blue")]),
        )
        self._envelopes.append(one)
        return one

    def _group(self) -> list[Envelope]:
        return [self._new(is_first=number == 0) for number in range(self._random.choice([0, 1, 1, 2, 5]))]

    def _insert(self) -> Verb:
        return verb("insert", self._group())

    def _insert_again(self) -> Verb:
        return verb("insert", [self._random.choice(self._envelopes)] if self._envelopes else [])

    def _insert_all(self) -> Verb:
        return verb("insert_all", self._group())

    def _take(self) -> Verb:
        random = self._random
        demands = [
            Demand(
                queue=queue,
                jobs=dict.fromkeys(random.sample(JOBS, random.choice([1, 2, 3, 3, 3])), 1),
                limit=random.choice([0, 1, 2, 3, 5, 50]),
                suspects=random.random() < 0.2,
            )
            for queue in random.sample(QUEUES, random.randint(1, 2))
        ]
        return verb("take", demands, random.choice(OWNERS))

    def _settle(self) -> Verb:
        random = self._random
        if not self._claims or random.random() < 0.1:
            return verb("settle", self._settled[-1:])
        claims = random.sample(self._claims, min(len(self._claims), random.choice([1, 1, 2, 4])))
        if random.random() < 0.8:
            self._claims = [claim for claim in self._claims if claim not in claims]
        ends = [self._end(claim, is_first=number == 0) for number, claim in enumerate(claims)]
        self._settled += ends
        return verb("settle", ends)

    def _end(self, claim: Claim, *, is_first: bool) -> Settlement:
        random = self._random
        delayed = [Outcome.SUCCEEDED, Outcome.FAILED, Outcome.TIMED_OUT, Outcome.SNOOZED, Outcome.CANCELED]
        outcome = random.choice([*ENDED, Outcome.LOST, Outcome.LOST] if is_first else delayed)
        if random.random() < 0.1:
            newer, stolen = replace(claim, attempt=claim.attempt + 1), replace(claim, owner="stranger")
            claim = random.choice([newer, stolen, replace(claim, run_id=run_id())])
        return ending(
            claim,
            outcome,
            delay=self._delay(random.choice([0, 1, 8])),
            permanent=random.random() < 0.2,
            result=random.choice([None, "1", '{"text":"🦆"}']) if outcome is Outcome.SUCCEEDED else None,
            error=encode_error(ErrorInfo(name="E", message=NASTY)) if outcome is not Outcome.SUCCEEDED else None,
            actor=random.choice([None, "pool[1]"]),
            started_after=random.choice([0.0, 0.0005]),
        )

    def _rescue(self) -> Verb:
        if not self._lost:
            return verb("lost_runs", self._random.choice([1, 3, 100]))
        lost = self._lost.pop()
        standing = Standing(failures=lost.failures, max_attempts=lost.max_attempts, losses=lost.losses)
        decision = decide(standing, Ending(outcome=Outcome.LOST, counts=self._random.random() < 0.8))
        return verb("settle", [Settlement(fence=lost.fence, hint=lost.hint, outcome=Outcome.LOST, decision=decision)])

    def _save(self) -> Verb:
        if not self._claims:
            return verb("running", self._random.choice(OWNERS))
        fence = self._random.choice(self._claims).fence
        return verb(self._random.choice(["save_progress", "save_checkpoint"]), fence, '{"page":7}')

    def _stage(self) -> Verb:
        return verb("stage", ALL)

    def _some_hints(self) -> list[Hint]:
        """Of runs that wait, if all is well; some late, some of a generation yet to come, some garbage."""
        random = self._random
        if self._hints and random.random() < 0.6:
            return random.sample(self._hints[-8:], random.randint(1, min(8, len(self._hints))))
        hints = self._hints[-8:] + [claim.hint for claim in self._claims[-3:]]
        hints += [Hint(run_id=one.id, seq=1, job=one.job, queue=one.queue) for one in self._envelopes[-6:]]
        hints += [replace(one, seq=seq) for one in hints[-2:] for seq in (None, (one.seq or 0) + 1)]
        hints.append(Hint(run_id=random.choice(["", "garbage", run_id()]), seq=1, job=JOBS[0], queue=QUEUES[0]))
        return random.choices(hints, k=random.choice([0, 1, 2, 5, 10]))

    def _claim(self) -> Verb:
        random = self._random
        bids = [
            Bid(run_id=one.run_id, seq=one.seq, takes_suspect=random.random() < 0.3)
            for one in self._some_hints()
            if one.seq is not None
        ]
        jobs = dict.fromkeys(random.sample(JOBS, random.choice([1, 2, 3, 3, 3])), 1)
        return verb("claim", bids, jobs, random.choice(OWNERS))

    def _tell(self) -> Verb:
        random = self._random
        hints = self._some_hints()
        message = Quarantined(queue=NASTY, reason=NASTY, body=random.randbytes(9), properties={"n": random.random()})
        return random.choice(
            [
                *[verb("mark_published", hints)] * 8,
                verb("publish_later", hints, random.choice([0, 3, 20])),
                verb("publish_later", hints, 2, doubling_to=random.choice([3, 60])),
                verb("publish_later", hints, 1, as_new=True),
                verb("publish_now", random.choice(QUEUES), random.sample(JOBS, random.choice([0, 1, 3]))),
                verb("quarantine", [message] * random.randrange(3)),
            ]
        )

    def _look_for_lost(self) -> Verb:
        random, now = self._random, self._clock.now()
        queue = random.choice(QUEUES)
        moments = {priority: now - timedelta(seconds=random.choice([0.5, 9, 60])) for priority in (0, 4, 9)}
        overtaken = dict(random.sample(sorted(moments.items()), random.randrange(4)))
        return random.choice(
            [
                verb("note_queue", queue, is_absent=random.random() < 0.5),
                verb("restage_lost", queue, overtaken, ALL),
                verb("restage_lost", queue, {}, ALL),
            ]
        )

    def _look_after_workers(self) -> Verb:
        owner = self._random.choice(OWNERS)
        fresh = f"worker-{run_id()}"
        return self._random.choice(
            [
                verb("join", worker(fresh)),
                verb("beat", owner),
                verb("leave", owner),
                verb("blame", owner, self._some_id()),
                verb("workers"),
                verb("declare_dead", self._random.choice([1.0, 15.0]), self._random.sample(OWNERS, 1)),
                verb("lost_runs", self._random.choice([1, 3, 100])),
                verb("wishes", owner),
                verb("running", owner),
            ]
        )

    def _sweep(self) -> Verb:
        keep = {state: self._random.choice([None, 10.0, 100.0]) for state in RunState}
        limit = self._random.choice([1, 3, 100])
        return self._random.choice([verb("expire", limit), verb("purge", keep, limit)])

    def _look_after_queues(self) -> Verb:
        queue, random = self._random.choice(QUEUES), self._random
        return random.choice(
            [
                verb("queues"),
                verb("declare_queues", random.sample([*QUEUES, "idle"], 2)),
                verb("set_queue", queue, is_paused=True, reason=NASTY),
                *[verb("set_queue", queue, is_paused=False)] * 5,
                verb("set_queue", queue, concurrency=random.randint(1, 9)),
            ]
        )

    def _manage(self) -> Verb:
        id, random = self._some_id(), self._random
        due = self._clock.now() + timedelta(seconds=self._delay(random.choice([-100, 1, 20])))
        some = list(dict.fromkeys(self._some_id() for _ in range(3)))
        return random.choice(
            [
                verb("cancel", id, random.choice([None, NASTY]), random.choice([None, "ann"])),
                verb("cancel", id, "stop", None),
                verb("reopen", id, random.choice([None, "fixed"]), "ann"),
                verb("reopen", id, None, None),
                verb("reschedule", id, due, None),
                verb("delete", id),
                verb("cancel_many", some, "stop", "ann"),
                verb("reopen_many", some, None, "ann"),
            ]
        )

    def _read(self) -> Verb:
        ids = [self._some_id() for _ in range(4)]
        one = verb(self._random.choice(["get", "envelope", "attempts", "history"]), ids[0])
        return self._random.choice([one, one, verb("states", ids)])

    def _list(self) -> Verb:
        random = self._random
        before = self._clock.now() - timedelta(seconds=20)
        where = random.choice(
            [
                RunFilter(),
                RunFilter(state=tuple(random.sample(list(RunState), 3))),
                RunFilter(job=JOBS[0], queue=QUEUES[0]),
                RunFilter(tenant="acme"),
                RunFilter(tag="red"),
                RunFilter(search="100%"),
                RunFilter(since=before),
                RunFilter(until=before),
            ]
        )
        if random.random() < 0.3:
            return verb("count_by_state", where)
        return verb("list", where, limit=random.choice([1, 3, 100]), cursor=random.choice([None, self._cursor]))


class Matching(StoreSetting):
    @pytest.mark.parametrize("seed", range(6))
    async def test_random_work_is_answered_as_by_a_store_in_memory(
        self, open_store: OpenStore, namespace: str, clock: Clock, travel: Travel, seed: int
    ) -> None:
        """Two processes in one namespace, one in another; with workers that are there from the beginning."""
        pairs = await self._pairs(open_store, namespace, clock, travel, has_outbox=False)
        assert isinstance(clock, VirtualClock)
        await StoreMachine(pairs=pairs, clock=clock, seed=seed).work(150)

    @pytest.mark.parametrize("seed", range(6))
    async def test_random_work_with_hints_is_answered_as_by_a_store_in_memory(
        self, open_store: OpenStore, namespace: str, clock: Clock, travel: Travel, seed: int
    ) -> None:
        pairs = await self._pairs(open_store, namespace, clock, travel, has_outbox=True)
        assert isinstance(clock, VirtualClock)
        await StoreMachine(pairs=pairs, clock=clock, seed=seed, has_outbox=True).work(200)

    async def _pairs(
        self, open_store: OpenStore, namespace: str, clock: Clock, travel: Travel, *, has_outbox: bool
    ) -> list[tuple[Store, Store]]:
        database = MemoryDatabase()
        pairs: list[tuple[Store, Store]] = []
        for name in (namespace, namespace, f"not-{namespace}"):
            one = MemoryStore(namespace=name, clock=clock, database=database, has_outbox=has_outbox)
            pairs.append((one, await open_store(name, clock, has_outbox=has_outbox)))
        for owner in OWNERS:
            for store in pairs[0]:
                await store.join(worker(owner))
        await travel(1)
        return pairs
