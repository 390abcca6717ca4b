"""Between rows and values: what an envelope becomes when it is stored, and what is read back."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

import orjson

from actorjobs.codec import decode, encode
from actorjobs.errors import ActorJobsError, InvalidOption
from actorjobs.jobs.unique import Unique, unique_digest
from actorjobs.lifecycle import TERMINAL, WAITING
from actorjobs.model import Attempt, Envelope, ErrorInfo, HistoryEntry, Outcome, Run, RunState, is_run_id, trace_id_of
from actorjobs.ports import PUBLISH_AHEAD_SECONDS, Claim, Hint, Serves
from actorjobs.stores import schema
from actorjobs.stores.schema import EPOCH, to_micros

Row = Mapping[Any, Any]
"""A row by the names of its columns."""
New = tuple[Envelope, tuple[Any, ...]]
"""An envelope with its values in the order of `INSERT_COLUMNS`."""

INSERT_COLUMNS = (
    "id",
    "tenant",
    "job",
    "version",
    "queue",
    "priority",
    "max_attempts",
    "timeout",
    "payload",
    "constructor_args",
    "retry",
    "retention",
    "tags",
    "meta",
    "script",
    "traceparent",
    "tracestate",
    "baggage",
    "parent",
    "replay_of",
    "idempotency_key",
    "fingerprint",
    "uniqueness_config",
)
"""Columns whose values come from the envelope as they are; the rest the database works out from its clock."""

MOST_DOUBLINGS = 60
EXPIRED_REASON = "expired before it could start"
MOVING = ("rescheduled", "reopened", "replaced")
"""Noted events that give a run another time to be due."""

CLAIM_COLUMNS = (
    "id",
    "seq",
    "job",
    "version",
    "queue",
    "tenant",
    "priority",
    "payload",
    "constructor_args",
    "attempt",
    "failures",
    "losses",
    "max_attempts",
    "timeout",
    "retry",
    "checkpoint",
    "traceparent",
    "tracestate",
    "baggage",
    "parent",
    "inserted_at",
    "available_at",
    "claimed_at",
)


_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_COLUMNS: Any = schema.runs.c
_TEXTS = (
    *("tenant", "job", "queue", "traceparent", "tracestate", "baggage", "script", "parent", "replay_of"),
    "idempotency_key",
)
_UNBOUNDED = ("tracestate", "baggage", "script")
_LONGEST = {name: int(_COLUMNS[name].type.length) for name in _TEXTS if name not in _UNBOUNDED}
_PRIORITIES = range(10)
_LARGEST_INTEGER = 2**31 - 1
_LONGEST_SECONDS = 100 * 365 * 86400.0


def is_storable(text: str) -> bool:
    """Whether every database takes this text: NUL and lone surrogates are refused."""
    return _UNSTORABLE.search(text) is None


def check_envelope(envelope: Envelope) -> None:
    """`InvalidOption` for an envelope, made by hand, that holds what some database would refuse: there it would take
    the other rows of its group down with it."""
    if not is_run_id(envelope.id):
        raise InvalidOption("an envelope's id is a UUID in lower case: leave it out to get one")
    values = vars(envelope)
    texts = {name: text for name in _TEXTS if (text := values[name]) is not None}
    for name, text in texts.items():
        if len(text) > _LONGEST.get(name, math.inf):
            raise InvalidOption(f"{name} has at most {_LONGEST[name]} characters, not {len(text)}")
    if not is_storable("".join(texts.values())):
        name = next(name for name, text in texts.items() if not is_storable(text))
        raise InvalidOption(f"{name} holds a NUL character or a lone surrogate, which cannot be stored")
    if envelope.priority not in _PRIORITIES:
        raise InvalidOption(f"priority lies between 0 and 9, not {envelope.priority}")
    if not 0 <= envelope.version <= _LARGEST_INTEGER or not 0 <= envelope.max_attempts <= _LARGEST_INTEGER:
        raise InvalidOption(f"version and max_attempts lie between 0 and {_LARGEST_INTEGER}")
    unique_digest(envelope)
    lasting = (envelope.delay, envelope.timeout, envelope.expires_in, envelope.key_expires_in, envelope.retention)
    for seconds in lasting:
        if seconds is not None and not 0 <= seconds <= _LONGEST_SECONDS:
            raise InvalidOption(
                "delay, timeout, expires_in, key_expires_in and retention are seconds, from 0 to a hundred years"
            )


def row_or_refusal(envelope: Envelope) -> tuple[Any, ...] | ActorJobsError:
    """The envelope's values in the order of `INSERT_COLUMNS`, or why they cannot be kept."""
    try:
        check_envelope(envelope)
        return insert_values(envelope)
    except ActorJobsError as refusal:
        return refusal


