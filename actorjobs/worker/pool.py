"""A pool serves one queue: an intake asks the broker for as much as there are free actors, each actor performs one run.

The intake starts last and stops first. Scaling adds actors or retires idle ones; pausing only closes the intake.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Mapping
from contextvars import Context
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from actorjobs.actors import (
    Actor,
    Backoff,
    ChildSpec,
    ChildState,
    Life,
    Mailbox,
    RestartActor,
    Restarts,
    Statistics,
    Supervisor,
    TaskService,
)
from actorjobs.clock import Clock, Timer
from actorjobs.codec import clip
from actorjobs.jobs import Actor as OwnActor
from actorjobs.model import RunState
from actorjobs.ports import Broker, Claim, Consumer, Delivery
from actorjobs.worker.performance import Seat

LONGEST_HOLD = 500

LONGEST_RESTART_SECONDS = 5.0
"""How soon an actor that could not start is tried again: what it connects to may be back at any moment."""

QUICK_SECONDS = 0.05
"""Where runs take less on average, as many again as there are places are claimed ahead: else each place would wait for
a commit after every run, for a good part of the time."""

AHEAD_SECONDS = 1.0
"""A run that was claimed ahead waits for a place for so long, at most twice that. Then those before it have become
slow, and it is handed back for others to have."""

START_SECONDS = 30.0
"""How long an actor of the application's own may take to start."""


class Perform(Protocol):
    """Executes one claimed run to its end; the future is done once that is on record."""

    async def __call__(self, claim: Claim, seat: Seat) -> asyncio.Future[RunState | None]: ...


HandBack = Callable[[Claim], asyncio.Future[RunState | None]]
"""Gives up a claim that nothing was done for; the future is done once that is on record."""

