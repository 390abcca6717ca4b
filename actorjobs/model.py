"""The values everything else speaks of: runs, attempts, envelopes. Frozen, without behaviour, without I/O."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field


class RunState(StrEnum):
    """Where a run stands. `scheduled`, `queued`, `retrying` wait; the last four are terminal."""

    SCHEDULED = "scheduled"
    QUEUED = "queued"
    RUNNING = "running"
    RETRYING = "retrying"
    SUCCEEDED = "succeeded"
    DEAD_LETTERED = "dead_lettered"
    CANCELED = "canceled"
    EXPIRED = "expired"


class Transition(StrEnum):
    """What can happen to a run."""

    CLAIM = "claim"
    SUCCEED = "succeed"
    RETRY = "retry"
    SNOOZE = "snooze"
    RELEASE = "release"
    RESCUE = "rescue"
    DEAD_LETTER = "dead_letter"
    CANCEL = "cancel"
    EXPIRE = "expire"
    RESCHEDULE = "reschedule"
    REOPEN = "reopen"


class Outcome(StrEnum):
    """How an attempt ended, or that it runs."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    CANCELED = "canceled"
    INTERRUPTED = "interrupted"
    LOST = "lost"
    SNOOZED = "snoozed"


class CancelReason(StrEnum):
    """Why a handler is being canceled."""

    CANCELED = "canceled"
    TIMEOUT = "timeout"
    SHUTDOWN = "shutdown"
    LOST = "lost"


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorInfo:
    """One failed attempt as kept on its run; `attempt` counts from 1."""

    name: str
    message: str
    stack: str = ""
    attempt: int = 0
    attempt_by: str | None = None
    attempted_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One try at a run."""

    run_id: str
    number: int
    outcome: Outcome
    started_at: datetime | None
    ended_at: datetime | None
    worker: str | None
    actor: str | None
    error: ErrorInfo | None
    trace_id: str | None
    span_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryEntry:
    """One step in the life of a run; `detail` holds who and why where an operator acted."""

    at: datetime
    event: str
    state: RunState
    attempt: int
    detail: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """Something that has happened, as observers are told of it.

    `event` is `accepted`, `existing` or `replaced` (a run dispatched with `tx=` is told of from its start on);
    `started`; the outcome of an attempt (`succeeded`, `failed`, `timed_out`, `canceled`, `interrupted`, `lost`,
    `snoozed`), or `stale` for one that somebody else owned by then; `expired`; what an operator did
    (`cancel_requested`, `canceled`, `reopened`, `rescheduled`, `deleted`); or `queue_paused`, `queue_resumed`,
    `queue_scaled`. `state` is the run's state afterwards. `seconds` is how long an attempt took.
    """

    event: str
    at: datetime
    run_id: str | None = None
    job: str | None = None
    queue: str | None = None
    tenant: str | None = None
    state: RunState | None = None
    attempt: int = 0
    error: str | None = None
    seconds: float | None = None
    detail: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run as read from the store. Times are the database's, aware, in UTC; durations are seconds."""

    id: str
    namespace: str
    job: str
    version: int
    queue: str
    state: RunState
    hold: str | None
    tenant: str | None
    priority: int
    payload: Any
    constructor_args: Mapping[str, Any]
    result: Any
    progress: Mapping[str, Any] | None
    checkpoint: Mapping[str, Any] | None
    errors: tuple[ErrorInfo, ...]
    attempt: int
    failures: int
    losses: int
    max_attempts: int
    timeout: float | None
    inserted_at: datetime
    available_at: datetime
    expires_at: datetime | None
    claimed_at: datetime | None
    attempted_at: datetime | None
    completed_at: datetime | None
    failed_at: datetime | None
    canceled_at: datetime | None
    expired_at: datetime | None
    claimed_by: str | None
    cancel_requested_at: datetime | None
    reason: str | None
    script: str | None
    unique_digest: str | None
    uniqueness_config: Mapping[str, Any] | None
    idempotency_key: str | None
    traceparent: str | None
    trace_id: str | None
    replay_of: str | None
    parent: str | None
    tags: tuple[str, ...]
    meta: Mapping[str, Any]

    @property
    def finished_at(self) -> datetime | None:
        """When the run reached its terminal state, whichever that is."""
        return self.completed_at or self.failed_at or self.canceled_at or self.expired_at


class Envelope(BaseModel):
    """A run asked for but not yet accepted. Dispatching the same envelope twice gives the same run.

    `delay`, `timeout`, `expires_in`, `key_expires_in` and `retention` are seconds; `delay` counts from acceptance.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    v: int = 1
    id: str = Field(default_factory=lambda: new_id())
    job: str
    version: int = 1
    queue: str
    payload: Any = None
    constructor_args: dict[str, Any] = Field(default_factory=dict)
    tenant: str | None = None
    traceparent: str | None = None
    tracestate: str | None = None
    baggage: str | None = None
    attempt: int = 0
    max_attempts: int = 5
    retry: dict[str, Any] | None = None
    timeout: float | None = None
    unique: dict[str, Any] | None = None
    retention: float | None = None
    parent: str | None = None
    replay_of: str | None = None
    delay: float | None = None
    run_at: AwareDatetime | None = None
    expires_in: float | None = None
    priority: int = 4
    idempotency_key: str | None = None
    key_expires_in: float | None = None
    tags: tuple[str, ...] = ()
    meta: dict[str, Any] = Field(default_factory=dict)
    script: str | None = None
    dispatched_at: AwareDatetime | None = None

    @property
    def trace_id(self) -> str | None:
        """The 32 hex digits of the trace this run belongs to."""
        return trace_id_of(self.traceparent)


def trace_id_of(traceparent: str | None) -> str | None:
    """The trace id in a W3C `traceparent`; None when there is none."""
    return traceparent[3:35] if traceparent and len(traceparent) >= 55 else None


def in_trace(envelope: Envelope, traceparent: str) -> Envelope:
    """The envelope with a trace context that whoever accepts it may replace by that of a span of its own: only a
    `traceparent` that somebody asked for is among the fields that were set."""
    traced = envelope.model_copy(update={"traceparent": traceparent})
    traced.model_fields_set.discard("traceparent")
    return traced


def new_traceparent(parent: str | None = None) -> str:
    """A W3C `traceparent` of a new span: in the trace of `parent` with its flags, or in a new, sampled trace."""
    span = os.urandom(8).hex()
    if trace_id_of(parent) is not None and parent is not None:
        return f"{parent[:36]}{span}{parent[52:55]}"
    return f"00-{os.urandom(16).hex()}-{span}-01"


_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def is_run_id(text: str) -> bool:
    """Whether the text has the shape of a run's id."""
    return _ID.fullmatch(text) is not None


def new_id() -> str:
    """A UUID version 7 (RFC 9562, method 3): ordered by time to a quarter of a microsecond, 62 random bits."""
    milliseconds, rest = divmod(time.time_ns(), 1_000_000)
    random = int.from_bytes(os.urandom(8), "big") & 0x3FFF_FFFF_FFFF_FFFF
    fraction = (rest << 12) // 1_000_000
    digits = f"{milliseconds:012x}{0x7000 | fraction:04x}{0x8000_0000_0000_0000 | random:016x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
