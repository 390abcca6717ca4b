"""The store on a SQL database: SQLite and PostgreSQL by the same verbs.

Hot verbs (insert, take, settle) have statements per database; everything else is SQLAlchemy Core, written once.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol, TypeAlias, TypeVar

import orjson
from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    and_,
    delete,
    exists,
    false,
    func,
    insert,
    or_,
    select,
    text,
    true,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession
from sqlalchemy.orm import Session

from actorjobs.clock import Clock
from actorjobs.codec import LIMITS, clip, encode
from actorjobs.errors import (
    ActorJobsError,
    IdempotencyConflict,
    InvalidOption,
    RunNotFound,
    RunStateConflict,
    StoreUnavailable,
)
from actorjobs.lifecycle import WAITING, advance
from actorjobs.model import Attempt, Envelope, HistoryEntry, Run, RunState, Transition
from actorjobs.ports import (
    Accepted,
    Claim,
    Demand,
    Fence,
    Hint,
    LostRun,
    Purged,
    QueueInfo,
    RunFilter,
    RunPage,
    Settlement,
    Taken,
    Wishes,
    WorkerInfo,
)
from actorjobs.ports import Transaction as CallerTransaction
from actorjobs.stores import schema, sqlite_sql
from actorjobs.stores.database import Database, LockHeld, masked, open_database
from actorjobs.stores.migrate import check_schema, current_version
from actorjobs.stores.postgres_sql import PostgresStatements
from actorjobs.stores.rows import (
    CLAIM_COLUMNS,
    EXPIRED_REASON,
    New,
    Row,
    attempt_of,
    check_cursor,
    claim_of,
    current_attempt,
    envelope_of,
    fingerprint,
    held,
    history_of,
    is_past_keeping,
    is_run_id,
    is_storable,
    row_or_refusal,
    run_of,
    youngest_to_purge,
)
from actorjobs.stores.schema import attempts, events, queues, runs, to_micros, workers

T = TypeVar("T")

_End: TypeAlias = tuple[str, int, str, str]
"""What an attempt's end is known by: run, number, worker, outcome."""

KEY_WAIT_SECONDS = 5.0
"""How long a group of keyed dispatches waits for somebody else's open transaction that holds one of their keys."""

KEY_WAIT_ALONE_SECONDS = 0.1
"""How long each of them waits after that, on its own."""

DEAD_WORKERS_KEPT = timedelta(days=1)


class _Hot(Protocol):
    """The statements that every run pays for."""

    def insert(self, connection: Connection, namespace: str, new: Sequence[New]) -> builtins.list[bool]: ...

    def take(self, connection: Connection, namespace: str, demand: Demand, owner: str) -> Taken: ...

    def settle(self, connection: Connection, settlements: Sequence[Settlement]) -> builtins.list[RunState | None]: ...


class _SqliteHot:
    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def _now(self) -> int:
        return to_micros(self._clock.now())

    def insert(self, connection: Connection, namespace: str, new: Sequence[New]) -> builtins.list[bool]:
        return sqlite_sql.insert(connection, namespace, new, self._now())

    def take(self, connection: Connection, namespace: str, demand: Demand, owner: str) -> Taken:
        jobs = orjson.dumps(demand.jobs).decode()
        return sqlite_sql.take(connection, namespace, demand, jobs, owner, self._now())

    def settle(self, connection: Connection, settlements: Sequence[Settlement]) -> builtins.list[RunState | None]:
        return sqlite_sql.settle(connection, settlements, self._now())


class _PostgresHot:
    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._statements = PostgresStatements(is_virtual=clock.is_virtual)

    def insert(self, connection: Connection, namespace: str, new: Sequence[New]) -> builtins.list[bool]:
        return self._statements.insert(connection, namespace, new, self._clock.now())

    def take(self, connection: Connection, namespace: str, demand: Demand, owner: str) -> Taken:
        return self._statements.take(connection, namespace, demand, owner, self._clock.now())

    def settle(self, connection: Connection, settlements: Sequence[Settlement]) -> builtins.list[RunState | None]:
        return self._statements.settle(connection, settlements, self._clock.now())


