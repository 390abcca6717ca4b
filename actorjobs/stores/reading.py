"""Reading: runs as people and programs look at them."""

from __future__ import annotations

import builtins
from collections.abc import Mapping, Sequence
from datetime import UTC

import orjson
from sqlalchemy import ColumnElement, Connection, and_, false, func, or_, select, true

from actorjobs.lifecycle import WAITING
from actorjobs.model import Attempt, Envelope, HistoryEntry, Run, RunState
from actorjobs.ports import RunFilter, RunPage
from actorjobs.stores.core import StoreCore
from actorjobs.stores.holds import Standings
from actorjobs.stores.rows import (
    Row,
    attempt_of,
    check_cursor,
    current_attempt,
    envelope_of,
    history_of,
    is_run_id,
    is_storable,
    run_of,
    serves_of,
)
from actorjobs.stores.schema import attempts, events, queues, runs, workers


class Reading(StoreCore):
    """Verbs that look at runs and change nothing."""

    async def get(self, run_id: str) -> Run:
        return await self._database.read(lambda connection: self._get(connection, run_id))

    def _get(self, connection: Connection, run_id: str) -> Run:
        row = self._row(connection, run_id)
        run = run_of(row, self._ended(connection, [run_id]).get(run_id, ()))
        return self._standings(connection, [run]).shown(run)

    def _standings(self, connection: Connection, seen: Sequence[Run]) -> Standings:
        """What bears on whether these runs may start."""
        if not any(run.state in WAITING for run in seen):
            return Standings()
        paused = select(queues.c.name).where(queues.c.namespace == self._namespace, queues.c.is_paused)
        living = select(workers.c.serves).where(
            workers.c.namespace == self._namespace, workers.c.died_at.is_(None), workers.c.serves.is_not(None)
        )
        fleet = [serves_of(row.serves) for row in connection.execute(living)]
        return Standings(
            paused={row.name for row in connection.execute(paused)}, fleet=[one for one in fleet if one is not None]
        )

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
            found = [run_of(row, ended.get(row["id"], ())) for row in page]
            standings = self._standings(connection, found)
            after = page[-1]["id"] if len(rows) > limit else None
            return RunPage(runs=[standings.shown(run) for run in found], cursor=after)

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
            conditions.append(self._dialect.contains(runs.c.tags, orjson.dumps(where.tag).decode()))
        if where.since is not None:
            conditions.append(runs.c.inserted_at >= where.since.astimezone(UTC))
        if where.until is not None:
            conditions.append(runs.c.inserted_at < where.until.astimezone(UTC))
        if where.search:
            columns = (runs.c.id, runs.c.job, runs.c.payload, runs.c.idempotency_key)
            conditions.append(or_(*(self._dialect.contains(column, where.search) for column in columns)))
        return and_(true(), *conditions)

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


def _may_have_errors(row: Row) -> bool:
    """False for what most runs are, so that a page of them is one query."""
    went_well = (RunState.RUNNING.value, RunState.SUCCEEDED.value)
    return bool(row["attempt"] > 1 or (row["attempt"] == 1 and row["state"] not in went_well))
