"""Sweeps: what is to happen to runs by the passing of time alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, or_, select, text, update

from actorjobs.model import RunState
from actorjobs.ports import Purged
from actorjobs.stores import schema
from actorjobs.stores.core import StoreCore
from actorjobs.stores.quarantine import purge_quarantine
from actorjobs.stores.rows import EXPIRED_REASON, is_past_keeping, youngest_to_purge
from actorjobs.stores.schema import runs


class Sweeps(StoreCore):
    """Verbs that end or delete what is old enough."""

    _purged_up_to: str | None = None

    async def expire(self, limit: int) -> Sequence[str]:
        def work(connection: Connection) -> list[str]:
            now = self._now(connection)
            overdue = self._dialect.by_index(
                select(runs.c.id, runs.c.attempt)
                .where(runs.c.namespace == self._namespace, text(schema.WAITING_SQL), runs.c.expires_at <= now)
                .order_by(runs.c.id)
                .limit(limit)
                .with_for_update(skip_locked=True),
                runs,
                "actorjobs_runs_expiring",
            )
            rows = connection.execute(overdue).mappings().all()
            ids = [row["id"] for row in rows]
            if ids:
                ended = {"state": RunState.EXPIRED.value, "finished_at": now, "reason": EXPIRED_REASON}
                free = {"unique_digest": text(schema.ENDED_DIGEST), "publish_after": None}
                connection.execute(update(runs).where(runs.c.id.in_(ids)).values(**ended, **free))
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
            purge_quarantine(connection, self._namespace, now)
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
