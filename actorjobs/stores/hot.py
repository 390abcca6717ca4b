"""The statements that every run pays for, for each kind of database behind one seam."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from sqlalchemy import Connection

from actorjobs.clock import Clock
from actorjobs.model import RunState
from actorjobs.ports import Demand, Settlement, Taken
from actorjobs.stores import mysql_sql, sqlite_sql
from actorjobs.stores.postgres_sql import PostgresStatements
from actorjobs.stores.rows import New
from actorjobs.stores.schema import to_micros


class Hot(Protocol):
    """The statements that every run pays for."""

    def insert(self, connection: Connection, namespace: str, new: Sequence[New]) -> list[bool]: ...

    def take(self, connection: Connection, namespace: str, demand: Demand, owner: str) -> Taken: ...

    def settle(self, connection: Connection, settlements: Sequence[Settlement]) -> list[RunState | None]: ...


class SqliteHot:
    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def _now(self) -> int:
        return to_micros(self._clock.now())

    def insert(self, connection: Connection, namespace: str, new: Sequence[New]) -> list[bool]:
        return sqlite_sql.insert(connection, namespace, new, self._now())

    def take(self, connection: Connection, namespace: str, demand: Demand, owner: str) -> Taken:
        return sqlite_sql.take(connection, namespace, demand, owner, self._now())

    def settle(self, connection: Connection, settlements: Sequence[Settlement]) -> list[RunState | None]:
        return sqlite_sql.settle(connection, settlements, self._now())


class PostgresHot:
    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._statements = PostgresStatements(is_virtual=clock.is_virtual)

    def insert(self, connection: Connection, namespace: str, new: Sequence[New]) -> list[bool]:
        return self._statements.insert(connection, namespace, new, self._clock.now())

    def take(self, connection: Connection, namespace: str, demand: Demand, owner: str) -> Taken:
        return self._statements.take(connection, namespace, demand, owner, self._clock.now())

    def settle(self, connection: Connection, settlements: Sequence[Settlement]) -> list[RunState | None]:
        return self._statements.settle(connection, settlements, self._clock.now())


class MysqlHot:
    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def _bound(self) -> datetime | None:
        return self._clock.now() if self._clock.is_virtual else None

    def insert(self, connection: Connection, namespace: str, new: Sequence[New]) -> list[bool]:
        return mysql_sql.insert(connection, namespace, new, self._bound() or mysql_sql.database_time(connection))

    def take(self, connection: Connection, namespace: str, demand: Demand, owner: str) -> Taken:
        return mysql_sql.take(connection, namespace, demand, owner, self._bound())

    def settle(self, connection: Connection, settlements: Sequence[Settlement]) -> list[RunState | None]:
        return mysql_sql.settle(connection, settlements, self._bound())