def insert_values(envelope: Envelope) -> tuple[Any, ...]:
    """The envelope's values in the order of `INSERT_COLUMNS`."""
    payload = encode(envelope.payload)
    return (
        envelope.id,
        envelope.tenant or "",
        envelope.job,
        envelope.version,
        envelope.queue,
        envelope.priority,
        envelope.max_attempts,
        envelope.timeout,
        payload,
        encode(envelope.constructor_args, what="constructor_args") if envelope.constructor_args else None,
        encode(envelope.retry, what="retry") if envelope.retry else None,
        envelope.retention,
        encode(list(envelope.tags), what="tags") if envelope.tags else None,
        encode(envelope.meta, what="meta") if envelope.meta else None,
        envelope.script,
        envelope.traceparent,
        envelope.tracestate,
        envelope.baggage,
        envelope.parent,
        envelope.replay_of,
        envelope.idempotency_key,
        fingerprint(envelope) if envelope.idempotency_key is not None else None,
        encode(envelope.unique, what="unique") if envelope.unique is not None else None,
    )


def fingerprint(envelope: Envelope) -> str:
    """What tells two uses of one idempotency key apart: the payload and constructor arguments, keys sorted."""
    parts = [decode(encode(part)) for part in (envelope.payload, envelope.constructor_args)]
    content = orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)
    return sha256(content).hexdigest()


REPLACED = (
    *("version", "queue", "priority", "max_attempts", "timeout", "payload", "constructor_args", "retry", "retention"),
    *("tags", "meta", "script", "uniqueness_config"),
)
"""What a dispatch that replaces a waiting twin gives it; identity, trace and history stay the twin's."""


def new_content(envelope: Envelope, now: datetime) -> dict[str, Any]:
    """The columns of a waiting run that is to become what the envelope asks for."""
    values: dict[str, Any] = dict(zip(INSERT_COLUMNS, insert_values(envelope), strict=True))
    due = max(now + timedelta(seconds=envelope.delay or 0.0), (envelope.run_at or now).astimezone(UTC))
    expires_at = None if envelope.expires_in is None else now + timedelta(seconds=envelope.expires_in)
    return {name: values[name] for name in REPLACED} | {"available_at": due, "expires_at": expires_at}


def publish_after(now: datetime, due: datetime, *, grace: float = 0.0) -> datetime:
    """When the relay may publish the hint of a run that is due then."""
    return max(now + timedelta(seconds=grace), due - timedelta(seconds=PUBLISH_AHEAD_SECONDS))


def postponed_by(row: Row, seconds: float, doubling_to: float | None) -> float:
    """For how long the publishing of a run's hint is put off that was put off before."""
    if doubling_to is None:
        return seconds
    doublings: int = min(row["republished"], MOST_DOUBLINGS)
    return min(seconds * 2.0**doublings, doubling_to)


def rests() -> list[float]:
    """For how long a run's hint is not given up again after it was for the first, the second, ... time."""
    return [60.0, 120.0, 240.0, 480.0, 900.0]


def unpublished(after: datetime | None) -> dict[str, Any]:
    """The columns of a run in a new generation, or in none, of which no broker knows yet."""
    return {"publish_after": after, "published_at": None, "republished": 0}


def ended_digest(digest: str | None) -> str | None:
    """What a run that is over keeps of its digest: the place of a whole period is not given free."""
    return digest if digest is not None and digest.startswith("p") else None


def reopened_digest(row: Row) -> str | None:
    """The digest that a run takes again when it is reopened."""
    config = _json(row["uniqueness_config"])
    if config is None:
        return None
    unique = Unique.from_json(config)
    if unique.period is not None:
        kept: str | None = row["unique_digest"]
        return kept
    return unique.digest(decode(row["payload"]), _json(row["constructor_args"]) or {})


def uniqueness(envelope: Envelope) -> tuple[str, float | None] | None:
    """The digest of the run asked for, and how many seconds its periods have, if it is to be unique in one."""
    digest = unique_digest(envelope)
    if digest is None or envelope.unique is None:
        return None
    return digest, envelope.unique.get("period")


def digest_in_period(digest: str, period: float | None, now: datetime) -> str:
    """The digest as it is stored: that of a run that is unique in a period has the period's number."""
    return digest if period is None else f"{digest}.{int((now - EPOCH).total_seconds() // period)}"


def stored_digest(envelope: Envelope, now: datetime) -> str | None:
    """What the run asked for is unique by, as it is stored; None if it is not to be unique."""
    unique = uniqueness(envelope)
    return None if unique is None else digest_in_period(*unique, now)


