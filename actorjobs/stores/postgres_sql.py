"""The hot statements on PostgreSQL: one round trip for a whole group, its rows passed as one JSON array.

Every group statement locks its rows in the order of their ids: two that do not will deadlock within seconds.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any

import orjson
from sqlalchemy import Connection, bindparam, text

from actorjobs.lifecycle import TERMINAL
from actorjobs.model import Envelope, RunState
from actorjobs.ports import (
    PROMISED_SECONDS,
    PUBLISH_AHEAD_SECONDS,
    PUBLISH_GRACE_SECONDS,
    Bid,
    Claim,
    Demand,
    Hint,
    Refusal,
    Settlement,
    Taken,
)
from actorjobs.stores.bids import Answers, Generation, Waiting, refusals
from actorjobs.stores.frontier import SLOW_SECONDS, Frontier
from actorjobs.stores.rows import (
    CLAIM_COLUMNS,
    HINT_COLUMNS,
    INSERT_COLUMNS,
    New,
    claim_of,
    hint_of,
    run_at_micros,
    uniqueness,
)
from actorjobs.stores.schema import ENDED_DIGEST, STARTED_DIGEST, WAITING_SQL, UtcDateTime

# Under a virtual clock the time is a value; else the database's own, read once per statement. A bare call of the
# volatile function would be evaluated for every row, and no index could serve it.
REAL_NOW = "(SELECT clock_timestamp())"
BOUND_NOW = "CAST(:now AS timestamptz)"

_INTEGERS = frozenset({"version", "priority", "max_attempts"})
_FLOATS = frozenset({"timeout", "retention"})


def _typed(column: str) -> str:
    kind = "int" if column in _INTEGERS else "float8" if column in _FLOATS else "text"
    return f'"{column}" {kind}'


_INSERT_FIELDS = (*INSERT_COLUMNS, "delay", "run_at", "expires_in", "key_expires_in", "digest", "period")

_INSERT = f"""
WITH d AS MATERIALIZED (
  SELECT d.*, t.now,
    greatest(t.now + d.delay * interval '1 second', coalesce(timestamptz 'epoch' + d.run_at * interval '1 microsecond',
      t.now)) AS due
  FROM json_to_recordset(CAST(:rows AS json)) AS d
    ({", ".join(_typed(column) for column in INSERT_COLUMNS)}, delay float8, run_at int8, expires_in float8,
    key_expires_in float8, digest text, period float8),
    (SELECT {{now}} AS now) t)
INSERT INTO actorjobs_runs
  ({", ".join(INSERT_COLUMNS)}, namespace, state, inserted_at, available_at, expires_at, key_expires_at,
  unique_digest, publish_after)
SELECT {", ".join("d." + column for column in INSERT_COLUMNS)}, :ns,
  CASE WHEN d.due > d.now THEN 'scheduled' ELSE 'queued' END, d.now, d.due, d.now + d.expires_in * interval '1 second',
  d.now + d.key_expires_in * interval '1 second',
  d.digest || coalesce('.' || CAST(floor(extract(epoch FROM d.now) / d.period) AS int8), ''), {{inserted}}
FROM d ORDER BY d.idempotency_key, d.digest, d.tenant, d.job, d.id
ON CONFLICT DO NOTHING RETURNING id
"""


# Where no broker is to be told of runs, their outbox stays empty, and settling does not look at it.
_INSERTED = f"""greatest(d.now + CAST(:publish_in AS float8) * interval '1 second',
    d.due - interval '{PUBLISH_AHEAD_SECONDS} seconds')"""
_SETTLED = f"""publish_after = CASE WHEN l.is_over OR l.is_canceled THEN NULL
      ELSE t.now + greatest({PUBLISH_GRACE_SECONDS}, l.delay - {PUBLISH_AHEAD_SECONDS}) * interval '1 second' END,
    published_at = NULL, republished = 0,"""
_NO_OUTBOX = {"inserted": "CAST(NULL AS timestamptz)", "settled": ""}

PRIORITIES = 10

_IS_PAUSED = "EXISTS (SELECT 1 FROM actorjobs_queues WHERE namespace = :ns AND name = :queue AND is_paused)"


# One index seek per priority, highest first, and none after the limit is reached: a single ordered scan would wade
# through everything that waits for later in a higher priority. What was found is not joined: of the search the planner
# expects one row, and in a store of a million runs it then looks all the ids up again for each of them.
def _take(losses: str) -> str:
    return f"""
