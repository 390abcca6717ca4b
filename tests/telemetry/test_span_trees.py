"""What a trace looks like: the whole tree of spans of each kind of life that a run may have."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from opentelemetry import trace
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncSession

import actorjobs as aj
from actorjobs.clock import VirtualClock
from actorjobs.model import Envelope
from actorjobs.ports import Demand, WorkerInfo
from actorjobs.telemetry.describing import Attributes, Describing
from tests.contract.databases import Stores
from tests.telemetry.conftest import Traces
from tests.telemetry.trees import process_spans


class Mail(BaseModel):
    to: str = "ada"


@aj.job("mail", retry=aj.Retry(3, aj.Fixed(0)))
async def mail(payload: Mail, ctx: aj.JobContext) -> str:
    with trace.get_tracer("app", tracer_provider=APP[0]).start_as_current_span("smtp"):
        return payload.to


@aj.job("flaky", retry=aj.Retry(3, aj.Fixed(0)))
async def flaky(payload: Mail, ctx: aj.JobContext) -> None:
    if not ctx.is_last_attempt:
        raise ConnectionError("postgres://app:secret@db/ is down")


@aj.job("broken", retry=aj.Retry(2, aj.Fixed(0)))
async def broken(payload: Mail, ctx: aj.JobContext) -> None:
    raise ValueError("always")


@aj.job("sleepy", retry=aj.Retry(1))
async def sleepy(payload: Mail, ctx: aj.JobContext) -> None:
    await asyncio.sleep(60)


@aj.job("waiting")
async def waiting(payload: Mail, ctx: aj.JobContext) -> None:
    if ctx.attempt == 1:
        raise aj.Snooze(0.01)


@aj.job("family")
async def family(payload: Mail, ctx: aj.JobContext) -> None:
    child = await ctx.dispatch(mail, payload)
    await child.result(timeout=10)


@aj.job("late", retry=aj.Retry(3, aj.Fixed(0.5)))
async def late(payload: Mail, ctx: aj.JobContext) -> None:
    if ctx.attempt == 1:
        raise ConnectionError("not yet")


APP: list[trace.TracerProvider] = []


@pytest.fixture(autouse=True)
def _spans_of_the_app(traces: Traces) -> None:
    APP[:] = [traces.provider]


async def test_success(traces: Traces, sqlite_url: str) -> None:
    async with traces.runtime(sqlite_url, mail) as runtime:
        with traces.provider.get_tracer("app").start_as_current_span("POST /signup"):
            run = await mail.dispatch(Mail(), queue="default", tenant="acme")
        await run.result(timeout=10)
        [attempt] = await runtime.runs.attempts(run.id)
    assert traces.tree == [
        "POST /signup",
        "  send mail",
        "    process mail #1 succeeded/succeeded [creation: send mail]",
        "      smtp",
    ]
    [process] = process_spans(traces.spans)
    assert attempt.span_id == f"{process.context.span_id:016x}"
    assert attempt.trace_id == f"{process.context.trace_id:032x}" == (await _run(traces, sqlite_url, run.id)).trace_id


async def test_what_the_spans_of_a_run_say(traces: Traces, sqlite_url: str) -> None:
    async with traces.runtime(sqlite_url, mail) as runtime:
        run = await mail.dispatch(Mail(), tenant="acme", priority=7)
        await run.result(timeout=10)
        [attempt] = await runtime.runs.attempts(run.id)
    send, process = (next(span for span in traces.spans if span.name == name) for name in ("send mail", "process mail"))
    alike = {
        "messaging.system": "actorjobs",
        "messaging.destination.name": "default",
        "messaging.message.id": run.id,
        "actorjobs.job.name": "mail",
        "actorjobs.queue.name": "default",
        "actorjobs.run.id": run.id,
        "actorjobs.priority": 7,
        "actorjobs.tenant.id": "acme",
    }
    assert dict(send.attributes or {}) == alike | {
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
    }
    waited = (process.attributes or {})["actorjobs.queue.wait_s"]
    assert isinstance(waited, float)
    assert 0 <= waited < 5
    assert dict(process.attributes or {}) == alike | {
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "code.function.name": f"{__name__}.mail",
        "actorjobs.attempt.number": 1,
        "actorjobs.attempt.max": 3,
        "actorjobs.attempt.outcome": "succeeded",
        "actorjobs.run.state": "succeeded",
        "actorjobs.queue.wait_s": waited,
        "actorjobs.worker.id": attempt.worker,
        "actorjobs.actor.id": attempt.actor,
    }
    assert (send.kind, process.kind) == (trace.SpanKind.PRODUCER, trace.SpanKind.CONSUMER)
    scope = process.instrumentation_scope
    assert scope is not None
    assert (scope.name, scope.schema_url) == ("actorjobs", "https://opentelemetry.io/schemas/1.44.0")


async def test_two_retries(traces: Traces, sqlite_url: str) -> None:
    async with traces.runtime(sqlite_url, flaky):
        run = await flaky.dispatch(Mail())
        await run.result(timeout=10)
    assert traces.tree == [
        "send flaky",
        "  process flaky #1 failed/retrying ERROR(ConnectionError) [creation: send flaky]",
        "  process flaky #2 failed/retrying ERROR(ConnectionError)"
        " [creation: send flaky, previous_attempt: process flaky #1]",
        "  process flaky #3 succeeded/succeeded [creation: send flaky, previous_attempt: process flaky #2]",
    ]
    [event] = process_spans(traces.spans)[0].events
    told = event.attributes or {}
    assert event.name == "exception"
    assert told["exception.message"] == "postgres://app:***@db/ is down"
    assert "secret" not in str(told)
    assert "in flaky" in str(told["exception.stacktrace"])


async def test_dead_letter(traces: Traces, sqlite_url: str) -> None:
    async with traces.runtime(sqlite_url, broken):
        run = await broken.dispatch(Mail())
        with pytest.raises(aj.RunFailed):
            await run.result(timeout=10)
    assert traces.tree == [
        "send broken",
        "  process broken #1 failed/retrying ERROR(ValueError) [creation: send broken]",
        "  process broken #2 failed/dead_lettered ERROR(ValueError)"
        " [creation: send broken, previous_attempt: process broken #1]",
    ]


async def test_cancel_is_no_error(traces: Traces, sqlite_url: str) -> None:
    async with traces.runtime(sqlite_url, sleepy) as runtime:
        run = await sleepy.dispatch(Mail())
        while (await run.run()).state is not aj.RunState.RUNNING:
            await asyncio.sleep(0.01)
        await runtime.runs.cancel(run.id)
        with pytest.raises(aj.RunFailed):
            await run.result(timeout=10)
    assert traces.tree == ["send sleepy", "  process sleepy #1 canceled/canceled [creation: send sleepy]"]


async def test_a_shutdown_is_no_error(traces: Traces, sqlite_url: str) -> None:
    async with traces.runtime(sqlite_url, sleepy, grace=0.01):
        run = await sleepy.dispatch(Mail())
        while (await run.run()).state is not aj.RunState.RUNNING:
            await asyncio.sleep(0.01)
    assert traces.tree == ["send sleepy", "  process sleepy #1 interrupted/queued [creation: send sleepy]"]


async def test_time_out(traces: Traces, sqlite_url: str) -> None:
    async with traces.runtime(sqlite_url, sleepy):
        run = await sleepy.dispatch(Mail(), timeout=0.05)
        with pytest.raises(aj.RunFailed):
            await run.result(timeout=10)
    assert traces.tree == [
        "send sleepy",
        "  process sleepy #1 timed_out/dead_lettered ERROR(AttemptTimedOut) [creation: send sleepy]",
    ]


async def test_snooze_is_no_error(traces: Traces, sqlite_url: str) -> None:
    async with traces.runtime(sqlite_url, waiting):
        run = await waiting.dispatch(Mail())
        await run.result(timeout=10)
    assert traces.tree == [
        "send waiting",
        "  process waiting #1 snoozed/scheduled [creation: send waiting]",
        "  process waiting #2 succeeded/succeeded [creation: send waiting, previous_attempt: process waiting #1]",
    ]
    assert (process_spans(traces.spans)[0].attributes or {})["actorjobs.retry.delay_s"] == 0.01


async def test_a_delayed_run_has_a_trace_of_its_own(traces: Traces, sqlite_url: str) -> None:
    async with traces.runtime(sqlite_url, mail) as runtime:
        run = await mail.dispatch(Mail(), delay=0.01)
        await run.result(timeout=10)
        [attempt] = await runtime.runs.attempts(run.id)
        accepted = await run.run()
    assert traces.tree == [
        "send mail",
        "process mail #1 succeeded/succeeded [creation: send mail]",
        "  smtp",
    ]
    assert attempt.trace_id == f"{process_spans(traces.spans)[0].context.trace_id:032x}" != accepted.trace_id


async def test_a_batch(traces: Traces, sqlite_url: str) -> None:
    async with traces.runtime(sqlite_url, mail) as runtime:
        handles = await runtime.dispatch_many([mail.envelope(Mail()), mail.envelope(Mail())])
        for handle in handles:
            await handle.result(timeout=10)
    roots = [line for line in traces.tree if not line.startswith(" ")]
    assert roots == ["create mail", "create mail", "send mail [creation: create mail, creation: create mail]"]
    assert len(process_spans(traces.spans)) == 2
    assert traces.tree[:3] == [
        "create mail",
        "  process mail #1 succeeded/succeeded [creation: create mail]",
        "    smtp",
    ]
    sending = next(span for span in traces.spans if span.name == "send mail")
    assert sending.kind is trace.SpanKind.CLIENT
    assert (sending.attributes or {})["messaging.batch.message_count"] == 2
    assert "actorjobs.run.id" not in (sending.attributes or {})


async def test_a_batch_that_cannot_be_traced_leaves_no_span_open(
    traces: Traces, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    described = Describing.dispatch

    def dispatch(self: Describing, envelope: Envelope, operation: str) -> Attributes:
        if envelope.tenant == "odd":
            raise ValueError("cannot be told")
        return described(self, envelope, operation)

    monkeypatch.setattr(Describing, "dispatch", dispatch)
    async with traces.runtime(sqlite_url, mail).client() as runtime:
        envelopes = [mail.envelope(Mail()), mail.envelope(Mail(), tenant="odd"), mail.envelope(Mail())]
        handles = await runtime.dispatch_many(envelopes)
        assert len({handle.id for handle in handles}) == 3
    assert [span.name for span in traces.spans] == ["create mail"]


async def test_of_a_crowd_each_has_a_trace_of_its_own(traces: Traces, sqlite_url: str) -> None:
    async with traces.runtime(sqlite_url, mail) as runtime:
        with traces.provider.get_tracer("app").start_as_current_span("import"):
            handles = await runtime.dispatch_many([mail.envelope(Mail()) for _ in range(20)])
        for handle in handles:
            await handle.result(timeout=10)
    assert sum(line == "  create mail" for line in traces.tree) == 20
    processed = [line for line in traces.tree if "process" in line]
    assert processed == ["process mail #1 succeeded/succeeded [creation: create mail]"] * 20


async def test_transactional(traces: Traces, sqlite_url: str) -> None:
    async with traces.runtime(sqlite_url, mail) as runtime:
        with traces.provider.get_tracer("app").start_as_current_span("POST /signup"):
            async with AsyncSession(runtime.store.engine) as session, session.begin():
                run = await mail.dispatch(Mail(), tx=session)
            assert [span.name for span in traces.spans] == ["send mail"]  # ended with the insert, before the commit
        await run.result(timeout=10)
    assert traces.tree == [
        "POST /signup",
        "  send mail",
        "    process mail #1 succeeded/succeeded [creation: send mail]",
        "      smtp",
    ]


async def test_replay(traces: Traces, sqlite_url: str) -> None:
    async with traces.runtime(sqlite_url, mail) as runtime:
        run = await mail.dispatch(Mail())
        await run.result(timeout=10)
        with traces.provider.get_tracer("ops").start_as_current_span("replay button"):
            again = await runtime.runs.replay(run.id)
        await again.result(timeout=10)
    assert traces.tree == [
        "send mail",
        "  process mail #1 succeeded/succeeded [creation: send mail]",
        "    smtp",
        "replay button",
        "  send mail [replay_of: send mail]",
        "process mail #1 succeeded/succeeded [creation: send mail, replay_of: send mail]",
        "  smtp",
    ]
    original = next(span for span in traces.spans if span.name == "send mail" and span.parent is None)
    replayed = [link.context for link in process_spans(traces.spans)[-1].links]
    assert [context.span_id == original.context.span_id for context in replayed] == [False, True]


async def test_child(traces: Traces, sqlite_url: str) -> None:
    async with traces.runtime(sqlite_url, family, mail):
        run = await family.dispatch(Mail())
        await run.result(timeout=10)
    assert traces.tree == [
        "send family",
        "  process family #1 succeeded/succeeded [creation: send family]",
        "    send mail",
        "      process mail #1 succeeded/succeeded [creation: send mail, parent_run: process family #1]",
        "        smtp",
    ]


async def test_a_failed_dispatch(traces: Traces, sqlite_url: str) -> None:
    async with traces.runtime(sqlite_url, mail, clock=VirtualClock()):
        await mail.dispatch(Mail(), idempotency_key="one", delay=timedelta(hours=1))
        with pytest.raises(aj.IdempotencyConflict):
            await mail.dispatch(Mail(to="eve"), idempotency_key="one")
    assert traces.tree == ["send mail", "send mail ERROR(IdempotencyConflict)"]


async def test_a_lost_worker(traces: Traces, sqlite_url: str, stores: Stores) -> None:
    async with traces.runtime(sqlite_url, mail).client():
        run = await mail.dispatch(Mail())
    store = await stores.opened(sqlite_url)
    dead = WorkerInfo(id="w-dead", host="gone", boot_id="b", pid=1)
    await store.join(dead)
    [taken] = await store.take([Demand(queue="default", jobs={"mail": 1}, limit=1)], dead.id)
    [claim] = taken.claims
    await store.leave(dead.id)
    async with traces.runtime(sqlite_url, mail) as runtime:
        await mail.handle(run.id).result(timeout=20)
        lost, ended = await runtime.runs.attempts(run.id)
    assert traces.tree == [
        "send mail",
        "  process mail #1 lost/retrying ERROR(WorkerLost) [creation: send mail]",
        "  process mail #2 succeeded/succeeded [creation: send mail, previous_attempt: process mail #1]",
        "    smtp",
    ]
    first, second = process_spans(traces.spans)
    assert first.start_time == int(claim.claimed_at.timestamp() * 1e9)
    assert (first.attributes or {})["actorjobs.worker.id"] == "w-dead"
    assert [lost.span_id, ended.span_id] == [f"{span.context.span_id:016x}" for span in (first, second)]


async def test_a_worker_lost_later_on(traces: Traces, sqlite_url: str, stores: Stores) -> None:
    async with traces.runtime(sqlite_url, late) as runtime:
        run = await late.dispatch(Mail(), tenant="acme")
        while (await runtime.runs.get(run.id)).state is not aj.RunState.RETRYING:
            await asyncio.sleep(0.01)
    store = await stores.opened(sqlite_url)
    dead = WorkerInfo(id="w-dead", host="gone", boot_id="b", pid=1)
    await store.join(dead)
    while not (await store.take([Demand(queue="default", jobs={"late": 1}, limit=1)], dead.id))[0].claims:
        await asyncio.sleep(0.05)
    await store.leave(dead.id)
    async with traces.runtime(sqlite_url, late):
        await late.handle(run.id).result(timeout=20)
    assert traces.tree == [
        "send late",
        "  process late #1 failed/retrying ERROR(ConnectionError) [creation: send late]",
        "  process late #2 lost/retrying ERROR(WorkerLost) [creation: send late, previous_attempt: process late #1]",
        "  process late #3 succeeded/succeeded [creation: send late, previous_attempt: process late #2]",
    ]
    assert {(span.attributes or {}).get("actorjobs.tenant.id") for span in traces.spans} == {"acme"}


async def _run(traces: Traces, url: str, run_id: str) -> aj.Run:
    async with traces.runtime(url, mail).client() as runtime:
        return await runtime.runs.get(run_id)
