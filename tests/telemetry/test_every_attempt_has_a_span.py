"""However the lives of runs go: as many `process` spans as attempts on record, the same ids, and a link for each."""

from __future__ import annotations

import asyncio
import random
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import actorjobs as aj
from tests.telemetry.conftest import Traces
from tests.telemetry.trees import process_spans

ENDS = st.sampled_from(["return", "raise", "fail", "snooze", "retry", "cancel", "exit", "hang"])


@aj.job("life", retry=aj.Retry(4, aj.Fixed(0)), timeout=0.05)
async def life(ctx: aj.JobContext, ends: list[str]) -> None:
    match ends[(ctx.attempt - 1) % len(ends)]:
        case "raise":
            raise ValueError
        case "fail":
            raise aj.Fail("no")
        case "snooze" if ctx.attempt < 6:
            raise aj.Snooze(0)
        case "retry":
            raise aj.RetryLater(0)
        case "cancel":
            raise aj.Cancel("no")
        case "exit":
            raise SystemExit
        case "hang":
            await asyncio.sleep(1)
        case _:
            return


@given(lives=st.lists(st.tuples(st.lists(ENDS, min_size=1, max_size=4), st.booleans()), min_size=1, max_size=4))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_spans_and_attempts_are_the_same(lives: list[tuple[list[str], bool]], sqlite_template: Path) -> None:
    with tempfile.TemporaryDirectory(dir=sqlite_template.parent) as folder:
        shutil.copy(sqlite_template, Path(folder) / "store.db")
        asyncio.run(_live(lives, f"sqlite:///{folder}/store.db"))


async def _live(lives: list[tuple[list[str], bool]], url: str) -> None:
    provider, exporter = TracerProvider(), InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    traces = Traces(provider, exporter)
    async with traces.runtime(url, life, random=random.Random(1)) as runtime:
        runs = [await life.options(delay=0.001 if is_late else None).dispatch(ends) for ends, is_late in lives]
        for run in runs:
            await runtime.runs.wait(run.id, timeout=20)
        on_record = [attempt for run in runs for attempt in await runtime.runs.attempts(run.id)]
    spans = process_spans(traces.spans)
    seen = sorted(
        (f"{span.context.trace_id:032x}", f"{span.context.span_id:016x}", (span.attributes or {})[OUTCOME])
        for span in spans
    )
    assert seen == sorted((str(one.trace_id), str(one.span_id), one.outcome.value) for one in on_record)
    kinds = [[(link.attributes or {})["actorjobs.link.type"] for link in span.links] for span in spans]
    numbers = [(span.attributes or {})["actorjobs.attempt.number"] for span in spans]
    assert kinds == [["creation"] if number == 1 else ["creation", "previous_attempt"] for number in numbers]
    provider.shutdown()


OUTCOME = "actorjobs.attempt.outcome"


async def test_on_postgres_too(traces: Traces, postgres_url: str) -> None:
    await _ids_of_a_server(traces, postgres_url)


async def test_on_mariadb_too(traces: Traces, mariadb_url: str) -> None:
    await _ids_of_a_server(traces, mariadb_url)


async def _ids_of_a_server(traces: Traces, url: str) -> None:
    async with traces.runtime(url, life) as runtime:
        run = await life.options(delay=0.001).dispatch(["raise", "return"])
        await runtime.runs.wait(run.id, timeout=20)
        attempts = await runtime.runs.attempts(run.id)
        accepted = await runtime.runs.get(run.id)
    spans = process_spans(traces.spans)
    assert [one.trace_id for one in attempts] == [f"{span.context.trace_id:032x}" for span in spans]
    assert len({accepted.trace_id, *(one.trace_id for one in attempts)}) == 3


class Raising(SpanProcessor):
    """A processor of somebody's own with a bug in it."""

    def __init__(self, when: str) -> None:
        self._when = when

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        if self._when == "start":
            raise RuntimeError("a bug")

    def on_end(self, span: ReadableSpan) -> None:
        if self._when == "end":
            raise RuntimeError("a bug")


@pytest.mark.parametrize("when", ["start", "end"])
async def test_a_bug_in_a_processor_harms_no_run(
    traces: Traces, sqlite_url: str, when: str, caplog: pytest.LogCaptureFixture
) -> None:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(Raising(when))
    async with traces.runtime(sqlite_url, life, tracer_provider=provider) as runtime:
        runs = [await life.dispatch(["raise", "return"])]
        runs += await runtime.dispatch_many([life.envelope(["return"]), life.envelope(["return"])])
        ends = [await runtime.runs.wait(run.id, timeout=20) for run in runs]
        attempts = await runtime.runs.attempts(runs[0].id)
    assert [run.state for run in ends] == [aj.RunState.SUCCEEDED] * 3
    assert all(run.trace_id for run in ends)
    assert len({attempt.span_id for attempt in attempts} - {None}) == 2
    assert "cannot be traced" in caplog.text