def run_at_micros(envelope: Envelope) -> int | None:
    return None if envelope.run_at is None else to_micros(envelope.run_at.astimezone(UTC))


def claim_of(row: Sequence[Any], owner: str) -> Claim:
    """A claim from a row in the order of `CLAIM_COLUMNS`."""
    return Claim(
        owner=owner,
        run_id=row[0],
        seq=row[1],
        job=row[2],
        version=row[3],
        queue=row[4],
        tenant=row[5] or None,
        priority=row[6],
        payload=row[7],
        constructor_args=row[8],
        attempt=row[9],
        failures=row[10],
        losses=row[11],
        max_attempts=row[12],
        timeout=row[13],
        retry=row[14],
        checkpoint=row[15],
        traceparent=row[16],
        tracestate=row[17],
        baggage=row[18],
        parent=row[19],
        inserted_at=row[20],
        available_at=row[21],
        claimed_at=row[22],
    )


HINT_COLUMNS = ("id", "seq", "job", "queue", "available_at", "priority", "traceparent", "tracestate", "baggage")


def hint_of(row: Sequence[Any], delay: float) -> Hint:
    """A hint from a row in the order of `HINT_COLUMNS`, whose run is due in so many seconds."""
    return Hint(
        run_id=row[0],
        seq=row[1],
        job=row[2],
        queue=row[3],
        delay=max(0.0, delay),
        priority=row[5],
        traceparent=row[6],
        tracestate=row[7],
        baggage=row[8],
    )


def run_of(row: Row, attempts: Sequence[Attempt] = ()) -> Run:
    """A run from its row and the attempts that ended."""
    state = RunState(row["state"])
    finished_at: datetime | None = row["finished_at"]

    def ended(as_state: RunState) -> datetime | None:
        return finished_at if state is as_state else None

    return Run(
        id=row["id"],
        namespace=row["namespace"],
        job=row["job"],
        version=row["version"],
        queue=row["queue"],
        state=state,
        hold=row["hold"],
        tenant=row["tenant"] or None,
        priority=row["priority"],
        payload=decode(row["payload"]),
        constructor_args=_json(row["constructor_args"]) or {},
        result=_json(row["result"]),
        progress=_json(row["progress"]),
        checkpoint=_json(row["checkpoint"]),
        errors=tuple(attempt.error for attempt in attempts if attempt.error is not None),
        attempt=row["attempt"],
        failures=row["failures"],
        losses=row["losses"],
        max_attempts=row["max_attempts"],
        timeout=row["timeout"],
        inserted_at=row["inserted_at"],
        available_at=row["available_at"],
        expires_at=row["expires_at"],
        claimed_at=row["claimed_at"],
        attempted_at=row["claimed_at"] if state is RunState.RUNNING else row["attempted_at"],
        completed_at=ended(RunState.SUCCEEDED),
        failed_at=ended(RunState.DEAD_LETTERED),
        canceled_at=ended(RunState.CANCELED),
        expired_at=ended(RunState.EXPIRED),
        claimed_by=row["claimed_by"],
        cancel_requested_at=row["cancel_requested_at"],
        reason=row["reason"],
        script=row["script"],
        unique_digest=row["unique_digest"],
        uniqueness_config=_json(row["uniqueness_config"]),
        idempotency_key=row["idempotency_key"],
        traceparent=row["traceparent"],
        trace_id=trace_id_of(row["traceparent"]),
        replay_of=row["replay_of"],
        parent=row["parent"],
        tags=tuple(_json(row["tags"]) or ()),
        meta=_json(row["meta"]) or {},
    )


def _json(text: str | None) -> Any:
    return None if text is None else decode(text)


def attempt_of(row: Row, trace_id: str | None) -> Attempt:
    """An ended attempt from its row; `trace_id` is its run's."""
    error = None
    if row["error"] is not None:
        kept = orjson.loads(row["error"])
        error = ErrorInfo(
            name=kept["name"],
            message=kept["message"],
            stack=kept.get("stack", ""),
            attempt=row["number"],
            attempt_by=row["worker"],
            attempted_at=row["started_at"],
        )
    return Attempt(
        run_id=row["run_id"],
        number=row["number"],
        outcome=Outcome(row["outcome"]),
        started_at=row["started_at"],
        ended_at=row["ended_at"],
        worker=row["worker"],
        actor=row["actor"],
        error=error,
        trace_id=row["trace_id"] or trace_id,
        span_id=row["span_id"],
    )


def current_attempt(run: Run) -> Attempt:
    """The attempt that a running run is in: it has no row yet, the run's row tells all of it."""
    return Attempt(
        run_id=run.id,
        number=run.attempt,
        outcome=Outcome.RUNNING,
        started_at=run.claimed_at,
        ended_at=None,
        worker=run.claimed_by,
        actor=None,
        error=None,
        trace_id=run.trace_id,
        span_id=None,
    )