WITH due AS MATERIALIZED (
  SELECT one.id FROM generate_series(9, 0, -1) AS band (priority) CROSS JOIN LATERAL (
    SELECT id FROM actorjobs_runs
    WHERE namespace = :ns AND queue = :queue AND priority = band.priority AND {WAITING_SQL}
      AND available_at <= {{now}} AND available_at >= (CAST(:since AS timestamptz[]))[band.priority + 1]
      AND hold IS NULL AND (expires_at IS NULL OR expires_at > {{now}})
      AND cancel_requested_at IS NULL AND losses {losses} 2 AND job = ANY(:jobs)
      AND (version = 1 OR version <= CAST(CAST(:versions AS jsonb) ->> job AS int))
    ORDER BY available_at LIMIT :limit FOR UPDATE SKIP LOCKED) one
  LIMIT (CASE WHEN {_IS_PAUSED} THEN 0 ELSE :limit END))
UPDATE actorjobs_runs r SET state = 'running', attempt = attempt + 1, claimed_at = {{now}}, claimed_by = :owner,
  attempted_at = NULL, progress = NULL, publish_after = NULL, republished = 0, unique_digest = {STARTED_DIGEST}
WHERE r.id = ANY (ARRAY(SELECT id FROM due))
RETURNING {", ".join("r." + column for column in CLAIM_COLUMNS)}
"""


_TAKE, _TAKE_SUSPECTS = _take("<"), _take(">=")

_NEXT = f"""
SELECT CAST(extract(epoch FROM min(one.due) - {{now}}) AS float8) AS next_due,
  EXISTS (SELECT 1 FROM actorjobs_runs WHERE namespace = :ns AND queue = :queue AND losses >= 2 AND {WAITING_SQL}
    AND available_at <= {{now}} AND NOT {_IS_PAUSED}) AS suspects_due
FROM generate_series(0, 9) AS band (priority) CROSS JOIN LATERAL (
  SELECT available_at AS due FROM actorjobs_runs
  WHERE namespace = :ns AND queue = :queue AND priority = band.priority AND {WAITING_SQL} AND available_at > {{now}}
  ORDER BY available_at LIMIT 1) one
WHERE NOT {_IS_PAUSED}
"""

# Here and below rows are found and locked by their ids alone: told more, the planner walks another index, for each
# group anew, as long as it has no statistics of the table.
_CLAIM = f"""
WITH d AS MATERIALIZED (
  SELECT * FROM json_to_recordset(CAST(:rows AS json)) AS d
    (id text, seq int, takes_suspect bool, queue text)),
found AS MATERIALIZED (
  SELECT id, seq, namespace, queue, job, version, state, losses, hold, available_at, expires_at, cancel_requested_at
  FROM actorjobs_runs WHERE id = ANY (ARRAY(SELECT id FROM d)) ORDER BY id FOR UPDATE SKIP LOCKED),
due AS MATERIALIZED (
  SELECT r.id FROM found r JOIN d ON d.id = r.id AND d.seq = r.seq AND coalesce(d.queue, r.queue) = r.queue
    JOIN jsonb_each_text(CAST(:versions AS jsonb)) AS known (job, newest) ON known.job = r.job
  WHERE r.namespace = :ns AND {WAITING_SQL} AND available_at <= {{now}} AND hold IS NULL
    AND (expires_at IS NULL OR expires_at > {{now}}) AND cancel_requested_at IS NULL
    AND (losses < 2 OR takes_suspect) AND version <= CAST(known.newest AS int)
    AND r.queue <> ALL (ARRAY(SELECT name FROM actorjobs_queues WHERE namespace = :ns AND is_paused)))
UPDATE actorjobs_runs r SET state = 'running', attempt = attempt + 1, claimed_at = {{now}}, claimed_by = :owner,
  attempted_at = NULL, progress = NULL, publish_after = NULL, republished = 0, unique_digest = {STARTED_DIGEST}
