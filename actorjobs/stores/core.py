"""What the verbs of the SQL store share: the database, the time, and the statements that several duties need."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, delete, insert, select, update

from actorjobs.clock import Clock
from actorjobs.codec import LIMITS, clip, encode
from actorjobs.errors import RunNotFound
from actorjobs.model import RunState, is_run_id
from actorjobs.ports import Fence
from actorjobs.stores.database import Database, masked
from actorjobs.stores.dialects import dialect_of
from actorjobs.stores.rows import Row, publish_after, unpublished
from actorjobs.stores.schema import attempts, events, runs


class StoreCore:
    """One namespace in one database. Each duty of the store is a class on top of this one."""

    def __init__(self, *, database: Database, namespace: str, clock: Clock, has_outbox: bool = False) -> None:
        """`has_outbox`: a broker is to be told of runs, so that each that becomes claimable goes into the outbox."""
        self._database = database
        self._namespace = namespace
        self._clock = clock
        self._has_outbox = has_outbox
        self._dialect = dialect_of(database.url)
        self._hot = self._dialect.statements(clock, has_outbox=has_outbox)

    @property
    def url(self) -> str:
        return masked(self._database.url)

    def _now(self, connection: Connection) -> datetime:
        return self._clock.now() if self._clock.is_virtual else self._dialect.now(connection, self._clock)

    def _row(self, connection: Connection, run_id: str, *, lock: bool = False) -> Row:
        query = select(runs).where(runs.c.namespace == self._namespace, runs.c.id == str(run_id))
        row = None
        if is_run_id(str(run_id)):
            row = connection.execute(query.with_for_update() if lock else query).mappings().first()
        if row is None:
            raise RunNotFound(f"there is no run {str(run_id)[:64]!r} in namespace {self._namespace!r}")
        return row

    def _change(self, connection: Connection, row: Row, **values: Any) -> None:
        connection.execute(update(runs).where(runs.c.id == row["id"]).values(**values))

    def _to_publish(self, now: datetime, due: datetime) -> dict[str, Any]:
        """What a run's row says of its hint when somebody makes it claimable who publishes nothing himself."""
        return unpublished(publish_after(now, due) if self._has_outbox else None)

    def _note(
        self,
        connection: Connection,
        noted: Sequence[Row],
        event: str,
        state: RunState,
        now: datetime,
        reason: str | None = None,
        by: str | None = None,
    ) -> None:
        """Keep what neither the runs nor their attempts will tell."""
        detail = {key: clean(value) for key, value in (("reason", reason), ("by", by)) if value is not None}
        step = {"at": now, "event": event, "state": state.value, "detail": encode(detail) if detail else None}
        connection.execute(insert(events), [step | {"run_id": row["id"], "attempt": row["attempt"]} for row in noted])

    def _delete(self, connection: Connection, ids: Sequence[str]) -> None:
        """The one place where runs go, with all that is theirs."""
        connection.execute(delete(attempts).where(attempts.c.run_id.in_(ids)))
        connection.execute(delete(events).where(events.c.run_id.in_(ids)))
        connection.execute(delete(runs).where(runs.c.id.in_(ids)))


def clean(words: str | None) -> str | None:
    """An operator's words, short and as every database takes them."""
    return None if words is None else clip(words, LIMITS.error_message)


def holds(fence: Fence) -> tuple[ColumnElement[bool], ...]:
    return (
        runs.c.id == fence.run_id,
        runs.c.attempt == fence.attempt,
        runs.c.claimed_by == fence.owner,
        runs.c.state == RunState.RUNNING.value,
    )
