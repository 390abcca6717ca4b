"""The hot statements on MariaDB (10.6 and later) and MySQL (8.0.17 and later).

Neither returns what an UPDATE has changed, so a group's rows are read under locks first, judged here, and written after
that. Rows are locked in the order of their ids, or passed over if somebody holds them. The time is read once per group
and bound from there on. Both servers pick indexes by estimates that go wrong on a table whose rows change state all
the time, therefore hot statements name theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from datetime import datetime, timedelta
from typing import Any, TypeAlias, TypeVar

import orjson
from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from actorjobs.jobs.unique import unique_digest
from actorjobs.lifecycle import TERMINAL
from actorjobs.model import Envelope, RunState
from actorjobs.ports import PROMISED_SECONDS, Bid, Claim, Demand, Fence, Hint, Refusal, Settlement, Taken
from actorjobs.stores.bids import Answers, Generation, Waiting, in_portions, refusal, refusals
from actorjobs.stores.rows import (
    CLAIM_COLUMNS,
    HINT_COLUMNS,
    INSERT_COLUMNS,
    New,
    claim_of,
    hint_of,
    publish_after,
    stored_digest,
)
from actorjobs.stores.schema import ENDED_DIGEST, STARTED_DIGEST, WAITING_SQL, from_naive, to_naive

T = TypeVar("T")
Place: TypeAlias = tuple[str, str, str | None]
"""An idempotency key, or the digest of a unique run, with the tenant and the job that it belongs to."""

PRIORITIES = range(9, -1, -1)
WAITING_STATES = ("scheduled", "queued", "retrying")
LARGEST_STATEMENT = 4 * 1024 * 1024
"""In characters. A server takes 16 MiB by default (`max_allowed_packet`)."""

GUEST = "actorjobs_guest"
"""What a connection is marked with while we are guests in a caller's transaction."""

_DUPLICATE = 1062

_NOW = "SELECT UTC_TIMESTAMP(6)"

_INSERT = f"""
INSERT INTO actorjobs_runs
  ({", ".join(INSERT_COLUMNS)}, namespace, state, inserted_at, available_at, expires_at, key_expires_at,
  unique_digest, publish_after)
VALUES """
_INSERT_ROW = f"({', '.join(['%s'] * (len(INSERT_COLUMNS) + 8))})"

_HELD_KEYS = """
SELECT idempotency_key FROM actorjobs_runs FORCE INDEX (actorjobs_runs_key)
WHERE namespace = %s AND tenant = %s AND job = %s AND idempotency_key IN ({places}) LOCK IN SHARE MODE
"""

# For update: a dispatch may replace the run that it finds there, and two that share a lock cannot both do so.
_HELD_DIGESTS = """
SELECT unique_digest FROM actorjobs_runs FORCE INDEX (actorjobs_runs_unique)
WHERE namespace = %s AND tenant = %s AND job = %s AND unique_digest IN ({places}) FOR UPDATE
"""

_BAND = "FROM actorjobs_runs FORCE INDEX (actorjobs_runs_due) WHERE namespace = %s AND queue = %s AND state"

_IS_PAUSED = "EXISTS (SELECT 1 FROM actorjobs_queues WHERE namespace = %s AND name = %s AND is_paused)"


def _bands(condition: str) -> str:
    """Of each priority and waiting state the earliest time due: one seek in the index for each. No row if paused."""
    earliest = ", ".join(
        f"(SELECT available_at {_BAND} = '{state}' AND priority = band.priority {condition} "
        "ORDER BY available_at LIMIT 1)"
        for state in WAITING_STATES
    )
    priorities = " UNION ALL ".join(f"SELECT {priority} AS priority" for priority in PRIORITIES)
    return f"""
SELECT UTC_TIMESTAMP(6), band.priority, {earliest}
FROM ({priorities}) band WHERE NOT {_IS_PAUSED} ORDER BY band.priority DESC"""


_EARLIEST, _LATER = _bands(""), _bands("AND available_at > %s")

