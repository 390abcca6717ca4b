"""The recorder: everything that is written per run goes through here, in groups.

Five lanes, so that a dispatch that waits for somebody's key never holds up a settle: dispatches, keyed dispatches,
takes, claims, settles. A settle is retried until the store answers: an outcome that happened is not given up for an
outage.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

from actorjobs.actors import Statistics
from actorjobs.clock import Clock
from actorjobs.codec import encode_error
from actorjobs.errors import StoreUnavailable
from actorjobs.lifecycle import Decision
from actorjobs.model import Envelope, ErrorInfo, Outcome, RunState, Transition
from actorjobs.ports import (
    PUBLISH_GRACE_SECONDS,
    Accepted,
    Bid,
    Claim,
    Demand,
    Fence,
    Refusal,
    Refused,
    Settlement,
    Store,
    Taken,
)
from actorjobs.worker.lane import I, Lane, O

GROUP_LIMIT = 500
SETTLE_RETRY_SECONDS = (0.05, 0.1, 0.2, 0.5, 1.0)
LAST_CHANCE_SECONDS = 5.0
LATE_ANSWER_SECONDS = 5.0
"""A claim that is answered later than this is looked at again before anything starts."""

Wanted = tuple[Bid, Mapping[str, int], str]
OnSettled = Callable[[Settlement, RunState | None], None]


class Recorder:
    """Group commits of dispatches, claims and settles."""

    name = "recorder"

    def __init__(
        self,
        *,
        store: Store,
        clock: Clock,
        on_settled: OnSettled | None = None,
        is_published: Callable[[], bool] = lambda: True,
    ) -> None:
        """`is_published()` is False while this process could not publish the hints of its dispatches."""
        self._store = store
        self._is_published = is_published
        self._clock = clock
        self._on_settled = on_settled
        self._is_running = False
        self._gives_up = False
        self.stale = 0
        """Settles whose fence no longer held: zombies, counted and dropped."""
        self._dispatches = Lane[Envelope, Accepted](name="dispatches", commit=self._insert, limit=GROUP_LIMIT)
        self._keyed = Lane[Envelope, Accepted](name="keyed dispatches", commit=self._insert_keyed, limit=GROUP_LIMIT)
        self._takes = Lane[tuple[Demand, str], Taken](name="claims", commit=self._take, limit=GROUP_LIMIT)
        self._claims = Lane[Wanted, Claim | Refusal](name="claims of hints", commit=self._claim, limit=GROUP_LIMIT)
        self._settles = Lane[Settlement, RunState | None](name="settles", commit=self._settle, limit=GROUP_LIMIT)

    @property
    def _publish_in(self) -> float:
        """The relay may publish at once what the publisher has no room for."""
        return PUBLISH_GRACE_SECONDS if self._is_published() else 0.0

    @property
    def is_running(self) -> bool:
        return self._is_running

    async def start(self) -> None:
        self._is_running, self._gives_up = True, False

    async def stop(self) -> None:
        """Wait for what is on its way, for a while: after that, the runs that could not be settled are rescued."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._drained(), LAST_CHANCE_SECONDS)
        self._gives_up = True
        await self._drained()
        self._is_running = False

    async def _drained(self) -> None:
        for lane in (self._takes, self._claims, self._settles, self._keyed, self._dispatches):
            await lane.drained()

    def statistics(self) -> Statistics:
        return Statistics(name=self.name, is_running=self._is_running, starts=1)

    @property
    def is_idle(self) -> bool:
        lanes = (self._dispatches, self._keyed, self._takes, self._claims, self._settles)
        return not any(len(lane) for lane in lanes)

    async def insert(self, envelope: Envelope) -> Accepted:
        """Accept one dispatch; answered when it is committed."""
        may_conflict = envelope.idempotency_key is not None or envelope.unique is not None
        return await (self._keyed if may_conflict else self._dispatches).put(envelope)

    async def take(self, demand: Demand, owner: str) -> Taken:
        """Claim due runs."""
        return await self._takes.put((demand, owner))

    async def claim(
        self, bids: Sequence[Bid], jobs: Mapping[str, int], owner: str
    ) -> Sequence[Claim | Refusal | BaseException]:
        """Claim the runs of hints. An error is the answer of those alone that could not be asked for."""
        asked = [self._claims.put((bid, jobs, owner)) for bid in bids]
        return await asyncio.gather(*asked, return_exceptions=True)

    def settle(self, settlement: Settlement) -> asyncio.Future[RunState | None]:
        """Record the end of an attempt; None when somebody else owns the run by now."""
        return self._settles.put(settlement)

    async def _insert(self, envelopes: Sequence[Envelope]) -> Sequence[Accepted | Exception]:
        try:
            return await self._store.insert(envelopes, publish_in=self._publish_in)
        except StoreUnavailable:
            # One connection that died is no outage. If the first commit went through after all, the second finds the
            # very ids of this group: they are ours.
            answers = await self._store.insert(envelopes, publish_in=self._publish_in)
            return [_ours(answer, envelope) for answer, envelope in zip(answers, envelopes, strict=True)]

    async def _insert_keyed(self, envelopes: Sequence[Envelope]) -> Sequence[Accepted | Exception]:
        order = sorted(range(len(envelopes)), key=lambda index: envelopes[index].idempotency_key or "")
        answers = dict(zip(order, await self._insert([envelopes[index] for index in order]), strict=True))
        return [answers[index] for index in range(len(envelopes))]

    async def _take(self, asked: Sequence[tuple[Demand, str]]) -> Sequence[Taken | Exception]:
        async def take(some: Sequence[tuple[Demand, str]]) -> Sequence[Taken]:
            owner, sent_at = some[0][1], self._clock.monotonic()
            taken = await self._store.take([demand for demand, _ in some], owner)
            if not self._is_late(sent_at):
                return taken
            ours = await self._still_ours(owner)
            return [replace(one, claims=[c for c in one.claims if c.fence in ours]) for one in taken]

        return await _apart(asked, lambda one: one[1], take)

    async def _claim(self, asked: Sequence[Wanted]) -> Sequence[Claim | Refusal | Exception]:
        async def claim(some: Sequence[Wanted]) -> Sequence[Claim | Refusal]:
            (_, jobs, owner), sent_at = some[0], self._clock.monotonic()
            claimed = await self._store.claim([bid for bid, _, _ in some], jobs, owner)
            if not self._is_late(sent_at):
                return claimed
            ours, stale = await self._still_ours(owner), Refusal(why=Refused.STALE)
            return [stale if isinstance(c, Claim) and c.fence not in ours else c for c in claimed]

        return await _apart(asked, lambda one: (id(one[1]), one[2]), claim)

    def _is_late(self, sent_at: float) -> bool:
        return self._clock.monotonic() - sent_at > LATE_ANSWER_SECONDS

    async def _still_ours(self, owner: str) -> set[Fence]:
        """What this owner really runs: an answer that took so long may come after a rescue."""
        return {claim.fence for claim in await self._store.running(owner)}

    async def _settle(self, settlements: Sequence[Settlement]) -> Sequence[RunState | Exception | None]:
        settled, states = await self._recorded(settlements)
        for settlement, state in zip(settled, states, strict=True):
            self.stale += state is None
            if self._on_settled is not None:
                self._on_settled(settlement, state)
        return states

    async def _recorded(
        self, settlements: Sequence[Settlement]
    ) -> tuple[Sequence[Settlement], Sequence[RunState | None]]:
        """What was recorded, and the states of the runs; tried again for as long as the store does not answer,
        or lets nobody write."""
        tries = 0
        while True:
            try:
                return settlements, await self._store.settle(settlements)
            except StoreUnavailable:
                if self._gives_up:
                    raise
            except Exception as error:
                if len(settlements) > 1 or self._gives_up:
                    raise  # of several, one is the reason: each half is tried alone
                # The database refuses the content itself: keep the outcome, drop the content.
                settlements = [_without_content(settlements[0], error)]
            await self._clock.sleep(SETTLE_RETRY_SECONDS[min(tries, len(SETTLE_RETRY_SECONDS) - 1)])
            tries += 1