class SqlStore:
    """Runs of one namespace in a SQL database. See `actorjobs.ports.Store` for what each verb promises."""

    def __init__(self, *, database: Database, namespace: str, clock: Clock) -> None:
        self._database = database
        self._namespace = namespace
        self._clock = clock
        self._is_sqlite = database.url.get_backend_name() == "sqlite"
        self._hot: _Hot = _SqliteHot(clock) if self._is_sqlite else _PostgresHot(clock)
        self._is_open = False
        self._purged_up_to: str | None = None

    @property
    def url(self) -> str:
        return masked(self._database.url)

    @property
    def engine(self) -> AsyncEngine:
        """The application's own way in to the same database."""
        return self._database.engine

    def __repr__(self) -> str:
        return f"SqlStore({self.url!r}, namespace={self._namespace!r})"

    async def open(self) -> None:
        if not self._is_open:
            await check_schema(self._database, migrate=self._is_sqlite)
            self._is_open = True

    async def migrate(self) -> None:
        """Bring the database's schema to the version that this code needs."""
        await check_schema(self._database, migrate=True)

    async def schema_version(self) -> str | None:
        """The version that the database is at; None when it has no tables of ours."""
        return await self._database.read(current_version)

    async def close(self) -> None:
        self._is_open = False
        await self._database.close()

    def watch(self, notice: Callable[[], None]) -> AbstractAsyncContextManager[None]:
        return self._database.watch(notice)

    def announce(self) -> None:
        self._database.announce()

    # accepting

    async def insert(self, envelopes: Sequence[Envelope]) -> Sequence[Accepted | Exception]:
        try:
            return await self._database.write(lambda connection: self._insert(connection, envelopes))
        except LockHeld:
            return [await self._insert_alone(envelope) for envelope in envelopes]

    async def _insert_alone(self, envelope: Envelope) -> Accepted | Exception:
        """One of a group that has waited long enough for a key which somebody's open transaction holds."""

        def work(connection: Connection) -> Accepted | Exception:
            return self._insert(connection, [envelope], key_wait_seconds=KEY_WAIT_ALONE_SECONDS)[0]

        try:
            return await self._database.write(work)
        except LockHeld:
            return StoreUnavailable(
                f"somebody's open transaction holds the idempotency key of run {envelope.id}: dispatch again later"
            )

    async def insert_all(
        self, envelopes: Sequence[Envelope], tx: CallerTransaction | None = None
    ) -> Sequence[Accepted]:
        if tx is None:
            return await self._database.write(lambda connection: self._insert_all(connection, envelopes))
        return await self._in_caller(tx, lambda connection: self._insert_all_in(connection, envelopes))

    def _insert_all_in(self, connection: Connection, envelopes: Sequence[Envelope]) -> builtins.list[Accepted]:
        """The same as a part of the caller's transaction, whose own waiting for locks is not ours to limit."""
        if not connection.in_transaction():
            connection.begin()  # as its first statement would have done: ours go past the toolkit on SQLite
        if self._is_sqlite:
            return self._insert_all(connection, envelopes)
        before = str(connection.execute(text("SELECT current_setting('lock_timeout')")).scalar_one())
        try:
            accepted = self._insert_all(connection, envelopes)
        except ActorJobsError:
            _set_lock_timeout(connection, before)
            raise
        _set_lock_timeout(connection, before)
        return accepted

    def _insert_all(self, connection: Connection, envelopes: Sequence[Envelope]) -> builtins.list[Accepted]:
        answers = self._insert(connection, envelopes)
        for index, answer in enumerate(answers):
            if isinstance(answer, Exception):
                # A transaction of the caller's may go on: none of the others is to stay in it.
                new = [other.run_id for other in answers if isinstance(other, Accepted) and not other.existing]
                self._delete(connection, new)
                if len(answers) > 1:
                    answer.args = (f"envelope {index}: {answer}",)
                raise answer
        return [answer for answer in answers if isinstance(answer, Accepted)]

    def insert_in(self, envelopes: Sequence[Envelope], tx: CallerTransaction) -> Sequence[Accepted]:
        """All or none inside a synchronous transaction of the caller's, in the caller's thread."""
        match tx:
            case Session():
                connection = tx.connection()
            case Connection():
                connection = tx
            case _:
                raise InvalidOption("outside the event loop tx= takes a SQLAlchemy Session or Connection")
        self._check_backend(connection)
        return self._insert_all_in(connection, envelopes)

    async def _in_caller(self, tx: CallerTransaction, work: Callable[[Connection], T]) -> T:
        connection = await _caller_connection(tx)
        self._check_backend(connection)
        if isinstance(connection, AsyncConnection):
            return await connection.run_sync(work)
        return work(connection)

    def _check_backend(self, connection: Connection | AsyncConnection) -> None:
        backend = connection.engine.url.get_backend_name()
        if backend != self._database.url.get_backend_name():
            raise InvalidOption(f"tx= is a transaction on {backend}, the runs are in {self.url}")

    def _insert(
        self, connection: Connection, envelopes: Sequence[Envelope], *, key_wait_seconds: float | None = None
    ) -> builtins.list[Accepted | Exception]:
        rows = [row_or_refusal(envelope) for envelope in envelopes]
        new = [(one, row) for one, row in zip(envelopes, rows, strict=True) if not isinstance(row, Exception)]
        if any(envelope.idempotency_key is not None for envelope, _ in new) and not self._is_sqlite:
            _set_lock_timeout(connection, f"{1000 * (key_wait_seconds or KEY_WAIT_SECONDS):.0f}ms")
        went_in = iter(self._hot.insert(connection, self._namespace, new) if new else ())
        return [
            row if isinstance(row, Exception) else self._answer(connection, envelope, is_new=next(went_in))
            for envelope, row in zip(envelopes, rows, strict=True)
        ]

    def _answer(self, connection: Connection, envelope: Envelope, *, is_new: bool) -> Accepted | Exception:
        return Accepted(run_id=envelope.id, existing=False) if is_new else self._winner(connection, envelope)

    def _winner(self, connection: Connection, envelope: Envelope) -> Accepted | Exception:
        """The run that stands in the way of `envelope`: itself dispatched before, or the holder of its key."""
        by_id = connection.execute(select(runs.c.namespace).where(runs.c.id == envelope.id)).scalar()
        if by_id is not None:
            if by_id != self._namespace:
                return InvalidOption(f"run id {envelope.id} is taken in another namespace")
            return Accepted(run_id=envelope.id, existing=True)
        holder = connection.execute(
            select(runs.c.id, runs.c.fingerprint).where(
                runs.c.namespace == self._namespace,
                runs.c.tenant == (envelope.tenant or ""),
                runs.c.job == envelope.job,
                runs.c.idempotency_key == envelope.idempotency_key,
            )
        ).first()
        if holder is None:
            return StoreUnavailable("the run that held this idempotency key was deleted just now: dispatch again")
        if holder.fingerprint != fingerprint(envelope):
            return IdempotencyConflict(
                f"the idempotency key was used for {envelope.job} with another payload, by run {holder.id}: "
                "use a new key for new work",
                run_id=holder.id,
            )
        return Accepted(run_id=holder.id, existing=True)

    # delivering

    async def take(self, demands: Sequence[Demand], owner: str) -> Sequence[Taken]:
        return await self._database.write(
            lambda connection: [self._hot.take(connection, self._namespace, demand, owner) for demand in demands]
        )

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[RunState | None]:
        # Of two ends of one attempt in a group the first one counts.
        first = {settlement.fence: settlement for settlement in reversed(settlements)}

        def work(connection: Connection) -> builtins.list[RunState | None]:
            states = dict(zip(first, self._hot.settle(connection, builtins.list(first.values())), strict=True))
            answers = [states[s.fence] if s is first[s.fence] else None for s in settlements]
            refused = [s for s, state in zip(settlements, answers, strict=True) if state is None]
            if not refused:
                return answers
            recorded = self._recorded(connection, refused)
            return [recorded.get(_end_of(s), state) for s, state in zip(settlements, answers, strict=True)]

        return await self._database.write(work)

    def _recorded(self, connection: Connection, refused: Sequence[Settlement]) -> dict[_End, RunState]:
        """Of settlements that the fence refuses, those that an earlier commit of unknown end had recorded already."""
        found = connection.execute(
            select(attempts).where(attempts.c.run_id.in_([settlement.fence.run_id for settlement in refused]))
        )
        return {(row.run_id, row.number, row.worker, row.outcome): RunState(row.led_to) for row in found}

    async def save_progress(self, fence: Fence, progress: str) -> bool:
        return await self._fenced(fence, {"progress": progress})

    async def save_checkpoint(self, fence: Fence, checkpoint: str) -> bool:
        return await self._fenced(fence, {"checkpoint": checkpoint})

    async def _fenced(self, fence: Fence, values: Mapping[str, Any]) -> bool:
        statement = update(runs).where(*_holds(fence)).values(**values)
        return await self._database.write(lambda connection: connection.execute(statement).rowcount == 1)

    async def running(self, owner: str) -> Sequence[Claim]:
        columns = [runs.c[name] for name in CLAIM_COLUMNS]
        query = select(*columns).where(runs.c.claimed_by == owner, runs.c.state == RunState.RUNNING.value)
        return await self._database.read(lambda connection: [claim_of(row, owner) for row in connection.execute(query)])

    # leases

    async def join(self, worker: WorkerInfo) -> datetime:
        def work(connection: Connection) -> datetime:
            now = self._now(connection)
            connection.execute(
                insert(workers).values(
                    id=worker.id,
                    namespace=self._namespace,
                    host=worker.host,
                    boot_id=worker.boot_id,
                    pid=worker.pid,
                    lock_path=worker.lock_path,
                    started_at=now,
                    beat_at=now,
                )
            )
            return now

        return await self._database.write(work)

    async def beat(self, owner: str) -> datetime | None:
        def work(connection: Connection) -> datetime | None:
            now = self._now(connection)
            alive = update(workers).where(workers.c.id == owner, workers.c.died_at.is_(None)).values(beat_at=now)
            return now if connection.execute(alive).rowcount == 1 else None

        return await self._database.write(work)

    async def leave(self, owner: str) -> None:
        await self._database.write(lambda connection: connection.execute(delete(workers).where(workers.c.id == owner)))

    async def blame(self, owner: str, run_id: str) -> None:
        statement = update(workers).where(workers.c.id == owner).values(blamed=run_id)
        await self._database.write(lambda connection: connection.execute(statement))

    async def workers(self) -> Sequence[WorkerInfo]:
        mine = workers.c.namespace == self._namespace
        query = select(workers).where(mine).order_by(workers.c.started_at, workers.c.id)
        return await self._database.read(
            lambda connection: [_worker_of(row) for row in connection.execute(query).mappings()]
        )

    async def declare_dead(self, silent_for: float, known_dead: Sequence[str] = ()) -> Sequence[str]:
        def work(connection: Connection) -> builtins.list[str]:
            now = self._now(connection)
            silent = workers.c.beat_at < now - timedelta(seconds=silent_for)
            dying = and_(
                workers.c.namespace == self._namespace,
                workers.c.died_at.is_(None),
                or_(silent, workers.c.id.in_(known_dead)),
            )
            ids = [
                row.id
                for row in connection.execute(
                    select(workers.c.id).where(dying).order_by(workers.c.id).with_for_update(skip_locked=True)
                )
            ]
            connection.execute(
                delete(workers).where(
                    workers.c.namespace == self._namespace,
                    workers.c.died_at < now - DEAD_WORKERS_KEPT,
                    ~exists().where(runs.c.claimed_by == workers.c.id, runs.c.state == RunState.RUNNING.value),
                )
            )
            if ids:
                connection.execute(update(workers).where(workers.c.id.in_(ids)).values(died_at=now))
            return ids

        return await self._database.write(work)

    async def lost_runs(self, limit: int) -> Sequence[LostRun]:
        query = (
            select(
                *(runs.c[name] for name in ("id", "seq", "job", "queue", "attempt", "claimed_by")),
                *(runs.c[name] for name in ("failures", "losses", "max_attempts")),
            )
            .outerjoin(workers, workers.c.id == runs.c.claimed_by)
            .where(
                runs.c.namespace == self._namespace,
                runs.c.state == RunState.RUNNING.value,
                or_(workers.c.id.is_(None), workers.c.died_at.is_not(None)),
            )
            .order_by(runs.c.claimed_at, runs.c.id)
            .limit(limit)
        )
        return await self._database.read(
            lambda connection: [
                LostRun(
                    fence=Fence(run_id=row.id, attempt=row.attempt, owner=row.claimed_by),
                    hint=Hint(run_id=row.id, seq=row.seq, job=row.job, queue=row.queue),
                    failures=row.failures,
                    losses=row.losses,
                    max_attempts=row.max_attempts,
                )
                for row in connection.execute(query)
            ]
        )

    # the wishes of operators

    async def wishes(self, owner: str) -> Wishes:
        rows = select(queues).where(queues.c.namespace == self._namespace)
        asked = select(runs.c.id, runs.c.reason).where(
            runs.c.claimed_by == owner,
            runs.c.state == RunState.RUNNING.value,
            runs.c.cancel_requested_at.is_not(None),
        )

        def work(connection: Connection) -> Wishes:
            return Wishes(
                queues={row["name"]: _queue_of(row) for row in connection.execute(rows).mappings()},
                cancel={row.id: row.reason for row in connection.execute(asked)},
            )

        return await self._database.read(work)

    async def queues(self) -> Sequence[QueueInfo]:
        rows = select(queues).where(queues.c.namespace == self._namespace).order_by(queues.c.name)
        live = (*(state.value for state in WAITING), RunState.RUNNING.value)
        counts = (
            select(runs.c.queue, runs.c.state, func.count())
            .where(runs.c.namespace == self._namespace, runs.c.state.in_(live))
            .group_by(runs.c.queue, runs.c.state)
        )

        def work(connection: Connection) -> builtins.list[QueueInfo]:
            waiting: dict[str, int] = {}
            running: dict[str, int] = {}
            for queue, state, count in connection.execute(counts):
                tally = running if state == RunState.RUNNING else waiting
                tally[queue] = tally.get(queue, 0) + count
            known = {row["name"]: row for row in connection.execute(rows).mappings()}
            names = sorted({*known, *waiting, *running})
            return [_queue_of(known.get(n, {"name": n}), waiting.get(n, 0), running.get(n, 0)) for n in names]

        return await self._database.read(work)

    async def declare_queues(self, names: Sequence[str]) -> None:
        rows = [{"namespace": self._namespace, "name": name} for name in sorted(names)]
        if rows:
            statement = self._insert_or_ignore().values(rows).on_conflict_do_nothing()
            await self._database.write(lambda connection: connection.execute(statement))

    def _insert_or_ignore(self) -> Any:
        return (sqlite.insert if self._is_sqlite else postgresql.insert)(queues)

    async def set_queue(
        self, name: str, *, is_paused: bool | None = None, concurrency: int | None = None, reason: str | None = None
    ) -> QueueInfo:
        await self.declare_queues([name])
        values: dict[str, Any] = {}
        if is_paused is not None:
            values |= {"is_paused": is_paused, "reason": _clean(reason) if is_paused else None}
        if concurrency is not None:
            values["concurrency"] = concurrency
        mine = and_(queues.c.namespace == self._namespace, queues.c.name == name)

        def work(connection: Connection) -> QueueInfo:
            if values:
                connection.execute(update(queues).where(mine).values(**values))
            return _queue_of(connection.execute(select(queues).where(mine)).mappings().one())

        return await self._database.write(work)

    # sweeps

    async def expire(self, limit: int) -> Sequence[str]:
        def work(connection: Connection) -> builtins.list[str]:
            now = self._now(connection)
            overdue = (
                select(runs.c.id, runs.c.attempt)
                .where(runs.c.namespace == self._namespace, text(schema.WAITING_SQL), runs.c.expires_at <= now)
                .order_by(runs.c.id)
                .limit(limit)
                .with_for_update(skip_locked=True)
            )
            rows = connection.execute(overdue).mappings().all()
            ids = [row["id"] for row in rows]
            if ids:
                ended = {"state": RunState.EXPIRED.value, "finished_at": now, "reason": EXPIRED_REASON}
                connection.execute(update(runs).where(runs.c.id.in_(ids)).values(**ended))
                self._note(connection, rows, "expired", RunState.EXPIRED, now)
            return ids

        return await self._database.write(work)

    async def purge(self, keep: Mapping[RunState, float | None], limit: int) -> Purged:
        def work(connection: Connection) -> tuple[int, str | None]:
            now = self._now(connection)
            page = (
                select(runs.c.id, runs.c.state, runs.c.finished_at, runs.c.retention)
                .where(
                    runs.c.namespace == self._namespace,
                    runs.c.id > (self._purged_up_to or ""),
                    # What may be old at all: a sweep that paged through everything would cost more the more is kept.
                    or_(runs.c.finished_at < youngest_to_purge(keep, now), runs.c.retention.is_not(None)),
                    runs.c.finished_at.is_not(None),
                )
                .order_by(runs.c.id)
                .limit(limit)
            )
            seen = connection.execute(page).mappings().all()
            old = [row["id"] for row in seen if is_past_keeping(row, keep, now)]
            deleted = 0
            for start in range(0, len(old), 500):
                # Looked at again under a lock: somebody may just be reopening one of them.
                ids = runs.c.id.in_(old[start : start + 500])
                again = page.with_only_columns(*page.selected_columns).where(ids).with_for_update(skip_locked=True)
                sure = [row["id"] for row in connection.execute(again).mappings() if is_past_keeping(row, keep, now)]
                self._delete(connection, sure)
                deleted += len(sure)
            return deleted, seen[-1]["id"] if len(seen) == limit else None

        deleted, self._purged_up_to = await self._database.write(work)
        return Purged(deleted=deleted, has_more=self._purged_up_to is not None)

    def _delete(self, connection: Connection, ids: Sequence[str]) -> None:
        """The one place where runs go, with all that is theirs."""
        connection.execute(delete(attempts).where(attempts.c.run_id.in_(ids)))
        connection.execute(delete(events).where(events.c.run_id.in_(ids)))
        connection.execute(delete(runs).where(runs.c.id.in_(ids)))

    # managing

    async def get(self, run_id: str) -> Run:
        return await self._database.read(lambda connection: self._get(connection, run_id))

    def _get(self, connection: Connection, run_id: str) -> Run:
        row = self._row(connection, run_id)
        run = run_of(row, self._ended(connection, [run_id]).get(run_id, ()))
        return held(run, self._paused(connection))

    def _paused(self, connection: Connection) -> builtins.set[str]:
        """The queues that are paused: what waits there is shown as held."""
        paused = select(queues.c.name).where(queues.c.namespace == self._namespace, queues.c.is_paused)
        return {row.name for row in connection.execute(paused)}

    def _row(self, connection: Connection, run_id: str, *, lock: bool = False) -> Row:
        query = select(runs).where(runs.c.namespace == self._namespace, runs.c.id == str(run_id))
        row = None
        if is_run_id(str(run_id)):
            row = connection.execute(query.with_for_update() if lock else query).mappings().first()
        if row is None:
            raise RunNotFound(f"there is no run {str(run_id)[:64]!r} in namespace {self._namespace!r}")
        return row

    def _ended(self, connection: Connection, ids: Sequence[str]) -> dict[str, builtins.list[Attempt]]:
        query = select(attempts).where(attempts.c.run_id.in_(ids)).order_by(attempts.c.run_id, attempts.c.number)
        ended: dict[str, builtins.list[Attempt]] = {}
        for row in connection.execute(query).mappings():
            ended.setdefault(row["run_id"], []).append(attempt_of(row, None))
        return ended

    async def envelope(self, run_id: str) -> Envelope:
        return await self._database.read(lambda connection: envelope_of(self._row(connection, run_id)))

    async def states(self, run_ids: Sequence[str]) -> Mapping[str, RunState]:
        ids = [run_id for run_id in run_ids if is_run_id(run_id)]
        mine = select(runs.c.id, runs.c.state).where(runs.c.namespace == self._namespace)

        def work(connection: Connection) -> dict[str, RunState]:
            found: dict[str, RunState] = {}
            for start in range(0, len(ids), 5000):
                some = mine.where(runs.c.id.in_(ids[start : start + 5000]))
                found |= {row.id: RunState(row.state) for row in connection.execute(some)}
            return found

        return await self._database.read(work)

    async def list(self, where: RunFilter, *, limit: int, cursor: str | None) -> RunPage:
        query = select(runs).where(self._matches(where)).order_by(runs.c.id.desc()).limit(limit + 1)
        if check_cursor(cursor) is not None:
            query = query.where(runs.c.id < cursor)

        def work(connection: Connection) -> RunPage:
            rows = connection.execute(query).mappings().all()
            page = rows[:limit]
            ended = self._ended(connection, [row["id"] for row in page if _may_have_errors(row)])
            paused = self._paused(connection)
            found = [held(run_of(row, ended.get(row["id"], ())), paused) for row in page]
            return RunPage(runs=found, cursor=page[-1]["id"] if len(rows) > limit else None)

        return await self._database.read(work)

    async def count_by_state(self, where: RunFilter) -> Mapping[RunState, int]:
        query = select(runs.c.state, func.count().label("runs")).where(self._matches(where)).group_by(runs.c.state)

        def work(connection: Connection) -> dict[RunState, int]:
            counted = {RunState(row["state"]): int(row["runs"]) for row in connection.execute(query).mappings()}
            return {state: counted.get(state, 0) for state in RunState}

        return await self._database.read(work)

    def _matches(self, where: RunFilter) -> ColumnElement[bool]:
        words = (where.job, where.queue, where.tenant, where.tag, where.search)
        if not all(is_storable(word) for word in words if word is not None):
            return false()
        conditions: builtins.list[ColumnElement[bool]] = [runs.c.namespace == self._namespace]
        if where.state is not None:
            conditions.append(runs.c.state.in_([state.value for state in where.state]))
        for column, value in (("job", where.job), ("queue", where.queue), ("tenant", where.tenant)):
            if value is not None:
                conditions.append(runs.c[column] == value)
        if where.tag is not None:
            conditions.append(self._contains(runs.c.tags, orjson.dumps(where.tag).decode()))
        if where.since is not None:
            conditions.append(runs.c.inserted_at >= where.since.astimezone(UTC))
        if where.until is not None:
            conditions.append(runs.c.inserted_at < where.until.astimezone(UTC))
        if where.search:
            columns = (runs.c.id, runs.c.job, runs.c.payload, runs.c.idempotency_key)
            conditions.append(or_(*(self._contains(column, where.search) for column in columns)))
        return and_(true(), *conditions)

    def _contains(self, column: Column[Any], words: str) -> ColumnElement[bool]:
        """Whether these very characters are in the text. (LIKE minds upper and lower case on one database only.)"""
        position = func.instr if self._is_sqlite else func.strpos
        return position(column, words) > 0

    async def attempts(self, run_id: str) -> Sequence[Attempt]:
        def work(connection: Connection) -> builtins.list[Attempt]:
            run = run_of(self._row(connection, run_id))
            query = select(attempts).where(attempts.c.run_id == run_id).order_by(attempts.c.number)
            ended = [attempt_of(row, run.trace_id) for row in connection.execute(query).mappings()]
            return [*ended, current_attempt(run)] if run.state is RunState.RUNNING else ended

        return await self._database.read(work)

    async def history(self, run_id: str) -> Sequence[HistoryEntry]:
        def work(connection: Connection) -> builtins.list[HistoryEntry]:
            run = run_of(self._row(connection, run_id))
            of_run = select(attempts).where(attempts.c.run_id == run_id).order_by(attempts.c.number)
            noted = select(events).where(events.c.run_id == run_id).order_by(events.c.id)
            return history_of(
                run,
                connection.execute(of_run).mappings().all(),
                connection.execute(noted).mappings().all(),
            )

        return await self._database.read(work)

    async def cancel(self, run_id: str, reason: str | None, by: str | None) -> Run:
        def work(connection: Connection) -> Run:
            row = self._row(connection, run_id, lock=True)
            state = RunState(row["state"])
            now, words = self._now(connection), _clean(reason)
            if state in WAITING:
                ended = advance(state, Transition.CANCEL)
                self._change(connection, row, state=ended.value, finished_at=now, reason=words)
                self._note(connection, [row], "canceled", ended, now, reason, by)
            elif state is RunState.RUNNING and row["cancel_requested_at"] is None:
                self._change(connection, row, cancel_requested_at=now, reason=words)
                self._note(connection, [row], "cancel_requested", state, now, reason, by)
            return self._get(connection, run_id)

        return await self._database.write(work)

    async def reopen(self, run_id: str, reason: str | None, by: str | None) -> Run:
        def work(connection: Connection) -> Run:
            row = self._row(connection, run_id, lock=True)
            state = advance(RunState(row["state"]), Transition.REOPEN)
            now = self._now(connection)
            self._change(
                connection,
                row,
                state=state.value,
                available_at=now,
                finished_at=None,
                expires_at=None,
                hold=None,
                cancel_requested_at=None,
                reason=None,
                losses=0,
                max_attempts=row["failures"] + 1,
                seq=row["seq"] + 1,
            )
            self._note(connection, [row], "reopened", state, now, reason, by)
            return self._get(connection, run_id)

        return await self._database.write(work)

    async def reschedule(self, run_id: str, run_at: datetime, by: str | None) -> Run:
        def work(connection: Connection) -> Run:
            row = self._row(connection, run_id, lock=True)
            state = advance(RunState(row["state"]), Transition.RESCHEDULE)
            now = self._now(connection)
            due = max(run_at.astimezone(UTC), now)
            self._change(connection, row, state=state.value, available_at=due, seq=row["seq"] + 1)
            self._note(connection, [row], "rescheduled", state, now, f"due {due.isoformat()}", by)
            return self._get(connection, run_id)

        return await self._database.write(work)

    async def delete(self, run_id: str) -> None:
        def work(connection: Connection) -> None:
            row = self._row(connection, run_id, lock=True)
            if row["state"] == RunState.RUNNING:
                raise RunStateConflict(f"run {run_id} is running: cancel it first, then delete it")
            self._delete(connection, [row["id"]])

        await self._database.write(work)

    def _change(self, connection: Connection, row: Row, **values: Any) -> None:
        connection.execute(update(runs).where(runs.c.id == row["id"]).values(**values))

    def _note(
        self,
        connection: Connection,
        noted: Sequence[Row],
        event: str,
        state: RunState,
        now: datetime,
        reason: str | None = None,
        by: str | None = None,
    ) -> None:
        """Keep what neither the runs nor their attempts will tell."""
        detail = {key: _clean(value) for key, value in (("reason", reason), ("by", by)) if value is not None}
        step = {"at": now, "event": event, "state": state.value, "detail": encode(detail) if detail else None}
        connection.execute(insert(events), [step | {"run_id": row["id"], "attempt": row["attempt"]} for row in noted])

    def _now(self, connection: Connection) -> datetime:
        if self._is_sqlite or self._clock.is_virtual:
            return self._clock.now()
        now: datetime = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
        return now


