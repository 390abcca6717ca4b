"""What a runtime says for all of its jobs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from actorjobs.jobs.options import (
    check_expires_in,
    check_retention,
    check_retry,
    check_tags,
    check_timeout,
    check_trace,
)
from actorjobs.model import Envelope
from actorjobs.retry import Duration, Retry
from actorjobs.tracestate import Relation, read, written

_NAMES = ("retry", "timeout", "expires_in", "retention", "tags", "trace")


@dataclass(frozen=True, slots=True, init=False)
class JobDefaults:
    """What holds for the jobs of a runtime that do not say otherwise themselves. Durations: seconds or a timedelta."""

    retry: Retry | None
    timeout: float | None
    expires_in: float | None
    retention: float | None
    tags: tuple[str, ...]
    trace: Relation | None

    def __init__(
        self,
        *,
        retry: Retry | None = None,
        timeout: Duration | None = None,
        expires_in: Duration | None = None,
        retention: Duration | None = None,
        tags: Sequence[str] = (),
        trace: Relation | None = None,
    ) -> None:
        checked: dict[str, Any] = {
            "retry": None if retry is None else check_retry(retry),
            "timeout": None if timeout is None else check_timeout(timeout),
            "expires_in": None if expires_in is None else check_expires_in(expires_in),
            "retention": None if retention is None else check_retention(retention),
            "tags": check_tags(tags),
            "trace": None if trace is None else check_trace(trace),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    def given(self) -> dict[str, Any]:
        """The defaults that say something, by option name."""
        values = {name: getattr(self, name) for name in _NAMES}
        return {name: value for name, value in values.items() if value}

    def complete(self, envelope: Envelope) -> Envelope:
        """The envelope with these defaults where neither its job nor its dispatch said anything."""
        given = self.given()
        if (retry := given.pop("retry", None)) is not None:
            given["max_attempts"] = retry.attempts
        relation: Relation | None = given.pop("trace", None)
        missing = {name: value for name, value in given.items() if name not in envelope.model_fields_set}
        if relation is not None and (told := read(envelope.tracestate)).relation is None:
            missing["tracestate"] = written(envelope.tracestate, replace(told, relation=relation))
        return envelope.model_copy(update=missing) if missing else envelope
