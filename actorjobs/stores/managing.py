"""Managing: what operators do to runs, to one or to a group."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, select, text, update
from sqlalchemy.exc import IntegrityError

from actorjobs.errors import DuplicateRun, RunStateConflict
from actorjobs.lifecycle import REOPENABLE, WAITING, advance
from actorjobs.model import Run, RunState, Transition, is_run_id
from actorjobs.stores import schema
from actorjobs.stores.core import clean
from actorjobs.stores.reading import Reading
from actorjobs.stores.rows import Row, ended_digest, reopened_digest
from actorjobs.stores.schema import runs


class Managing(Reading):
    """Verbs by which an operator changes a run."""

    async def cancel(self, run_id: str, reason: str | None, by: str | None) -> Run:
        def work(connection: Connection) -> Run:
            row = self._row(connection, run_id, lock=True)
            state = RunState(row["state"])
            now, words = self._now(connection), clean(reason)
            if state in WAITING:
                ended = advance(state, Transition.CANCEL)
                digest = ended_digest(row["unique_digest"])
                told = {"finished_at": now, "reason": words, "publish_after": None}
                self._change(connection, row, state=ended.value, unique_digest=digest, **told)
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
            self._change(connection, row, **self._reopened(now) | {"unique_digest": reopened_digest(row)})
            self._note(connection, [row], "reopened", state, now, reason, by)
            return self._get(connection, run_id)

        try:
            return await self._database.write(work)
        except IntegrityError:
            raise await self._duplicate(run_id) from None

    def _reopened(self, now: datetime) -> dict[str, Any]:
        """What a run becomes that gets one more attempt."""
        cleared = ("finished_at", "expires_at", "hold", "cancel_requested_at", "reason")
        figures = {"losses": 0, "max_attempts": runs.c.failures + 1, "seq": runs.c.seq + 1}
        hint = self._to_publish(now, now)
        return {"state": RunState.QUEUED.value, "available_at": now, **dict.fromkeys(cleared), **figures, **hint}

    async def cancel_many(self, run_ids: Sequence[str], reason: str | None, by: str | None) -> Sequence[Run | None]:
        def work(connection: Connection) -> list[Run | None]:
            rows = self._locked(connection, run_ids)
            now, told = self._now(connection), clean(reason)
            waiting = [row for row in rows if RunState(row["state"]) in WAITING]
            running = [row for row in rows if row["state"] == RunState.RUNNING and row["cancel_requested_at"] is None]
            if waiting:
                ended = {"state": RunState.CANCELED.value, "finished_at": now, "reason": told, "publish_after": None}
                self._change_all(connection, waiting, **ended, unique_digest=text(schema.ENDED_DIGEST))
                self._note(connection, waiting, "canceled", RunState.CANCELED, now, reason, by)
            if running:
                self._change_all(connection, running, cancel_requested_at=now, reason=told)
                self._note(connection, running, "cancel_requested", RunState.RUNNING, now, reason, by)
            return self._as_they_are(connection, run_ids, [*waiting, *running])

        return await self._database.write(work)

    async def reopen_many(
        self, run_ids: Sequence[str], reason: str | None, by: str | None
    ) -> Sequence[Run | DuplicateRun | None]:
        def work(connection: Connection) -> list[Run | DuplicateRun | None]:
            rows = [row for row in self._locked(connection, run_ids) if RunState(row["state"]) in REOPENABLE]
            now = self._now(connection)
            plain = [row for row in rows if row["uniqueness_config"] is None]
            unique = [row for row in rows if row["uniqueness_config"] is not None]
            if plain:
                self._change_all(connection, plain, **self._reopened(now))
            refused = {row["id"]: self._take_place(connection, row, now) for row in unique}
            done = [*plain, *(row for row in unique if refused[row["id"]] is None)]
            if done:
                self._note(connection, done, "reopened", RunState.QUEUED, now, reason, by)
            found = self._as_they_are(connection, run_ids, done)
            return [refused.get(run_id) or run for run_id, run in zip(run_ids, found, strict=True)]

        return await self._database.write(work)

    def _take_place(self, connection: Connection, row: Row, now: datetime) -> DuplicateRun | None:
        """Reopen a unique run, or say which twin has its place."""
        try:
            with connection.begin_nested():
                self._change(connection, row, **self._reopened(now) | {"unique_digest": reopened_digest(row)})
        except IntegrityError:
            return _duplicate(row, self._twin_of(connection, row))
        return None

    def _locked(self, connection: Connection, run_ids: Sequence[str]) -> Sequence[Row]:
        """Those of the runs that exist, locked in the order of their ids, so that two groups never block each other."""
        ids = [run_id for run_id in run_ids if is_run_id(run_id)]
        mine = select(runs).where(runs.c.namespace == self._namespace, runs.c.id.in_(ids))
        return connection.execute(mine.order_by(runs.c.id).with_for_update()).mappings().all()

    def _change_all(self, connection: Connection, rows: Sequence[Row], **values: Any) -> None:
        connection.execute(update(runs).where(runs.c.id.in_([row["id"] for row in rows])).values(**values))

    def _as_they_are(self, connection: Connection, run_ids: Sequence[str], changed: Sequence[Row]) -> list[Run | None]:
        """Those that were changed, in the order asked for; None in the place of the others."""
        query = select(runs).where(runs.c.id.in_([row["id"] for row in changed]))
        found = {run.id: run for run in self._shown(connection, query)} if changed else {}
        return [found.get(run_id) for run_id in run_ids]

    async def _duplicate(self, run_id: str) -> DuplicateRun:
        """Why a run cannot be reopened: a twin has taken its place meanwhile."""

        def work(connection: Connection) -> DuplicateRun:
            row = self._row(connection, run_id)
            return _duplicate(row, self._twin_of(connection, row))

        return await self._database.read(work)

    def _twin_of(self, connection: Connection, row: Row) -> str:
        same = [runs.c[name] == row[name] for name in ("namespace", "tenant", "job")]
        twin = select(runs.c.id).where(*same, runs.c.unique_digest == reopened_digest(row))
        return str(connection.execute(twin).scalar() or "")

    async def reschedule(self, run_id: str, run_at: datetime, by: str | None) -> Run:
        def work(connection: Connection) -> Run:
            row = self._row(connection, run_id, lock=True)
            state = advance(RunState(row["state"]), Transition.RESCHEDULE)
            now = self._now(connection)
            due = max(run_at.astimezone(UTC), now)
            moved = {"available_at": due, "seq": row["seq"] + 1} | self._to_publish(now, due)
            self._change(connection, row, state=state.value, **moved)
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


def _duplicate(row: Row, twin: str) -> DuplicateRun:
    return DuplicateRun(f"run {row['id']} is unique, and run {twin} has its place: wait for that one", run_id=twin)
