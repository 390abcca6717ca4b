"""The hot statements on SQLite. Called inside `BEGIN IMMEDIATE`, so nothing can change between two of them."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from sqlalchemy import Connection

from actorjobs.lifecycle import TERMINAL
from actorjobs.model import Envelope, RunState
from actorjobs.ports import (
    PROMISED_SECONDS,
    PUBLISH_AHEAD_SECONDS,
    Bid,
    Claim,
    Demand,
    Hint,
    Refusal,
    Settlement,
    Taken,
)
from actorjobs.stores.bids import Answers, Generation, Waiting, refusal
from actorjobs.stores.rows import (
    CLAIM_COLUMNS,
    HINT_COLUMNS,
    INSERT_COLUMNS,
    New,
    claim_of,
    hint_of,
    run_at_micros,
    stored_digest,
)
from actorjobs.stores.schema import ENDED_DIGEST, STARTED_DIGEST, WAITING_SQL, from_micros

_INSERT = f"""
INSERT OR IGNORE INTO actorjobs_runs
  ({", ".join(INSERT_COLUMNS)}, namespace, state, inserted_at, available_at, expires_at, key_expires_at,
  unique_digest, publish_after)
VALUES ({", ".join("?" * len(INSERT_COLUMNS))}, ?, ?, ?, ?, ?, ?, ?, ?)
"""

# One arm per priority, so that each is a seek in the index however many runs wait for later.
_ARM = f"""
SELECT * FROM (SELECT {", ".join(CLAIM_COLUMNS)} FROM actorjobs_runs
 WHERE namespace = :ns AND queue = :queue AND priority = {{priority}} AND {WAITING_SQL}
   AND available_at <= :now AND hold IS NULL AND (expires_at IS NULL OR expires_at > :now)
   AND cancel_requested_at IS NULL
   AND losses {{losses}} 2 AND job IN (SELECT key FROM json_each(:jobs))
   AND (version = 1 OR version <= (SELECT value FROM json_each(:jobs) WHERE key = job))
 ORDER BY available_at LIMIT :limit)"""


def _due(losses: str) -> str:
    arms = "\nUNION ALL".join(_ARM.format(priority=priority, losses=losses) for priority in range(9, -1, -1))
    return f"SELECT * FROM ({arms}) LIMIT :limit"


_DUE, _DUE_SUSPECTS = _due("<"), _due(">=")

_IS_PAUSED = "SELECT 1 FROM actorjobs_queues WHERE namespace = ? AND name = ? AND is_paused"

_CLAIM = f"""
UPDATE actorjobs_runs SET state = 'running', attempt = attempt + 1, claimed_at = ?, claimed_by = ?,
  attempted_at = NULL, progress = NULL, publish_after = NULL, republished = 0, unique_digest = {STARTED_DIGEST}
WHERE id = ?
"""

# The words that SQLite cannot go by (`+`) keep it on the ids: it thinks that a namespace has ten runs.
_WAITING = f"""
SELECT {", ".join("r." + column for column in CLAIM_COLUMNS)}, r.hold IS NOT NULL,
  coalesce(r.expires_at <= :now, 0) OR r.cancel_requested_at IS NOT NULL,
  EXISTS (SELECT 1 FROM actorjobs_queues q WHERE q.namespace = :ns AND q.name = r.queue AND q.is_paused)
FROM json_each(:ids) d CROSS JOIN actorjobs_runs r ON r.id = d.value
WHERE +r.namespace = :ns AND {WAITING_SQL}
"""

_STAGED = f"""
SELECT {", ".join(HINT_COLUMNS)} FROM actorjobs_runs INDEXED BY actorjobs_runs_outbox
WHERE namespace = ? AND publish_after IS NOT NULL AND {WAITING_SQL} AND publish_after <= ?
ORDER BY publish_after LIMIT ?
"""

_PROMISE = "UPDATE actorjobs_runs SET publish_after = ? WHERE id = ?"

_MARK = f"""
UPDATE actorjobs_runs SET published_at = ?, publish_after = NULL
WHERE id = ? AND seq = ? AND +namespace = ? AND publish_after IS NOT NULL AND {WAITING_SQL}
"""

_NEXT = (
    "SELECT min(due) FROM ("
    + " UNION ALL ".join(
        f"""SELECT min(available_at) AS due FROM actorjobs_runs
 WHERE namespace = :ns AND queue = :queue AND priority = {priority} AND {WAITING_SQL} AND available_at > :now"""
        for priority in range(10)
    )
    + ")"
)

_SUSPECT_DUE = f"""
SELECT 1 FROM actorjobs_runs WHERE namespace = :ns AND queue = :queue AND losses >= 2 AND {WAITING_SQL}
  AND available_at <= :now LIMIT 1
