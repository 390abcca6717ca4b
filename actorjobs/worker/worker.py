"""The tree of a process that performs runs: what starts in which order, and how it stops.

    heartbeat · recorder · broker · control, sweeps · pools        (stopped in reverse)

It orders start and stop and is no crash domain: a lost connection is a state of whoever holds it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any

from actorjobs.actors import Periodic, PeriodicStatistics, Service, Statistics, Tree
from actorjobs.clock import Clock
from actorjobs.model import CancelReason, RunState
from actorjobs.ports import Broker, Serves, Store, Sweep, Tracer
from actorjobs.worker.control import CONTROL_SECONDS, follow_wishes
from actorjobs.worker.heartbeat import Blame, Heartbeat, OpenStore, begin_lease
from actorjobs.worker.lease import ABANDON_AFTER_SECONDS, BEAT_SECONDS, CANCEL_AFTER_SECONDS, Lease
from actorjobs.worker.performance import CANCEL_GRACE_SECONDS
from actorjobs.worker.performer import Performer
from actorjobs.worker.pool import MakeOwn, Pool
from actorjobs.worker.sweeps import OnSettled, Reconciler, expire, purge, rescue

logger = logging.getLogger("actorjobs.worker")

EXPIRY_SECONDS = 1.0
RETENTION_SECONDS = 300.0
RESCUE_SECONDS = 2.0
GUARD_SECONDS = 0.5

Note = Callable[[str, RunState], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolPlan:
    """What a pool is to be: the queue, how many runs at once, the jobs it knows with the newest version of each."""

    queue: str
    concurrency: int
    jobs: Mapping[str, int]
    make: MakeOwn | None = None


class BrokerService:
    """The broker as a service of the tree."""

    name = "broker"

    def __init__(self, broker: Broker, queues: Sequence[str], wake: Callable[[str], None]) -> None:
        self._broker = broker
        self._queues = queues
        self._wake = wake
        self._is_running = False

    @property
    def is_running(self) -> bool:
        return self._is_running

    async def start(self) -> None:
        if not self._is_running:
            await self._broker.start_delivering(self._queues, self._wake)
            self._is_running = True

    async def stop(self) -> None:
        if self._is_running:
            self._is_running = False
            await self._broker.stop_delivering()

    def statistics(self) -> Statistics:
        return Statistics(name=self.name, is_running=self._is_running, starts=int(self._is_running))


class Worker:
    """Everything that performs runs in this process."""

    def __init__(
        self,
        *,
        store: Store,
        open_store: OpenStore,
        broker: Broker,
        lease: Lease,
        performer: Performer,
        plans: list[PoolPlan],
        keep: Mapping[RunState, float | None],
        on_settled: OnSettled,
        note: Note,
        clock: Clock,
        random: Random,
        exits_when_stuck: bool,
        blame: Blame,
        sweeps: Sequence[Sweep] = (),
        tracer: Tracer | None = None,
    ) -> None:
        """`sweeps` are duties besides its own and the broker's: those of measuring, if anything is measured."""
        self.lease = lease
        self._measures = bool(sweeps)
        self._is_overdue = False
        self._performer = performer
        self._store = store
        self._clock = clock
        self._random = random
        self._told: tuple[str, Serves] | None = None
        self.pools = [
            Pool(
                queue=plan.queue,
                concurrency=plan.concurrency,
                jobs=plan.jobs,
                broker=broker,
                perform=performer.perform,
                hand_back=performer.hand_back,
                owner=lambda: lease.claiming_owner,
                clock=clock,
                make=plan.make,
            )
            for plan in plans
        ]
        self._periodics: list[Periodic] = []
        self._jobs = {job: version for plan in plans for job, version in plan.jobs.items()}
        jitter = 0.0 if clock.is_virtual else 0.1  # many processes must not sweep in step
        shared: list[Service] = [
            self._every("expiry", EXPIRY_SECONDS, partial(expire, store, note), jitter=jitter),
            self._every("retention", RETENTION_SECONDS, partial(purge, store, keep), jitter=jitter),
        ]
        if clock.is_virtual:
            # One process that owns its time: nobody can die in it, and every duty costs a step of each second.
            duties = [
                BrokerService(broker, [plan.queue for plan in plans], self._wake),
                *shared,
                self._every("control", 1.0, self._control, jitter=0.0),
            ]
        else:
            reconciler = Reconciler(store=store, lease=lease, clock=clock)
            reconcile = partial(reconciler.reconcile, self._performed, self._lost_run)
            duties = [
                Heartbeat(
                    lease=lease,
                    open_store=open_store,
                    clock=clock,
                    on_lost=self._lost,
                    blame=blame,
                    exits_when_stuck=exits_when_stuck,
                ),
                BrokerService(broker, [plan.queue for plan in plans], self._wake),
                *(self._every(sweep.name, sweep.seconds, sweep.fn) for sweep in (*broker.sweeps, *sweeps)),
                self._every("lease guard", GUARD_SECONDS, self._guard_lease),
                self._every("reconcile", BEAT_SECONDS, reconcile),
                self._every("rescue", RESCUE_SECONDS, partial(rescue, store, lease, on_settled, self._lost, tracer)),
                *shared,
                self._every("control", CONTROL_SECONDS, self._control),
            ]
        self._periodics = [duty for duty in duties if isinstance(duty, Periodic)]
        self._tree = Tree(name="worker", children=[*duties, *self.pools])

    def _wake(self, name: str) -> None:
        """See to this duty now."""
        for periodic in self._periodics:
            if periodic.name == name:
                periodic.kick()

    def _every(
        self, name: str, seconds: float, fn: Callable[[], Coroutine[Any, Any, bool | None]], **options: Any
    ) -> Periodic:
        return Periodic(name=name, fn=fn, interval=seconds, clock=self._clock, random=self._random, **options)

    @property
    def failing(self) -> dict[str, str]:
        """Why queues are held whose actors keep failing."""
        return {pool.queue: pool.hold for pool in self.pools if pool.is_failing and pool.hold is not None}

    @property
    def holds(self) -> dict[str, str]:
        """Why queues are held whose actors cannot start."""
        return {pool.queue: pool.hold for pool in self.pools if pool.hold is not None}

    @property
    def is_on_duty(self) -> bool:
        """True while a periodic duty is under way."""
        return any(periodic.is_calling for periodic in self._periodics)

    @property
    def duties(self) -> list[PeriodicStatistics]:
        """How the periodic duties are getting on."""
        return [periodic.statistics() for periodic in self._periodics]

    async def start(self) -> None:
        if self._clock.is_virtual:
            await begin_lease(self._store, self.lease)
        await self._store.declare_queues([pool.queue for pool in self.pools])
        await self._tree.start()
        await self._tell()

    async def _control(self) -> None:
        await follow_wishes(self._store, self.lease, self.pools, self._performer.cancel)
        await self._tell()

    async def _tell(self) -> None:
        """Say what is served here, when that has changed."""
        queues = {pool.queue: pool.concurrency for pool in self.pools}
        serves = Serves(jobs=self._jobs, queues=queues, holds=self.holds, measures=self._measures)
        owner = self.lease.owner
        if owner is not None and self._told != (owner, serves):
            await self._store.serve(owner, serves)
            self._told = (owner, serves)

    async def stop(self, *, grace: float, hurry: asyncio.Event) -> None:
        """Take nothing more, let work end for `grace` seconds or until `hurry`, then cancel it and hand it back."""
        try:
            await asyncio.gather(*(pool.close_intake() for pool in self.pools))
            await self._all_idle(grace, hurry)
            if any(pool.busy for pool in self.pools):  # else only the store is waited for
                logger.info("canceling %d runs that are still at work", len(self._performer.performing))
                self._cancel_all(CancelReason.SHUTDOWN)
                await self._all_idle(CANCEL_GRACE_SECONDS, hurry)
        finally:  # also for who is canceled while waiting: nobody is waited for any more
            self._cancel_all(CancelReason.SHUTDOWN)
            self._performer.abandon_all(CancelReason.SHUTDOWN)
            try:
                await self._all_idle(CANCEL_GRACE_SECONDS, asyncio.Event())
            finally:
                await self._tree.stop()
        if self._clock.is_virtual and (owner := self.lease.owner) is not None:
            self.lease.end()
            await self._store.leave(owner)

    async def _all_idle(self, seconds: float, hurry: asyncio.Event) -> None:
        """Return when no pool has anything in hand, after so many seconds, or when somebody is in a hurry."""
        timed_out = asyncio.Event()
        timer = self._clock.call_later(seconds, timed_out.set)
        ends: list[asyncio.Future[Any]] = [
            asyncio.ensure_future(asyncio.gather(*(pool.idle() for pool in self.pools))),
            asyncio.ensure_future(timed_out.wait()),
            asyncio.ensure_future(hurry.wait()),
        ]
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            timer.cancel()
            for end in ends:
                end.cancel()
                with suppress(asyncio.CancelledError):
                    await end

    def _performed(self) -> dict[str, int]:
        return {run_id: at_work.claim.attempt for run_id, at_work in self._performer.performing.items()}

    def _lost_run(self, run_id: str) -> None:
        self._performer.cancel(run_id, CancelReason.LOST)

    def _lost(self, owner: str) -> None:
        logger.error("worker %s was declared dead: its runs are canceled, it goes on under a new id", owner)
        for run_id, at_work in list(self._performer.performing.items()):
            if at_work.claim.owner == owner:
                self._lost_run(run_id)

    def _cancel_all(self, reason: CancelReason) -> None:
        """End what is at work, and begin no more of what was claimed."""
        for pool in self.pools:
            pool.hand_back()
        self._performer.cancel_all(reason)

    async def _guard_lease(self) -> None:
        """Give up work that others may already have taken over."""
        age = self.lease.age
        was_overdue, self._is_overdue = self._is_overdue, age >= CANCEL_AFTER_SECONDS
        if self._is_overdue and self._performer.performing:
            if not was_overdue:
                logger.error("the lease could not be renewed for %.1f s: running work is canceled", age)
            self._cancel_all(CancelReason.LOST)
        if age >= ABANDON_AFTER_SECONDS:
            self._performer.abandon_all(CancelReason.LOST)