_CLAIMABLE = """hold IS NULL AND (expires_at IS NULL OR expires_at > %s) AND cancel_requested_at IS NULL"""

_IS_KNOWN = """(version = 1
  OR version <= CAST(JSON_UNQUOTE(JSON_EXTRACT(%s, CONCAT('$."', job, '"'))) AS SIGNED))"""

_DUE = f"""
SELECT {", ".join(CLAIM_COLUMNS)} {_BAND} = %s AND priority = %s AND available_at <= %s
  AND {_CLAIMABLE} AND losses < 2 AND job IN ({{jobs}}) AND {_IS_KNOWN}
ORDER BY available_at LIMIT %s FOR UPDATE SKIP LOCKED
"""

_SUSPECT = f"""FROM actorjobs_runs FORCE INDEX (actorjobs_runs_suspect)
WHERE namespace = %s AND queue = %s AND losses >= 2 AND {WAITING_SQL} AND available_at <= %s"""

_DUE_SUSPECTS = f"""
SELECT {", ".join(CLAIM_COLUMNS)} {_SUSPECT} AND {_CLAIMABLE} AND job IN ({{jobs}}) AND {_IS_KNOWN}
ORDER BY priority DESC, available_at LIMIT %s FOR UPDATE SKIP LOCKED
"""

_SUSPECT_DUE = f"SELECT 1 {_SUSPECT} LIMIT 1"

_CLAIM = f"""
UPDATE actorjobs_runs SET state = 'running', attempt = attempt + 1, claimed_at = %s, claimed_by = %s,
  attempted_at = NULL, progress = NULL, publish_after = NULL, republished = 0, unique_digest = {STARTED_DIGEST}
WHERE id IN ({{ids}})
"""

_NOW_AND_PAUSED = """
SELECT UTC_TIMESTAMP(6), q.name FROM (SELECT 1) one LEFT JOIN actorjobs_queues q ON q.namespace = %s AND q.is_paused
"""

_WAITING = f"FROM actorjobs_runs FORCE INDEX (PRIMARY) WHERE id IN ({{ids}}) AND namespace = %s AND {WAITING_SQL}"

_BID_FOR = f"""
SELECT {", ".join(CLAIM_COLUMNS)}, hold IS NOT NULL, coalesce(expires_at <= %s, 0) OR cancel_requested_at IS NOT NULL
{_WAITING} ORDER BY id FOR UPDATE SKIP LOCKED
"""

_IS_WAITING = f"""
SELECT id, seq, available_at, losses, job, version, hold IS NOT NULL,
  coalesce(expires_at <= %s, 0) OR cancel_requested_at IS NOT NULL, queue
{_WAITING}
"""

_STAGED = f"""
SELECT {", ".join(HINT_COLUMNS)}
FROM actorjobs_runs FORCE INDEX (actorjobs_runs_outbox)
WHERE namespace = %s AND publish_after <= %s AND {WAITING_SQL}
ORDER BY publish_after LIMIT %s FOR UPDATE SKIP LOCKED
"""

_PROMISE = "UPDATE actorjobs_runs SET publish_after = %s WHERE id IN ({ids})"

_IN_OUTBOX = f"SELECT id, seq {_WAITING} AND publish_after IS NOT NULL ORDER BY id FOR UPDATE SKIP LOCKED"

_MARK = "UPDATE actorjobs_runs SET published_at = %s, publish_after = NULL WHERE id IN ({ids})"

_HELD = """
SELECT id, attempt, claimed_by, claimed_at, available_at, reason, cancel_requested_at IS NOT NULL, UTC_TIMESTAMP(6)
FROM actorjobs_runs FORCE INDEX (PRIMARY) WHERE id IN ({ids}) AND state = 'running' ORDER BY id FOR UPDATE
"""

_END_ATTEMPT = """
INSERT INTO actorjobs_attempts (run_id, number, outcome, led_to, started_at, ended_at, worker, actor, error, span_id,
  trace_id)
VALUES """
_END_ATTEMPT_ROW = f"({', '.join(['%s'] * 11)})"