"""

_HOLDS = "id = ? AND attempt = ? AND state = 'running' AND claimed_by = ?"

_END_ATTEMPT = f"""
INSERT INTO actorjobs_attempts (run_id, number, outcome, led_to, started_at, ended_at, worker, actor, error, span_id,
  trace_id)
SELECT id, attempt, ?, ?, claimed_at + ?, ?, claimed_by, ?, ?, ?, ? FROM actorjobs_runs WHERE {_HOLDS}
"""

_OUTBOX = "publish_after = ?, published_at = NULL, republished = 0,"


def _settle(outbox: str) -> str:
    return f"""
UPDATE actorjobs_runs SET state = ?, failures = ?, losses = ?, result = ?, reason = ?,
  attempted_at = claimed_at + ?, available_at = coalesce(?, available_at), finished_at = ?, seq = seq + ?, {outbox}
  unique_digest = CASE WHEN ? THEN {ENDED_DIGEST} ELSE unique_digest END
WHERE {_HOLDS}
"""


_SETTLE, _SETTLE_INTO_OUTBOX = _settle(""), _settle(_OUTBOX)

_ASKED_TO_CANCEL = """
SELECT id, reason FROM actorjobs_runs WHERE cancel_requested_at IS NOT NULL AND state = 'running'
  AND claimed_by IN (SELECT value FROM json_each(?))
