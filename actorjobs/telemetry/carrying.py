"""Trace contexts on their way: between a dispatch and its attempts, and between a worker and its child processes."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Final

from opentelemetry import baggage, context, trace
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.propagators.textmap import TextMapPropagator
from opentelemetry.trace import Link, NonRecordingSpan, SpanContext, TraceFlags, TraceState
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from actorjobs import tracestate
from actorjobs.model import Attempt, trace_id_of
from actorjobs.telemetry import conventions as names

logger = logging.getLogger("actorjobs.telemetry")

W3C: Final = CompositePropagator([TraceContextTextMapPropagator(), W3CBaggagePropagator()])

LONGEST_BAGGAGE: Final = 8192
"""Characters of baggage that a run takes along; more is left behind."""


class Creation:
    """The dispatch of a run, as its attempts find it: what they are a part of, and what they link to."""

    def __init__(self, traceparent: str | None, state: str | None, with_baggage: str | None = None) -> None:
        told = tracestate.read(state)
        self.traceparent = traceparent
        self.around = Context()
        self.links: list[Link] = []
        if with_baggage:
            self.around = propagator().extract({"baggage": with_baggage}, context=self.around)
        dispatch = remote(traceparent, state)
        if dispatch is not None and told.relation in (None, "parent"):
            self.around = trace.set_span_in_context(NonRecordingSpan(dispatch), self.around)
        if dispatch is not None and told.relation != "none":
            self.links.append(link(dispatch, names.LINK_CREATION))
        self.links += links_told(told)


def carried() -> Mapping[str, str] | None:
    """The current context by the names of W3C's headers; None where there is none."""
    here = trace.get_current_span().get_span_context()
    if not here.is_valid:
        return None
    parts = {"tracestate": tracestate.foreign(here.trace_state.to_header()), "baggage": baggage_here()}
    return {"traceparent": traceparent_of(here), **{name: value for name, value in parts.items() if value}}


def carry_on(headers: Mapping[str, str]) -> None:
    """Make a context from another process the current one, for the rest of this `contextvars` context."""
    creation = Creation(headers.get("traceparent"), headers.get("tracestate"), headers.get("baggage"))
    context.attach(creation.around)


def remote(traceparent: str | None, state: str | None = None) -> SpanContext | None:
    """The span that a `traceparent` names; None where it names none."""
    try:
        _version, trace_id, span_id, flags = (traceparent or "").split("-")[:4]
        found = SpanContext(
            trace_id=int(trace_id, 16),
            span_id=int(span_id, 16),
            is_remote=True,
            trace_flags=TraceFlags(int(flags, 16)),
            # Our own member speaks of this run alone: what its handler calls is not to hear of it.
            trace_state=TraceState.from_header([others]) if (others := tracestate.foreign(state)) else None,
        )
    except ValueError:
        return None
    return found if found.is_valid else None


def traceparent_of(here: SpanContext) -> str:
    """The W3C `traceparent` of a span."""
    return f"00-{here.trace_id:032x}-{here.span_id:016x}-{here.trace_flags:02x}"


def baggage_here() -> str | None:
    """The baggage at hand as the global propagator writes it; None where there is none, or too much."""
    if not baggage.get_all():
        return None
    headers: dict[str, str] = {}
    propagator().inject(headers)  # pyright: ignore[reportArgumentType]  # its default setter is for any mapping
    text = headers.get("baggage")
    return text if text and len(text) <= LONGEST_BAGGAGE else None


def propagator() -> TextMapPropagator:
    """The global propagator of this moment, or that of W3C's formats where `OTEL_PROPAGATORS` names one that is not
    there: then the module cannot even be loaded."""
    try:
        from opentelemetry import propagate
    except ValueError as error:
        _warn_once(str(error))
        return W3C
    return propagate.get_global_textmap()


@cache
def _warn_once(why: str) -> None:
    logger.warning("OTEL_PROPAGATORS cannot be followed (%s): W3C's formats are used", why)


def link(to: SpanContext, kind: str) -> Link:
    """A link of ours, of one of the kinds in the conventions."""
    return Link(to, {names.LINK_TYPE: kind})


def links_told(told: tracestate.Told) -> list[Link]:
    """The links that a run is to have besides the one to its dispatch."""
    found = ((kind, remote(to)) for kind, to in told.links.items()) if told.links else ()
    return [link(to, kind) for kind, to in found if to is not None]


def link_to_attempt(attempt: Attempt | None, creation: str | None) -> Sequence[Link]:
    """A link to the span of the attempt before, where there was one with a span. Whether that was sampled the record
    does not say: in the trace of its dispatch it was if that was."""
    if attempt is None or attempt.span_id is None or attempt.trace_id is None:
        return ()
    flags = creation[-2:] if creation and trace_id_of(creation) == attempt.trace_id else "01"
    before = remote(f"00-{attempt.trace_id}-{attempt.span_id}-{flags}")
    return () if before is None else (link(before, names.LINK_PREVIOUS_ATTEMPT),)
