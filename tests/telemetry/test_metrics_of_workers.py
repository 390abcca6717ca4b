"""Gauges: pools, broker, event loop, and what waits in the store, which one worker tells for all."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from pydantic import BaseModel

import actorjobs as aj
from actorjobs.ports import Backlog, WorkerInfo
from actorjobs.runtime import metering
from actorjobs.telemetry.metrics import METRICS, QUEUE_DEPTH, RETRIES
from actorjobs.telemetry.metrics_meters import MOST_SERIES, meters_of
from tests.brokers.topologies import forget
from tests.telemetry.measured import Measured

MakeRuntime = Callable[..., aj.Runtime]
HINT = "actorjobs.hint.outcome"
QUEUE, STATE, SLOT = "actorjobs.queue.name", "actorjobs.queue.state", "actorjobs.slot.state"


class Work(BaseModel):
    n: int = 0


@aj.job("test:gated", queue="work", retry=aj.Retry(attempts=1))
async def gated(payload: Work, ctx: aj.JobContext[asyncio.Event]) -> None:
    await asyncio.wait_for(ctx.app.wait(), 20)


@aj.job("test:blocks-the-loop", queue="work")
async def blocking(payload: Work) -> None:
    time.sleep(1.5)


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metering, "LOOK_SECONDS", 0.1)
    monkeypatch.setattr(metering, "BACKLOG_SECONDS", 0.2)


class Gate:
    """An application's context: what holds all handlers up until it is opened."""

    def __init__(self) -> None:
        self.event = asyncio.Event()

    async def __aenter__(self) -> asyncio.Event:
        return self.event

    async def __aexit__(self, *_: object) -> None: ...


@pytest.fixture
def make_runtime(tmp_path: Path) -> MakeRuntime:
    def make(measured: Measured, **options: Any) -> aj.Runtime:
        known: dict[str, Any] = {"store": f"sqlite:///{tmp_path}/runs.db", "jobs": [gated, blocking], "grace": 2}
        return aj.Runtime(**{**known, "queues": {"work": 2}, "meter_provider": measured.provider, **options})

    return make


async def test_slots_and_what_waits(make_runtime: MakeRuntime) -> None:
    measured, gate = Measured(), Gate()
    async with make_runtime(measured, context=lambda: gate) as runtime:
        await runtime.dispatch_many([gated.envelope(Work(n=n)) for n in range(5)])
        await gated.options(delay=3600).dispatch(Work())
        await measured.until(lambda: measured.values("actorjobs.worker.slots", SLOT).get("busy") == 2)
        assert measured.values("actorjobs.worker.slots.limit", QUEUE) == {"work": 2}
        assert measured.values("actorjobs.actor.mailbox.size", QUEUE) == {"work": 0}
        depth = {"ready": 3, "scheduled": 1, "retrying": 0, "running": 2, "dead_lettered": 0}
        await measured.until(lambda: measured.values("actorjobs.queue.depth", STATE) == depth)
        await measured.until(lambda: measured.values("actorjobs.queue.oldest_age", QUEUE)["work"] > 0.3)
        assert measured.values("actorjobs.quarantine.size") == {(): 0}
        assert measured.points("actorjobs.outbox.pending") == []  # without a broker there is no outbox
        gate.event.set()
        await measured.until(lambda: measured.total("actorjobs.runs") == 5)
        await measured.until(lambda: measured.values("actorjobs.queue.depth", STATE)["ready"] == 0)
        assert measured.values("actorjobs.queue.oldest_age", QUEUE) == {"work": 0.0}
        await measured.until(lambda: measured.total("actorjobs.worker.slots") == 0)


