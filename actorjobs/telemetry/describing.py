"""What spans say of dispatches and attempts. Of payloads only what is marked for it; tenants here and on no metric."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, TypeAlias, cast

from opentelemetry.trace import Span, StatusCode

from actorjobs import codec
from actorjobs.jobs import DEFAULT_PRIORITY, Definition
from actorjobs.model import Envelope, ErrorInfo
from actorjobs.ports import Claim, Destination, LostRun
from actorjobs.telemetry import conventions as names

LONGEST_SHOWN: Final = 256
"""Bytes of a payload's field on a span."""
MOST_KINDS: Final = 2048

Attributes: TypeAlias = dict[str, str | int | float | bool]


class Describing:
    """Makes the attributes of spans; what all of a job's spans have alike, once."""

    def __init__(self, destination: Destination, definition_of: Callable[[str], Definition | None]) -> None:
        self._destination = destination
        self._definition_of = definition_of
        self.common = lru_cache(MOST_KINDS)(self._common)
        self._traced = lru_cache(MOST_KINDS)(self._traced_fields)

    def dispatch(self, envelope: Envelope, operation: str) -> Attributes:
        """Of a span for one dispatch."""
        attributes = self._of_run(envelope.job, envelope.queue, operation, envelope.id)
        if envelope.replay_of:
            attributes[names.REPLAY_OF] = envelope.replay_of
        if traced := self._traced(envelope.job):
            attributes |= _shown(traced, envelope.payload)
        return _extended(attributes, envelope.tenant, envelope.parent, envelope.priority)

    def attempt(self, claim: Claim, actor: str) -> Attributes:
        """Of the span of an attempt, as it begins."""
        attributes = self._of_run(claim.job, claim.queue, names.PROCESS, claim.run_id)
        attributes[names.ATTEMPT_NUMBER] = claim.attempt
        attributes[names.ATTEMPT_MAX] = claim.max_attempts
        attributes[names.QUEUE_WAIT] = max(0.0, (claim.claimed_at - claim.available_at).total_seconds())
        attributes[names.WORKER_ID] = claim.owner
        attributes[names.ACTOR_ID] = actor
        if traced := self._traced(claim.job):
            attributes |= _shown(traced, codec.decode(claim.payload))
        return _extended(attributes, claim.tenant, claim.parent, claim.priority)

    def lost(self, run: LostRun) -> Attributes:
        """Of the span of an attempt whose worker died."""
        hint, fence = run.hint, run.fence
        attributes = self._of_run(hint.job, hint.queue, names.PROCESS, fence.run_id)
        attributes[names.ATTEMPT_NUMBER] = fence.attempt
        attributes[names.ATTEMPT_MAX] = run.max_attempts
        attributes[names.WORKER_ID] = fence.owner
        return _extended(attributes, run.tenant, run.parent)

    def _of_run(self, job: str, queue: str, operation: str, run_id: str) -> Attributes:
        attributes = self.common(job, queue, operation).copy()
        attributes[names.MESSAGING_MESSAGE_ID] = attributes[names.RUN_ID] = run_id
        return attributes

    def _common(self, job: str, queue: str, operation: str) -> Attributes:
        """What all spans of a job's operation have."""
        place = self._destination.name(queue)
        attributes: Attributes = {
            names.MESSAGING_SYSTEM: self._destination.system,
            names.MESSAGING_DESTINATION_NAME: place,
            names.MESSAGING_OPERATION_NAME: operation,
            names.MESSAGING_OPERATION_TYPE: operation,
            names.JOB_NAME: job,
            names.QUEUE_NAME: queue,
        }
        if self._destination.system == names.RABBITMQ:
            attributes[names.MESSAGING_RABBITMQ_DESTINATION_ROUTING_KEY] = place
        if self._destination.host is not None and self._destination.port is not None:
            attributes[names.SERVER_ADDRESS] = self._destination.host
            attributes[names.SERVER_PORT] = self._destination.port
        definition = self._definition_of(job) if operation == names.PROCESS else None
        if definition is not None and definition.script:
            attributes[names.CODE_FUNCTION_NAME] = definition.script.replace(":", ".")
        return attributes

    def _traced_fields(self, job: str) -> Sequence[str]:
        definition = self._definition_of(job)
        return () if definition is None else definition.payload.traced


def record(span: Span, error: ErrorInfo, *, is_failure: bool) -> None:
    """Tell of an error in the words that the record keeps: short, and without the passwords of addresses."""
    event = {
        names.EXCEPTION_TYPE: error.name,
        names.EXCEPTION_MESSAGE: error.message,
        names.EXCEPTION_STACKTRACE: error.stack,
    }
    span.add_event(names.EXCEPTION, {name: text for name, text in event.items() if text})
    if is_failure:
        span.set_attribute(names.ERROR_TYPE, error.name)
        span.set_status(StatusCode.ERROR, f"{error.name}: {error.message}")


def _extended(
    attributes: Attributes, tenant: str | None, parent: str | None, priority: int = DEFAULT_PRIORITY
) -> Attributes:
    """With what most runs do not have."""
    if tenant:
        attributes[names.TENANT_ID] = tenant
    if parent:
        attributes[names.PARENT_RUN_ID] = parent
    if priority != DEFAULT_PRIORITY:
        attributes[names.PRIORITY] = priority
    return attributes


def _shown(fields: Sequence[str], payload: Any) -> Attributes:
    """Those fields of a payload that are marked for it."""
    values = cast("Mapping[str, Any]", payload if isinstance(payload, dict) else {})
    return {f"{names.PAYLOAD}{name}": _plain(values[name]) for name in fields if values.get(name) is not None}


def _plain(value: Any) -> str | int | float | bool:
    if isinstance(value, bool | float) or (isinstance(value, int) and -(1 << 63) <= value < 1 << 63):
        return value
    return codec.clip(value if isinstance(value, str) else codec.encode(value), LONGEST_SHOWN)