_OUTBOX = "r.publish_after = d.publish_after, r.published_at = NULL, r.republished = 0,"


def _settling(outbox: str) -> str:
    return f"""
UPDATE JSON_TABLE(%s, '$[*]' COLUMNS (
    id varchar(36) PATH '$.id', state varchar(16) PATH '$.state', failures int PATH '$.failures',
    losses int PATH '$.losses', result longtext PATH '$.result', reason longtext PATH '$.reason',
    attempted_at datetime(6) PATH '$.attempted_at', available_at datetime(6) PATH '$.available_at',
    finished_at datetime(6) PATH '$.finished_at', publish_after datetime(6) PATH '$.publish_after',
    later int PATH '$.later')) d
  STRAIGHT_JOIN actorjobs_runs r FORCE INDEX (PRIMARY) ON r.id = d.id
SET r.state = d.state, r.failures = d.failures, r.losses = d.losses, r.result = d.result, r.reason = d.reason,
  r.attempted_at = d.attempted_at, r.available_at = d.available_at, r.finished_at = d.finished_at, {outbox}
  r.seq = r.seq + d.later, r.unique_digest = CASE WHEN d.later THEN unique_digest ELSE {ENDED_DIGEST} END
"""


_SETTLE, _SETTLE_INTO_OUTBOX = _settling(""), _settling(_OUTBOX)


def database_time(connection: Connection) -> datetime:
    """The server's clock. (NOW and SYSDATE depend on the session's time zone and on how the server was started.)"""
    now: datetime = connection.exec_driver_sql(_NOW).scalar_one()
    return from_naive(now)


# --- accepting -------------------------------------------------------------------------------------------------------


def insert(
    connection: Connection, namespace: str, new: Sequence[New], now: datetime, publish_in: float | None
) -> list[bool]:
    """Insert what collides with nothing: which ones went in. In the order of keys, which is that of their locks.
    `publish_in` None leaves the outbox alone."""
    went_in = [False] * len(new)
    keys = [_place(envelope, envelope.idempotency_key) for envelope, _ in new]
    digests = [_place(envelope, stored_digest(envelope, now)) for envelope, _ in new]
    held = _held(connection, namespace, _HELD_KEYS, keys) | _held(connection, namespace, _HELD_DIGESTS, digests)
    order = sorted(
        (index for index in range(len(new)) if keys[index] not in held and digests[index] not in held),
        key=lambda index: _lock_order(new[index][0]),
    )
    rows = {index: (*new[index][1], namespace, *_times(new[index][0], now, publish_in)) for index in order}
    for part in _parts(order, lambda index: sum(len(value) for value in rows[index] if isinstance(value, str))):
        for index in _insert(connection, part, rows):
            went_in[index] = True
    return went_in


def _held(connection: Connection, namespace: str, statement: str, wanted: Sequence[Place]) -> set[Place]:
    """The places that a run has already, waiting for those that somebody is just taking.

    An INSERT that meets such a place would wait too, and the index decides in the end; but its way of waiting locks the
    gap before the place, and with it everybody who has a neighbouring one or none. (Not as a guest: under a caller's
    REPEATABLE READ this look would lock gaps itself.)
    """
    if connection.info.get(GUEST):
        return set()
    places: dict[tuple[str, str], list[str]] = {}
    for tenant, job, place in wanted:
        if place is not None:
            places.setdefault((tenant, job), []).append(place)
    held: set[Place] = set()
    for (tenant, job), some in sorted(places.items()):
        query = statement.format(places=_marks(some))
        found = connection.exec_driver_sql(query, (namespace, tenant, job, *some))
        held |= {(tenant, job, row[0]) for row in found}
    return held


def _place(envelope: Envelope, place: str | None) -> Place:
    return (envelope.tenant or "", envelope.job, place)


def _lock_order(envelope: Envelope) -> tuple[str, ...]:
    digest = unique_digest(envelope) or ""
    return (envelope.idempotency_key or "", digest, envelope.tenant or "", envelope.job, envelope.id)


