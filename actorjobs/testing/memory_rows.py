"""The rows of a store in memory, and the questions that a database answers with a WHERE."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

from actorjobs.codec import LIMITS, clip, decode, encode
from actorjobs.lifecycle import LOSSES_UNTIL_SUSPECT, TERMINAL, advance
from actorjobs.model import Envelope, RunState, Transition
from actorjobs.ports import Claim, Demand, Fence, Hint, LostRun, Mark, QueueInfo, RunFilter, Settlement, WorkerInfo
from actorjobs.stores import rows
from actorjobs.stores.bids import Waiting
from actorjobs.stores.schema import runs

Row: TypeAlias = dict[str, Any]
"""A row by the names of its columns."""

_NEW_RUN: Row = dict.fromkeys(column.name for column in runs.columns) | {
    "seq": 1,
    "attempt": 0,
    "failures": 0,
    "losses": 0,
    "republished": 0,
}


class MemoryDatabase:
    """What stores of one process share: the tables, and who wants to know of changes."""

    def __init__(self) -> None:
        self.runs: dict[str, Row] = {}
        self.attempts: dict[str, list[Row]] = {}
        self.events: dict[str, list[Row]] = {}
        self.workers: dict[str, Row] = {}
        self.queues: dict[tuple[str, str], Row] = {}
        self.sightings: dict[tuple[str, str], dict[str, datetime | None]] = {}
        self.identities: dict[str, str] = {}
        self.messages: dict[int, Row] = {}
        self.messages_ever = 0
        self.watchers: list[tuple[object, Callable[[], None]]] = []

    def runs_of(self, namespace: str, *states: RunState) -> Iterable[Row]:
        """The runs of a namespace that are in one of these states, or in any; in the order of their acceptance."""
        for row in self.runs.values():
            if row["namespace"] == namespace and (not states or state_of(row) in states):
                yield row

    def held_by(self, fence: Fence) -> Row | None:
        """The running run that the fence proves to be its own."""
        row = self.runs.get(fence.run_id)
        return row if row is not None and state_of(row) is RunState.RUNNING and fence_of(row) == fence else None

    def running_of(self, owner: str) -> list[Row]:
        """What this worker is running, by the record."""
        return [row for row in self.runs.values() if row["claimed_by"] == owner and state_of(row) is RunState.RUNNING]

    def recorded(self, settlement: Settlement) -> RunState | None:
        """What an earlier commit of the same settlement, whose answer was lost, has led to."""
        same = (settlement.fence.attempt, settlement.fence.owner, settlement.outcome.value)
        for row in self.attempts.get(settlement.fence.run_id, ()):
            if (row["number"], row["worker"], row["outcome"]) == same:
                return RunState(row["led_to"])
        return None

    def note(self, row: Row, event: str, now: datetime, reason: str | None, by: str | None) -> None:
        """Keep what neither the run nor its attempts will tell."""
        detail = {key: clean(value) for key, value in (("reason", reason), ("by", by)) if value is not None}
        entry = {"at": now, "event": event, "state": row["state"], "attempt": row["attempt"], "detail": None}
        self.events.setdefault(row["id"], []).append(entry | ({"detail": encode(detail)} if detail else {}))

    def remove(self, run_id: str) -> None:
        """Delete a run with all that is its own."""
        for table in (self.runs, self.attempts, self.events):
            table.pop(run_id, None)


def new_row(envelope: Envelope, namespace: str, now: datetime) -> Row:
    """The row of a run just accepted. `InvalidOption` or `PayloadInvalid` for what no database would take."""
    rows.check_envelope(envelope)
    values = dict(zip(rows.INSERT_COLUMNS, rows.insert_values(envelope), strict=True))
    due = max(now + seconds(envelope.delay or 0.0), (envelope.run_at or now).astimezone(UTC))
    expires_at = None if envelope.expires_in is None else now + seconds(envelope.expires_in)
    state = RunState.SCHEDULED if due > now else RunState.QUEUED
    digest = {"unique_digest": rows.stored_digest(envelope, now)}
    times = {"inserted_at": now, "available_at": due, "expires_at": expires_at}
    lasts = envelope.key_expires_in
    times["key_expires_at"] = None if lasts is None else now + seconds(lasts)
    return _NEW_RUN | values | digest | {"namespace": namespace, "state": state.value} | times


def end_attempt(row: Row, settlement: Settlement, now: datetime) -> Row:
    """Write the end of its attempt into a running run's row; the attempt's own row."""
    decision = settlement.decision
    is_canceled = row["cancel_requested_at"] is not None and decision.transition is not Transition.SUCCEED
    state = advance(state_of(row), Transition.CANCEL if is_canceled else decision.transition)
    is_over = state in TERMINAL
    row |= {
        "state": state.value,
        "failures": decision.failures,
        "losses": decision.losses,
        "result": settlement.result,
        "reason": row["reason"] if is_canceled else decision.reason,
        "attempted_at": row["claimed_at"] + seconds(settlement.started_after),
        "available_at": row["available_at"] if is_over else now + seconds(decision.delay),
        "finished_at": now if is_over else None,
        "seq": row["seq"] + (not is_over),
        "unique_digest": rows.ended_digest(row["unique_digest"]) if is_over else row["unique_digest"],
        **rows.unpublished(None),
    }
    return {
        "run_id": row["id"],
        "number": row["attempt"],
        "outcome": settlement.outcome.value,
        "led_to": state.value,
        "started_at": row["attempted_at"],
        "ended_at": now,
        "worker": row["claimed_by"],
        "actor": settlement.actor,
        "error": settlement.error,
        "span_id": settlement.span_id,
        "trace_id": settlement.trace_id,
    }


def seconds(count: float) -> timedelta:
    """So many seconds, to the microsecond."""
    return timedelta(microseconds=round(count * 1_000_000))


def clean(text: str | None) -> str | None:
    """An operator's words as every database takes them."""
    return None if text is None else clip(text, LIMITS.error_message)


