"""What SQL databases do differently outside the hot statements, each difference a property of its dialect."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from datetime import datetime
from math import ceil
from typing import Any, Protocol, TypeAlias

from sqlalchemy import ColumnElement, Connection, Table, func, text
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError

from actorjobs.clock import Clock
from actorjobs.errors import ActorJobsError, StoreUnavailable
from actorjobs.stores.hot import Hot, MysqlHot, PostgresHot, SqliteHot
from actorjobs.stores.mysql_sql import GUEST, database_time
from actorjobs.stores.schema import MYSQL

MIGRATION_WAIT_SECONDS = 20
LOCK_WAIT_SECONDS = 5
"""How long a statement on MySQL or MariaDB waits for a row that another transaction holds."""

STRICT = "STRICT_ALL_TABLES,NO_ZERO_IN_DATE,NO_ZERO_DATE,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION"
"""Under any other mode MySQL and MariaDB may cut what is too long, without a word."""


Query: TypeAlias = Any
"""A SELECT, whatever its columns: its type is spelt differently by the versions of SQLAlchemy that we go with."""


class Dialect(Protocol):
    """One kind of database."""

    @property
    def backends(self) -> tuple[str, ...]:
        """How SQLAlchemy may name it in an engine's address."""
        ...

    @property
    def migrates_itself(self) -> bool:
        """Whether opening a store brings its schema up to date."""
        ...

    def statements(self, clock: Clock, *, has_outbox: bool) -> Hot: ...

    def now(self, connection: Connection, clock: Clock) -> datetime:
        """The time that counts: the database's own, if it has one."""
        ...

    def contains(self, column: ColumnElement[Any], words: str) -> ColumnElement[bool]:
        """Whether these very characters are in the text. (LIKE minds upper and lower case on some databases only.)"""
        ...

    def insert_or_ignore(self, table: Table, rows: list[dict[str, Any]]) -> Any: ...

    def by_index(self, query: Query, table: Table, index: str) -> Query:
        """The query by that index, where the planner cannot be trusted to find it."""
        ...

    def of_now(self, query: Query) -> Query:
        """The query as it sees what has been committed by now, inside a transaction that has looked before."""
        ...

    def waiting_at_most(self, connection: Connection, seconds: float) -> AbstractContextManager[None]:
        """Nothing in here waits longer than that for a lock: then `LockHeld`."""
        ...

    def as_guest(self, connection: Connection) -> AbstractContextManager[None]:
        """Work inside a transaction of the caller's, whose own settings are found as they were."""
        ...

    def migrating(self, connection: Connection) -> AbstractContextManager[None]:
        """Nobody else migrates meanwhile."""
        ...


class SqliteDialect:
    """One writer at a time: nothing to wait for inside a transaction, nobody to change anything meanwhile."""

    backends = ("sqlite",)
    migrates_itself = True

    def statements(self, clock: Clock, *, has_outbox: bool) -> Hot:
        return SqliteHot(clock, has_outbox=has_outbox)

    def now(self, connection: Connection, clock: Clock) -> datetime:
        return clock.now()

    def contains(self, column: ColumnElement[Any], words: str) -> ColumnElement[bool]:
        return func.instr(column, words) > 0

    def insert_or_ignore(self, table: Table, rows: list[dict[str, Any]]) -> Any:
        return sqlite.insert(table).values(rows).on_conflict_do_nothing()

    def by_index(self, query: Query, table: Table, index: str) -> Query:
        return query

    def of_now(self, query: Query) -> Query:
        return query

    def waiting_at_most(self, connection: Connection, seconds: float) -> AbstractContextManager[None]:
        return nullcontext()

    def as_guest(self, connection: Connection) -> AbstractContextManager[None]:
        return nullcontext()

    def migrating(self, connection: Connection) -> AbstractContextManager[None]:
        return nullcontext()


