"""What an open runtime has measured: its runs as they happen, its pools and its broker every second, and, by one worker
for all, what waits in the store.

Without an SDK there is none of it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Generator, Sequence
from contextlib import contextmanager
from functools import partial

from actorjobs.actors import Background, PeriodicStatistics
from actorjobs.model import Envelope, Observation, RunState
from actorjobs.ports import Accepted, Backlog, Broker, Destination, Settlement, Store, Sweep
from actorjobs.telemetry import metrics
from actorjobs.telemetry.metrics_meters import Meters, Reading, Values
from actorjobs.telemetry.metrics_runs import RunMetrics
from actorjobs.worker.worker import Worker

LOOK_SECONDS = 1.0
BACKLOG_SECONDS = 10.0
REST_FACTOR = 20.0
"""Counting what waits must not be a load on the store: it rests so many times as long as it took."""
STALE_SECONDS = 45.0
"""Numbers that are late by this much are told no longer."""

Settle = Callable[[Settlement], "asyncio.Future[RunState | None]"]


class Metering:
    """The measuring of one opening of a runtime."""

    def __init__(
        self,
        meters: Meters,
        *,
        store: Store,
        broker: Broker,
        worker: Callable[[], Worker | None],
        dropped: Callable[[], int],
        destination: Destination,
        tenants: Collection[str],
    ) -> None:
        """`dropped()` is how many observations have been dropped so far."""
        self.runs = RunMetrics(meters, destination=destination, tenants=tenants)
        self._meters = meters
        self._store = store
        self._broker = broker
        self._worker = worker
        self._dropped = dropped
        self._is_timing = False
        self._told: dict[str, int] = {}
        self._reading: Reading = {}
        self._backlog: Backlog | None = None
        self._fresh_until = self._rests_until = 0.0
        self._looking = Background(name="actorjobs-metering", work=self._keep_looking)

    def start(self) -> None:
        self._meters.attach(self._read)
        self._looking.start()

    async def stop(self) -> None:
        await self._looking.stop()
        self._count_news()
        self._meters.detach(self._read)

    def _read(self) -> Reading:
        return self._reading

    # what is done, and how long it takes

    @contextmanager
    def sending(self, envelopes: Sequence[Envelope]) -> Generator[Callable[[Sequence[Accepted]], None]]:
        """What happens in the block is measured as one dispatch; give what it yields the answers."""
        began = time.perf_counter()
        answers: list[Accepted] = []
        try:
            yield answers.extend
        except BaseException as error:
            self.runs.not_sent(envelopes, error, time.perf_counter() - began)
            raise
        self.runs.sent(envelopes, answers, time.perf_counter() - began)

    def settling(self, settle: Settle) -> Settle:
        """The same `settle`, measured: one at a time, since those that wait together are committed together."""

        def measured(settlement: Settlement) -> asyncio.Future[RunState | None]:
            settled = settle(settlement)
            if not self._is_timing:
                self._is_timing = True
                settled.add_done_callback(partial(self._recorded, settlement.hint.queue, time.perf_counter()))
            return settled

        return measured

    def _recorded(self, queue: str, began: float, settled: asyncio.Future[RunState | None]) -> None:
        self._is_timing = False
        error = asyncio.CancelledError() if settled.cancelled() else settled.exception()
        self.runs.recorded(queue, time.perf_counter() - began, error)

    def ended(self, told: Observation) -> None:
        """A run came to its end that nobody performed."""
        if told.job is not None and told.queue is not None and told.state is not None:
            self.runs.ended(told.queue, told.job, told.tenant, told.state)

    # what stands here, every second

    async def _keep_looking(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._look()
            due = loop.time() + LOOK_SECONDS
            await asyncio.sleep(LOOK_SECONDS)
            self._meters.record(metrics.LOOP_LAG, max(loop.time() - due, 0.0))

    def _look(self) -> None:
        self._count_news()
        self._reading = {**self._worker_now(), **self._broker_now(), **self._backlog_now()}

    def _count_news(self) -> None:
        """Count what others have counted since the last look."""
        self._count_up(metrics.OBSERVATIONS_DROPPED, (), self._dropped())
        for duty in self._duties():
            self._count_up(metrics.SWEEPS, (duty.name, "done"), duty.runs - duty.failures)
            self._count_up(metrics.SWEEPS, (duty.name, "failed"), duty.failures)
        figures = self._broker.figures
        if figures is not None:
            for outcome, count in figures.hints.items():
                self._count_up(metrics.BROKER_HINTS, (outcome,), count)

    def _count_up(self, metric: metrics.Metric, values: Values, count: int) -> None:
        key = f"{metric.name} {values}"
        self._meters.count(metric, values, count - self._told.get(key, 0))
        self._told[key] = count

    def _duties(self) -> Sequence[PeriodicStatistics]:
        worker = self._worker()
        return [] if worker is None else worker.duties

    def _worker_now(self) -> Reading:
        worker = self._worker()
        pools = [] if worker is None else [pool.statistics() for pool in worker.pools]
        slots: dict[Values, float] = {(pool.queue, "busy"): pool.busy for pool in pools}
        slots |= {(pool.queue, "settling"): pool.settling for pool in pools}
        return {
            metrics.SLOTS: slots,
            metrics.SLOTS_LIMIT: {(pool.queue,): pool.concurrency for pool in pools},
            metrics.MAILBOX_SIZE: {(pool.queue,): pool.mailbox for pool in pools},
            metrics.SWEEP_DURATION: {
                (duty.name,): duty.last_duration for duty in self._duties() if duty.last_duration is not None
            },
        }

    def _broker_now(self) -> Reading:
        figures = self._broker.figures
        if figures is None:
            return {}
        return {
            metrics.BROKER_CONNECTED: {(): int(figures.is_connected)},
            metrics.BROKER_BLOCKED: {(): int(figures.is_blocked)},
            metrics.BROKER_PENDING: {(): figures.on_their_way},
        }

    # what waits in the store, told by one worker of all

    @property
    def sweeps(self) -> Sequence[Sweep]:
        return (Sweep(name="backlog", seconds=BACKLOG_SECONDS, fn=self.count_backlog),)

    async def count_backlog(self) -> None:
        """Count what waits, if that is this worker's to do."""
        now = time.monotonic()
        if now < self._rests_until:
            return
        if not await self._is_ours():
            self._backlog = None
            return
        self._backlog = await self._store.backlog()
        took = time.monotonic() - now
        self._rests_until = now + REST_FACTOR * took
        self._fresh_until = self._rests_until + STALE_SECONDS

    async def _is_ours(self) -> bool:
        """Whether no other living worker that measures has held its lease for longer."""
        worker = self._worker()
        owner = None if worker is None else worker.lease.claiming_owner
        for lease in await self._store.workers():  # the longest first
            if lease.id == owner:
                return True
            # One that has just begun and not said yet what it serves may be about to tell.
            if not lease.is_dead and (lease.serves is None or lease.serves.measures):
                return False
        return False

    def _backlog_now(self) -> Reading:
        backlog = self._backlog
        if backlog is None or time.monotonic() > self._fresh_until:
            return {}
        depth: dict[Values, float] = {}
        for name, queue in backlog.queues.items():
            for state in ("ready", "scheduled", "retrying", "running", "dead_lettered"):
                depth[name, state] = getattr(queue, state)
        reading: Reading = {
            metrics.QUEUE_DEPTH: depth,
            metrics.OLDEST_AGE: {(name,): queue.oldest_age for name, queue in backlog.queues.items()},
            metrics.QUARANTINED: {(): backlog.quarantined},
        }
        if self._broker.figures is None:
            return reading
        outbox: Reading = {
            metrics.OUTBOX_PENDING: {(): backlog.unpublished},
            metrics.OUTBOX_AGE: {(): backlog.unpublished_age},
        }
        return {**reading, **outbox}
