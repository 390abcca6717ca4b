"""The outbox: which runs a broker has yet to be told of, and whose hints must be lost.

A run is in the outbox while its `publish_after` is set. The statements of the ordinary case are among the hot ones;
here is what happens seldom: rows are locked in the order of their ids, and their times are worked out in Python.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, case, func, or_, select, union_all, update

from actorjobs.model import new_id
from actorjobs.ports import LOST_AFTER_SECONDS, PROMISED_SECONDS, Hint, OutboxFacts
from actorjobs.stores import schema
from actorjobs.stores.bids import generations, in_portions
from actorjobs.stores.core import StoreCore
from actorjobs.stores.database import LockHeld
from actorjobs.stores.rows import Row, postponed_by, publish_after, rests
from actorjobs.stores.scanning import words
from actorjobs.stores.schema import queues, runs, stores

PRIORITIES = range(9, -1, -1)
LOCK_WAIT_SECONDS = 2.0
OVERDUE = timedelta(seconds=10)
"""Where a relay is at work, nothing waits for it so long."""
MICROSECOND = timedelta(microseconds=1)
HURRIED_AT_ONCE = 1000


class Outbox(StoreCore):
    """Verbs on the hints of waiting runs."""

    async def identity(self) -> str:
        mine = select(stores.c.id).where(stores.c.namespace == self._namespace)

        def made(connection: Connection) -> str:
            row = {"namespace": self._namespace, "id": new_id()}
            connection.execute(self._dialect.insert_or_ignore(stores, [row]))
            return str(connection.execute(mine).scalar_one())

        known = await self._database.read(lambda connection: connection.execute(mine).scalar())
        return str(known) if known is not None else await self._database.write(made)

    async def stage(self, limit: int) -> Sequence[Hint]:
        return await self._database.write_at_once(lambda c: self._hot.stage(c, self._namespace, limit))

    async def mark_published(self, hints: Sequence[Hint]) -> None:
        published = generations(hints)
        if published:
            await self._database.write_at_once(lambda c: self._hot.mark(c, self._namespace, published))

    # publishing put off, or hurried

    async def publish_later(
        self, hints: Sequence[Hint], seconds: float, *, doubling_to: float | None = None, as_new: bool = False
    ) -> None:
        wanted = set(generations(hints))
        ids = sorted({run_id for run_id, _ in wanted})

        def work(connection: Connection, *, skip_locked: bool) -> None:
            now = self._now(connection)
            for some in in_portions(ids):
                rows = self._waiting(connection, some, skip_locked=skip_locked)
                rows = [row for row in rows if (row["id"], row["seq"]) in wanted]
                after = {row["id"]: postponed_by(row, seconds, doubling_to) for row in rows}
                moments = {row["id"]: publish_after(now, row["available_at"], grace=after[row["id"]]) for row in rows}
                self._put_off(connection, moments, again=doubling_to is not None, as_new=as_new)

        def patiently(connection: Connection) -> None:
            # A hint is forgotten when it is put off: what is passed over here would be found only as lost.
            with self._dialect.waiting_at_most(connection, LOCK_WAIT_SECONDS):
                work(connection, skip_locked=False)

        if not ids:
            return
        try:
            await self._database.write(patiently)
        except LockHeld:  # somebody's open transaction: the others are not to wait for it too
            await self._database.write(lambda connection: work(connection, skip_locked=True))

    def _waiting(
        self, connection: Connection, ids: Sequence[str], *conditions: ColumnElement[bool], skip_locked: bool
    ) -> Sequence[Row]:
        """Those of the runs that wait, locked in the order of their ids. The namespace is looked at here: SQLite would
        rather go through all that wait in it."""
        columns = (runs.c.namespace, runs.c.id, runs.c.seq, runs.c.available_at, runs.c.republished)
        waiting = (runs.c.id.in_(ids), words(schema.WAITING_SQL), *conditions)
        query = select(*columns).where(*waiting).order_by(runs.c.id).with_for_update(skip_locked=skip_locked)
        found = connection.execute(self._dialect.by_index(query, runs, "PRIMARY")).mappings()
        return [row for row in found if row["namespace"] == self._namespace]

    def _put_off(
        self, connection: Connection, moments: Mapping[str, datetime], *, again: bool, as_new: bool = False
    ) -> None:
        """Write when each of these locked runs is to be published. Nearly all have the same time."""
        groups: dict[datetime, list[str]] = {}
        for run_id, moment in moments.items():
            groups.setdefault(moment, []).append(run_id)
        values: dict[str, Any] = {"republished": runs.c.republished + 1} if again else {}
        if as_new:
            values |= {"seq": runs.c.seq + 1, "published_at": None}
        for moment, ids in groups.items():
            connection.execute(update(runs).where(runs.c.id.in_(ids)).values(publish_after=moment, **values))

    async def publish_now(self, queue: str, jobs: Sequence[str]) -> int:
        def work(connection: Connection) -> int:
            now = self._now(connection)
            # What is put off for longer than a staged hint is promised: nobody is just publishing it.
            put_off = (
                runs.c.publish_after > now + timedelta(seconds=PROMISED_SECONDS),
                runs.c.republished > 0,
                words(schema.WAITING_SQL),
                runs.c.available_at <= now,
            )
            mine = (runs.c.namespace == self._namespace, runs.c.queue == queue, runs.c.job.in_(jobs))
            query = select(runs.c.id).where(*mine, *put_off).limit(HURRIED_AT_ONCE).with_for_update(skip_locked=True)
            found = connection.execute(self._dialect.by_index(query, runs, "actorjobs_runs_outbox"))
            ids = sorted(found.scalars())
            for some in in_portions(ids):
                self._put_off(connection, dict.fromkeys(some, now), again=False)
            return len(ids)

        count = HURRIED_AT_ONCE if jobs else 0
        total = 0
        while count == HURRIED_AT_ONCE:
            count = await self._database.write(work)
            total += count
        return total

    async def outbox_facts(self) -> Mapping[str, OutboxFacts]:
        def work(connection: Connection) -> dict[str, OutboxFacts]:
            now = self._now(connection)
            is_overdue = runs.c.publish_after <= now - OVERDUE
            is_told = and_(runs.c.publish_after.is_(None), runs.c.available_at <= now)
            counts = (func.count(case((condition, 1))) for condition in (is_overdue, is_told))
            mine = (runs.c.namespace == self._namespace, words(schema.WAITING_SQL))
            columns: list[Any] = [runs.c.queue, func.count(), *counts]
            query = select(*columns).where(*mine).group_by(runs.c.queue)
            found = connection.execute(query)
            return {row[0]: OutboxFacts(waiting=row[1], overdue=row[2], told=row[3]) for row in found}

        return await self._database.read(work)

    # hints that were lost

    async def note_queue(self, queue: str, *, is_absent: bool) -> None:
        mine = and_(queues.c.namespace == self._namespace, queues.c.name == queue)
        column = "absent_at" if is_absent else "empty_at"

        def work(connection: Connection) -> None:
            seen = update(queues).where(mine).values({column: self._now(connection)})
            if connection.execute(seen).rowcount == 0:
                row = {"namespace": self._namespace, "name": queue}
                connection.execute(self._dialect.insert_or_ignore(queues, [row]))
                connection.execute(seen)

        await self._database.write(work)

    async def restage_lost(self, queue: str, overtaken: Mapping[int, datetime], limit: int) -> int:
        return await self._database.write(lambda connection: self._restage_lost(connection, queue, overtaken, limit))

    def _restage_lost(self, connection: Connection, queue: str, overtaken: Mapping[int, datetime], limit: int) -> int:
        now = self._now(connection)
        mine = and_(queues.c.namespace == self._namespace, queues.c.name == queue)
        seen = connection.execute(select(queues.c.empty_at, queues.c.absent_at).where(mine)).first()
        empty_at, absent_at = (None, None) if seen is None else (seen.empty_at, seen.absent_at)
        gone = [] if absent_at is None else self._published_by(connection, queue, absent_at, now, limit)
        restaged = self._restage(connection, gone, now)
        if absent_at is not None and len(gone) < limit and len(restaged) == len(gone):
            # Looked at to the end: a look at a whole queue is not to be repeated for ever.
            is_same = and_(mine, queues.c.absent_at == absent_at)
            connection.execute(update(queues).where(is_same).values(absent_at=None))
        moments = _moments(empty_at, overtaken)
        if moments and len(gone) < limit:
            passed = self._passed(connection, queue, moments, now, limit - len(gone))
            restaged += self._restage(connection, passed, now)
        return len(restaged)

    def _published_by(
        self, connection: Connection, queue: str, absent_at: datetime, now: datetime, limit: int
    ) -> list[str]:
        """Runs whose hints went down with their queue."""
        lost = select(runs.c.id).where(*self._told_of(queue, now), _is_hinted_by(absent_at)).limit(limit)
        return [*connection.execute(self._dialect.by_index(lost, runs, "actorjobs_runs_due")).scalars()]

    def _passed(
        self, connection: Connection, queue: str, moments: Mapping[int, datetime], now: datetime, limit: int
    ) -> list[str]:
        """Runs whose hints are as old as the moment for their priority: one range of the index for each."""
        arms: list[Any] = []
        for priority, moment in moments.items():
            of_age = (runs.c.priority == priority, runs.c.available_at <= moment, _is_hinted_by(moment))
            arm = select(runs.c.id).where(*self._told_of(queue, now), *of_age)
            arm = self._dialect.by_index(arm.order_by(runs.c.available_at).limit(limit), runs, "actorjobs_runs_due")
            arms.append(select(arm.subquery().c.id))
        found: list[str] = [*connection.execute(union_all(*arms)).scalars()]
        return found[:limit]

    def _told_of(self, queue: str, now: datetime) -> tuple[ColumnElement[bool], ...]:
        """Waiting runs of the queue that a broker should know, and that were not given back of late."""
        return (
            runs.c.namespace == self._namespace,
            runs.c.queue == queue,
            words(schema.WAITING_SQL),
            runs.c.publish_after.is_(None),
            _has_rested(now),
        )

    def _restage(self, connection: Connection, ids: Collection[str], now: datetime) -> list[str]:
        """Put these back into the outbox but for those that somebody has got hold of meanwhile."""
        done: list[str] = []
        for some in in_portions(sorted(ids)):
            rows = self._waiting(connection, some, runs.c.publish_after.is_(None), skip_locked=True)
            moments = {row["id"]: publish_after(now, row["available_at"]) for row in rows}
            self._put_off(connection, moments, again=True)
            done += moments
        return done


def _moments(empty_at: datetime | None, overtaken: Mapping[int, datetime]) -> dict[int, datetime]:
    """By priority, up to when a hint must be published and due to be lost; highest priority first."""
    earlier = {priority: moment - MICROSECOND for priority, moment in overtaken.items()}
    if empty_at is not None:
        old = empty_at - timedelta(seconds=LOST_AFTER_SECONDS)
        earlier = {priority: max(old, earlier.get(priority, old)) for priority in PRIORITIES}
    return {priority: earlier[priority] for priority in sorted(earlier, reverse=True)}


def _is_hinted_by(moment: datetime) -> ColumnElement[bool]:
    """Whether the hint was published by then; that of a run that was never marked counts from its acceptance."""
    never = and_(runs.c.published_at.is_(None), runs.c.inserted_at <= moment)
    return or_(runs.c.published_at <= moment, never)


def _has_rested(now: datetime) -> ColumnElement[bool]:
    count = runs.c.republished
    steps: Iterable[tuple[int, float]] = enumerate(rests(), start=1)
    waits = [(times, _is_hinted_by(now - timedelta(seconds=seconds))) for times, seconds in steps]
    last = max(times for times, _ in waits)
    return or_(count == 0, *(and_(count >= times if times == last else count == times, wait) for times, wait in waits))