WHERE r.id = ANY (ARRAY(SELECT id FROM due))
RETURNING {", ".join("r." + column for column in CLAIM_COLUMNS)}
"""

_WAITING = f"""
SELECT id, seq, CAST(extract(epoch FROM available_at - {{now}}) AS float8), losses, job, version, hold IS NOT NULL,
  coalesce(expires_at <= {{now}}, false) OR cancel_requested_at IS NOT NULL,
  EXISTS (SELECT 1 FROM actorjobs_queues q WHERE q.namespace = :ns AND q.name = r.queue AND q.is_paused), queue
FROM actorjobs_runs r WHERE id = ANY(:ids) AND namespace = :ns AND {WAITING_SQL}
"""

# Nothing is joined: for a table that was just empty the planner would go through all the ids for each of them.
_STAGE = f"""
WITH t AS MATERIALIZED (SELECT {{now}} AS now),
due AS MATERIALIZED (
  SELECT {", ".join(HINT_COLUMNS)}, publish_after FROM actorjobs_runs
  WHERE namespace = :ns AND publish_after IS NOT NULL AND {WAITING_SQL} AND publish_after <= (SELECT now FROM t)
    AND publish_after >= CAST(:since AS timestamptz)
  ORDER BY publish_after LIMIT :limit FOR UPDATE SKIP LOCKED),
promised AS (
  UPDATE actorjobs_runs SET publish_after = (SELECT now FROM t) + interval '{PROMISED_SECONDS} seconds'
  WHERE id = ANY (ARRAY(SELECT id FROM due)))
SELECT {", ".join(HINT_COLUMNS)}, CAST(extract(epoch FROM available_at - now) AS float8) AS delay, publish_after, now
FROM t LEFT JOIN due ON true ORDER BY publish_after
"""

# Most runs have been claimed by now: to lock them all the same would be a write each. (The condition is written so that
# the planner sees no use in an index of such rows.)
_MARK = f"""
WITH d AS MATERIALIZED (SELECT * FROM json_to_recordset(CAST(:rows AS json)) AS d (id text, seq int)),
found AS MATERIALIZED (
  SELECT id, seq, namespace, state, publish_after FROM actorjobs_runs
  WHERE id = ANY (ARRAY(SELECT id FROM d)) AND coalesce(publish_after, 'infinity') < 'infinity'
  ORDER BY id FOR UPDATE SKIP LOCKED),
published AS MATERIALIZED (
  SELECT r.id FROM found r JOIN d ON d.id = r.id AND d.seq = r.seq
  WHERE r.namespace = :ns AND publish_after IS NOT NULL AND {WAITING_SQL})
UPDATE actorjobs_runs SET published_at = {{now}}, publish_after = NULL
WHERE id = ANY (ARRAY(SELECT id FROM published))
"""

# The fence is checked on the rows that are locked, and from there on only what passed it is looked at. The outer join
# and the flag are for the planner: of an inner join it expects one row, and then sorts all the ids for each of them.
_SETTLE = """
WITH t AS MATERIALIZED (SELECT {now} AS now),
d AS MATERIALIZED (
  SELECT * FROM json_to_recordset(CAST(:rows AS json)) AS d (id text, attempt int, owner text, outcome text, state text,
    is_over bool, delay float8, failures int, losses int, reason text, result text, error text, actor text,
    started_after float8, span_id text, trace_id text)),
found AS MATERIALIZED (
  SELECT id, attempt, claimed_by, state, cancel_requested_at FROM actorjobs_runs
  WHERE id = ANY (ARRAY(SELECT id FROM d)) ORDER BY id FOR UPDATE),
locked AS MATERIALIZED (
  SELECT d.*, r.cancel_requested_at IS NOT NULL AND d.state <> 'succeeded' AS is_canceled, r.id IS NOT NULL AS is_ours
  FROM d LEFT JOIN found r
    ON d.id = r.id AND d.attempt = r.attempt AND d.owner = r.claimed_by AND r.state = 'running'),
