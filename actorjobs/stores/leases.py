"""Leases: which workers live, which are dead, and what the dead ones left running."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import Connection, and_, delete, exists, insert, or_, select, update

from actorjobs.model import RunState
from actorjobs.ports import Fence, LostRun, Serves, WorkerInfo
from actorjobs.stores.core import StoreCore
from actorjobs.stores.rows import HINT_COLUMNS, Row, hint_of, serves_of, serves_text
from actorjobs.stores.schema import runs, workers

DEAD_WORKERS_KEPT = timedelta(days=1)
_FIGURES = ("failures", "losses", "max_attempts")


class Leases(StoreCore):
    """Verbs on the rows of workers."""

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

    async def serve(self, owner: str, serves: Serves) -> None:
        statement = update(workers).where(workers.c.id == owner).values(serves=serves_text(serves))
        await self._database.write(lambda connection: connection.execute(statement))

    async def workers(self) -> Sequence[WorkerInfo]:
        mine = workers.c.namespace == self._namespace
        query = select(workers).where(mine).order_by(workers.c.started_at, workers.c.id)
        return await self._database.read(
            lambda connection: [_worker_of(row) for row in connection.execute(query).mappings()]
        )

    async def declare_dead(self, silent_for: float, known_dead: Sequence[str] = ()) -> Sequence[str]:
        def work(connection: Connection) -> list[str]:
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
                *(runs.c[name] for name in HINT_COLUMNS),
                *(runs.c[name] for name in ("attempt", "claimed_by", "claimed_at", "tenant", "parent", *_FIGURES)),
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
                    hint=hint_of(row, delay=0.0),
                    failures=row.failures,
                    losses=row.losses,
                    max_attempts=row.max_attempts,
                    tenant=row.tenant or None,
                    parent=row.parent,
                    claimed_at=row.claimed_at,
                )
                for row in connection.execute(query)
            ]
        )


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
        serves=serves_of(row["serves"]),
    )
