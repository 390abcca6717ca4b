"""Reading: runs as people and programs look at them."""

from __future__ import annotations

import builtins
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, func, select

from actorjobs.lifecycle import WAITING
from actorjobs.model import Attempt, Envelope, HistoryEntry, Run, RunState, is_run_id
from actorjobs.ports import Mark, RunFilter, RunPage
from actorjobs.stores import schema
from actorjobs.stores.rows import attempt_of, check_cursor, current_attempt, envelope_of, history_of, run_of
from actorjobs.stores.scanning import IDS_AT_ONCE, UNUSUAL, Scan, Scanning, words
from actorjobs.stores.schema import attempts, events, runs


class Reading(Scanning):
    """Verbs that look at runs and change nothing."""

    async def get(self, run_id: str) -> Run:
        return await self._database.read(lambda connection: self._get(connection, run_id))

    def _get(self, connection: Connection, run_id: str) -> Run:
        row = self._row(connection, run_id)
        run = run_of(row, self._ended(connection, [run_id]).get(run_id, ()))
        return self._standings(connection, [run]).shown(run)

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

    async def now(self) -> datetime:
        return await self._database.read(self._now)

    async def list(self, where: RunFilter, *, limit: int, cursor: str | None, is_oldest_first: bool = False) -> RunPage:
        scan = Scan(matches=self._matches(where), states=where.state, is_oldest_first=is_oldest_first)
        return await self._scan(scan, limit=limit, cursor=check_cursor(cursor))

    async def count_by_state(self, where: RunFilter) -> Mapping[RunState, int]:
        matches = self._matches(where)

        def work(connection: Connection) -> dict[RunState, int]:
            counted: dict[str, int] = {}
            for lane in _lanes(where.state):
                query = select(runs.c.state, func.count()).where(*lane, matches).group_by(runs.c.state)
                counted |= {row[0]: row[1] for row in connection.execute(query)}
            return {state: counted.get(state.value, 0) for state in RunState}

        return await self._database.read(work)

    async def ahead(self, run: Run, most: int) -> int:
        def work(connection: Connection) -> int:
            line = (runs.c.namespace == self._namespace, words(schema.WAITING_SQL), runs.c.queue == run.queue)
            urgent = select(runs.c.id).where(
                *line, runs.c.priority > run.priority, runs.c.available_at <= self._now(connection)
            )
            earlier = select(runs.c.id).where(
                *line, runs.c.priority == run.priority, runs.c.available_at < run.available_at
            )
            found = connection.execute(urgent.limit(most)).all()
            found = [*found, *connection.execute(earlier.limit(most)).all()]
            return min(len(found), most)

        return await self._database.read(work)

    async def marks(self, run_ids: Sequence[str], limit: int) -> Sequence[Mark]:
        mine = select(*(runs.c[name] for name in MARK_COLUMNS)).where(runs.c.namespace == self._namespace)
        edge = select(runs.c.id).order_by(runs.c.id.desc()).offset(limit - 1).limit(1)

        def work(connection: Connection) -> list[Mark]:
            oldest = connection.execute(edge).scalar()
            newest = mine.order_by(runs.c.id.desc()).limit(limit)
            found = [mine.where(words(index)).limit(limit) for index in (schema.WAITING_SQL, schema.RUNNING_SQL)]
            found.append(newest if oldest is None else newest.where(runs.c.id >= oldest))
            marks = {row.id: _mark(row) for query in found for row in connection.execute(query)}
            others = [run_id for run_id in run_ids if run_id not in marks and is_run_id(run_id)]
            for start in range(0, len(others), IDS_AT_ONCE):
                query = mine.where(runs.c.id.in_(others[start : start + IDS_AT_ONCE]))
                marks |= {row.id: _mark(row) for row in connection.execute(query)}
            return list(marks.values())

        return await self._database.read(work)

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


def _lanes(states: Sequence[RunState] | None) -> Sequence[Sequence[ColumnElement[Any]]]:
    """What is to be counted, in parts that have an index of their own where that is possible."""
    if states is None or RunState.SUCCEEDED in states:
        return [()]
    parts = (
        (WAITING, schema.WAITING_SQL),
        (frozenset({RunState.RUNNING}), schema.RUNNING_SQL),
        (UNUSUAL - WAITING, schema.UNUSUAL_SQL),
    )
    return [
        (words(index), runs.c.state.in_([state.value for state in part.intersection(states)]))
        for part, index in parts
        if part.intersection(states)
    ]


MARK_COLUMNS = ("id", "job", "queue", "tenant", "state", "attempt", "seq", "cancel_requested_at")


def _mark(row: Any) -> Mark:
    return Mark(
        run_id=row.id,
        job=row.job,
        queue=row.queue,
        tenant=row.tenant or None,
        state=RunState(row.state),
        attempt=row.attempt,
        seq=row.seq,
        is_asked=row.cancel_requested_at is not None,
    )