def _insert(connection: Connection, some: Sequence[int], rows: dict[int, tuple[Any, ...]]) -> list[int]:
    """Those of the rows that went in. One that collides undoes its whole statement: the two halves are tried again, so
    that only a group with such a row in it pays."""
    statement = _INSERT + ", ".join([_INSERT_ROW] * len(some))
    try:
        connection.exec_driver_sql(statement, tuple(value for index in some for value in rows[index]))
    except IntegrityError as error:
        if not _is_duplicate(error):
            raise
        if len(some) == 1:
            return []
        half = len(some) // 2
        return _insert(connection, some[:half], rows) + _insert(connection, some[half:], rows)
    return [*some]


def _is_duplicate(error: IntegrityError) -> bool:
    return bool(getattr(error.orig, "args", None)) and error.orig is not None and error.orig.args[0] == _DUPLICATE


def _times(envelope: Envelope, now: datetime, publish_in: float | None) -> tuple[Any, ...]:
    due = now + timedelta(seconds=envelope.delay or 0.0)
    if envelope.run_at is not None:
        due = max(due, envelope.run_at)
    expires = None if envelope.expires_in is None else to_naive(now + timedelta(seconds=envelope.expires_in))
    lasts = envelope.key_expires_in
    key_expires = None if lasts is None else to_naive(now + timedelta(seconds=lasts))
    state = "scheduled" if due > now else "queued"
    publish = None if publish_in is None else to_naive(publish_after(now, due, grace=publish_in))
    return (state, to_naive(now), to_naive(due), expires, key_expires, stored_digest(envelope, now), publish)


def _parts(items: Sequence[T], size: Callable[[T], int]) -> Iterator[list[T]]:
    """The items in parts that are small enough for one statement."""
    part: list[T] = []
    room = LARGEST_STATEMENT
    for item in items:
        if part and size(item) > room:
            yield part
            part, room = [], LARGEST_STATEMENT
        part.append(item)
        room -= size(item)
    if part:
        yield part


# --- delivering ------------------------------------------------------------------------------------------------------


def take(connection: Connection, namespace: str, demand: Demand, owner: str, bound: datetime | None) -> Taken:
    """Find and claim due runs, passing over those that somebody holds. `bound` is the time under a virtual clock."""
    where = (namespace, demand.queue)
    bands = connection.exec_driver_sql(_EARLIEST, where * 4).fetchall()
    if not bands:
        return Taken(claims=())
    now = to_naive(bound) if bound is not None else bands[0][0]
    if demand.suspects:
        found = _suspects(connection, where, demand, now)
    else:
        found = _due(connection, where, demand, bands, now)
    if found:
        ids = [row[0] for row in found]
        connection.exec_driver_sql(_CLAIM.format(ids=_marks(ids)), (now, owner, *ids))
    claims = [_claimed(row, owner, now) for row in found]
    if len(claims) == demand.limit or demand.suspects:
        return Taken(claims=claims, next_due=0.0 if claims else None)
    if any(at is not None and at <= now for band in bands for at in band[2:]):
        bands = connection.exec_driver_sql(_LATER, (*(*where, now) * 3, *where)).fetchall()
        suspects_due = connection.exec_driver_sql(_SUSPECT_DUE, (*where, now)).first() is not None
    else:
        suspects_due = False
    later = [at for band in bands for at in band[2:] if at is not None]
    next_due = (min(later) - now).total_seconds() if later else None
    return Taken(claims=claims, next_due=next_due, suspects_due=suspects_due)


def _due(
    connection: Connection, where: tuple[str, str], demand: Demand, bands: Sequence[Any], now: datetime
) -> list[Any]:
    """Locked rows that are due, highest priority first, then the longest due; only bands are asked that have some."""
    due: list[Any] = []
    if not demand.jobs:
        return due
    query, versions = _DUE.format(jobs=_marks(demand.jobs)), orjson.dumps(dict(demand.jobs)).decode()
    for _, priority, *earliest in bands:
        room = demand.limit - len(due)
        if room <= 0:
            break
        found: list[Any] = []
        for state, at in zip(WAITING_STATES, earliest, strict=True):
            if at is not None and at <= now:
                values = (*where, state, priority, now, now, *demand.jobs, versions, room)
                found += connection.exec_driver_sql(query, values).fetchall()
        due += sorted(found, key=lambda row: (row[21], row[0]))[:room]
    return due