async def open_store(url: str, *, namespace: str, clock: Clock, inline: bool = False) -> SqlStore:
    """A store on the database that `url` names; not yet opened. `inline` lets SQLite block the calling thread."""
    database = await open_database(url, clock, inline=inline)
    return SqlStore(database=database, namespace=namespace, clock=clock)


async def _caller_connection(tx: CallerTransaction) -> Connection | AsyncConnection:
    match tx:
        case AsyncSession():
            return await tx.connection()
        case Session():
            return tx.connection()
        case AsyncConnection() | Connection():
            return tx
        case _:
            raise InvalidOption("tx= takes a SQLAlchemy Session, AsyncSession, Connection or AsyncConnection")


def _set_lock_timeout(connection: Connection, timeout: str) -> None:
    connection.execute(text("SELECT set_config('lock_timeout', :timeout, true)"), {"timeout": timeout})


def _clean(words: str | None) -> str | None:
    """An operator's words, short and as every database takes them."""
    return None if words is None else clip(words, LIMITS.error_message)


def _end_of(settlement: Settlement) -> _End:
    fence = settlement.fence
    return (fence.run_id, fence.attempt, fence.owner, settlement.outcome.value)


def _holds(fence: Fence) -> tuple[ColumnElement[bool], ...]:
    return (
        runs.c.id == fence.run_id,
        runs.c.attempt == fence.attempt,
        runs.c.claimed_by == fence.owner,
        runs.c.state == RunState.RUNNING.value,
    )


def _may_have_errors(row: Row) -> bool:
    """False for what most runs are, so that a page of them is one query."""
    went_well = (RunState.RUNNING.value, RunState.SUCCEEDED.value)
    return bool(row["attempt"] > 1 or (row["attempt"] == 1 and row["state"] not in went_well))


def _worker_of(row: Row) -> WorkerInfo:
    return WorkerInfo(
        id=row["id"],
        host=row["host"],
        boot_id=row["boot_id"],
        pid=row["pid"],
        lock_path=row["lock_path"],
        started_at=row["started_at"],
        beat_at=row["beat_at"],
        is_dead=row["died_at"] is not None,
        blamed=row["blamed"],
    )


def _queue_of(row: Row, waiting: int = 0, running: int = 0) -> QueueInfo:
    return QueueInfo(
        name=row["name"],
        is_paused=bool(row.get("is_paused", False)),
        concurrency=row.get("concurrency"),
        reason=row.get("reason"),
        waiting=waiting,
        running=running,
    )