"""

SECOND = 1_000_000


def insert(
    connection: Connection, namespace: str, new: Sequence[New], now: int, publish_in: float | None
) -> list[bool]:
    """Insert what collides with nothing: which ones went in. `publish_in` None leaves the outbox alone."""
    cursor = _cursor(connection)
    rows = [(*values, namespace, *_columns(envelope, now, publish_in)) for envelope, values in new]
    return [cursor.execute(_INSERT, row).rowcount == 1 for row in rows]


def _columns(envelope: Envelope, now: int, publish_in: float | None) -> tuple[Any, ...]:
    times = _times(envelope, now)
    return (*times, stored_digest(envelope, from_micros(now)), _publish_after(now, times[2], publish_in))


def _publish_after(now: int, due: int, grace: float | None) -> int | None:
    return None if grace is None else max(now + _micros(grace), due - _micros(PUBLISH_AHEAD_SECONDS))


def _cursor(connection: Connection) -> sqlite3.Cursor:
    """The driver's own cursor: it tells each row's fate, at a tenth of the cost of a statement through the toolkit."""
    cursor: Any = connection.connection.cursor()
    return cursor  # type: ignore[no-any-return]


def _times(envelope: Envelope, now: int) -> tuple[str, int, int, int | None, int | None]:
    due = max(now + _micros(envelope.delay or 0.0), run_at_micros(envelope) or now)
    expires = None if envelope.expires_in is None else now + _micros(envelope.expires_in)
    key_expires = None if envelope.key_expires_in is None else now + _micros(envelope.key_expires_in)
    return ("scheduled" if due > now else "queued", now, due, expires, key_expires)


def take(connection: Connection, namespace: str, demand: Demand, owner: str, now: int) -> Taken:
    """Find and claim due runs."""
    jobs = orjson.dumps(dict(demand.jobs)).decode()
    where = {"ns": namespace, "queue": demand.queue, "now": now, "limit": demand.limit, "jobs": jobs}
    if connection.exec_driver_sql(_IS_PAUSED, (namespace, demand.queue)).first() is not None:
        return Taken(claims=())
    query = _DUE_SUSPECTS if demand.suspects else _DUE
    found = connection.exec_driver_sql(query, where).fetchall()
    if found:
        connection.exec_driver_sql(_CLAIM, [(now, owner, row[0]) for row in found])
    claims = [_claimed(row, owner, now) for row in found]
    if len(claims) == demand.limit or demand.suspects:
        return Taken(claims=claims, next_due=0.0 if claims else None)
    due = connection.exec_driver_sql(_NEXT, where).scalar()
    suspect = connection.exec_driver_sql(_SUSPECT_DUE, where).first() is not None
    next_due = None if due is None else (due - now) / SECOND
    return Taken(claims=claims, next_due=next_due, suspects_due=suspect)


def _claimed(row: Sequence[Any], owner: str, now: int) -> Claim:
    values = list(row)
    values[9] += 1
    values[20], values[21], values[22] = from_micros(row[20]), from_micros(row[21]), from_micros(now)
    return claim_of(values, owner)


# --- hints -----------------------------------------------------------------------------------------------------------


def claim(
    connection: Connection, namespace: str, bids: Sequence[Bid], jobs: Mapping[str, int], owner: str, now: int
) -> Answers:
    """Claim the runs of hints. Nobody else holds a row here, so that none is left undecided."""
    where = {"ns": namespace, "now": now, "ids": _json_array({bid.run_id for bid in bids})}
    found = {row[0]: row for row in connection.exec_driver_sql(_WAITING, where)}
    answers: dict[Generation, Claim | Refusal] = {}
    claimed: list[tuple[int, str, str]] = []
    for bid in bids:
        if (row := found.get(bid.run_id)) is not None:
            refused = refusal(_waiting(row, now), bid, jobs)
            if refused is None:
                claimed.append((now, owner, bid.run_id))
            answers[bid.run_id, bid.seq] = refused or _claimed(row, owner, now)
    _cursor(connection).executemany(_CLAIM, claimed)
    return answers


def _waiting(row: Sequence[Any], now: int) -> Waiting:
    job, version, losses, due = row[2], row[3], row[11], row[21]
    is_held, is_over, is_paused = (bool(value) for value in row[23:])
    return Waiting(row[0], row[1], (due - now) / SECOND, losses, job, version, is_held, is_over, is_paused, row[4])


def stage(connection: Connection, namespace: str, limit: int, now: int) -> list[Hint]:
    """The hints that are to be published, each promised to the caller."""
    found = connection.exec_driver_sql(_STAGED, (namespace, now, limit)).fetchall()
    until = now + _micros(PROMISED_SECONDS)
    _cursor(connection).executemany(_PROMISE, [(until, row[0]) for row in found])
    return [hint_of(row, (row[4] - now) / SECOND) for row in found]


def mark(connection: Connection, namespace: str, published: Sequence[Generation], now: int) -> None:
    """Take what a broker has out of the outbox."""
    _cursor(connection).executemany(_MARK, [(now, run_id, seq, namespace) for run_id, seq in published])


# --- settling --------------------------------------------------------------------------------------------------------


def settle(
    connection: Connection, settlements: Sequence[Settlement], now: int, publish_in: float | None
) -> list[RunState | None]:
    """Write attempts and runs, fenced. The new states, None where the fence did not hold."""
    owners = {settlement.fence.owner for settlement in settlements}
    found = connection.exec_driver_sql(_ASKED_TO_CANCEL, (_json_array(owners),))
    asked: dict[str, str | None] = {row[0]: row[1] for row in found}
    states = [_state(settlement, asked) for settlement in settlements]
    ends: list[tuple[Any, ...]] = []
    updates: list[tuple[Any, ...]] = []
    for settlement, state in zip(settlements, states, strict=True):
        end, update = _values(settlement, state, asked, now, publish_in)
        ends.append(end)
        updates.append(update)
    cursor = _cursor(connection)
    held = [cursor.execute(_END_ATTEMPT, end).rowcount == 1 for end in ends]
    statement = _SETTLE if publish_in is None else _SETTLE_INTO_OUTBOX
    cursor.executemany(statement, [update for update, holds in zip(updates, held, strict=True) if holds])
    return [state if holds else None for state, holds in zip(states, held, strict=True)]


def _json_array(words: set[str]) -> str:
    return orjson.dumps(list(words)).decode()


def _micros(seconds: float) -> int:
    return round(seconds * SECOND)


def _state(settlement: Settlement, asked: dict[str, str | None]) -> RunState:
    state = settlement.decision.state
    return RunState.CANCELED if settlement.fence.run_id in asked and state is not RunState.SUCCEEDED else state


def _values(
    settlement: Settlement, state: RunState, asked: dict[str, str | None], now: int, publish_in: float | None
) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    decision, fence = settlement.decision, settlement.fence
    holds = (fence.run_id, fence.attempt, fence.owner)
    after = _micros(settlement.started_after)
    is_over = state in TERMINAL
    reason = asked.get(fence.run_id) if state is RunState.CANCELED and fence.run_id in asked else decision.reason
    end = (
        settlement.outcome.value,
        state.value,
        after,
        now,
        settlement.actor,
        settlement.error,
        settlement.span_id,
        settlement.trace_id,
        *holds,
    )
    due = None if is_over else now + _micros(decision.delay)
    outbox = () if publish_in is None else (None if due is None else _publish_after(now, due, publish_in),)
    update = (
        state.value,
        decision.failures,
        decision.losses,
        settlement.result,
        reason,
        after,
        due,
        now if is_over else None,
        0 if is_over else 1,
        *outbox,
        is_over,
        *holds,
    )
    return end, update
