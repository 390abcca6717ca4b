"""Handlers for child processes that make spans of their own, and tell what they saw of the trace."""

from __future__ import annotations

import logging

from opentelemetry import baggage, trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

import actorjobs as aj


@aj.job("inside", isolation="process")
async def inside(ctx: aj.JobContext) -> dict[str, str]:
    here = trace.get_current_span().get_span_context()
    logging.getLogger("app").warning("in the child")
    # A span of the application's own, as the SDK would make it below the current one.
    own = SpanContext(here.trace_id, 0xABCDEF, False, TraceFlags(1))
    with trace.use_span(NonRecordingSpan(own)):
        child = await ctx.dispatch(outside)
    return {"trace": f"{here.trace_id:032x}", "span": f"{here.span_id:016x}", "child": child.id, **_told()}


@aj.job("inside:thread", isolation="process")
def inside_thread(ctx: aj.JobContext) -> dict[str, str]:
    here = trace.get_current_span().get_span_context()
    return {"trace": f"{here.trace_id:032x}", "span": f"{here.span_id:016x}", **_told()}


@aj.job("outside")
async def outside() -> None: ...


def _told() -> dict[str, str]:
    return {name: str(value) for name, value in baggage.get_all().items()}
