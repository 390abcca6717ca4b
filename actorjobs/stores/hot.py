"""The statements that every run pays for, for each kind of database behind one seam."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Protocol

from sqlalchemy import Connection

from actorjobs.clock import Clock
from actorjobs.model import RunState
from actorjobs.ports import PUBLISH_GRACE_SECONDS, Bid, Demand, Hint, Settlement, Taken
from actorjobs.stores import mysql_sql, sqlite_sql
from actorjobs.stores.bids import Answers, Generation
from actorjobs.stores.postgres_sql import PostgresStatements
from actorjobs.stores.rows import New
from actorjobs.stores.schema import to_micros


class Hot(Protocol):
    """The statements that every run pays for. Bids and generations come without doubles, in the order of ids."""

    def insert(self, connection: Connection, namespace: str, new: Sequence[New], publish_in: float) -> list[bool]: ...

    def take(self, connection: Connection, namespace: str, demand: Demand, owner: str) -> Taken: ...

    def claim(
        self, connection: Connection, namespace: str, bids: Sequence[Bid], jobs: Mapping[str, int], owner: str
    ) -> Answers: ...

    def settle(self, connection: Connection, settlements: Sequence[Settlement]) -> list[RunState | None]: ...

    def stage(self, connection: Connection, namespace: str, limit: int) -> list[Hint]: ...

    def mark(self, connection: Connection, namespace: str, published: Sequence[Generation]) -> None: ...


class SqliteHot:
    def __init__(self, clock: Clock, *, has_outbox: bool) -> None:
        self._clock = clock
        self._has_outbox = has_outbox

    def _now(self) -> int:
        return to_micros(self._clock.now())

    def insert(self, connection: Connection, namespace: str, new: Sequence[New], publish_in: float) -> list[bool]:
        return sqlite_sql.insert(connection, namespace, new, self._now(), publish_in if self._has_outbox else None)

    def take(self, connection: Connection, namespace: str, demand: Demand, owner: str) -> Taken:
        return sqlite_sql.take(connection, namespace, demand, owner, self._now())

    def claim(
        self, connection: Connection, namespace: str, bids: Sequence[Bid], jobs: Mapping[str, int], owner: str
    ) -> Answers:
        return sqlite_sql.claim(connection, namespace, bids, jobs, owner, self._now())

    def settle(self, connection: Connection, settlements: Sequence[Settlement]) -> list[RunState | None]:
        grace = PUBLISH_GRACE_SECONDS if self._has_outbox else None
        return sqlite_sql.settle(connection, settlements, self._now(), grace)

    def stage(self, connection: Connection, namespace: str, limit: int) -> list[Hint]:
        return sqlite_sql.stage(connection, namespace, limit, self._now())

    def mark(self, connection: Connection, namespace: str, published: Sequence[Generation]) -> None:
        sqlite_sql.mark(connection, namespace, published, self._now())


class PostgresHot:
    def __init__(self, clock: Clock, *, has_outbox: bool) -> None:
        self._clock = clock
        self._statements = PostgresStatements(is_virtual=clock.is_virtual, has_outbox=has_outbox)

    def insert(self, connection: Connection, namespace: str, new: Sequence[New], publish_in: float) -> list[bool]:
        return self._statements.insert(connection, namespace, new, self._clock.now(), publish_in)

    def take(self, connection: Connection, namespace: str, demand: Demand, owner: str) -> Taken:
        return self._statements.take(connection, namespace, demand, owner, self._clock.now())

    def claim(
        self, connection: Connection, namespace: str, bids: Sequence[Bid], jobs: Mapping[str, int], owner: str
    ) -> Answers:
        return self._statements.claim(connection, namespace, bids, jobs, owner, self._clock.now())

    def settle(self, connection: Connection, settlements: Sequence[Settlement]) -> list[RunState | None]:
        return self._statements.settle(connection, settlements, self._clock.now())

    def stage(self, connection: Connection, namespace: str, limit: int) -> list[Hint]:
        return self._statements.stage(connection, namespace, limit, self._clock.now())

    def mark(self, connection: Connection, namespace: str, published: Sequence[Generation]) -> None:
        self._statements.mark(connection, namespace, published, self._clock.now())


class MysqlHot:
    def __init__(self, clock: Clock, *, has_outbox: bool) -> None:
        self._clock = clock
        self._has_outbox = has_outbox

    def _bound(self) -> datetime | None:
        return self._clock.now() if self._clock.is_virtual else None

    def insert(self, connection: Connection, namespace: str, new: Sequence[New], publish_in: float) -> list[bool]:
        now = self._bound() or mysql_sql.database_time(connection)
        return mysql_sql.insert(connection, namespace, new, now, publish_in if self._has_outbox else None)

    def take(self, connection: Connection, namespace: str, demand: Demand, owner: str) -> Taken:
        return mysql_sql.take(connection, namespace, demand, owner, self._bound())

    def claim(
        self, connection: Connection, namespace: str, bids: Sequence[Bid], jobs: Mapping[str, int], owner: str
    ) -> Answers:
        return mysql_sql.claim(connection, namespace, bids, jobs, owner, self._bound())

    def settle(self, connection: Connection, settlements: Sequence[Settlement]) -> list[RunState | None]:
        grace = PUBLISH_GRACE_SECONDS if self._has_outbox else None
        return mysql_sql.settle(connection, settlements, self._bound(), grace)

    def stage(self, connection: Connection, namespace: str, limit: int) -> list[Hint]:
        return mysql_sql.stage(connection, namespace, limit, self._bound())

    def mark(self, connection: Connection, namespace: str, published: Sequence[Generation]) -> None:
        mysql_sql.mark(connection, namespace, published, self._bound())