def _suspects(connection: Connection, where: tuple[str, str], demand: Demand, now: datetime) -> Sequence[Any]:
    if not demand.jobs:
        return ()
    query, versions = _DUE_SUSPECTS.format(jobs=_marks(demand.jobs)), orjson.dumps(dict(demand.jobs)).decode()
    return [*connection.exec_driver_sql(query, (*where, now, now, *demand.jobs, versions, demand.limit))]


def _marks(values: Sized) -> str:
    return ", ".join(["%s"] * len(values))


def _claimed(row: Sequence[Any], owner: str, now: datetime) -> Claim:
    values = list(row)
    values[9] += 1
    values[20], values[21], values[22] = from_naive(row[20]), from_naive(row[21]), from_naive(now)
    return claim_of(values, owner)


# --- hints -----------------------------------------------------------------------------------------------------------


def claim(
    connection: Connection,
    namespace: str,
    bids: Sequence[Bid],
    jobs: Mapping[str, int],
    owner: str,
    bound: datetime | None,
) -> Answers:
    """Claim the runs of hints, passing over those that somebody holds. A second look tells why these stay."""
    now, paused = _now_and_paused(connection, namespace, bound)
    answers: dict[Generation, Claim | Refusal] = {}
    for part in in_portions(bids):
        answers |= _claim(connection, namespace, part, jobs, owner, now, paused)
    return answers


def _now_and_paused(connection: Connection, namespace: str, bound: datetime | None) -> tuple[datetime, set[str]]:
    rows = connection.exec_driver_sql(_NOW_AND_PAUSED, (namespace,)).fetchall()
    now: datetime = rows[0][0] if bound is None else to_naive(bound)
    return now, {row[1] for row in rows}


def _claim(
    connection: Connection,
    namespace: str,
    bids: Sequence[Bid],
    jobs: Mapping[str, int],
    owner: str,
    now: datetime,
    paused: set[str],
) -> dict[Generation, Claim | Refusal]:
    ids = sorted({bid.run_id for bid in bids})
    query = _BID_FOR.format(ids=_marks(ids))
    held = {row[0]: row for row in connection.exec_driver_sql(query, (now, *ids, namespace))}
    answers: dict[Generation, Claim | Refusal] = {}
    for bid in bids:
        if (row := held.get(bid.run_id)) is not None:
            seconds = (row[21] - now).total_seconds()
            run = Waiting._make((*row[:2], seconds, row[11], *row[2:4], *row[23:], row[4] in paused, row[4]))
            answers[bid.run_id, bid.seq] = refusal(run, bid, jobs) or _claimed(row, owner, now)
    claimed = [answer.run_id for answer in answers.values() if isinstance(answer, Claim)]
    if claimed:
        connection.exec_driver_sql(_CLAIM.format(ids=_marks(claimed)), (now, owner, *claimed))
    missed = [bid for bid in bids if bid.run_id not in held]
    if missed:
        ids = sorted({bid.run_id for bid in missed})
        found = connection.exec_driver_sql(_IS_WAITING.format(ids=_marks(ids)), (now, *ids, namespace))
        answers |= refusals(missed, [_seen(row, now, paused) for row in found], jobs)
    return answers


def _seen(row: Sequence[Any], now: datetime, paused: set[str]) -> Waiting:
    return Waiting._make((*row[:2], (row[2] - now).total_seconds(), *row[3:8], row[8] in paused, row[8]))


def stage(connection: Connection, namespace: str, limit: int, bound: datetime | None) -> list[Hint]:
    """The hints that are to be published, each promised to the caller."""
    now = to_naive(bound or database_time(connection))
    found = connection.exec_driver_sql(_STAGED, (namespace, now, limit)).fetchall()
    until = now + timedelta(seconds=PROMISED_SECONDS)
    for ids in in_portions(sorted(row[0] for row in found)):
        connection.exec_driver_sql(_PROMISE.format(ids=_marks(ids)), (until, *ids))
    return [hint_of(row, (row[4] - now).total_seconds()) for row in found]


