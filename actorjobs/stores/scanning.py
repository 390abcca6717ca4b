"""Paging through runs: in windows of ids, each a short read of its own, so that no page scans a million runs at once.

Where an index holds just the runs that are asked for, it says which rows there are to look at: the runs of rare states
are windows of their own, and where few runs wait or run, their ids are all there is to go through.
"""

from __future__ import annotations

import builtins
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC
from typing import Any

import orjson
from sqlalchemy import ColumnElement, Connection, and_, false, or_, select, text, true

from actorjobs.lifecycle import WAITING
from actorjobs.model import Attempt, Run, RunState
from actorjobs.ports import RunFilter, RunPage
from actorjobs.stores import schema
from actorjobs.stores.core import StoreCore
from actorjobs.stores.holds import Standings
from actorjobs.stores.rows import Row, attempt_of, is_storable, run_of, serves_of
from actorjobs.stores.schema import attempts, queues, runs, workers

FIRST_WINDOW, LARGEST_WINDOW = 10_000, 50_000
SCAN_SECONDS = 1.0
"""How long a page looks for runs that match before it gives what it has."""
FEW = 5_000
IDS_AT_ONCE = 500

LIVE = frozenset({RunState.SCHEDULED, RunState.QUEUED, RunState.RETRYING, RunState.RUNNING})
UNUSUAL = frozenset({RunState.RETRYING, RunState.DEAD_LETTERED, RunState.CANCELED, RunState.EXPIRED})


@dataclass(frozen=True, kw_only=True)
class Scan:
    """What is looked for, and in which direction."""

    matches: ColumnElement[bool]
    states: Sequence[RunState] | None = None
    is_oldest_first: bool = False

    @property
    def order(self) -> ColumnElement[Any]:
        return runs.c.id.asc() if self.is_oldest_first else runs.c.id.desc()

    def beyond(self, cursor: str | None) -> ColumnElement[bool]:
        """What comes after the cursor."""
        if cursor is None:
            return true()
        return runs.c.id > cursor if self.is_oldest_first else runs.c.id < cursor

    def up_to(self, edge: str | None) -> ColumnElement[bool]:
        if edge is None:
            return true()
        return runs.c.id <= edge if self.is_oldest_first else runs.c.id >= edge


class Scanning(StoreCore):
    """What pages of runs are made of."""

    async def _scan(self, scan: Scan, *, limit: int, cursor: str | None) -> RunPage:
        began, size = time.monotonic(), FIRST_WINDOW
        few = await self._few(scan)
        found: list[Run] = []
        while True:
            wanted = limit + 1 - len(found)
            if few is None:
                some, cursor = await self._window(scan, cursor, size, wanted)
            else:
                some, cursor = await self._among(scan, few, cursor, wanted), None
            found += some
            if len(found) > limit:
                return RunPage(runs=found[:limit], cursor=found[limit - 1].id)
            if cursor is None or time.monotonic() - began >= SCAN_SECONDS:
                return RunPage(runs=found, cursor=cursor)
            size = min(2 * size, LARGEST_WINDOW)

    async def _window(self, scan: Scan, after: str | None, size: int, wanted: int) -> tuple[list[Run], str | None]:
        """Up to `wanted` of the next `size` runs, and the last id of the window, None when that was the last one."""
        lane = self._lane(scan)
        last = select(runs.c.id).where(*lane, scan.beyond(after)).order_by(scan.order).offset(size - 1).limit(1)

        def work(connection: Connection) -> tuple[list[Run], str | None]:
            edge: str | None = connection.execute(last).scalar()
            query = select(runs).where(*lane, scan.matches, scan.beyond(after), scan.up_to(edge))
            return self._shown(connection, query.order_by(scan.order).limit(wanted)), edge

        return await self._database.read(work)

    def _lane(self, scan: Scan) -> list[ColumnElement[Any]]:
        """Which rows the windows count: all, or those of rare states, by their index."""
        if scan.states is None or not UNUSUAL.issuperset(scan.states):
            return []
        # One state is asked for as such: then the index has the ids in their order, and nothing is sorted.
        values = [state.value for state in scan.states]
        states = runs.c.state == values[0] if len(values) == 1 else runs.c.state.in_(values)
        return [runs.c.namespace == self._namespace, words(schema.UNUSUAL_SQL), states]

    async def _few(self, scan: Scan) -> Sequence[str] | None:
        """The ids of all runs that wait or run, if only such are asked for and they are few."""
        if scan.states is None or not LIVE.issuperset(scan.states) or UNUSUAL.issuperset(scan.states):
            return None
        conditions = [words(schema.RUNNING_SQL)] if RunState.RUNNING in scan.states else []
        conditions += [words(schema.WAITING_SQL)] if WAITING.intersection(scan.states) else []

        def work(connection: Connection) -> list[str]:
            ids: list[str] = []
            for condition in conditions:
                query = select(runs.c.id).where(runs.c.namespace == self._namespace, condition).limit(FEW + 1)
                ids += connection.execute(query).scalars()
            return ids

        ids = await self._database.read(work)
        return sorted(ids, reverse=not scan.is_oldest_first) if len(ids) <= FEW else None

    async def _among(self, scan: Scan, ids: Sequence[str], after: str | None, wanted: int) -> list[Run]:
        """Up to `wanted` of these runs, which are in order."""
        if after is not None:
            ids = [one for one in ids if (one > after if scan.is_oldest_first else one < after)]

        def work(connection: Connection) -> list[Run]:
            found: list[Run] = []
            for start in range(0, len(ids), IDS_AT_ONCE):
                query = select(runs).where(scan.matches, runs.c.id.in_(ids[start : start + IDS_AT_ONCE]))
                found += self._shown(connection, query.order_by(scan.order).limit(wanted - len(found)))
                if len(found) == wanted:
                    break
            return found

        return await self._database.read(work)

    def _shown(self, connection: Connection, query: Any) -> list[Run]:
        """Runs as they are read: with their errors, and with what holds them."""
        rows = connection.execute(query).mappings().all()
        ended = self._ended(connection, [row["id"] for row in rows if _may_have_errors(row)])
        found = [run_of(row, ended.get(row["id"], ())) for row in rows]
        standings = self._standings(connection, found)
        return [standings.shown(run) for run in found]

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

    def _ended(self, connection: Connection, ids: Sequence[str]) -> dict[str, list[Attempt]]:
        ended: dict[str, list[Attempt]] = {}
        if ids:
            query = select(attempts).where(attempts.c.run_id.in_(ids)).order_by(attempts.c.run_id, attempts.c.number)
            for row in connection.execute(query).mappings():
                ended.setdefault(row["run_id"], []).append(attempt_of(row, None))
        return ended

    def _matches(self, where: RunFilter) -> ColumnElement[bool]:
        given = (where.job, where.queue, where.tenant, where.tag, where.search)
        if not all(is_storable(word) for word in given if word is not None):
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


def words(condition: str) -> Any:
    """A condition in the very words of an index; as a typed expression SQLite would be given `(...) = 1`."""
    return text(f"({condition})")


def _may_have_errors(row: Row) -> bool:
    """False for what most runs are, so that a page of them is one query."""
    went_well = (RunState.RUNNING.value, RunState.SUCCEEDED.value)
    return bool(row["attempt"] > 1 or (row["attempt"] == 1 and row["state"] not in went_well))
