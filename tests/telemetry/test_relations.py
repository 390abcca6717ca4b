"""How attempts stand to the dispatch: decided once, by who dispatches, and carried along with the run."""

from __future__ import annotations

import asyncio
from typing import Annotated

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import baggage, context, trace
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, TraceState
from pydantic import BaseModel

import actorjobs as aj
from actorjobs import tracestate
from actorjobs.telemetry import requests
from actorjobs.telemetry.requests import within_trace_of
from actorjobs.tracestate import Told
from tests.telemetry.conftest import Traces
from tests.telemetry.trees import process_spans

SEEN: list[tuple[str | None, dict[str, object]]] = []
OWN = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Order(BaseModel):
    number: Annotated[str, aj.Traced()] = "A-1"
    amounts: Annotated[list[int], aj.Traced()] = [1, 2]
    card: str = "4111"


@aj.job("pay")
async def pay(order: Order, ctx: aj.JobContext) -> None:
    SEEN.append((ctx.trace_id, dict(baggage.get_all())))


@aj.job("pay:apart", trace="none")
async def pay_apart(order: Order, ctx: aj.JobContext) -> None:
    await pay(order, ctx)


@aj.job("pay:later", trace="parent")
async def pay_later(order: Order, ctx: aj.JobContext) -> None:
    await pay(order, ctx)


@aj.job("export")
async def export(year: Annotated[int, aj.Traced()], secret: str) -> None: ...


class Card(BaseModel):
    number: str
    kind: str = "card"


@aj.job("charge")
async def charge(payment: Card | Order) -> None: ...


@pytest.fixture(autouse=True)
def _nothing_seen() -> None:
    SEEN.clear()


@pytest.mark.parametrize(
    ("how", "is_parent", "links"),
    [
        (pay.options(), True, 1),
        (pay.options(delay=0.001), False, 1),
        (pay.options(trace="link"), False, 1),
        (pay.options(trace="none"), False, 0),
        (pay_apart.options(), False, 0),
        (pay_apart.options(trace="parent"), True, 1),
        (pay_later.options(delay=0.001), True, 1),
    ],
)
async def test_the_relation(
    traces: Traces, sqlite_url: str, how: aj.JobRef[Order, None], is_parent: bool, links: int
) -> None:
    async with traces.runtime(sqlite_url, pay, pay_apart, pay_later):
        run = await how.dispatch(Order())
        await run.result(timeout=10)
        accepted = await run.run()
    send = next(span for span in traces.spans if span.name.startswith("send "))
    [process] = process_spans(traces.spans)
    assert (process.parent is not None) == is_parent
    assert len(process.links) == links
    if is_parent:
        assert process.parent is not None
        assert process.parent.span_id == send.context.span_id
    else:
        assert process.context.trace_id != send.context.trace_id
    assert (accepted.trace_id == f"{send.context.trace_id:032x}") == (links == 1)
    assert SEEN[0][0] == f"{process.context.trace_id:032x}"


async def test_a_default_of_the_runtime(traces: Traces, sqlite_url: str) -> None:
    async with traces.runtime(sqlite_url, pay, pay_later, defaults=aj.JobDefaults(trace="link")):
        for job in (pay, pay_later):
            await (await job.dispatch(Order())).result(timeout=10)
    assert [span.parent is None for span in process_spans(traces.spans)] == [True, False]


@pytest.mark.parametrize("member", ["", "actorjobs=none,", f"actorjobs=parent;replay_of:{OWN},"])
@pytest.mark.parametrize("default", [None, "link"])
async def test_a_request_decides_nothing(
    traces: Traces, sqlite_url: str, member: str, default: tracestate.Relation | None
) -> None:
    async with traces.runtime(sqlite_url, pay, pay_later, defaults=aj.JobDefaults(trace=default)) as runtime:
        with within_trace_of({"traceparent": OWN, "tracestate": f"{member}vendor=1"}):
            runs = [await job.dispatch(Order()) for job in (pay, pay_later)]
        for run in runs:
            await run.result(timeout=10)
            assert tracestate.foreign((await runtime.store.envelope(run.id)).tracestate) == "vendor=1"
    by_default, by_the_job = process_spans(traces.spans)
    assert (by_default.parent is None) == (default == "link")
    assert by_the_job.parent is not None
    assert all(len(span.links) == 1 for span in (by_default, by_the_job))
    assert by_the_job.context.trace_id == int(OWN[3:35], 16)