async def test_one_worker_tells_for_all_and_another_goes_on(make_runtime: MakeRuntime) -> None:
    """Each process has a provider of its own."""
    first, second, third = Measured(), Measured(), Measured()

    def tell() -> list[bool]:
        return [bool(one.points("actorjobs.queue.depth")) for one in (first, second, third)]

    one, two, three = (make_runtime(measured) for measured in (first, second, third))
    async with two, three:
        async with one:
            await second.until(lambda: tell() == [False, True, False])
            await asyncio.sleep(1.0)
            assert tell() == [False, True, False]
            await two.close()
            await third.until(lambda: tell() == [False, False, True])
        assert tell() == [False, False, True]


async def test_a_worker_that_measures_nothing_is_passed_over(make_runtime: MakeRuntime) -> None:
    measured = Measured()
    async with make_runtime(measured, meter_provider=None) as silent, make_runtime(measured) as telling:
        await measured.until(lambda: bool(measured.points("actorjobs.queue.depth")))
        leases = await telling.store.workers()
        assert [lease.serves is not None and lease.serves.measures for lease in leases] == [False, True]
        assert len(leases) == 2
        assert silent.is_open


async def test_a_worker_that_has_not_said_what_it_serves_is_left_the_telling(make_runtime: MakeRuntime) -> None:
    """Two that start at once must not both tell until they look again."""
    measured = Measured()
    async with make_runtime(measured, meter_provider=None).client() as runtime:
        await runtime.store.join(WorkerInfo(id="starting", host="other", boot_id="other", pid=1))
        async with make_runtime(measured):
            await measured.until(lambda: measured.total("actorjobs.sweeps") > 0)
            await asyncio.sleep(0.5)
            assert measured.points("actorjobs.queue.depth") == []
            await runtime.store.leave("starting")
            await measured.until(lambda: bool(measured.points("actorjobs.queue.depth")))


async def test_late_numbers_are_told_no_longer(make_runtime: MakeRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metering, "STALE_SECONDS", 1.0)
    measured = Measured()
    async with make_runtime(measured) as runtime:
        await measured.until(lambda: bool(measured.points("actorjobs.queue.depth")))

        async def hangs() -> None:
            await asyncio.sleep(3600)

        monkeypatch.setattr(runtime.store, "backlog", hangs)
        await measured.until(lambda: not measured.points("actorjobs.queue.depth"))
        assert measured.points("actorjobs.worker.slots.limit")  # what is its own it goes on to tell