def mark(connection: Connection, namespace: str, published: Sequence[Generation], bound: datetime | None) -> None:
    """Take what a broker has out of the outbox, but for what somebody is just working on."""
    now = to_naive(bound or database_time(connection))
    for part in in_portions(published):
        wanted, ids = set(part), sorted({run_id for run_id, _ in part})
        found = connection.exec_driver_sql(_IN_OUTBOX.format(ids=_marks(ids)), (*ids, namespace))
        ids = [row[0] for row in found if (row[0], row[1]) in wanted]
        if ids:
            connection.exec_driver_sql(_MARK.format(ids=_marks(ids)), (now, *ids))


# --- settling --------------------------------------------------------------------------------------------------------


def settle(
    connection: Connection, settlements: Sequence[Settlement], bound: datetime | None, publish_in: float | None = None
) -> list[RunState | None]:
    """Write attempts and runs, fenced. The new states, None where the fence did not hold."""
    states: dict[Fence, RunState] = {}
    in_order = sorted(settlements, key=lambda settlement: settlement.fence.run_id)
    for part in _parts(in_order, lambda one: len(one.result or "") + len(one.error or "")):
        states |= _settle(connection, part, bound, publish_in)
    return [states.get(settlement.fence) for settlement in settlements]


def _settle(
    connection: Connection, settlements: Sequence[Settlement], bound: datetime | None, publish_in: float | None
) -> dict[Fence, RunState]:
    ids = sorted({settlement.fence.run_id for settlement in settlements})
    held = {
        Fence(run_id=row[0], attempt=row[1], owner=row[2]): row
        for row in connection.exec_driver_sql(_HELD.format(ids=_marks(ids)), tuple(ids))
    }
    ends = [_end(one, held[one.fence], bound, publish_in) for one in settlements if one.fence in held]
    if ends:
        statement = _END_ATTEMPT + ", ".join([_END_ATTEMPT_ROW] * len(ends))
        connection.exec_driver_sql(statement, tuple(value for attempt, _ in ends for value in attempt))
        statement = _SETTLE if publish_in is None else _SETTLE_INTO_OUTBOX
        connection.exec_driver_sql(statement, (orjson.dumps([run for _, run in ends]).decode(),))
    return {
        one.fence: RunState(run["state"])
        for one, (_, run) in zip((one for one in settlements if one.fence in held), ends, strict=True)
    }


def _end(
    settlement: Settlement, row: Sequence[Any], bound: datetime | None, publish_in: float | None
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The row of the attempt, and what becomes of the run."""
    run_id, number, owner, claimed_at, due, reason, is_asked, now = row
    decision = settlement.decision
    now = to_naive(bound) if bound is not None else now
    is_canceled = bool(is_asked) and decision.state is not RunState.SUCCEEDED
    state = RunState.CANCELED if is_canceled else decision.state
    is_over = state in TERMINAL
    due = due if is_over else now + timedelta(seconds=decision.delay)
    began = claimed_at + timedelta(seconds=settlement.started_after)
    attempt = (run_id, number, settlement.outcome.value, state.value, began, now, owner)
    run = {
        "id": run_id,
        "state": state.value,
        "failures": decision.failures,
        "losses": decision.losses,
        "result": settlement.result,
        "reason": reason if is_canceled else decision.reason,
        "attempted_at": _written(began),
        "available_at": _written(due),
        "finished_at": _written(now) if is_over else None,
        "later": 0 if is_over else 1,
    }
    if publish_in is not None and not is_over:
        run["publish_after"] = _written(publish_after(now, due, grace=publish_in))
    return (*attempt, settlement.actor, settlement.error, settlement.span_id, settlement.trace_id), run


def _written(at: datetime) -> str:
    return at.isoformat(sep=" ", timespec="microseconds")
