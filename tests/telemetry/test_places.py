"""The span of an attempt is current wherever its handler runs: on the loop, in a thread, in a child process."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import sys
import threading
from typing import Any

import pytest
from opentelemetry import baggage, context, trace
from opentelemetry.sdk.trace import ReadableSpan

import actorjobs as aj
from actorjobs.telemetry.logs import AttemptFilter
from tests.telemetry import isolated_app
from tests.telemetry.conftest import Traces
from tests.telemetry.trees import process_spans


def _here() -> tuple[str, str]:
    here = trace.get_current_span().get_span_context()
    return f"{here.trace_id:032x}", f"{here.span_id:016x}"


@aj.job("loop")
async def on_the_loop(ctx: aj.JobContext) -> list[tuple[str, str]]:
    return [_here(), await asyncio.create_task(_later()), await asyncio.to_thread(_here)]


async def _later() -> tuple[str, str]:
    return _here()


@aj.job("thread")
def in_a_thread(ctx: aj.JobContext) -> list[tuple[str, str]]:
    ctx.dispatch_sync(on_the_loop)
    return [_here()]


async def test_on_the_loop_and_in_a_thread(traces: Traces, sqlite_url: str) -> None:
    async with traces.runtime(sqlite_url, on_the_loop, in_a_thread):
        for run in (await on_the_loop.dispatch(), await in_a_thread.dispatch()):
            seen = set(await run.result(timeout=10))
            process = _process_of(run, traces)
            assert seen == {(f"{process.context.trace_id:032x}", f"{process.context.span_id:016x}")}
    assert "    send loop" in traces.tree


@aj.job("own-thread")
def in_threads_of_its_own(ctx: aj.JobContext) -> list[tuple[str, str]]:
    seen: list[tuple[str, str]] = []

    def look() -> None:
        seen.append(_here())

    for target, *given in ((look,), (contextvars.copy_context().run, look)):
        thread = threading.Thread(target=target, args=given)
        thread.start()
        thread.join()
    return seen


async def test_a_thread_that_a_handler_starts_is_outside_unless_it_is_given_the_context(
    traces: Traces, sqlite_url: str
) -> None:
    async with traces.runtime(sqlite_url, in_threads_of_its_own):
        run = await in_threads_of_its_own.dispatch()
        plain, given = (tuple(one) for one in await run.result(timeout=10))
    process = _process_of(run, traces)
    inside = (f"{process.context.trace_id:032x}", f"{process.context.span_id:016x}")
    assert given == inside
    inherits = getattr(sys.flags, "thread_inherit_context", False)  # from Python 3.14 on
    assert plain == (inside if inherits else ("0" * 32, "0" * 16))


async def test_no_attempt_sees_the_span_in_which_the_runtime_was_opened(traces: Traces, sqlite_url: str) -> None:
    with traces.provider.get_tracer("app").start_as_current_span("startup"):
        async with traces.runtime(sqlite_url, on_the_loop):
            run = await on_the_loop.dispatch()
            [seen, *_rest] = await run.result(timeout=10)
    [process] = process_spans(traces.spans)
    assert seen[1] == f"{process.context.span_id:016x}"


async def test_in_a_child_process(traces: Traces, sqlite_url: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.handler.addFilter(AttemptFilter())
    jobs = (isolated_app.inside, isolated_app.inside_thread, isolated_app.outside)
    async with traces.runtime(sqlite_url, *jobs):
        token = context.attach(baggage.set_baggage("plan", "gold"))
        runs = [await isolated_app.inside.dispatch(), await isolated_app.inside_thread.dispatch()]
        context.detach(token)
        for run in runs:
            told = await run.result(timeout=30)
            process = _process_of(run, traces)
            assert told["trace"] == f"{process.context.trace_id:032x}"
            assert told["span"] == f"{process.context.span_id:016x}"
            assert told["plan"] == "gold"
        child = isolated_app.outside.handle((await runs[0].result())["child"])
        await child.result(timeout=10)
    send = next(span for span in traces.spans if span.name == "send outside")
    assert send.parent is not None
    assert send.parent.span_id == 0xABCDEF  # what the handler made in its process
    [record] = [record for record in caplog.records if record.name == "app"]
    assert record.levelno == logging.WARNING
    assert getattr(record, "run_id", None) == runs[0].id
    assert getattr(record, "job", None) == "inside"
    assert getattr(record, "trace_id", None) == (await _result(runs[0], sqlite_url))["trace"]


def _process_of(run: aj.RunHandle[Any], traces: Traces) -> ReadableSpan:
    return next(span for span in process_spans(traces.spans) if (span.attributes or {})["actorjobs.run.id"] == run.id)


async def _result(run: aj.RunHandle[dict[str, str]], url: str) -> dict[str, str]:
    async with aj.Runtime(store=url, jobs=[isolated_app.inside]).client() as runtime:
        result: dict[str, str] = (await runtime.runs.get(run.id)).result
        return result
