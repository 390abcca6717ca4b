"""Whatever workers and operators do to a store through the embedded broker, in any order: it does as the ledger says.

Two processes, each with a store and a broker of its own, on one database and under one virtual clock.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from random import Random
from typing import Any, Literal, TypeVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from actorjobs.brokers.embedded import EmbeddedBroker, EmbeddedConsumer
from actorjobs.clock import VirtualClock
from actorjobs.errors import DuplicateRun, IdempotencyConflict, RunStateConflict
from actorjobs.lifecycle import REOPENABLE, TABLE, Ending, Standing, decide
from actorjobs.model import Envelope, Outcome, RunState
from actorjobs.ports import Claim, Delivery, Demand, Hint, Settlement, Store, Taken
from actorjobs.stores import open_store
from actorjobs.testing.store_suite.setting import EVERYTHING, JOB, ending, worker
from actorjobs.worker.sweeps import rescue_settlements
from tests.contract.ledger import Entry, Ledger

T = TypeVar("T")

QUEUES = ("fast", "slow")
DEAD_AFTER_SECONDS = 15.0
JUST_AFTER_SECONDS = 0.002
"""A consumer looks a millisecond after a run is due: it would look in vain just before."""

ENDS = [outcome for outcome in Outcome if outcome not in (Outcome.RUNNING, Outcome.LOST)]
LED_TO = {(before, after) for (before, _), after in TABLE.items()}

_numbers = itertools.count(1)

any_of_them = st.integers(0, 11)
some_seconds = st.sampled_from([0.0, 0.5, 3.0, 20.0])
outcomes = st.sampled_from(ENDS)


class Process:
    """A worker process: its lease, its broker, and what it has in hand."""

    def __init__(self, store: Store, clock: VirtualClock) -> None:
        self.store = store
        self._clock = clock
        self.owner = ""
        self.in_hand: list[Delivery] = []
        self.suspect: str | None = None
        self._restart()

    def _restart(self) -> None:
        self._broker = EmbeddedBroker(store=self.store, take=self._take, clock=self._clock, random=Random(0))
        self._consumers: dict[str, EmbeddedConsumer] = {}
        self.in_hand, self.suspect = [], None

    async def _take(self, demand: Demand, owner: str) -> Taken:
        [taken] = await self.store.take([demand], owner)
        return taken

    async def join(self) -> None:
        self.owner = f"worker-{next(_numbers)}"
        await self.store.join(worker(self.owner))

    def crash(self) -> None:
        """All that was in its memory is gone."""
        self._restart()

    def publish(self, hint: Hint) -> None:
        self._broker.publish([hint])

    @asynccontextmanager
    async def receiving(self, queue: str, limit: int) -> AsyncGenerator[Callable[[], Coroutine[Any, Any, list[Claim]]]]:
        """A consumer that has looked and, if there was nothing, waits; `arrived()` is what it has got by then."""
        if queue not in self._consumers:
            self._consumers[queue] = self._broker.consume(queue, {JOB: 1}, lambda: self.owner)
        consumer = self._consumers[queue]
        task = asyncio.create_task(consumer.receive(limit))
        await asyncio.sleep(0)

        async def arrived() -> list[Claim]:
            while not task.done() and not self._broker.is_idle:
                await asyncio.wait([task], timeout=0.001)
            return self._noted(task.result()) if task.done() else []

        try:
            await arrived()
            yield arrived
        finally:
            if not task.done():
                consumer.stop()
                del self._consumers[queue]
                assert await task == []

    def _noted(self, deliveries: Sequence[Delivery]) -> list[Claim]:
        self.in_hand += [delivery for delivery in deliveries if delivery not in self.in_hand]
        return [delivery.claim for delivery in deliveries if delivery.claim is not None]

    def done(self, delivery: Delivery) -> None:
        delivery.ack()
        self.in_hand.remove(delivery)
        if delivery.hint.run_id == self.suspect:
            self.suspect = None


class DeliveryMachine(RuleBasedStateMachine):
    """One example of such work. Everything that fails, fails inside `_do`."""

    def __init__(self, url: str, ended_in: Counter[RunState]) -> None:
        super().__init__()
        self._url = url
        self._ended_in = ended_in
        self._runner = asyncio.Runner()
        self._clock = VirtualClock()
        self._ledger = Ledger()
        self._settled: list[Settlement] = []
        self._has_failed = False
        self._processes: list[Process] = []

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            return self._runner.run(work)
        except BaseException:
            self._has_failed = True
            raise

    @initialize()
    def open(self) -> None:
        self._do(self._open())

    async def _open(self) -> None:
        namespace = f"machine-{next(_numbers)}"
        for _ in range(2):
            store = await open_store(self._url, namespace=namespace, clock=self._clock)
            self._processes.append(Process(store, self._clock))
            await store.open()
        for process in self._processes:
            await self._join(process)

    def teardown(self) -> None:
        try:
            if self._processes and not self._has_failed:
                self._do(self._finish())
        finally:
            self._runner.run(self._close())
            self._runner.close()

    async def _close(self) -> None:
        for process in self._processes:
            await process.store.close()

    @property
    def _store(self) -> Store:
        return self._processes[0].store

    def _process(self, which: int) -> Process:
        return self._processes[which % 2]

    def _entry(self, which: int) -> Entry:
        entries = list(self._ledger.runs.values())
        return entries[-1 - which % len(entries)]

    def _has_runs(self) -> bool:
        return bool(self._ledger.runs)

    def _has_work_in_hand(self) -> bool:
        return any(process.in_hand for process in self._processes)

    async def _join(self, process: Process) -> None:
        await process.join()
        self._ledger.alive.add(process.owner)

    # dispatching

    def _envelope(self, queue: str, priority: int, max_attempts: int, **more: Any) -> Envelope:
        number = next(_numbers)
        said: dict[str, Any] = {"job": JOB, "queue": queue, "priority": priority, "max_attempts": max_attempts}
        return Envelope(**{"id": f"00000000-0000-7000-8000-{number:012x}", "payload": {"n": number}} | said | more)

    @rule(
        which=any_of_them,
        queue=st.sampled_from(QUEUES),
        priority=st.sampled_from([0, 4, 9]),
        max_attempts=st.integers(1, 3),
        delay=some_seconds,
        expires_in=st.sampled_from([None, None, None, 2.0, 60.0]),
        is_awaited=st.booleans(),
    )
    def dispatch(
        self,
        which: int,
        queue: str,
        priority: int,
        max_attempts: int,
        delay: float,
        expires_in: float | None,
        is_awaited: bool,
    ) -> None:
        """A run; perhaps its process waits for one, and is told."""
        envelope = self._envelope(queue, priority, max_attempts, delay=delay or None, expires_in=expires_in)
        process = self._process(which)
        due = self._clock.now() + timedelta(seconds=delay)
        is_free = self._is_quiet_until(queue, due) and self._ledger.next_due(queue, due) != due
        is_awaited = is_awaited and is_free and not self._expected(process, queue, 1)
        self._do(self._dispatch_awaited(process, envelope) if is_awaited else self._accept(process, envelope))

    async def _dispatch_awaited(self, process: Process, envelope: Envelope) -> None:
        async with process.receiving(envelope.queue, 1) as arrived:
            await self._accept(process, envelope)
            process.publish(Hint(run_id=envelope.id, seq=1, job=JOB, queue=envelope.queue, delay=envelope.delay or 0.0))
            await asyncio.sleep(0)
            if envelope.delay is not None:
                assert await arrived() == []
                await self._until(self._clock.now() + timedelta(seconds=envelope.delay))
            self._check_claims(process, envelope.queue, 1, await arrived())

    async def _accept(self, process: Process, envelope: Envelope) -> None:
        [answer] = await process.store.insert([envelope])
        assert not isinstance(answer, Exception), repr(answer)
        assert (answer.run_id, answer.existing) == (envelope.id, False)
        self._ledger.accept(envelope, self._clock.now())

    @rule(which=any_of_them, queue=st.sampled_from(QUEUES), key=st.sampled_from("ab"), n=st.integers(1, 2))
    def dispatch_keyed(self, which: int, queue: str, key: str, n: int) -> None:
        envelope = self._envelope(queue, 4, 2, idempotency_key=key, payload={"n": n})
        self._do(self._dispatch_keyed(self._process(which), envelope))

    async def _dispatch_keyed(self, process: Process, envelope: Envelope) -> None:
        holder = self._ledger.holder_of(envelope.idempotency_key)
        if holder is None:
            await self._accept(process, envelope)
            return
        [answer] = await process.store.insert([envelope])
        if holder.envelope.payload == envelope.payload:
            assert not isinstance(answer, Exception), repr(answer)
            assert (answer.run_id, answer.existing) == (holder.id, True)
        else:
            assert isinstance(answer, IdempotencyConflict)

    @rule(
        which=any_of_them,
        n=st.integers(1, 2),
        delay=some_seconds,
        while_=st.sampled_from(["active", "queued"]),
        on_conflict=st.sampled_from(["return", "raise", "replace"]),
    )
    def dispatch_unique(self, which: int, n: int, delay: float, while_: str, on_conflict: str) -> None:
        unique = {"by": None, "while_": while_, "period": None, "on_conflict": on_conflict}
        envelope = self._envelope(QUEUES[0], 4, 2, unique=unique, payload={"n": n}, delay=delay or None)
        self._do(self._dispatch_unique(self._process(which), envelope, on_conflict))

    async def _dispatch_unique(self, process: Process, envelope: Envelope, on_conflict: str) -> None:
        twin = self._ledger.twin_of(envelope)
        if twin is None:
            await self._accept(process, envelope)
            return
        [answer] = await process.store.insert([envelope])
        if on_conflict == "raise":
            assert isinstance(answer, DuplicateRun)
            assert answer.run_id == twin.id
            return
        is_replaced = on_conflict == "replace" and twin.waits
        assert not isinstance(answer, Exception), repr(answer)
        assert (answer.run_id, answer.existing, answer.replaced) == (twin.id, True, is_replaced)
        if is_replaced:
            self._ledger.replace(twin, envelope, self._clock.now())

    # receiving and settling

    @rule(which=any_of_them, queue=st.sampled_from(QUEUES), limit=st.sampled_from([1, 2, 10]), waits=st.booleans())
    def receive(self, which: int, queue: str, limit: int, waits: bool) -> None:
        """Everything that is due, and nothing else; or, when nothing is, what is due next, and not before."""
        self._do(self._receive(self._process(which), queue, limit, waits))

    async def _receive(self, process: Process, queue: str, limit: int, waits: bool) -> None:
        has_any = bool(self._expected(process, queue, limit))
        async with process.receiving(queue, limit) as arrived:
            due = self._ledger.next_due(queue, self._clock.now())
            is_open = queue not in self._ledger.paused
            if waits and not has_any and due is not None and is_open and self._is_quiet_until(queue, due):
                await self._clock.advance((due - self._clock.now()).total_seconds() - JUST_AFTER_SECONDS)
                assert await arrived() == []
                await self._until(due)
            self._check_claims(process, queue, limit, await arrived())

    def _is_quiet_until(self, queue: str, due: datetime) -> bool:
        """Nothing else changes from now until a moment after that: a consumer could see it as it is before or after."""
        now, after = self._clock.now(), due + timedelta(seconds=0.01)
        mine = [entry for entry in self._ledger.runs.values() if entry.envelope.queue == queue and entry.waits]
        times = [at for entry in mine for at in (entry.available_at, entry.expires_at) if at is not None]
        return not any(now < at <= after and at != due for at in times)

    async def _until(self, due: datetime) -> None:
        await self._clock.advance((due - self._clock.now()).total_seconds() + JUST_AFTER_SECONDS)

    def _expected(self, process: Process, queue: str, limit: int) -> list[Entry]:
        """What a process would be given now: of suspects one, when there is nothing else and it has none in hand."""
        now = self._clock.now()
        ordinary = self._ledger.offered(queue, now, suspects=False)[:limit]
        if ordinary or process.suspect is not None:
            return ordinary
        return self._ledger.offered(queue, now, suspects=True)[:1]

    def _check_claims(self, process: Process, queue: str, limit: int, claims: Sequence[Claim]) -> None:
        expected = self._expected(process, queue, limit)
        claimed = [self._ledger.runs[claim.run_id] for claim in claims]
        # Between two that are equally urgent nothing decides.
        assert [entry.urgency for entry in claimed] == [entry.urgency for entry in expected]
        for entry, claim in zip(claimed, claims, strict=True):
            assert entry.is_due(self._clock.now()), "never before its time, never from a state that does not wait"
            assert (claim.seq, claim.attempt, claim.owner) == (entry.seq, entry.attempt + 1, process.owner)
            assert (claim.failures, claim.losses) == (entry.failures, entry.losses)
            if entry.is_suspect:
                process.suspect = entry.id
            self._ledger.claim(entry, process.owner)

    @precondition(_has_work_in_hand)
    @rule(
        which=any_of_them,
        outcome=st.sampled_from([*ENDS, Outcome.SUCCEEDED, Outcome.FAILED]),
        delay=some_seconds,
        permanent=st.booleans(),
    )
    def settle(self, which: int, outcome: Outcome, delay: float, permanent: bool) -> None:
        """An attempt ends; its process may have lost the run long ago."""
        process = next(p for p in (self._process(which), self._process(which + 1)) if p.in_hand)
        self._do(self._settle(process, process.in_hand[which % len(process.in_hand)], outcome, delay, permanent))

    async def _settle(
        self, process: Process, delivery: Delivery, outcome: Outcome, delay: float = 0.0, permanent: bool = False
    ) -> None:
        assert delivery.claim is not None
        settlement = ending(delivery.claim, outcome, delay=delay, permanent=permanent)
        [state] = await process.store.settle([settlement])
        assert state == self._ledger.settle(settlement, self._clock.now())
        self._settled.append(settlement)
        process.done(delivery)

    @rule(which=any_of_them, queue=st.sampled_from(QUEUES), outcome=outcomes, delay=some_seconds)
    def perform(self, which: int, queue: str, outcome: Outcome, delay: float) -> None:
        """One after the other, all that is due, with the same outcome; an operator may be in time to cancel one."""
        self._do(self._perform(self._process(which), queue, outcome, delay, is_canceled=which % 3 == 0))

    async def _perform(
        self, process: Process, queue: str, outcome: Outcome, delay: float, *, is_canceled: bool
    ) -> None:
        await self._receive(process, queue, 3, waits=True)
        for delivery in list(process.in_hand):
            if is_canceled:
                await self._store.cancel(delivery.hint.run_id, "stop", None)
                self._ledger.cancel(self._ledger.runs[delivery.hint.run_id])
            await self._settle(process, delivery, outcome, delay)

    @precondition(lambda self: bool(self._settled))
    @rule(which=any_of_them, is_same=st.booleans())
    def settle_again(self, which: int, is_same: bool) -> None:
        """The answer to the first one was lost; or somebody thinks better of it, and is too late."""
        settlement = self._settled[-1 - which % len(self._settled)]
        if not is_same:
            canceled = decide(Standing(), Ending(outcome=Outcome.CANCELED))
            settlement = replace(settlement, outcome=Outcome.CANCELED, decision=canceled)

        async def again() -> None:
            [state] = await self._process(which).store.settle([settlement])
            assert state == self._ledger.settle(settlement, self._clock.now())

        self._do(again())

    # dying and being rescued

    @rule(which=any_of_them, how=st.sampled_from(["crashes", "is taken for dead", "leaves"]))
    def die(self, which: int, how: Literal["crashes", "is taken for dead", "leaves"]) -> None:
        """A worker that crashes is silent and forgets; one that lost its lease works on and does not know."""
        self._do(self._die(self._process(which), how))

    async def _die(self, process: Process, how: str) -> None:
        owner = process.owner
        self._ledger.alive.remove(owner)
        match how:
            case "crashes":
                beat = await process.store.beat(owner)
                assert beat == self._clock.now()
                self._ledger.silent[owner] = beat
                process.crash()
            case "leaves":
                await process.store.leave(owner)
            case _:
                assert await self._store.declare_dead(1e9, [owner]) == [owner]
                assert await process.store.beat(owner) is None
        await self._join(process)

    @rule(which=any_of_them, queue=st.sampled_from(QUEUES), outcome=outcomes, delay=some_seconds)
    def work_on_unaware(self, which: int, queue: str, outcome: Outcome, delay: float) -> None:
        """A worker settles what was taken from it, and perhaps given to another one."""
        self._do(self._work_on_unaware(self._process(which), self._process(which + 1), queue, outcome, delay))

    async def _work_on_unaware(
        self, process: Process, other: Process, queue: str, outcome: Outcome, delay: float
    ) -> None:
        await self._receive(process, queue, 2, waits=True)
        await self._die(process, "is taken for dead")
        await self._sweep(other.store)
        await self._receive(other, queue, 2, waits=False)
        for delivery in list(process.in_hand):
            await self._settle(process, delivery, outcome, delay)

    @rule(which=any_of_them, queue=st.sampled_from(QUEUES), times=st.integers(1, 6))
    def kill_workers(self, which: int, queue: str, times: int) -> None:
        """What a queue holds brings down its workers, so many in a row."""
        self._do(self._kill_workers(self._process(which), queue, times))

    async def _kill_workers(self, process: Process, queue: str, times: int) -> None:
        for _ in range(times):
            await self._receive(process, queue, 2, waits=True)
            await self._die(process, "crashes")
            await self._clock.advance(DEAD_AFTER_SECONDS + 1)
            await self._sweep(process.store)

    @rule(which=any_of_them)
    def sweep(self, which: int) -> None:
        """Declare dead who is silent, rescue what the dead were running, end what has waited too long."""
        self._do(self._sweep(self._process(which).store))

    async def _sweep(self, store: Store) -> None:
        now = self._clock.now()
        for owner in self._ledger.alive:
            assert await store.beat(owner) == now
        silent = self._ledger.silent
        dead = sorted(o for o, at in silent.items() if (now - at).total_seconds() > DEAD_AFTER_SECONDS)
        assert await store.declare_dead(DEAD_AFTER_SECONDS) == dead
        for owner in dead:
            del silent[owner]
        await self._rescue(store)
        assert set(await store.expire(100)) == self._ledger.expire(now)

    async def _rescue(self, store: Store) -> None:
        lost = await store.lost_runs(100)
        assert {one.fence.run_id for one in lost} == self._ledger.lost()
        settlements = rescue_settlements(lost, {})
        for settlement, state in zip(settlements, await store.settle(settlements), strict=True):
            assert state is not None
            assert state == self._ledger.settle(settlement, self._clock.now())

    # operators, and time

    @precondition(_has_runs)
    @rule(which=any_of_them)
    def cancel(self, which: int) -> None:
        entry = self._entry(which)
        self._ledger.cancel(entry)
        run = self._do(self._store.cancel(entry.id, "not needed", "ann"))
        assert run.state is entry.state

    @precondition(_has_runs)
    @rule(which=any_of_them)
    def reopen(self, which: int) -> None:
        self._do(self._reopen(self._entry(which)))

    async def _reopen(self, entry: Entry) -> None:
        twin = self._ledger.twin_of(entry.envelope)
        if entry.state not in REOPENABLE:
            with pytest.raises(RunStateConflict):
                await self._store.reopen(entry.id, None, "ann")
        elif twin is not None:
            with pytest.raises(DuplicateRun):
                await self._store.reopen(entry.id, None, "ann")
        else:
            await self._store.reopen(entry.id, None, "ann")
            self._ledger.reopen(entry, self._clock.now())

    @precondition(_has_runs)
    @rule(which=any_of_them, seconds=st.sampled_from([-5.0, 1.0, 30.0]))
    def reschedule(self, which: int, seconds: float) -> None:
        self._do(self._reschedule(self._entry(which), seconds))

    async def _reschedule(self, entry: Entry, seconds: float) -> None:
        now = self._clock.now()
        due = now + timedelta(seconds=seconds)
        if entry.waits:
            await self._store.reschedule(entry.id, due, "ann")
            self._ledger.reschedule(entry, max(due, now))
        else:
            with pytest.raises(RunStateConflict):
                await self._store.reschedule(entry.id, due, "ann")

    @rule(queue=st.sampled_from(QUEUES), is_paused=st.booleans())
    def pause_or_resume(self, queue: str, is_paused: bool) -> None:
        info = self._do(self._store.set_queue(queue, is_paused=is_paused))
        assert info.is_paused == is_paused
        (self._ledger.paused.add if is_paused else self._ledger.paused.discard)(queue)

    @rule(seconds=st.sampled_from([0.25, 2.5, 16.0, 61.0]))
    def wait(self, seconds: float) -> None:
        self._do(self._clock.advance(seconds))

    # what always holds

    @invariant()
    def the_store_says_what_the_ledger_says(self) -> None:
        if self._processes:
            self._do(self._compare())

    async def _compare(self) -> None:
        page = await self._store.list(EVERYTHING, limit=1000, cursor=None)
        assert {run.id for run in page} == set(self._ledger.runs)
        marks = {mark.run_id: mark for mark in await self._store.marks(list(self._ledger.runs), 1)}
        for run in page:
            self._ledger.runs[run.id].agrees_with(run, marks[run.id])

    # the end

    async def _finish(self) -> None:
        """Whatever has happened, once everybody does what they owe every run comes to its end."""
        for queue in QUEUES:
            await self._store.set_queue(queue, is_paused=False)
        self._ledger.paused.clear()
        for process in self._processes:
            await self._die(process, "crashes")
        # A loss may be followed by a backoff, and only one suspect is given out at a time.
        for _ in range(3 + 2 * len(self._ledger.runs)):
            await self._clock.advance(120)
            await self._sweep(self._store)
            for process, queue in zip(self._processes, QUEUES, strict=True):
                await self._receive(process, queue, 100, waits=False)
                for delivery in list(process.in_hand):
                    await self._settle(process, delivery, Outcome.SUCCEEDED)
        await self._compare()
        assert not list(self._ledger.unfinished())
        for entry in self._ledger.runs.values():
            await self._check_story(entry)
            self._ended_in[entry.state] += 1

    async def _check_story(self, entry: Entry) -> None:
        """The history is a path through the table, and each attempt has one outcome."""
        attempts = await self._store.attempts(entry.id)
        assert [attempt.number for attempt in attempts] == list(range(1, entry.attempt + 1))
        succeeded = [attempt for attempt in attempts if attempt.outcome is Outcome.SUCCEEDED]
        assert len(succeeded) == (entry.state is RunState.SUCCEEDED)
        states = [step.state for step in await self._store.history(entry.id)]
        assert states[-1] is entry.state
        for before, after in itertools.pairwise(states):
            assert before is after or (before, after) in LED_TO, states