async def test_counting_is_no_load_on_the_store(make_runtime: MakeRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = Measured()
    async with make_runtime(measured) as runtime:
        await measured.until(lambda: bool(measured.points("actorjobs.queue.depth")))
        count, began = runtime.store.backlog, list[float]()

        async def slowly() -> Backlog:
            began.append(time.monotonic())
            await asyncio.sleep(0.1)
            return await count()

        monkeypatch.setattr(runtime.store, "backlog", slowly)
        await measured.until(lambda: len(began) == 2, within=20)
    assert began[1] - began[0] >= 20 * 0.1


async def test_what_a_broker_is_told(make_runtime: MakeRuntime, rabbitmq_server: str) -> None:
    measured, gate, namespace = Measured(), Gate(), f"metrics-{uuid4().hex[:12]}"
    gate.event.set()
    try:
        async with make_runtime(measured, broker=rabbitmq_server, namespace=namespace, context=lambda: gate):
            await measured.until(lambda: measured.values("actorjobs.broker.connected") == {(): 1})
            await (await gated.dispatch(Work())).result(timeout=20)
            outcomes = ("confirmed", "returned", "refused", "timed_out")
            await measured.until(lambda: measured.values("actorjobs.broker.hints", HINT) == {"confirmed": 1})
            assert {point.attributes[HINT] for point in measured.points("actorjobs.broker.hints")} == set(outcomes)
            assert measured.values("actorjobs.broker.blocked") == {(): 0}
            assert measured.values("messaging.client.consumed.messages", "messaging.system") == {"rabbitmq": 1}
            await measured.until(lambda: measured.values("actorjobs.outbox.pending") == {(): 0})
            await measured.until(lambda: measured.values("actorjobs.broker.hints.pending") == {(): 0})
    finally:
        await forget(rabbitmq_server, namespace)
    assert measured.values("actorjobs.broker.hints", HINT) == {"confirmed": 1}  # counted on after the end


async def test_what_waits_for_a_broker_that_is_down(make_runtime: MakeRuntime) -> None:
    measured = Measured()
    async with make_runtime(measured, broker="amqp://127.0.0.1:1/", grace=0):
        await gated.dispatch(Work())
        await measured.until(lambda: measured.values("actorjobs.outbox.pending") == {(): 1}, within=20)
        await measured.until(lambda: measured.values("actorjobs.outbox.oldest_age")[()] > 0.5)
        assert measured.values("actorjobs.broker.connected") == {(): 0}
        assert measured.values("actorjobs.broker.hints.pending") == {(): 1}
        assert measured.total("messaging.client.sent.messages") == 1  # accepted all the same


async def test_sweeps_that_fail_are_counted(make_runtime: MakeRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    measured, by = Measured(), ("actorjobs.sweep.name", "actorjobs.sweep.outcome")
    async with make_runtime(measured) as runtime:
        await measured.until(lambda: measured.values("actorjobs.sweeps", *by).get(("expiry", "done"), 0) >= 1)
        assert not any(outcome == "failed" for _, outcome in measured.values("actorjobs.sweeps", *by))

        async def fails(_limit: int) -> list[str]:
            raise aj.StoreUnavailable("it does not answer")

        monkeypatch.setattr(runtime.store, "expire", fails)
        await measured.until(lambda: measured.values("actorjobs.sweeps", *by).get(("expiry", "failed")) == 1)
        known = {name for name, _ in measured.values("actorjobs.sweeps", *by)}
        assert {"expiry", "retention", "rescue", "reconcile", "control", "lease guard", "backlog"} <= known
        assert set(measured.values("actorjobs.sweep.last_duration", by[0])) >= {"expiry", "rescue", "backlog"}


async def test_a_loop_that_stands_still_shows(make_runtime: MakeRuntime) -> None:
    measured = Measured()
    async with make_runtime(measured):
        await measured.until(lambda: measured.total("actorjobs.worker.loop.lag") >= 3)
        assert measured.points("actorjobs.worker.loop.lag")[0].max < 1.0
        await (await blocking.dispatch(Work())).result(timeout=10)
        await measured.until(lambda: measured.points("actorjobs.worker.loop.lag")[0].max > 1.0)


async def test_observations_that_are_dropped_are_counted(
    make_runtime: MakeRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def sleeps(_observation: aj.Observation) -> None:
        await asyncio.sleep(60)

    from actorjobs.worker import observing

    monkeypatch.setattr(observing, "MOST_WAITING", 2)
    measured = Measured()
    async with make_runtime(measured, observers=[sleeps]).client():
        for n in range(6):
            await gated.dispatch(Work(n=n))
        await measured.until(lambda: measured.total("actorjobs.observations.dropped") == 3)


def test_series_without_end_are_told_of_together() -> None:
    measured = Measured()
    meters = meters_of(measured.provider)
    assert meters is not None
    for n in range(MOST_SERIES + 500):
        meters.count(RETRIES, (f"queue-{n}", "test:work"))
    points = measured.points("actorjobs.retries")
    assert len(points) <= MOST_SERIES + 1
    assert sum(point.value for point in points) == MOST_SERIES + 500
    assert sum(point.value for point in points if point.attributes.get("otel.metric.overflow")) >= 500


def test_names_follow_the_conventions() -> None:
    for metric in METRICS:
        assert metric.name.startswith(("actorjobs.", "messaging.")), metric.name
        assert metric.name == metric.name.lower()
        assert bool(metric.bounds) == (metric.kind == "histogram"), metric.name
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    assert QUEUE_DEPTH.is_global
