"""Spans: `send {job}` for a dispatch, `process {job}` for an attempt.

Where no SDK records anything this costs next to nothing: that is looked at once, as a runtime is opened. What an SDK's
processors raise is logged and harms no run.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextvars import Context as Variables
from datetime import datetime
from importlib.metadata import version
from typing import Any, Final

from opentelemetry import context, trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind

from actorjobs import codec
from actorjobs.jobs import Definition
from actorjobs.lifecycle import WAITING
from actorjobs.model import Attempt, Envelope, Outcome, new_traceparent
from actorjobs.ports import Claim, Destination, LostRun, Sending, Settlement, Trying
from actorjobs.telemetry import carrying
from actorjobs.telemetry import conventions as names
from actorjobs.telemetry.carrying import Creation, link_to_attempt, traceparent_of
from actorjobs.telemetry.describing import Attributes, Describing, record
from actorjobs.telemetry.sending import Batch, Single, Untold

logger = logging.getLogger("actorjobs.telemetry")

FAILURES: Final = frozenset({Outcome.FAILED, Outcome.TIMED_OUT, Outcome.LOST})
"""Outcomes that are errors. Who cancels, snoozes or shuts down gets what was asked for."""


class Tracing:
    """The `Tracer` of an open runtime."""

    def __init__(self, tracer: trace.Tracer, describing: Describing, *, is_on: bool) -> None:
        self.is_on = is_on
        self._tracer = tracer
        self._describing = describing

    def sending(self, envelopes: Sequence[Envelope], *, is_batch: bool = False) -> Sending:
        """See `Tracer`. Without an SDK too the trace that the caller is in goes on."""
        if not self.is_on and trace.get_current_span() is trace.INVALID_SPAN:
            return Untold(envelopes)
        kind = Batch if is_batch and len(envelopes) > 1 else Single
        try:
            return kind(self._tracer, self._describing, envelopes)
        except Exception:
            logger.exception("a dispatch cannot be traced")
            return Untold(envelopes)

    def trying(self, claim: Claim, *, actor: str, previous: Attempt | None = None) -> Trying:
        """See `Tracer`."""
        creation = Creation(claim.traceparent, claim.tracestate, claim.baggage)
        return self._begin(claim.job, creation, lambda: self._describing.attempt(claim, actor), previous)

    def lost(self, run: LostRun, *, previous: Attempt | None = None) -> Trying:
        """See `Tracer`."""
        creation = Creation(run.hint.traceparent, run.hint.tracestate, run.hint.baggage)
        return self._begin(run.hint.job, creation, lambda: self._describing.lost(run), previous, run.claimed_at)

    def carried(self) -> Mapping[str, str] | None:
        """See `Tracer`."""
        return carrying.carried()

    def carry_on(self, carried: Mapping[str, str]) -> None:
        """See `Tracer`."""
        carrying.carry_on(carried)

    def _begin(
        self,
        job: str,
        creation: Creation,
        attributes: Callable[[], Attributes],
        previous: Attempt | None = None,
        since: datetime | None = None,
    ) -> Trying:
        around = creation.around
        span: Span = trace.INVALID_SPAN
        try:
            span = self._tracer.start_span(
                f"{names.PROCESS} {job}",
                context=around,
                kind=SpanKind.CONSUMER,
                attributes=attributes(),
                links=[*creation.links, *link_to_attempt(previous, creation.traceparent)],
                start_time=None if since is None else int(since.timestamp() * 1e9),
            )
        except Exception:
            logger.exception("an attempt cannot be traced")
        return _Trying(span, around, creation.traceparent)


def open_tracing(
    provider: Any, *, destination: Destination, definition_of: Callable[[str], Definition | None]
) -> Tracing:
    """The tracer of a runtime that is being opened, on this provider or (None) the global one. What is installed as the
    global one later is for the next opening."""
    provider = trace.get_tracer_provider() if provider is None else provider
    tracer = provider.get_tracer(names.SCOPE, version(names.SCOPE), schema_url=names.SCHEMA_URL)
    is_on = not isinstance(tracer, trace.NoOpTracer | trace.ProxyTracer)
    return Tracing(tracer, Describing(destination, definition_of), is_on=is_on)


def open_carrier() -> Tracing:
    """A tracer that only hands contexts on: for a child process, whose attempts and dispatches its worker records."""
    nowhere = Destination(system=names.EMBEDDED, name=str)
    return Tracing(trace.NoOpTracer(), Describing(nowhere, lambda _job: None), is_on=False)


class _Trying:
    """The span of an attempt. It is current in the attempt's own context variables, which end with it."""

    def __init__(self, span: Span, around: Context, creation: str | None) -> None:
        self._span = span
        self._context = trace.set_span_in_context(span, around)
        here = span.get_span_context()
        self.traceparent = traceparent_of(here) if here.is_valid else new_traceparent(creation)

    def enter(self, variables: Variables) -> None:
        variables.run(context.attach, self._context)

    def end(self, settlement: Settlement) -> None:
        try:
            self._end(settlement)
        except Exception:
            logger.exception("the end of an attempt cannot be traced")

    def _end(self, settlement: Settlement) -> None:
        span, decision = self._span, settlement.decision
        if span.is_recording():
            told: Attributes = {names.ATTEMPT_OUTCOME: settlement.outcome.value, names.RUN_STATE: decision.state.value}
            if decision.state in WAITING:
                told[names.RETRY_DELAY] = decision.delay
            span.set_attributes(told)
            if settlement.error is not None:
                record(span, codec.decode_error(settlement.error), is_failure=settlement.outcome in FAILURES)
        span.end()
