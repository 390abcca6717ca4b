"""Managing: what operators do to single runs."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import Connection, select
from sqlalchemy.exc import IntegrityError

from actorjobs.errors import DuplicateRun, RunStateConflict
from actorjobs.lifecycle import WAITING, advance
from actorjobs.model import Run, RunState, Transition
from actorjobs.stores.core import clean
from actorjobs.stores.reading import Reading
from actorjobs.stores.rows import ended_digest, reopened_digest
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
                self._change(connection, row, state=ended.value, finished_at=now, reason=words, unique_digest=digest)
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
                unique_digest=reopened_digest(row),
                seq=row["seq"] + 1,
            )
            self._note(connection, [row], "reopened", state, now, reason, by)
            return self._get(connection, run_id)

        try:
            return await self._database.write(work)
        except IntegrityError:
            raise await self._duplicate(run_id) from None

    async def _duplicate(self, run_id: str) -> DuplicateRun:
        """Why a run cannot be reopened: a twin has taken its place meanwhile."""

        def work(connection: Connection) -> str:
            row = self._row(connection, run_id)
            same = [runs.c[name] == row[name] for name in ("namespace", "tenant", "job")]
            twin = select(runs.c.id).where(*same, runs.c.unique_digest == reopened_digest(row))
            return str(connection.execute(twin).scalar() or "")

        twin = await self._database.read(work)
        return DuplicateRun(f"run {run_id} is unique, and run {twin} has its place: wait for that one", run_id=twin)

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
