"""Queues: what operators want of them, and of the runs that a worker is performing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, and_, func, select, update

from actorjobs.model import RunState
from actorjobs.ports import QueueInfo, Wishes
from actorjobs.stores import schema
from actorjobs.stores.core import StoreCore, clean
from actorjobs.stores.rows import Row
from actorjobs.stores.scanning import words
from actorjobs.stores.schema import queues, runs


class Queues(StoreCore):
    """Verbs on the rows of queues."""

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
        # Each half has an index of its own: together they would be looked for in all runs there are.
        halves = [
            select(runs.c.queue, func.count())
            .where(runs.c.namespace == self._namespace, words(condition))
            .group_by(runs.c.queue)
            for condition in (schema.WAITING_SQL, schema.RUNNING_SQL)
        ]

        def work(connection: Connection) -> list[QueueInfo]:
            waiting, running = ({row[0]: row[1] for row in connection.execute(half)} for half in halves)
            known = {row["name"]: row for row in connection.execute(rows).mappings()}
            names = sorted({*known, *waiting, *running})
            return [_queue_of(known.get(n, {"name": n}), waiting.get(n, 0), running.get(n, 0)) for n in names]

        return await self._database.read(work)

    async def declare_queues(self, names: Sequence[str]) -> None:
        rows = [{"namespace": self._namespace, "name": name} for name in sorted(names)]
        if rows:
            statement = self._dialect.insert_or_ignore(queues, rows)
            await self._database.write(lambda connection: connection.execute(statement))

    async def set_queue(
        self, name: str, *, is_paused: bool | None = None, concurrency: int | None = None, reason: str | None = None
    ) -> QueueInfo:
        await self.declare_queues([name])
        values: dict[str, Any] = {}
        if is_paused is not None:
            values |= {"is_paused": is_paused, "reason": clean(reason) if is_paused else None}
        if concurrency is not None:
            values["concurrency"] = concurrency
        mine = and_(queues.c.namespace == self._namespace, queues.c.name == name)

        def work(connection: Connection) -> QueueInfo:
            if values:
                connection.execute(update(queues).where(mine).values(**values))
            return _queue_of(connection.execute(select(queues).where(mine)).mappings().one())

        return await self._database.write(work)


def _queue_of(row: Row, waiting: int = 0, running: int = 0) -> QueueInfo:
    return QueueInfo(
        name=row["name"],
        is_paused=bool(row.get("is_paused", False)),
        concurrency=row.get("concurrency"),
        reason=row.get("reason"),
        waiting=waiting,
        running=running,
    )