settled AS (
  UPDATE actorjobs_runs u SET state = CASE WHEN l.is_canceled THEN 'canceled' ELSE l.state END,
    failures = l.failures, losses = l.losses, result = l.result,
    reason = CASE WHEN l.is_canceled THEN u.reason ELSE l.reason END,
    attempted_at = u.claimed_at + l.started_after * interval '1 second',
    available_at = CASE WHEN l.is_over OR l.is_canceled THEN u.available_at
      ELSE t.now + l.delay * interval '1 second' END,
    finished_at = CASE WHEN l.is_over OR l.is_canceled THEN t.now END,
    seq = u.seq + CASE WHEN l.is_over OR l.is_canceled THEN 0 ELSE 1 END, {settled}
    unique_digest = CASE WHEN l.is_over OR l.is_canceled THEN ENDED_DIGEST ELSE u.unique_digest END
  FROM locked l, t
  WHERE u.id = ANY (ARRAY(SELECT id FROM locked WHERE is_ours)) AND u.id = l.id AND l.is_ours
  RETURNING u.id, u.state, u.attempted_at, t.now, l.attempt, l.owner, l.outcome, l.actor, l.error, l.span_id,
    l.trace_id),
ended AS (
  INSERT INTO actorjobs_attempts
    (run_id, number, outcome, led_to, started_at, ended_at, worker, actor, error, span_id, trace_id)
  SELECT id, attempt, outcome, state, attempted_at, now, owner, actor, error, span_id, trace_id FROM settled)