class PostgresDialect:
    backends = ("postgresql",)
    migrates_itself = False

    def statements(self, clock: Clock, *, has_outbox: bool) -> Hot:
        return PostgresHot(clock, has_outbox=has_outbox)

    def now(self, connection: Connection, clock: Clock) -> datetime:
        now: datetime = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
        return now

    def contains(self, column: ColumnElement[Any], words: str) -> ColumnElement[bool]:
        return func.strpos(column, words) > 0

    def insert_or_ignore(self, table: Table, rows: list[dict[str, Any]]) -> Any:
        return postgresql.insert(table).values(rows).on_conflict_do_nothing()

    def by_index(self, query: Query, table: Table, index: str) -> Query:
        return query

    def of_now(self, query: Query) -> Query:
        return query

    @contextmanager
    def waiting_at_most(self, connection: Connection, seconds: float) -> Generator[None]:
        _set_lock_timeout(connection, f"{1000 * seconds:.0f}ms")  # until the transaction ends
        yield

    @contextmanager
    def as_guest(self, connection: Connection) -> Generator[None]:
        before = str(connection.execute(text("SELECT current_setting('lock_timeout')")).scalar_one())
        try:
            yield
        except ActorJobsError:
            _set_lock_timeout(connection, before)
            raise
        _set_lock_timeout(connection, before)

    def migrating(self, connection: Connection) -> AbstractContextManager[None]:
        return nullcontext()


def _set_lock_timeout(connection: Connection, timeout: str) -> None:
    connection.execute(text("SELECT set_config('lock_timeout', :timeout, true)"), {"timeout": timeout})


class MysqlDialect:
    """MySQL and MariaDB. Settings last as long as the connection there, not the transaction, so each is put back."""

    backends = MYSQL
    migrates_itself = False

    def statements(self, clock: Clock, *, has_outbox: bool) -> Hot:
        return MysqlHot(clock, has_outbox=has_outbox)

    def now(self, connection: Connection, clock: Clock) -> datetime:
        return database_time(connection)

    def contains(self, column: ColumnElement[Any], words: str) -> ColumnElement[bool]:
        return func.instr(column, words) > 0

    def insert_or_ignore(self, table: Table, rows: list[dict[str, Any]]) -> Any:
        # Not INSERT IGNORE: that would ignore far more than a row that is there already.
        key = next(iter(table.primary_key))
        statement = mysql.insert(table).values(rows)
        return statement.on_duplicate_key_update({key.name: key})

    def by_index(self, query: Query, table: Table, index: str) -> Query:
        return query.with_hint(table, f"FORCE INDEX ({index})", "mysql")

    def of_now(self, query: Query) -> Query:
        return query.with_for_update(read=True)

    @contextmanager
    def waiting_at_most(self, connection: Connection, seconds: float) -> Generator[None]:
        with _put_back(connection, {"innodb_lock_wait_timeout": LOCK_WAIT_SECONDS}):
            _set(connection, {"innodb_lock_wait_timeout": max(1, ceil(seconds))})  # whole seconds only
            yield

    @contextmanager
    def as_guest(self, connection: Connection) -> Generator[None]:
        found = connection.execute(text("SELECT @@innodb_lock_wait_timeout, @@sql_mode")).one()
        with _put_back(connection, {"innodb_lock_wait_timeout": found[0], "sql_mode": found[1]}):
            _set(connection, {"sql_mode": STRICT})
            connection.info[GUEST] = True
            try:
                yield
            finally:
                del connection.info[GUEST]

    @contextmanager
    def migrating(self, connection: Connection) -> Generator[None]:
        """By a lock of the server's, because each step of a migration commits there."""
        name = {"wait": MIGRATION_WAIT_SECONDS}
        if not connection.execute(text(f"SELECT GET_LOCK({_LOCK_NAME}, :wait)"), name).scalar():
            raise StoreUnavailable("somebody else is migrating this database: try again when that is done")
        try:
            with _put_back(connection, {"sql_notes": 1}):
                _set(connection, {"sql_notes": 0})  # the driver would log what the server remarks about each table
                yield
            connection.exec_driver_sql("COMMIT")  # who comes next is to find the version
        finally:
            with suppress(DBAPIError):
                connection.execute(text(f"SELECT RELEASE_LOCK({_LOCK_NAME})"))


_LOCK_NAME = "CONCAT('actorjobs ', MD5(DATABASE()))"


def _set(connection: Connection, settings: dict[str, Any]) -> None:
    names = ", ".join(f"SESSION {name} = :{name}" for name in settings)
    connection.execute(text(f"SET {names}"), settings)


@contextmanager
def _put_back(connection: Connection, settings: dict[str, Any]) -> Generator[None]:
    try:
        yield
    except Exception:  # not a cancellation: that has closed the connection
        with suppress(DBAPIError):  # as may have the error
            _set(connection, settings)
        raise
    _set(connection, settings)


_DIALECTS: tuple[Dialect, ...] = (SqliteDialect(), PostgresDialect(), MysqlDialect())


def dialect_of(url: URL) -> Dialect:
    """The dialect of a database at an address that `parse_url` has accepted."""
    return next(dialect for dialect in _DIALECTS if url.get_backend_name() in dialect.backends)