def state_of(row: Row) -> RunState:
    return RunState(row["state"])


def fence_of(row: Row) -> Fence:
    return Fence(run_id=row["id"], attempt=row["attempt"], owner=row["claimed_by"])


def claim_of(row: Row) -> Claim:
    return rows.claim_of([row[name] for name in rows.CLAIM_COLUMNS], row["claimed_by"])


def is_claimable(row: Row, demand: Demand, now: datetime) -> bool:
    """Whether a waiting run of the queue may start now, and is what the demand asks for."""
    is_expired = row["expires_at"] is not None and row["expires_at"] <= now
    is_held = row["hold"] is not None or row["cancel_requested_at"] is not None
    is_known = row["version"] <= demand.jobs.get(row["job"], 0)
    is_wanted = is_known and is_suspect(row) == demand.suspects
    return is_wanted and row["available_at"] <= now and not is_expired and not is_held


def waiting_of(row: Row, now: datetime, *, is_paused: bool) -> Waiting:
    """What a waiting run is judged by that somebody bids for."""
    is_expired = row["expires_at"] is not None and row["expires_at"] <= now
    return Waiting(
        id=row["id"],
        seq=row["seq"],
        seconds=(row["available_at"] - now).total_seconds(),
        losses=row["losses"],
        job=row["job"],
        version=row["version"],
        is_held=row["hold"] is not None,
        is_over=is_expired or row["cancel_requested_at"] is not None,
        is_paused=is_paused,
        queue=row["queue"],
    )


def hint_of(row: Row, now: datetime) -> Hint:
    return rows.hint_of([row[name] for name in rows.HINT_COLUMNS], (row["available_at"] - now).total_seconds())


def hinted_at(row: Row) -> datetime:
    """When the run's hint was published; that of a run that was never marked counts from its acceptance."""
    at: datetime = row["published_at"] or row["inserted_at"]
    return at


def has_rested(row: Row, now: datetime) -> bool:
    """Whether the run may be given back, as it was not of late."""
    if row["republished"] == 0:
        return True
    rests, times = rows.rests(), int(row["republished"])
    return hinted_at(row) <= now - seconds(rests[min(times, len(rests)) - 1])


def may_be_canceled(row: Row) -> bool:
    """Whether a cancel would change anything."""
    is_asked = row["cancel_requested_at"] is not None
    return state_of(row) not in TERMINAL and not (state_of(row) is RunState.RUNNING and is_asked)


def is_suspect(row: Row) -> bool:
    return bool(row["losses"] >= LOSSES_UNTIL_SUSPECT)


def by_urgency(row: Row) -> tuple[int, datetime]:
    return (-row["priority"], row["available_at"])


def matches(row: Row, where: RunFilter) -> bool:
    """Whether the filter lets the run through."""
    words = {"job": where.job, "queue": where.queue, "tenant": where.tenant}
    texts = (row["id"], row["job"], row["payload"], row["idempotency_key"] or "")
    return (
        (where.state is None or state_of(row) in where.state)
        and all(row[name] == word for name, word in words.items() if word is not None)
        and (where.tag is None or where.tag in decode(row["tags"] or "[]"))
        and (where.since is None or row["inserted_at"] >= where.since)
        and (where.until is None or row["inserted_at"] < where.until)
        and (not where.search or any(where.search in text for text in texts))
    )


def mark_of(row: Row) -> Mark:
    kept = {name: row[name] for name in ("job", "queue", "attempt", "seq")}
    is_asked = row["cancel_requested_at"] is not None
    return Mark(run_id=row["id"], tenant=row["tenant"] or None, state=state_of(row), is_asked=is_asked, **kept)


def lost_run_of(row: Row) -> LostRun:
    figures = {name: row[name] for name in ("failures", "losses", "max_attempts", "parent", "claimed_at")}
    return LostRun(fence=fence_of(row), hint=claim_of(row).hint, tenant=row["tenant"] or None, **figures)


def worker_of(row: Row) -> WorkerInfo:
    kept = {name: row[name] for name in row if name not in ("namespace", "died_at")}
    return WorkerInfo(**kept, is_dead=row["died_at"] is not None)


def queue_of(row: Mapping[str, Any], waiting: int = 0, running: int = 0) -> QueueInfo:
    return QueueInfo(**row, waiting=waiting, running=running)
