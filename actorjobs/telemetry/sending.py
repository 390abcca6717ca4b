"""The spans of dispatches: they are made where an envelope is about to be stored, and the envelope takes them along."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextvars import Token
from types import TracebackType
from typing import Any, Final, Self

from opentelemetry import context, trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanContext, SpanKind, Tracer

from actorjobs import codec, tracestate
from actorjobs.jobs import running_context
from actorjobs.model import Envelope, in_trace, new_traceparent
from actorjobs.ports import Accepted
from actorjobs.telemetry import conventions as names
from actorjobs.telemetry.carrying import baggage_here, link, links_told, remote, traceparent_of
from actorjobs.telemetry.describing import Describing, record
from actorjobs.tracestate import Relation, Told

logger = logging.getLogger("actorjobs.telemetry")

BULK: Final = 20
"""So many dispatched at once would make one trace too big to be looked at."""


class Untold:
    """Dispatches that nobody records. Those that are in no trace yet get one, so that every run has a trace id."""

    __slots__ = ("envelopes",)

    def __init__(self, envelopes: Sequence[Envelope]) -> None:
        self.envelopes = [one if one.traceparent is not None else _in_own_trace(one) for one in envelopes]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def answered(self, answers: Sequence[Accepted]) -> None: ...


class _Told:
    """Dispatches on their way. The span is current meanwhile: what the database's driver tells of is below it."""

    def __init__(self, span: Span, envelopes: Sequence[Envelope]) -> None:
        self._span = span
        self.envelopes = envelopes
        self._token: Token[Context] | None = None

    def __enter__(self) -> Self:
        self._token = context.attach(trace.set_span_in_context(self._span))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._token is not None:
            context.detach(self._token)
        try:
            # Who is canceled while it waits may have been accepted: nobody knows of a failure.
            if isinstance(error, Exception) and self._span.is_recording():
                record(self._span, codec.truncate_error(error), is_failure=True)
            self._span.end()
        except Exception:
            logger.exception("the end of a dispatch cannot be traced")

    def answered(self, answers: Sequence[Accepted]) -> None: ...


class Single(_Told):
    """A dispatch: its span is what attempts go by."""

    def __init__(self, tracer: Tracer, describing: Describing, envelopes: Sequence[Envelope]) -> None:
        span, envelope = _start(tracer, describing, envelopes[0], names.SEND)
        super().__init__(span, [envelope])

    def answered(self, answers: Sequence[Accepted]) -> None:
        if answers[0].existing:
            self._span.set_attributes({names.RUN_ID: answers[0].run_id, names.RUN_EXISTING: True})


class Batch(_Told):
    """Dispatches in one transaction: a span for the making of each, which its attempts go by, and one for the sending,
    which links to them all."""

    def __init__(self, tracer: Tracer, describing: Describing, envelopes: Sequence[Envelope]) -> None:
        is_bulk = len(envelopes) >= BULK
        created: list[tuple[Span, Envelope]] = []
        try:
            for envelope in envelopes:
                created.append(_start(tracer, describing, envelope, names.CREATE, is_bulk=is_bulk))
        finally:
            for span, _envelope in created:
                span.end()
        kinds = {(envelope.job, envelope.queue) for envelope in envelopes}
        common = [describing.common(job, queue, names.SEND) for job, queue in kinds]
        alike = {key: value for key, value in common[0].items() if all(one.get(key) == value for one in common)}
        job = alike.get(names.JOB_NAME)
        contexts = [span.get_span_context() for span, _envelope in created]
        sending = tracer.start_span(
            names.SEND if job is None else f"{names.SEND} {job}",
            kind=SpanKind.CLIENT,
            attributes={**alike, names.MESSAGING_BATCH_MESSAGE_COUNT: len(envelopes)},
            links=[link(one, names.LINK_CREATION) for one in contexts if one.is_valid],
        )
        super().__init__(sending, [envelope for _span, envelope in created])


def _start(
    tracer: Tracer, describing: Describing, envelope: Envelope, operation: str, *, is_bulk: bool = False
) -> tuple[Span, Envelope]:
    """The span of one dispatch, and the envelope in its context."""
    told = tracestate.read(envelope.tracestate)
    links = links_told(told)
    has_own_trace = envelope.traceparent is not None and "traceparent" in envelope.model_fields_set
    if has_own_trace and (own := remote(envelope.traceparent, envelope.tracestate)) is not None:
        links.append(link(own, names.LINK_CREATION))
    span = tracer.start_span(
        f"{operation} {envelope.job}",
        kind=SpanKind.PRODUCER,
        attributes=describing.dispatch(envelope, operation),
        links=links,
    )
    relation = told.relation or _relation_of(envelope, is_bulk=is_bulk)
    others = told.links if envelope.parent is None else {**told.links, **_link_to(envelope.parent)}
    here = None if has_own_trace else span.get_span_context()
    return span, _traced(envelope, here, relation, others)


def _relation_of(envelope: Envelope, *, is_bulk: bool) -> Relation:
    """A queue's pause would stretch a trace over days, a crowd make it too big to be looked at."""
    is_later = bool(envelope.delay) or envelope.run_at is not None
    return "link" if is_later or is_bulk or envelope.replay_of is not None else "parent"


def _traced(envelope: Envelope, here: SpanContext | None, relation: Relation, links: Mapping[str, str]) -> Envelope:
    """The envelope with what its attempts are to go by: `here`, or (None) the trace context that it came with."""
    changes: dict[str, Any] = {}
    state = envelope.tracestate
    if relation == "none":
        changes["traceparent"] = new_traceparent()
    elif here is not None:
        if here.is_valid:
            changes["traceparent"] = traceparent_of(here)
            state = here.trace_state.to_header() if here.trace_state else None
        elif envelope.traceparent is None:
            changes["traceparent"] = new_traceparent()
        if not envelope.baggage:
            changes["baggage"] = baggage_here()
    is_plain = relation == "parent" and not links
    changes["tracestate"] = tracestate.foreign(state) if is_plain else tracestate.written(state, Told(relation, links))
    return envelope.model_copy(update=changes)


def _in_own_trace(envelope: Envelope) -> Envelope:
    running = running_context()
    return in_trace(envelope, (running and running.traceparent) or new_traceparent())


def _link_to(parent: str) -> Mapping[str, str]:
    running = running_context()
    if running is None or running.run_id != parent or running.traceparent is None:
        return {}
    return {names.LINK_PARENT_RUN: running.traceparent}