def envelope_of(row: Row) -> Envelope:
    """What was asked for when the run was dispatched, as a new envelope that names it."""
    run = run_of(row)
    return Envelope(
        job=run.job,
        version=run.version,
        queue=run.queue,
        payload=run.payload,
        constructor_args=dict(run.constructor_args),
        tenant=run.tenant,
        max_attempts=run.max_attempts,
        retry=_json(row["retry"]),
        timeout=run.timeout,
        retention=row["retention"],
        priority=run.priority,
        tags=run.tags,
        meta=dict(run.meta),
        script=run.script,
        traceparent=run.traceparent,
        tracestate=row["tracestate"],
        baggage=row["baggage"],
        replay_of=run.id,
    )


def youngest_to_purge(keep: Mapping[RunState, float | None], now: datetime) -> datetime:
    """A run that ended later than this is kept, whatever its state, unless it has a retention of its own."""
    kept = [seconds for seconds in keep.values() if seconds is not None]
    return now - timedelta(seconds=min(kept)) if kept else EPOCH


def serves_text(serves: Serves) -> str:
    """What a worker serves, as its row has it."""
    return encode(asdict(serves), what="what the worker serves")


def serves_of(text: str | None) -> Serves | None:
    if text is None:
        return None
    # A newer worker may have more to say.
    return Serves(**{name: value for name, value in decode(text).items() if name in Serves.__dataclass_fields__})


def is_past_keeping(row: Row, keep: Mapping[RunState, float | None], now: datetime) -> bool:
    """Whether a run ended longer ago than its kind, or it by itself, is to be kept."""
    state = RunState(row["state"])
    if state not in TERMINAL or row["finished_at"] is None:
        return False
    kept = row["retention"] if row["retention"] is not None else keep.get(state)
    return kept is not None and (now - row["finished_at"]).total_seconds() > kept


def history_of(run: Run, ended: Sequence[Row], noted: Sequence[Row]) -> list[HistoryEntry]:
    """Everything that happened to a run, in order: its acceptance, each attempt's start and end, operators' acts.

    Within one instant the attempt's number and the step's rank say what must have come first.
    """
    first = _first_state(run, ended, noted)
    steps = [(0, HistoryEntry(at=run.inserted_at, event="accepted", state=first, attempt=0))]
    for row in ended:
        if row["started_at"] is not None:
            steps.append((1, _started(row["started_at"], row["number"])))
        steps.append((3, _ended(row)))
    steps += [(2 if row["event"] == "cancel_requested" else 4, _noted(row)) for row in noted]
    if run.state is RunState.RUNNING and run.claimed_at is not None:
        steps.append((1, _started(run.claimed_at, run.attempt, {"worker": run.claimed_by})))
    steps.sort(key=lambda step: (step[1].at, step[1].attempt, step[0]))
    return [entry for _, entry in steps]


def _first_state(run: Run, ended: Sequence[Row], noted: Sequence[Row]) -> RunState:
    """Whether a run was accepted for later: `available_at` tells as long as nothing has moved it."""
    is_moved = any(row["led_to"] in WAITING for row in ended) or any(row["event"] in MOVING for row in noted)
    waits_for_later = run.available_at > run.inserted_at and not is_moved
    return RunState.SCHEDULED if waits_for_later else RunState.QUEUED


def _started(at: datetime, number: int, detail: Mapping[str, Any] | None = None) -> HistoryEntry:
    return HistoryEntry(at=at, event="started", state=RunState.RUNNING, attempt=number, detail=detail or {})


def _ended(row: Row) -> HistoryEntry:
    detail: dict[str, Any] = {"worker": row["worker"]}
    if row["error"] is not None:
        kept = orjson.loads(row["error"])
        detail |= {"error": kept["name"], "message": kept["message"]}
    state = RunState(row["led_to"])
    return HistoryEntry(at=row["ended_at"], event=row["outcome"], state=state, attempt=row["number"], detail=detail)


def _noted(row: Row) -> HistoryEntry:
    state = RunState(row["state"])
    detail: dict[str, Any] = _json(row["detail"]) or {}
    return HistoryEntry(at=row["at"], event=row["event"], state=state, attempt=row["attempt"], detail=detail)


def check_cursor(cursor: object) -> str | None:
    """A cursor as handed out by a page; `InvalidOption` for anything else."""
    if cursor is None:
        return None
    if not isinstance(cursor, str) or not is_run_id(cursor):
        raise InvalidOption("the cursor is not one that a page of runs gave out: start again without one")
    return cursor
