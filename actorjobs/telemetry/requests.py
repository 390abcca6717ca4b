"""The trace that an incoming request belongs to, for what it dispatches."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.context import attach, detach, get_current

from actorjobs import tracestate
from actorjobs.jobs.current import dispatching_in
from actorjobs.telemetry.carrying import W3C, propagator


@contextmanager
def within_trace_of(headers: Mapping[str, str]) -> Generator[None]:
    """Have what is dispatched within the block belong to the trace that the headers of a request name, if they do.

    Nothing is done where a span is current: then an instrumentation has read them. Headers are found in lower case.
    """
    if trace.get_current_span().get_span_context().is_valid:
        yield
        return
    # In whatever format this process is set to; in none, OTEL_PROPAGATORS=none, what is given comes back.
    context = propagator().extract(headers, context=get_current())
    fields: dict[str, str] = {}
    W3C.inject(fields, context)
    if (others := tracestate.foreign(fields.pop("tracestate", None))) is not None:
        fields["tracestate"] = others  # how runs relate to their dispatch is not for a caller from outside to say
    token = attach(context)
    try:
        with dispatching_in(fields):
            yield
    finally:
        detach(token)