async def _apart(
    asked: Sequence[I], key: Callable[[I], object], ask: Callable[[Sequence[I]], Awaitable[Sequence[O]]]
) -> list[O]:
    """The answers in order, where those of one key alone can be asked for together."""
    groups: dict[object, list[int]] = {}
    for index, one in enumerate(asked):
        groups.setdefault(key(one), []).append(index)
    answers: dict[int, O] = {}
    for indices in groups.values():
        answers.update(zip(indices, await ask([asked[index] for index in indices]), strict=True))
    return [answers[index] for index in range(len(asked))]


def _ours(answer: Accepted | Exception, envelope: Envelope) -> Accepted | Exception:
    if isinstance(answer, Accepted) and answer.run_id == envelope.id:
        return replace(answer, existing=False)
    return answer


def _without_content(settlement: Settlement, error: Exception) -> Settlement:
    """The same end of attempt as a permanent failure that says why its content could not be kept."""
    refused = ErrorInfo(name="ResultInvalid", message=f"the store refused the outcome: {type(error).__name__}")
    decision = settlement.decision
    dead = Decision(
        transition=Transition.DEAD_LETTER,
        state=RunState.DEAD_LETTERED,
        delay=0.0,
        failures=decision.failures + 1,
        losses=0,
        reason="permanent",
    )
    return replace(
        settlement, outcome=Outcome.FAILED, decision=dead, result=None, error=encode_error(refused), span_id=None
    )
