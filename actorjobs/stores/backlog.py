"""What waits in the store, and for how long: a few counts, each by an index of its own."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, case, func, or_, select

from actorjobs.model import RunState
from actorjobs.ports import PUBLISH_GRACE_SECONDS, Backlog, Queued
from actorjobs.stores import schema
from actorjobs.stores.core import StoreCore
from actorjobs.stores.scanning import words
from actorjobs.stores.schema import quarantine, queues, runs


class Backlogs(StoreCore):
    """The verb that counts."""

    async def backlog(self) -> Backlog:
        return await self._database.read(self._backlog)

    def _backlog(self, connection: Connection) -> Backlog:
        now = self._now(connection)
        retrying, dead = (self._unusual(connection, *which) for which in _unusual_ones(now))
        # All waiting runs by what the index has: their states are not in it, but whether they are due is.
        is_due = runs.c.available_at <= now
        due, oldest = func.count(case((is_due, 1))), func.min(case((is_due, runs.c.available_at)))
        waiting = {row[0]: row[1:] for row in self._by_queue(connection, schema.WAITING_SQL, func.count(), due, oldest)}
        running = {row[0]: row[1] for row in self._by_queue(connection, schema.RUNNING_SQL, func.count())}
        declared = connection.execute(select(queues.c.name).where(queues.c.namespace == self._namespace)).scalars()

        def of(name: str) -> Queued:
            all_, ready, since = waiting.get(name, (0, 0, None))
            return Queued(
                ready=ready,
                oldest_age=_age(since, now),
                scheduled=max(all_ - ready - retrying.get(name, 0), 0),
                retrying=retrying.get(name, 0),
                running=running.get(name, 0),
                dead_lettered=dead.get(name, 0),
            )

        names = sorted({*declared, *waiting, *running, *dead})
        unpublished, since = self._unpublished(connection, now)
        return Backlog(
            queues={name: of(name) for name in names},
            unpublished=unpublished,
            unpublished_age=_age(since, now),
            quarantined=self._quarantined(connection),
        )

    def _by_queue(self, connection: Connection, condition: str, *figures: ColumnElement[Any]) -> Sequence[Any]:
        mine = (runs.c.namespace == self._namespace, words(condition))
        return connection.execute(select(runs.c.queue, *figures).where(*mine).group_by(runs.c.queue)).all()

    def _unusual(self, connection: Connection, state: RunState, *conditions: ColumnElement[bool]) -> dict[str, int]:
        mine = (runs.c.namespace == self._namespace, words(schema.UNUSUAL_SQL), runs.c.state == state.value)
        query = select(runs.c.queue, func.count()).where(*mine, *conditions).group_by(runs.c.queue)
        found: Sequence[Any] = connection.execute(self._dialect.by_index(query, runs, "actorjobs_runs_unusual")).all()
        return {row[0]: row[1] for row in found}

    def _unpublished(self, connection: Connection, now: datetime) -> tuple[int, datetime | None]:
        if not self._has_outbox:
            return 0, None
        # Whoever cannot publish a hint puts its moment off by the grace, again and again; those are meant too. What a
        # consumer gave back, as of a paused queue, is put off for longer, and counted.
        soon = now + timedelta(seconds=PUBLISH_GRACE_SECONDS)
        outbox = (words(schema.WAITING_SQL), runs.c.publish_after.is_not(None), runs.c.publish_after <= soon)
        is_meant = and_(runs.c.available_at <= now, or_(runs.c.publish_after <= now, runs.c.republished == 0))
        mine = (runs.c.namespace == self._namespace, *outbox, is_meant)
        query = select(func.count(), func.min(runs.c.available_at)).where(*mine)
        row: Any = connection.execute(self._dialect.by_index(query, runs, "actorjobs_runs_outbox")).one()
        return row[0], row[1]

    def _quarantined(self, connection: Connection) -> int:
        mine = quarantine.c.namespace == self._namespace
        return int(connection.execute(select(func.count()).select_from(quarantine).where(mine)).scalar_one())


def _unusual_ones(now: datetime) -> list[tuple[Any, ...]]:
    return [(RunState.RETRYING, runs.c.available_at > now), (RunState.DEAD_LETTERED,)]


def _age(since: datetime | None, now: datetime) -> float:
    return 0.0 if since is None else max((now - since).total_seconds(), 0.0)