MakeOwn = Callable[[], OwnActor]
"""Makes what an actor keeps between runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolStatistics(Statistics):
    """What a pool tells about itself."""

    queue: str
    concurrency: int
    busy: int
    settling: int
    """Runs whose handler has ended, and whose outcome is not on record yet."""
    mailbox: int
    """Runs that no actor has taken yet; `busy` has them too."""
    performed: int
    is_paused: bool
    hold: str | None
    """Why the pool takes nothing, if so."""


class Performing(Actor[Delivery]):
    """Takes deliveries out of the pool's mailbox, one at a time, and keeps the application's own actor meanwhile."""

    def __init__(
        self, *, name: str, pool: Pool, mailbox: Mailbox[Delivery], perform: Perform, make: MakeOwn | None
    ) -> None:
        super().__init__(name=name, mailbox=mailbox)
        self._pool = pool
        self._perform = perform
        self._make = make
        self._own: OwnActor | None = None
        self._is_ready = False

    async def on_start(self) -> None:
        if self._make is None:
            self._get_ready()

    async def _run(self, life: Life) -> None:
        if self._make is not None:
            # Not as a part of the start: a connection that takes long to open must hold up its own queue alone.
            life.is_resting = True
            await self._start_own(self._make)
            self._get_ready()
        await super()._run(life)

    async def _start_own(self, make: MakeOwn) -> None:
        try:
            own = make()
            async with asyncio.timeout(START_SECONDS):
                await own.on_start()
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            self._pool.not_ready(error)
            if isinstance(error, Exception):
                raise
            # An exit that the application's code asks for here must end no more than this actor.
            raise RuntimeError(f"on_start raised {type(error).__name__}") from error
        self._own = own

    def _get_ready(self) -> None:
        self._is_ready = True
        self._pool.ready(1)

    async def on_stop(self) -> None:
        if self._is_ready:
            self._is_ready = False
            self._pool.ready(-1)
        if self._own is not None:
            own, self._own = self._own, None
            await own.on_stop()

    async def receive(self, message: Delivery) -> None:
        seat, pool = Seat(self.name, self._own), self._pool
        began = pool.clock.monotonic()
        try:
            settled = await self._perform(message.claim, seat)
        except BaseException:
            pool.ended(message)
            pool.settled(message)
            raise
        # The actor is free for the next run while this one's outcome is being committed.
        pool.ended(message, pool.clock.monotonic() - began)
        settled.add_done_callback(lambda _settled: pool.settled(message))
        if seat.is_to_renew:
            raise RestartActor(f"{self.name} is renewed: a handler asked for it")


class Intake(TaskService):
    """Fetches deliveries for the free actors of its pool."""

    def __init__(self, *, name: str, pool: Pool, make_consumer: Callable[[], Consumer]) -> None:
        super().__init__(name=name)
        self._pool = pool
        self._make_consumer = make_consumer
        self._consumer: Consumer | None = None
        self._is_closed = False

    async def on_start(self) -> None:
        self._is_closed = False
        self._consumer = self._make_consumer()

    async def stop(self) -> None:
        """Take nothing more. A claim that is just being committed is still handed to the pool."""
        self._is_closed = True
        if self._consumer is not None:
            self._consumer.stop()
        self._pool.changed()
        await self.retire()

    async def _run(self, life: Life) -> None:
        consumer = self._consumer
        assert consumer is not None
        while not life.ask or consumer.owes:  # what is just being claimed is still to be performed
            free = self._pool.free
            if free <= 0 and not consumer.owes:
                await self._pool.wait_for_change()
                continue
            deliveries = await consumer.receive(max(free, 0))
            if self._is_closed and not deliveries:
                return
            for delivery in deliveries:
                self._pool.hand_in(delivery)

    def recall(self) -> None:
        """Ask anew: the pool has another number of free places, or none."""
        if self._consumer is not None:
            self._consumer.recall()


class Pool:
    """The actors of one queue and what feeds them."""

    def __init__(
        self,
        *,
        queue: str,
        concurrency: int,
        jobs: Mapping[str, int],
        broker: Broker,
        perform: Perform,
        hand_back: HandBack,
        owner: Callable[[], str | None],
        clock: Clock,
        make: MakeOwn | None = None,
    ) -> None:
        self.name = f"pool {queue}"
        self.queue = queue
        self._default_concurrency = concurrency
        self._target = concurrency
        self._perform = perform
        self._hand_back = hand_back
        self.clock = clock
        self._make = make
        self._pace = AHEAD_SECONDS
        """How long runs take here, in seconds: a moving average."""
        self._watch: Timer | None = None
        self._mailbox: Mailbox[Delivery] = Mailbox()
        self._in_hand = 0
        self._settling = 0
        self._performed = 0
        self._is_paused = False
        self._ready = 0
        self._start_error: str | None = None
        self._change = asyncio.Event()
        self._numbers = itertools.count(1)
        self._actors = Supervisor(
            name=f"actors of {queue}",
            children=[self._spec() for _ in range(concurrency)],
            clock=clock,
            restarts=None if make is None else Restarts(backoff=Backoff(cap=LONGEST_RESTART_SECONDS)),
        )
        self._intake = Intake(
            name=f"intake of {queue}", pool=self, make_consumer=lambda: broker.consume(queue, jobs, owner)
        )

    def _spec(self) -> ChildSpec:
        name = f"{self.queue}/{next(self._numbers)}"

        def factory() -> Performing:
            return Performing(name=name, pool=self, mailbox=self._mailbox, perform=self._perform, make=self._make)

        return ChildSpec(name=name, factory=factory)

    @property
    def is_running(self) -> bool:
        return self._actors.is_running

    @property
    def free(self) -> int:
        """How many more runs the pool could perform now, or very soon. As many may wait for their outcome to be
        recorded as may be at work; beyond that, the store is to catch up first."""
        if self._is_paused:
            return 0
        places = min(self._target, self._ready)
        ahead = places if self._pace < QUICK_SECONDS else 0
        return places + ahead - self.busy - max(self._settling - self._target, 0)

    @property
    def hold(self) -> str | None:
        """Why no actor of the pool can start, if none does."""
        return self._start_error if self._ready == 0 else None

    @property
    def is_starting(self) -> bool:
        """Whether the application's own actors are still about to start."""
        return self._make is not None and self.is_running and self._ready == 0 and self._start_error is None

    @property
    def is_failing(self) -> bool:
        """Whether the pool takes nothing because its actors keep failing."""
        return self.hold is not None and any(k.state is ChildState.FAILING for k in self._actors.children)

    @property
    def is_idle(self) -> bool:
        return self._in_hand == 0

    @property
    def busy(self) -> int:
        """How many runs are at work, or about to be."""
        return self._in_hand - self._settling

    @property
    def concurrency(self) -> int:
        return self._target

    def statistics(self) -> PoolStatistics:
        return PoolStatistics(
            name=self.name,
            is_running=self.is_running,
            starts=self._actors.statistics().starts,
            queue=self.queue,
            concurrency=self._target,
            busy=min(self.busy, self._target),
            settling=self._settling,
            mailbox=len(self._mailbox),
            performed=self._performed,
            is_paused=self._is_paused,
            hold=self.hold,
        )

    def __repr__(self) -> str:
        busy, paused = min(self.busy, self._target), ", paused" if self._is_paused else ""
        return f"Pool({self.queue!r}, {busy}/{self._target}{paused})"

    async def start(self) -> None:
        await self._actors.start()
        await self._intake.start()

    async def stop(self) -> None:
        """Take nothing more and end the actors; call `close_intake` and wait for `idle` first to let work finish."""
        await self._intake.stop()
        await self._actors.stop()

    async def close_intake(self) -> None:
        await self._intake.stop()

    async def idle(self) -> None:
        """Return once nothing is in hand."""
        while self._in_hand:
            await self.wait_for_change()

    def hand_in(self, delivery: Delivery) -> None:
        self._in_hand += 1
        self._mailbox.put_nowait(delivery)
        if self._watch is None and self.busy > self._target:
            self._watch_ahead()

    def _watch_ahead(self) -> None:
        oldest = self._mailbox.oldest
        self._watch = self.clock.call_later(AHEAD_SECONDS, lambda: self._look_after_ahead(oldest))

    def _look_after_ahead(self, oldest: Delivery | None) -> None:
        """Hand back what was claimed ahead, if the oldest of it is still the same."""
        self._watch = None
        if not len(self._mailbox):
            return
        if self._mailbox.oldest is not oldest:
            self._watch_ahead()
            return
        self._pace = AHEAD_SECONDS
        self.hand_back()

    def hand_back(self) -> None:
        """Give up what no actor has begun yet."""
        for delivery in self._mailbox.drain():
            self.ended(delivery)
            self._hand_back(delivery.claim).add_done_callback(partial(self._handed_back, delivery))

    def _handed_back(self, delivery: Delivery, _settled: asyncio.Future[RunState | None]) -> None:
        self.settled(delivery)

    def changed(self) -> None:
        change, self._change = self._change, asyncio.Event()
        change.set()

    async def wait_for_change(self) -> None:
        await self._change.wait()

    # what its actors tell

    def ended(self, delivery: Delivery, seconds: float | None = None) -> None:
        """The handler has ended, after so many seconds; or there is none to be."""
        if seconds is not None:
            self._pace += 0.1 * (seconds - self._pace)
        self._settling += 1
        delivery.ended()
        self.changed()

    def settled(self, delivery: Delivery) -> None:
        """What it came to is on record, or will never be."""
        self._settling -= 1
        self._in_hand -= 1
        self._performed += 1
        delivery.ack()
        self.changed()

    def ready(self, count: int) -> None:
        """So many more actors can perform runs, or fewer."""
        self._ready += count
        if count > 0:
            self._start_error = None
        self.changed()

    def not_ready(self, error: BaseException) -> None:
        """An actor could not start."""
        self._start_error = clip(f"an actor cannot start: {type(error).__name__}: {error}", LONGEST_HOLD)

    async def follow(self, *, is_paused: bool, concurrency: int | None) -> None:
        """Do as the queue's row says; None means the application's own figure."""
        if is_paused != self._is_paused:
            self._is_paused = is_paused
            self.changed()
            self._intake.recall()
        await self._scale(self._default_concurrency if concurrency is None else concurrency)

    async def _scale(self, target: int) -> None:
        if target == self._target or not self._actors.is_running:
            return
        grows, self._target = target > self._target, target
        while len(self._actors.children) < self._target:
            await self._actors.add(self._spec())
        surplus = [keeper.name for keeper in self._actors.children[self._target :]]
        for name in surplus:
            # The actor may be busy for hours: it leaves when it is done, nobody waits for that.
            task = asyncio.get_running_loop().create_task(self._actors.remove(name), context=Context())
            _leaving.add(task)
            task.add_done_callback(_leaving.discard)
        if surplus:
            await asyncio.sleep(0)
        if grows:
            self.changed()
        self._intake.recall()


_leaving: set[asyncio.Task[None]] = set()
"""Retiring actors: the loop keeps only weak references to tasks."""