SELECT id, attempt, owner, state FROM settled
""".replace("ENDED_DIGEST", ENDED_DIGEST.replace("unique_digest", "u.unique_digest"))


class PostgresStatements:
    """The statements with the clock's `now` filled in: the database's, or a bound value under a virtual clock."""

    def __init__(self, *, is_virtual: bool, has_outbox: bool = False) -> None:
        now = BOUND_NOW if is_virtual else REAL_NOW
        times = [bindparam("now", type_=UtcDateTime)] if is_virtual else []

        outbox = {"inserted": _INSERTED, "settled": _SETTLED} if has_outbox else _NO_OUTBOX

        def ready(sql: str) -> Any:
            statement = text(sql.format(now=now, **outbox))
            return statement.bindparams(*times) if times else statement

        self._insert, self._take, self._take_suspects = ready(_INSERT), ready(_TAKE), ready(_TAKE_SUSPECTS)
        self._next, self._settle = ready(_NEXT), ready(_SETTLE)
        self._claim, self._waiting = ready(_CLAIM), ready(_WAITING)
        self._stage, self._mark = ready(_STAGE), ready(_MARK)
        self._is_virtual, self._has_outbox = is_virtual, has_outbox
        self._due = defaultdict[tuple[str, str, bool], Frontier](partial(self._frontier, PRIORITIES))
        self._unpublished = defaultdict[str, Frontier](self._frontier)

    def _frontier(self, bands: int = 1) -> Frontier:
        # Under a virtual clock, what takes long says nothing.
        return Frontier(bands=bands, slow_seconds=math.inf if self._is_virtual else SLOW_SECONDS)

    def _time(self, now: datetime) -> dict[str, Any]:
        return {"now": now} if self._is_virtual else {}

    def insert(
        self, connection: Connection, namespace: str, new: Sequence[New], now: datetime, publish_in: float = 0.0
    ) -> list[bool]:
        """Insert what collides with nothing: which ones went in."""
        rows = [dict(zip(_INSERT_FIELDS, _insert_row(*one), strict=True)) for one in new]
        values: dict[str, Any] = {"rows": orjson.dumps(rows).decode(), "ns": namespace} | self._time(now)
        if self._has_outbox:
            values["publish_in"] = publish_in
        inserted = {row[0] for row in connection.execute(self._insert, values)}
        answers: list[bool] = []
        for envelope, _ in new:
            answers.append(envelope.id in inserted)
            inserted.discard(envelope.id)  # of two envelopes with one id in one group the first is the one
        return answers

    def take(self, connection: Connection, namespace: str, demand: Demand, owner: str, now: datetime) -> Taken:
        """Find and claim due runs, skipping those that somebody else is just taking."""
        where = {"ns": namespace, "queue": demand.queue} | self._time(now)
        statement = self._take_suspects if demand.suspects else self._take
        versions = orjson.dumps(dict(demand.jobs)).decode()
        values = where | {"jobs": list(demand.jobs), "versions": versions, "limit": demand.limit, "owner": owner}
        frontier = self._due[namespace, demand.queue, demand.suspects]
        search = frontier.begin()
        claims = [claim_of(row, owner) for row in connection.execute(statement, values | {"since": search.since})]
        frontier.end(search, ((claim.priority, claim.available_at) for claim in claims))
        claims.sort(key=lambda claim: (-claim.priority, claim.available_at, claim.run_id))
        if len(claims) == demand.limit or demand.suspects:
            return Taken(claims=claims, next_due=0.0 if claims else None)
        waiting: Any = connection.execute(self._next, where).one()
        next_due, suspects_due = waiting
        return Taken(claims=claims, next_due=next_due, suspects_due=suspects_due)

    def claim(
        self,
        connection: Connection,
        namespace: str,
        bids: Sequence[Bid],
        jobs: Mapping[str, int],
        owner: str,
        now: datetime,
    ) -> Answers:
        """Claim the runs of hints, passing over those that somebody holds. A second look tells why the others stay."""
        rows = [
            {"id": bid.run_id, "seq": bid.seq, "takes_suspect": bid.takes_suspect, "queue": bid.queue} for bid in bids
        ]
        where = {"ns": namespace} | self._time(now)
        versions = orjson.dumps(dict(jobs)).decode()
        values = where | {"versions": versions, "rows": orjson.dumps(rows).decode(), "owner": owner}
        claims = [claim_of(row, owner) for row in connection.execute(self._claim, values)]
        answers: dict[Generation, Claim | Refusal] = {(claim.run_id, claim.seq): claim for claim in claims}
        refused = [bid for bid in bids if (bid.run_id, bid.seq) not in answers]
        if refused:
            found = connection.execute(self._waiting, where | {"ids": [bid.run_id for bid in refused]})
            answers |= refusals(refused, [Waiting._make(row) for row in found], jobs)
        return answers

    def stage(self, connection: Connection, namespace: str, limit: int, now: datetime) -> list[Hint]:
        """The hints that are to be published, each promised to the caller."""
        frontier = self._unpublished[namespace]
        search = frontier.begin()
        values = {"ns": namespace, "limit": limit, "since": search.since[0]} | self._time(now)
        rows: Sequence[Any] = connection.execute(self._stage, values).all()
        hints = [hint_of(row, row[-3]) for row in rows if row[0] is not None]
        *_, publish_after, seen_at = rows[-1]
        reached = seen_at if len(hints) < limit else publish_after
        frontier.end(search, [] if reached is None else [(0, reached)])
        return hints

    def mark(self, connection: Connection, namespace: str, published: Sequence[Generation], now: datetime) -> None:
        """Take what a broker has out of the outbox, but for what somebody is just working on."""
        rows = [{"id": run_id, "seq": seq} for run_id, seq in published]
        connection.execute(self._mark, {"ns": namespace, "rows": orjson.dumps(rows).decode()} | self._time(now))

    def settle(self, connection: Connection, settlements: Sequence[Settlement], now: datetime) -> list[RunState | None]:
        """Write attempts and runs, fenced. The new states, None where the fence did not hold."""
        rows = [_settle_row(settlement) for settlement in settlements]
        values = {"rows": orjson.dumps(rows).decode()} | self._time(now)
        settled: Any = connection.execute(self._settle, values)
        states = {(run_id, attempt, owner): RunState(state) for run_id, attempt, owner, state in settled}
        fences = [settlement.fence for settlement in settlements]
        return [states.get((fence.run_id, fence.attempt, fence.owner)) for fence in fences]


def _insert_row(envelope: Envelope, values: tuple[Any, ...]) -> tuple[Any, ...]:
    digest, period = uniqueness(envelope) or (None, None)
    times = (envelope.delay or 0.0, run_at_micros(envelope), envelope.expires_in, envelope.key_expires_in)
    return (*values, *times, digest, period)


def _settle_row(settlement: Settlement) -> dict[str, Any]:
    decision, fence = settlement.decision, settlement.fence
    return {
        "id": fence.run_id,
        "attempt": fence.attempt,
        "owner": fence.owner,
        "outcome": settlement.outcome,
        "state": decision.state,
        "is_over": decision.state in TERMINAL,
        "delay": decision.delay,
        "failures": decision.failures,
        "losses": decision.losses,
        "reason": decision.reason,
        "result": settlement.result,
        "error": settlement.error,
        "actor": settlement.actor,
        "started_after": settlement.started_after,
        "span_id": settlement.span_id,
        "trace_id": settlement.trace_id,
    }