async def test_a_process_that_takes_over_no_trace(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`OTEL_PROPAGATORS=none`."""
    monkeypatch.setattr(requests, "propagator", lambda: CompositePropagator([]))
    async with aj.Runtime(store=sqlite_url, jobs=[pay]).client():
        with within_trace_of({"traceparent": OWN, "tracestate": "vendor=1"}):
            run = await pay.dispatch(Order())
        assert (await run.run()).trace_id not in (None, OWN[3:35])


async def test_what_a_job_says_keeps_the_members_of_others_without_an_sdk(sqlite_url: str) -> None:
    async with aj.Runtime(store=sqlite_url, jobs=[pay]) as runtime:
        with within_trace_of({"traceparent": OWN, "tracestate": "actorjobs=parent,vendor=1"}):
            run = await pay.dispatch(Order(), trace="link")
        assert (await runtime.store.envelope(run.id)).tracestate == "actorjobs=link,vendor=1"


async def test_a_traceparent_of_ones_own_is_kept(traces: Traces, sqlite_url: str) -> None:
    envelope = pay.envelope(Order()).model_copy(update={"traceparent": OWN, "tracestate": "vendor=1"})
    async with traces.runtime(sqlite_url, pay) as runtime:
        run = await runtime.dispatch(envelope)
        await run.result(timeout=10)
        assert (await run.run()).traceparent == OWN
    send = next(span for span in traces.spans if span.name == "send pay")
    [process] = process_spans(traces.spans)
    assert process.parent is not None
    assert f"{process.parent.span_id:016x}" == "b7ad6b7169203331" == f"{send.links[0].context.span_id:016x}"
    assert process.context.trace_state.to_header() == "vendor=1"


async def test_the_members_of_others_go_along_and_ours_goes_no_further(traces: Traces, sqlite_url: str) -> None:
    states: list[str] = []

    async def around(ctx: aj.JobContext, call_next: aj.CallNext) -> object:
        states.append(trace.get_current_span().get_span_context().trace_state.to_header())
        return await call_next()

    caller = SpanContext(1, 2, True, TraceFlags(1), TraceState([("actorjobs", "none"), ("vendor", "x")]))
    async with traces.runtime(sqlite_url, pay, middleware=[around]) as runtime:
        token = context.attach(trace.set_span_in_context(NonRecordingSpan(caller)))
        run = await pay.dispatch(Order(), trace="parent")
        context.detach(token)
        await run.result(timeout=10)
        envelope = await runtime.store.envelope(run.id)
    assert envelope.tracestate == "vendor=x"
    assert states == ["vendor=x"]


async def test_baggage_goes_along_unless_it_is_much(traces: Traces, sqlite_url: str) -> None:
    async with traces.runtime(sqlite_url, pay):
        for value, delay in (("gold", None), ("gold", 0.001), ("x" * 9000, None)):
            token = context.attach(baggage.set_baggage("plan", value))
            run = await pay.dispatch(Order(), delay=delay)
            context.detach(token)
            await run.result(timeout=10)
    assert [told for _trace_id, told in SEEN] == [{"plan": "gold"}, {"plan": "gold"}, {}]


async def test_of_a_payload_only_what_is_marked(traces: Traces, sqlite_url: str) -> None:
    async with traces.runtime(sqlite_url, pay, export):
        await (await pay.dispatch(Order())).result(timeout=10)
        await (await export.dispatch(2026, "hidden")).result(timeout=10)
    shown = [
        {key: value for key, value in (span.attributes or {}).items() if key.startswith("actorjobs.payload.")}
        for span in traces.spans
    ]
    order = {"actorjobs.payload.number": "A-1", "actorjobs.payload.amounts": "[1,2]"}
    assert shown == [order, order, {"actorjobs.payload.year": 2026}, {"actorjobs.payload.year": 2026}]
    assert not any("4111" in span.to_json() or "hidden" in span.to_json() for span in traces.spans)


async def test_without_an_sdk_the_callers_trace_goes_on(sqlite_url: str) -> None:
    caller = SpanContext(0xABC, 0xDEF, True, TraceFlags(1))
    async with aj.Runtime(store=sqlite_url, jobs=[pay]) as runtime:
        token = context.attach(trace.set_span_in_context(NonRecordingSpan(caller)))
        inside = await pay.dispatch(Order())
        context.detach(token)
        outside = await pay.dispatch(Order())
        by_hand = await runtime.dispatch(aj.Envelope(job="pay", queue="default", payload={}))
        for run in (inside, outside, by_hand):
            await run.result(timeout=10)
        runs = [await run.run() for run in (inside, outside, by_hand)]
        attempts = [(await runtime.runs.attempts(run.id))[0] for run in (inside, outside, by_hand)]
    assert runs[0].traceparent == f"00-{0xABC:032x}-{0xDEF:016x}-01"
    assert len({run.trace_id for run in runs} - {None}) == 3
    assert [attempt.trace_id for attempt in attempts] == [run.trace_id for run in runs] == [seen for seen, _ in SEEN]


async def test_what_a_sampler_leaves_out_is_traced_by_its_ids_all_the_same(traces: Traces, sqlite_url: str) -> None:
    from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

    silent = TracerProvider(sampler=ALWAYS_OFF)
    async with traces.runtime(sqlite_url, pay, tracer_provider=silent) as runtime:
        run = await pay.dispatch(Order())
        await run.result(timeout=10)
        [attempt] = await runtime.runs.attempts(run.id)
        accepted = await run.run()
    assert accepted.traceparent is not None
    assert accepted.traceparent.endswith(("-00", "-02"))
    assert attempt.trace_id == accepted.trace_id
    assert traces.spans == ()


def test_a_disabled_sdk_is_none(monkeypatch: pytest.MonkeyPatch, sqlite_url: str) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")

    async def body() -> None:
        async with aj.Runtime(store=sqlite_url, jobs=[pay], tracer_provider=TracerProvider()) as runtime:
            assert not runtime._open_one.tracer.is_on

    asyncio.run(body())


# --- the member of tracestate ----------------------------------------------------------------------------------------

KINDS = st.sampled_from(["replay_of", "parent_run"])
TOLD = st.builds(Told, st.sampled_from(["parent", "link", "none"]), st.dictionaries(KINDS, st.just(OWN)))
WORDS = st.from_regex(r"[a-z]{1,8}", fullmatch=True)
OTHERS = st.dictionaries(WORDS.filter("actorjobs".__ne__), WORDS, max_size=40).map(
    lambda members: ",".join(f"{key}={value}" for key, value in members.items())
)


@given(told=TOLD, others=OTHERS)
def test_the_member_is_read_as_it_was_written(told: Told, others: str) -> None:
    text = tracestate.written(others, told)
    assert tracestate.read(text) == told
    assert tracestate.written(text, told) == text
    assert len(text) <= 512
    assert text.count(",") < 32
    kept = tracestate.foreign(text)
    assert kept is None or others.startswith(kept)
    assert TraceState.from_header([text]).get("actorjobs") is not None


@given(st.text(max_size=60) | st.text(max_size=40).map("actorjobs={}".format))
def test_nonsense_says_nothing_and_breaks_nothing(text: str) -> None:
    assert tracestate.read(text).relation in (None, "parent", "link", "none")


async def test_of_several_models_a_field_is_shown_that_each_one_marks(traces: Traces, sqlite_url: str) -> None:
    async with traces.runtime(sqlite_url, charge):
        for payment in (Card(number="4111 1111"), Order(number="A-1")):
            await (await charge.dispatch(payment)).result(timeout=10)
    shown = [name for span in traces.spans for name in span.attributes or {} if name.startswith("actorjobs.payload.")]
    assert set(shown) == {"actorjobs.payload.amounts"}
    assert "4111" not in str([dict(span.attributes or {}) for span in traces.spans])
