"""A pool serves one queue: an intake asks the broker for as much as there are free actors, each actor performs one run.

The intake starts last and stops first. Scaling adds actors or retires idle ones; pausing only closes the intake.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Mapping
from contextvars import Context
from dataclasses import dataclass
from typing import Protocol

from actorjobs.actors import Actor, ChildSpec, Life, Mailbox, Statistics, Supervisor, TaskService
from actorjobs.clock import Clock
from actorjobs.ports import Broker, Claim, Consumer, Delivery


class Perform(Protocol):
    """Executes one claimed run to its settled end."""

    async def __call__(self, claim: Claim, actor: str) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolStatistics(Statistics):
    """What a pool tells about itself."""

    queue: str
    concurrency: int
    busy: int
    performed: int
    is_paused: bool
    hold: str | None
    """Why the pool takes nothing, if so."""


class Performing(Actor[Delivery]):
    """Takes deliveries out of the pool's mailbox, one at a time."""

    def __init__(self, *, name: str, mailbox: Mailbox[Delivery], perform: Perform, on_done: Callable[[], None]) -> None:
        super().__init__(name=name, mailbox=mailbox)
        self._perform = perform
        self._on_done = on_done

    async def receive(self, message: Delivery) -> None:
        claim = message.claim
        try:
            if claim is not None:
                await self._perform(claim, self.name)
        finally:
            message.ack()
            self._on_done()


class Intake(TaskService):
    """Fetches deliveries for the free actors of its pool."""

    def __init__(self, *, name: str, pool: Pool, make_consumer: Callable[[], Consumer]) -> None:
        super().__init__(name=name)
        self._pool = pool
        self._make_consumer = make_consumer
        self._consumer: Consumer | None = None

    async def on_start(self) -> None:
        self._consumer = self._make_consumer()

    async def stop(self) -> None:
        """Take nothing more. A claim that is just being committed is still handed to the pool."""
        if self._consumer is not None:
            self._consumer.stop()
        self._pool.changed()
        await self.retire()

    async def _run(self, life: Life) -> None:
        consumer = self._consumer
        assert consumer is not None
        while not life.ask:
            free = self._pool.free
            if free <= 0:
                await self._pool.wait_for_change()
                continue
            deliveries = await consumer.receive(free)
            if not deliveries:
                return
            for delivery in deliveries:
                self._pool.hand_in(delivery)


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
        owner: Callable[[], str | None],
        clock: Clock,
        on_failing: Callable[[str, str], None],
    ) -> None:
        self.name = f"pool {queue}"
        self.queue = queue
        self._default_concurrency = concurrency
        self._target = concurrency
        self._perform = perform
        self._mailbox: Mailbox[Delivery] = Mailbox()
        self._in_hand = 0
        self._performed = 0
        self._is_paused = False
        self._hold: str | None = None
        self._change = asyncio.Event()
        self._numbers = itertools.count(1)
        self._actors = Supervisor(
            name=f"actors of {queue}",
            children=[self._spec() for _ in range(concurrency)],
            on_failing=lambda name, error: self._fail(name, error, on_failing),
            on_recovered=lambda _name: self._recover(),
            clock=clock,
        )
        self._intake = Intake(
            name=f"intake of {queue}", pool=self, make_consumer=lambda: broker.consume(queue, jobs, owner)
        )

    def _spec(self) -> ChildSpec:
        name = f"{self.queue}/{next(self._numbers)}"

        def factory() -> Performing:
            return Performing(name=name, mailbox=self._mailbox, perform=self._perform, on_done=self._done)

        return ChildSpec(name=name, factory=factory)

    @property
    def is_running(self) -> bool:
        return self._actors.is_running

    @property
    def free(self) -> int:
        """How many more runs the pool could perform now."""
        return 0 if self._is_paused or self._hold is not None else self._target - self._in_hand

    @property
    def is_idle(self) -> bool:
        return self._in_hand == 0

    @property
    def busy(self) -> int:
        return self._in_hand

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
            busy=self._in_hand,
            performed=self._performed,
            is_paused=self._is_paused,
            hold=self._hold,
        )

    def __repr__(self) -> str:
        return f"Pool({self.queue!r}, {self._in_hand}/{self._target}{', paused' if self._is_paused else ''})"

    async def start(self) -> None:
        self._hold = None
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

    def changed(self) -> None:
        change, self._change = self._change, asyncio.Event()
        change.set()

    async def wait_for_change(self) -> None:
        await self._change.wait()

    def _done(self) -> None:
        self._in_hand -= 1
        self._performed += 1
        self.changed()

    def _fail(self, name: str, error: BaseException, tell: Callable[[str, str], None]) -> None:
        self._hold = f"actor {name} keeps failing: {type(error).__name__}: {error}"
        tell(self.queue, self._hold)

    def _recover(self) -> None:
        self._hold = None
        self.changed()

    async def follow(self, *, is_paused: bool, concurrency: int | None) -> None:
        """Do as the queue's row says; None means the application's own figure."""
        if is_paused != self._is_paused:
            self._is_paused = is_paused
            self.changed()
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


_leaving: set[asyncio.Task[None]] = set()
"""Retiring actors: the loop keeps only weak references to tasks."""
