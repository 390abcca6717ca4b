"""The embedded broker: the store itself delivers, so finding and claiming are one statement.

A consumer is woken by a dispatch of its own process, by a commit of another one, by the next run falling due, and at
the latest by the poll.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from random import Random

from actorjobs.brokers.suspects import SuspectSeat
from actorjobs.clock import Clock
from actorjobs.errors import StoreUnavailable
from actorjobs.lifecycle import LOSSES_UNTIL_SUSPECT
from actorjobs.ports import BrokerFacts, Claim, Delivery, Demand, Hint, Store, Sweep, Taken

POLL_SECONDS = 1.0
NEVER_POLL_SECONDS = 86400.0
"""Under a virtual clock there is no other process whose commits could go unnoticed."""
NO_LEASE_SECONDS = 0.25
STORE_DOWN_SECONDS = 1.0
DUE_MARGIN_SECONDS = 0.001
"""A look that comes just before a run is due would be in vain."""

Take = Callable[[Demand, str], Awaitable[Taken]]


class EmbeddedDelivery:
    """A run that is claimed already."""

    __slots__ = ("_on_done", "claim")

    def __init__(self, claim: Claim, on_done: Callable[[str], None] | None = None) -> None:
        self.claim = claim
        self._on_done = on_done

    @property
    def hint(self) -> Hint:
        return self.claim.hint

    def ended(self) -> None: ...

    def ack(self) -> None:
        if self._on_done is not None:
            self._on_done(self.claim.run_id)


class EmbeddedBroker:
    """Hands out runs of the store that it shares with the recorder."""

    def __init__(self, *, store: Store, take: Take, clock: Clock, random: Random) -> None:
        self._store = store
        self._take = take
        self._clock = clock
        self._random = random
        self._consumers: dict[str, EmbeddedConsumer] = {}
        self._suspects = SuspectSeat()
        self._asking_suspect = asyncio.Lock()
        self._watching = AsyncExitStack()

    def __repr__(self) -> str:
        return f"EmbeddedBroker(queues={sorted(self._consumers)})"

    async def open(self) -> None:
        """There is nothing to connect to."""

    async def start_delivering(self, queues: Sequence[str], wake: Callable[[str], None]) -> None:
        if not self._clock.is_virtual:
            await self._watching.enter_async_context(self._store.watch(self._wake_all))

    async def stop_delivering(self) -> None:
        await self._watching.aclose()
        self._consumers.clear()

    async def close(self) -> None:
        """There is nothing to disconnect from."""

    def signal(self) -> None:
        """Others look twice a second by themselves."""

    def publish(self, hints: Sequence[Hint]) -> None:
        for queue, delay in {(hint.queue, hint.delay) for hint in hints}:
            if queue in self._consumers and delay < self.poll_seconds():
                self._consumers[queue].wake_in(delay)

    def consume(self, queue: str, jobs: Mapping[str, int], owner: Callable[[], str | None]) -> EmbeddedConsumer:
        consumer = EmbeddedConsumer(broker=self, queue=queue, jobs=jobs, owner=owner, clock=self._clock)
        self._consumers[queue] = consumer
        return consumer

    def _wake_all(self) -> None:
        for consumer in self._consumers.values():
            consumer.wake()

    @property
    def is_idle(self) -> bool:
        """True when no consumer is looking for runs or about to."""
        return all(consumer.is_idle for consumer in self._consumers.values())

    @property
    def connection(self) -> None:
        return None

    @property
    def health(self) -> Mapping[str, str]:
        return {}

    @property
    def sweeps(self) -> Sequence[Sweep]:
        return ()

    @property
    def is_taking(self) -> bool:
        return True

    @property
    def figures(self) -> None:
        return None

    async def facts(self, queues: Sequence[str]) -> BrokerFacts | None:
        return None

    async def repair(self, queues: Sequence[str]) -> int:
        return 0

    async def take(self, demand: Demand, owner: str) -> Taken:
        taken = await self._take(demand, owner)
        if taken.claims or not taken.suspects_due:
            return taken
        return await self._take_suspect(demand, owner) or taken

    async def _take_suspect(self, demand: Demand, owner: str) -> Taken | None:
        """A run that was lost before, if this process performs none already: should it kill again, it kills alone."""
        async with self._asking_suspect:
            if not self._suspects.is_free:
                return None
            one = Demand(queue=demand.queue, jobs=demand.jobs, limit=1, suspects=True)
            taken = await self._take(one, owner)
            if not taken.claims:
                return None
            self._suspects.take(taken.claims[0].run_id)
            return taken

    def delivery(self, claim: Claim) -> EmbeddedDelivery:
        is_suspect = claim.losses >= LOSSES_UNTIL_SUSPECT
        return EmbeddedDelivery(claim, self._suspect_done if is_suspect else None)

    def _suspect_done(self, run_id: str) -> None:
        self._suspects.leave(run_id)
        self._wake_all()

    def poll_seconds(self) -> float:
        if self._clock.is_virtual:
            return NEVER_POLL_SECONDS
        return POLL_SECONDS * self._random.uniform(0.8, 1.2)


class EmbeddedConsumer:
    """One queue's deliveries."""

    def __init__(
        self,
        *,
        broker: EmbeddedBroker,
        queue: str,
        jobs: Mapping[str, int],
        owner: Callable[[], str | None],
        clock: Clock,
    ) -> None:
        self._broker = broker
        self._queue = queue
        self._jobs = jobs
        self._owner = owner
        self._clock = clock
        self._woken = asyncio.Event()
        self._is_stopped = False
        self._is_recalled = False
        self._is_looking = False
        self._is_resting = False

    @property
    def is_idle(self) -> bool:
        return not self._is_looking and not (self._is_resting and self._woken.is_set())

    @property
    def owes(self) -> bool:
        return False

    async def receive(self, limit: int) -> Sequence[Delivery]:
        self._is_recalled = False
        while not self._is_stopped and not self._is_recalled:
            self._woken.clear()
            taken = await self._look(limit)
            if taken.claims:
                return [self._broker.delivery(claim) for claim in taken.claims]
            await self._rest(self._broker.poll_seconds() if taken.next_due is None else taken.next_due)
        return []

    async def _look(self, limit: int) -> Taken:
        owner = self._owner()
        if owner is None:
            return Taken(claims=(), next_due=NO_LEASE_SECONDS)
        self._is_looking = True
        try:
            return await self._broker.take(Demand(queue=self._queue, jobs=self._jobs, limit=limit), owner)
        except StoreUnavailable:
            return Taken(claims=(), next_due=STORE_DOWN_SECONDS)
        finally:
            self._is_looking = False

    async def _rest(self, seconds: float) -> None:
        """Wait to be woken, for so long at most, and never longer than the poll."""
        timer = self._clock.call_later(min(seconds + DUE_MARGIN_SECONDS, self._broker.poll_seconds()), self._woken.set)
        self._is_resting = True
        try:
            await self._woken.wait()
        finally:
            self._is_resting = False
            timer.cancel()

    def wake(self) -> None:
        self._woken.set()

    def wake_in(self, delay: float) -> None:
        if delay <= 0:
            self._woken.set()
        else:
            self._clock.call_later(delay + DUE_MARGIN_SECONDS, self._woken.set)

    def recall(self) -> None:
        self._is_recalled = True
        self.wake()

    def stop(self) -> None:
        self._is_stopped = True
        self.wake()
