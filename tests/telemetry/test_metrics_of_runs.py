"""What happens to runs, as metrics tell it: explicit providers, no span anywhere."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import metrics as api
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pydantic import BaseModel
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session

import actorjobs as aj
from actorjobs.clock import VirtualClock
from actorjobs.ports import Demand, WorkerInfo
from actorjobs.runtime import opened
from actorjobs.telemetry.metrics import LONG_SECONDS, METRICS, SECONDS
from actorjobs.worker import performer
from tests.telemetry.measured import Measured

MakeRuntime = Callable[..., aj.Runtime]
STATE, OUTCOME = "actorjobs.run.state", "actorjobs.attempt.outcome"
QUEUE, JOB, TENANT = "actorjobs.queue.name", "actorjobs.job.name", "actorjobs.tenant.id"
QUICK = aj.Retry(attempts=3, backoff=aj.Fixed(0.01))


class Work(BaseModel):
    n: int = 0


@aj.job("test:work", queue="work", retry=QUICK)
async def work(payload: Work, ctx: aj.JobContext) -> int:
    if ctx.attempt <= payload.n:
        raise ValueError("not yet")
    return payload.n


@aj.job("test:slow", queue="work", timeout=0.05, retry=aj.Retry(attempts=1))
async def slow(payload: Work) -> None:
    await asyncio.sleep(10)


@aj.job("test:endless", queue="work")
async def endless(payload: Work) -> None:
    await asyncio.sleep(3600)


@aj.job("test:snoozing", queue="work")
async def snoozing(payload: Work, ctx: aj.JobContext) -> None:
    if ctx.state.get("snoozed"):
        return
    await ctx.checkpoint(snoozed=True)
    raise aj.Snooze(0.01)


@pytest.fixture
def measured() -> Measured:
    return Measured()


@pytest.fixture
def make_runtime(tmp_path: Path, measured: Measured) -> MakeRuntime:
    def make(*jobs: Any, **options: Any) -> aj.Runtime:
        known = {"store": f"sqlite:///{tmp_path}/runs.db", "jobs": jobs, "grace": 2, "queues": {"work": 4}}
        return aj.Runtime(**{**known, "meter_provider": measured.provider, **options})

    return make


async def test_a_run_that_succeeds(make_runtime: MakeRuntime, measured: Measured) -> None:
    async with make_runtime(work):
        run = await work.dispatch(Work())
        await run.result(timeout=10)
    assert measured.values("messaging.client.sent.messages", "messaging.destination.name", "error.type") == {
        ("work", None): 1
    }
    assert measured.values("messaging.client.consumed.messages", "messaging.destination.name") == {"work": 1}
    assert measured.values("actorjobs.runs", QUEUE, JOB, STATE) == {("work", "test:work", "succeeded"): 1}
    assert measured.values("actorjobs.attempt.duration", QUEUE, JOB, OUTCOME, "error.type") == {
        ("work", "test:work", "succeeded", None): 1
    }
    assert measured.values("messaging.client.operation.duration", "messaging.operation.name") == {
        "send": 1,
        "settle": 1,
    }
    for name in ("messaging.process.duration", "actorjobs.queue.wait.duration", "actorjobs.run.duration"):
        assert measured.total(name) == 1, name
    assert measured.sum("messaging.process.duration") == measured.sum("actorjobs.attempt.duration")
    assert measured.sum("actorjobs.run.duration") >= measured.sum("actorjobs.attempt.duration")
    systems = {point.attributes["messaging.system"] for point in measured.points("messaging.process.duration")}
    assert systems == {"actorjobs"}
    for name in ("actorjobs.retries", "actorjobs.dead_letters", "actorjobs.leases.lost", "actorjobs.settles.stale"):
        assert measured.total(name) == 0, name


async def test_a_run_that_is_tried_again(make_runtime: MakeRuntime, measured: Measured) -> None:
    async with make_runtime(work):
        await (await work.dispatch(Work(n=2))).result(timeout=10)
    assert measured.values("actorjobs.retries", QUEUE, JOB) == {("work", "test:work"): 2}
    assert measured.values("actorjobs.attempt.duration", OUTCOME, "error.type") == {
        ("failed", "ValueError"): 2,
        ("succeeded", None): 1,
    }
    assert measured.values("messaging.process.duration", "error.type") == {"ValueError": 2, None: 1}
    assert measured.total("messaging.client.sent.messages") == 1  # a retry is no dispatch
    assert measured.total("messaging.client.consumed.messages") == 3
    assert measured.values("actorjobs.runs", STATE) == {"succeeded": 1}
    assert measured.total("actorjobs.run.duration") == 1


async def test_a_dead_letter(make_runtime: MakeRuntime, measured: Measured) -> None:
    async with make_runtime(work, slow):
        for run in (await work.dispatch(Work(n=9)), await slow.dispatch(Work())):
            with pytest.raises(aj.RunFailed):
                await run.result(timeout=10)
    assert measured.values("actorjobs.dead_letters", JOB) == {"test:work": 1, "test:slow": 1}
    assert measured.values("actorjobs.runs", STATE) == {"dead_lettered": 2}
    assert measured.values("actorjobs.retries", JOB) == {"test:work": 2}
    assert measured.values("actorjobs.attempt.duration", JOB, OUTCOME) == {
        ("test:work", "failed"): 3,
        ("test:slow", "timed_out"): 1,
    }


async def test_runs_that_are_canceled(make_runtime: MakeRuntime, measured: Measured) -> None:
    async with make_runtime(work, endless):
        waiting, running = await work.options(delay=3600).dispatch(Work()), await endless.dispatch(Work())
        await measured.until(lambda: measured.total("messaging.client.consumed.messages") == 1)
        await waiting.cancel()
        await waiting.cancel()  # is over already
        await running.cancel()
        with pytest.raises(aj.RunFailed):
            await running.result(timeout=10)
    assert measured.values("actorjobs.runs", JOB, STATE) == {
        ("test:work", "canceled"): 1,
        ("test:endless", "canceled"): 1,
    }
    assert measured.values("actorjobs.attempt.duration", OUTCOME) == {"canceled": 1}


async def test_what_is_asked_for_is_no_error(make_runtime: MakeRuntime, measured: Measured) -> None:
    @aj.job("test:leaving", queue="work")
    async def leaving(payload: Work) -> None:
        raise aj.Cancel("nobody wants it")

    async with make_runtime(leaving, snoozing):
        with pytest.raises(aj.RunFailed):
            await (await leaving.dispatch(Work())).result(timeout=10)
        await (await snoozing.dispatch(Work())).result(timeout=10)
    assert measured.values("actorjobs.attempt.duration", OUTCOME, "error.type") == {
        ("canceled", None): 1,
        ("snoozed", None): 1,
        ("succeeded", None): 1,
    }
    assert set(measured.values("messaging.process.duration", "error.type")) == {None}


async def test_an_attempt_takes_as_long_as_its_span(
    make_runtime: MakeRuntime, measured: Measured, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def slow_lookup(*_: Any) -> None:
        await asyncio.sleep(0.3)

    monkeypatch.setattr(performer, "attempt_before", slow_lookup)
    provider, exporter = TracerProvider(), InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    async with make_runtime(work, tracer_provider=provider) as runtime:
        run = await work.dispatch(Work(n=1))
        await run.result(timeout=10)
        accepted, attempts = await run.run(), await runtime.runs.attempts(run.id)
    spans = [span for span in exporter.get_finished_spans() if span.name == "process test:work"]
    told = sum((span.end_time or 0) - (span.start_time or 0) for span in spans) / 1e9
    assert measured.sum("messaging.process.duration") == pytest.approx(told, abs=0.1)
    assert measured.sum("actorjobs.attempt.duration") == measured.sum("messaging.process.duration")
    assert len(spans) == 2
    for attempt in attempts:  # what was looked up before it is not lost from the record
        assert attempt.started_at >= accepted.inserted_at + timedelta(seconds=0.3)


async def test_runs_that_expire_are_told_with_their_job(make_runtime: MakeRuntime, measured: Measured) -> None:
    async with make_runtime(work) as runtime:
        await runtime.queues.pause("work")
        await work.options(expires_in=0.05).dispatch(Work())
        await measured.until(lambda: measured.total("actorjobs.runs") == 1)
    assert measured.values("actorjobs.runs", QUEUE, JOB, STATE) == {("work", "test:work", "expired"): 1}


async def test_a_dispatch_that_finds_its_run(make_runtime: MakeRuntime, measured: Measured) -> None:
    async with make_runtime(work).client():
        for _ in range(3):
            await work.options(idempotency_key="one").dispatch(Work())
    assert measured.values("actorjobs.enqueue.deduplicated", QUEUE, JOB) == {("work", "test:work"): 2}
    assert measured.total("messaging.client.sent.messages") == 1
    assert measured.total("messaging.client.operation.duration") == 3


async def test_a_dispatch_that_fails(make_runtime: MakeRuntime, measured: Measured) -> None:
    async with make_runtime(work).client():
        await work.options(idempotency_key="one").dispatch(Work())
        with pytest.raises(aj.IdempotencyConflict):
            await work.options(idempotency_key="one").dispatch(Work(n=1))
    assert measured.values("messaging.client.sent.messages", "error.type") == {None: 1, "IdempotencyConflict": 1}
    assert measured.values("messaging.client.operation.duration", "error.type") == {None: 1, "IdempotencyConflict": 1}


async def test_many_at_once_are_one_operation(make_runtime: MakeRuntime, measured: Measured) -> None:
    async with make_runtime(work).client() as runtime:
        await runtime.dispatch_many([work.envelope(Work(n=n)) for n in range(20)])
    assert measured.total("messaging.client.sent.messages") == 20
    assert measured.total("messaging.client.operation.duration") == 1


async def test_a_dispatch_in_a_synchronous_transaction_is_sent_too(
    make_runtime: MakeRuntime, measured: Measured, tmp_path: Path
) -> None:
    async with make_runtime(work).client() as runtime:

        def dispatch() -> None:
            engine = create_engine(f"sqlite:///{tmp_path}/runs.db")
            with Session(engine) as session, session.begin():
                work.dispatch_sync(Work(), tx=session)
            engine.dispose()

        await asyncio.to_thread(dispatch)
        assert len(await runtime.runs.list()) == 1
    assert measured.values("messaging.client.sent.messages", "messaging.destination.name", "error.type") == {
        ("work", None): 1
    }


async def test_a_snooze_is_no_retry(make_runtime: MakeRuntime, measured: Measured) -> None:
    async with make_runtime(snoozing):
        await (await snoozing.dispatch(Work())).result(timeout=10)
    assert measured.values("actorjobs.attempt.duration", OUTCOME) == {"snoozed": 1, "succeeded": 1}
    assert measured.total("actorjobs.retries") == 0


async def test_a_run_whose_worker_died(make_runtime: MakeRuntime, measured: Measured) -> None:
    async with make_runtime(work, meter_provider=None).client() as runtime:
        await runtime.store.join(WorkerInfo(id="ghost", host="gone", boot_id="gone", pid=1))
        await work.dispatch(Work())
        [taken] = await runtime.store.take([Demand(queue="work", jobs={"test:work": 1}, limit=1)], "ghost")
        assert len(taken.claims) == 1
        await runtime.store.declare_dead(3600, ["ghost"])
    async with make_runtime(work):
        await measured.until(lambda: measured.total("actorjobs.runs") == 1)
    assert measured.values("actorjobs.leases.lost", QUEUE, JOB) == {("work", "test:work"): 1}
    assert measured.values("actorjobs.runs", STATE) == {"succeeded": 1}
    assert measured.values("actorjobs.attempt.duration", OUTCOME) == {
        "succeeded": 1
    }  # how long the other took, nobody knows
    assert measured.total("actorjobs.retries") == 0


async def test_an_outcome_that_comes_too_late(make_runtime: MakeRuntime, measured: Measured) -> None:
    started, gate = asyncio.Event(), asyncio.Event()

    @aj.job("test:zombie", queue="work", on_lease_loss="continue")
    async def zombie(payload: Work) -> None:
        started.set()
        await gate.wait()

    async with make_runtime(zombie) as runtime:
        await zombie.dispatch(Work())
        await started.wait()
        async with runtime.store.engine.begin() as connection:  # as if somebody had taken it over
            await connection.execute(text("UPDATE actorjobs_runs SET attempt = attempt + 1, claimed_by = 'other'"))
        gate.set()
        await measured.until(lambda: measured.total("actorjobs.settles.stale") == 1)
    assert measured.values("actorjobs.settles.stale", QUEUE, JOB) == {("work", "test:zombie"): 1}
    assert measured.total("actorjobs.attempt.duration") == 0
    assert measured.total("actorjobs.runs") == 0


async def test_counters_begin_at_zero(make_runtime: MakeRuntime, measured: Measured) -> None:
    """Else the first dead letter would be no increase."""
    async with make_runtime(work, slow).client():
        for name in ("actorjobs.dead_letters", "actorjobs.retries", "actorjobs.leases.lost", "actorjobs.settles.stale"):
            points = {point.attributes[JOB]: point.value for point in measured.points(name)}
            assert points == {"test:work": 0, "test:slow": 0}, name
        states = {point.attributes[STATE] for point in measured.points("actorjobs.runs")}
        assert states == {"succeeded", "dead_lettered", "canceled", "expired"}


async def test_the_wait_counts_from_when_a_run_is_due(make_runtime: MakeRuntime, measured: Measured) -> None:
    clock = VirtualClock()
    async with make_runtime(work, clock=clock, store="sqlite://") as runtime:
        await work.options(delay=600).dispatch(Work())
        await clock.advance(601)
        assert measured.total("actorjobs.runs") == 1
        assert measured.sum("actorjobs.queue.wait.duration") < 0.1  # it waited for its time, and that is no wait
        assert measured.sum("actorjobs.run.duration") == pytest.approx(600, abs=0.1)
        await runtime.queues.pause("work")
        await clock.advance(2)
        await work.dispatch(Work())
        await clock.advance(100)
        await runtime.queues.resume("work")
        await clock.advance(2)
    assert measured.total("actorjobs.queue.wait.duration") == 2
    assert 100.0 <= measured.sum("actorjobs.queue.wait.duration") <= 102.0


async def test_tenants_are_told_of_where_they_are_named(make_runtime: MakeRuntime, measured: Measured) -> None:
    async with make_runtime(work, metric_tenants={"acme"}):
        for tenant in ("acme", "acme", "rival", "other", None):
            await (await work.dispatch(Work(), tenant=tenant)).result(timeout=10)
    for name in ("actorjobs.runs", "actorjobs.queue.wait.duration", "actorjobs.attempt.duration"):
        assert measured.values(name, TENANT) == {"acme": 2, "_other": 2, None: 1}, name


async def test_no_attribute_but_those_of_the_list(make_runtime: MakeRuntime, measured: Measured) -> None:
    """Neither ids nor tenants nor workers, whatever happens."""
    async with make_runtime(work, slow) as runtime:
        runs = [await work.dispatch(Work(n=n), tenant=f"tenant-{n}", tags=["t"]) for n in range(3)]
        runs.append(await slow.dispatch(Work()))
        for run in runs:
            await runtime.runs.wait(run.id, 10)
        await measured.until(lambda: bool(measured.points("actorjobs.queue.depth")))
        seen = measured.metrics()
    known = {metric.name: metric for metric in METRICS}
    assert {"actorjobs.runs", "actorjobs.retries", "actorjobs.worker.slots", "actorjobs.queue.depth"} <= set(seen)
    for name, metric in seen.items():
        for point in metric.data.data_points:
            assert set(point.attributes) <= set(known[name].attributes) - {TENANT}, name
            assert not any(str(value).startswith("tenant-") for value in point.attributes.values())


async def test_buckets_are_as_the_list_has_them(make_runtime: MakeRuntime, measured: Measured) -> None:
    async with make_runtime(work):
        await (await work.dispatch(Work())).result(timeout=10)
    bounds = {metric.name: metric.bounds for metric in METRICS if metric.bounds}
    seen = {name: metric for name, metric in measured.metrics().items() if name in bounds}
    for name, metric in seen.items():
        assert all(point.explicit_bounds == bounds[name] for point in metric.data.data_points), name
    assert {bounds[name] for name in seen} == {SECONDS, LONG_SECONDS}
    assert LONG_SECONDS[-1] == 3600


async def test_units_and_descriptions_are_as_the_list_has_them(make_runtime: MakeRuntime, measured: Measured) -> None:
    async with make_runtime(work):
        await (await work.dispatch(Work())).result(timeout=10)
    known = {metric.name: (metric.unit, metric.about) for metric in METRICS}
    for name, metric in measured.metrics().items():
        assert (metric.unit, metric.description) == known[name]


async def test_two_runtimes_on_one_provider_are_added_up(tmp_path: Path, measured: Measured) -> None:
    def make(name: str) -> aj.Runtime:
        store = f"sqlite:///{tmp_path}/{name}.db"
        return aj.Runtime(store=store, jobs=[work], queues={"work": 3}, meter_provider=measured.provider)

    async with make("a") as one, make("b") as other:
        for runtime in (one, other):
            await (await runtime.dispatch(work, Work())).result(timeout=10)
        await measured.until(lambda: measured.total("actorjobs.worker.slots.limit") == 6)
        assert measured.values("actorjobs.runs", QUEUE) == {"work": 2}
    assert measured.points("actorjobs.worker.slots.limit") == []
    async with make("a"):  # opened again, it goes on counting
        await (await work.dispatch(Work())).result(timeout=10)
    assert measured.values("actorjobs.runs", QUEUE) == {"work": 3}


@pytest.mark.parametrize("provider", [None, api.NoOpMeterProvider()])
async def test_without_an_sdk_nothing_is_measured(
    make_runtime: MakeRuntime, provider: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[object] = []
    monkeypatch.setattr(opened, "Metering", made.append)
    async with make_runtime(work, meter_provider=provider):
        await (await work.dispatch(Work())).result(timeout=10)
    assert made == []


async def test_an_sdk_that_is_switched_off_measures_nothing(
    make_runtime: MakeRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    made: list[object] = []
    monkeypatch.setattr(opened, "Metering", made.append)
    async with make_runtime(work, meter_provider=MeterProvider()):
        await (await work.dispatch(Work())).result(timeout=10)
    assert made == []


async def test_slow_and_failing_observers_hold_no_metric_up(make_runtime: MakeRuntime, measured: Measured) -> None:
    async def sleeps(_observation: aj.Observation) -> None:
        await asyncio.sleep(60)

    def fails(_observation: aj.Observation) -> None:
        raise RuntimeError("an observer's own affair")

    began = time.monotonic()
    async with make_runtime(work, observers=[fails, sleeps]):
        for _ in range(5):
            await (await work.dispatch(Work())).result(timeout=10)
        assert measured.values("actorjobs.runs", STATE) == {"succeeded": 5}
    assert time.monotonic() - began < 10.0


async def test_a_name_is_not_taken_for_its_letters(make_runtime: MakeRuntime) -> None:
    with pytest.raises(aj.InvalidOption, match="metric_tenants= takes names"):
        make_runtime(work, metric_tenants="acme")
