"""PostgreSQL through asyncpg.

`LISTEN`/`NOTIFY` is a speed-up only: a notification that is lost costs one polling interval. `NOTIFY` is sent in a
transaction of its own, never in a caller's, because it serialises commits.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress
from typing import Any, TypeVar, cast

from sqlalchemy import Connection, TextClause, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.util import await_only, greenlet_spawn

from actorjobs.errors import InvalidOption, StoreUnavailable
from actorjobs.stores.database import LockHeld, in_background, refused, unavailable
from actorjobs.stores.pooled import POOL_TIMEOUT_SECONDS, PooledDatabase

T = TypeVar("T")

CHANNEL = "actorjobs"
STATEMENT_TIMEOUT_SECONDS = 30.0
CONNECT_TIMEOUT_SECONDS = 10.0
_NOTIFY = text("SELECT pg_notify(:channel, '')")
_TRY_AGAIN = frozenset({"40001", "40P01"})
_LOCK_TIMEOUT = "55P03"
_NO_RIGHT = "42501"
_NO_ANSWER = ("08", "25006", "28", "3D", "53", "57", "58", "XX")
"""Beginnings of SQLSTATEs that are about the server, or the way to it, and not about what was asked of it."""
_SSL_MODES = frozenset({"disable", "allow", "prefer", "require", "verify-ca", "verify-full"})


class _Rows(list[Any]):
    """What a statement gave, as much like the toolkit's result as the hot statements need."""

    def all(self) -> list[Any]:
        return self

    def one(self) -> Any:
        [row] = self
        return row


class _Direct:
    """Executes text statements by the driver itself, each committed at once; everything else as the toolkit does.

    For a group of fifty runs the toolkit's own way, from its connection to its result, costs as much as the statement.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine.sync_engine
        self._compiled: dict[TextClause, tuple[str, tuple[str, ...]]] = {}

    def execute(self, statement: Any, values: Any = None) -> Any:
        if not isinstance(statement, TextClause):
            with self._engine.connect() as connection:
                return connection.execute(statement, values).freeze()()
        sql, names = self._compiled.get(statement) or self._compile(statement)
        pooled = self._engine.pool.connect()
        driver: Any = pooled.driver_connection
        try:
            return _Rows(await_only(driver.fetch(sql, *[values[name] for name in names])))
        except BaseException as error:
            is_answer = hasattr(error, "sqlstate") or isinstance(error, ValueError)
            is_lost = driver.is_closed() or not is_answer  # canceled, or too late: who knows what it is still at
            if is_lost:
                pooled.invalidate(error)
            if not isinstance(error, Exception) or isinstance(error, TimeoutError | OSError):
                raise
            raise DBAPIError(sql, None, error, hide_parameters=True, connection_invalidated=is_lost) from error
        finally:
            pooled.close()

    def _compile(self, statement: TextClause) -> tuple[str, tuple[str, ...]]:
        compiled: Any = statement.compile(dialect=self._engine.dialect)
        self._compiled[statement] = ready = (str(compiled), tuple(compiled.positiontup))
        return ready


class PostgresDatabase(PooledDatabase):
    """A pool of connections to one PostgreSQL database."""

    def __init__(self, url: URL, *, pool_size: int = 5) -> None:
        driver_url, arguments = _driver_settings(url)
        engine = create_async_engine(
            driver_url,
            pool_size=pool_size,
            max_overflow=pool_size,
            pool_timeout=POOL_TIMEOUT_SECONDS,
            pool_pre_ping=False,
            connect_args=arguments,
        )
        super().__init__(url, engine)
        self._has_prepared = "statement_cache_size" not in arguments
        self._direct = _Direct(engine.execution_options(isolation_level="AUTOCOMMIT"))
        self._announcing: asyncio.Task[None] | None = None
        self._has_news = False

    def _is_to_be_tried_again(self, error: DBAPIError) -> bool:
        return _sqlstate(error) in _TRY_AGAIN

    def _translated(self, error: DBAPIError) -> Exception:
        state = _sqlstate(error) or ""
        if state == _LOCK_TIMEOUT:
            return unavailable(error, self.url, LockHeld)
        lost = error.connection_invalidated or isinstance(error, OperationalError | InterfaceError)
        if lost or state in _TRY_AGAIN or state.startswith(_NO_ANSWER):
            return unavailable(error, self.url)
        return refused(error, self.url) if state == _NO_RIGHT else error

    async def write_at_once(self, work: Callable[[Connection], T]) -> T:
        """One round trip instead of three: no BEGIN before the statement, no COMMIT after it."""
        if not self._has_prepared:
            return await self.write(work)  # a proxy may take another server for each half of a statement
        return await self._written(lambda: greenlet_spawn(work, cast("Connection", self._direct)))

    def watch(self, notice: Callable[[], None]) -> AbstractAsyncContextManager[None]:
        return in_background(self._listen(notice))

    async def _listen(self, notice: Callable[[], None]) -> None:
        """Keep one connection listening; while there is none, the pollers manage alone."""
        while True:
            with suppress(DBAPIError, OSError, PoolTimeout, asyncio.TimeoutError):
                await self._listen_once(notice)
            await asyncio.sleep(random.uniform(0.5, 2.0))

    async def _listen_once(self, notice: Callable[[], None]) -> None:
        ended = asyncio.Event()
        async with self._engine.connect() as connection:
            raw: Any = (await connection.get_raw_connection()).driver_connection

            def on_end(*_: Any) -> None:
                ended.set()

            def on_notify(*_: Any) -> None:
                notice()

            raw.add_termination_listener(on_end)
            await raw.add_listener(CHANNEL, on_notify)
            notice()
            try:
                await ended.wait()
            finally:
                await connection.invalidate()

    def announce(self) -> None:
        """Notify listeners, once for all that was committed within two milliseconds of the last time."""
        self._has_news = True
        if self._announcing is None or self._announcing.done():
            self._announcing = asyncio.create_task(self._notify(), name="actorjobs-notify")

    async def _notify(self) -> None:
        while self._has_news:
            self._has_news = False
            with suppress(DBAPIError, StoreUnavailable):
                await self.write_at_once(lambda connection: connection.execute(_NOTIFY, {"channel": CHANNEL}))
            await asyncio.sleep(0.002)

    async def close(self) -> None:
        if self._announcing is not None:
            with suppress(BaseException):
                await asyncio.wait({self._announcing}, timeout=1.0)
        await super().close()


def _sqlstate(error: DBAPIError) -> str | None:
    return getattr(error.orig, "sqlstate", None) or getattr(error.orig, "pgcode", None)


def _driver_settings(url: URL) -> tuple[URL, dict[str, Any]]:
    """The address for asyncpg, and what libpq users write in the query string in asyncpg's words."""
    if url.database in (None, ""):
        raise InvalidOption("the store's address names no database: postgresql://user:password@host/database")
    arguments: dict[str, Any] = {"timeout": CONNECT_TIMEOUT_SECONDS, "command_timeout": STATEMENT_TIMEOUT_SECONDS}
    query = dict(url.query)
    mode = query.pop("sslmode", None)
    if mode is not None:
        if mode not in _SSL_MODES:
            raise InvalidOption(f"sslmode is one of {', '.join(sorted(_SSL_MODES))}")
        arguments["ssl"] = mode
    prepared = query.pop("prepared_statements", "on")
    if prepared not in ("on", "off"):
        raise InvalidOption("prepared_statements is on or off")
    if prepared == "off":
        # For PgBouncer in transaction mode, where a prepared statement may be gone at the next use.
        arguments |= {"statement_cache_size": 0, "prepared_statement_cache_size": 0}
    for name in ("host", "port"):
        if name in query:
            arguments[name] = query.pop(name)
    if query:
        raise InvalidOption(f"unknown option {sorted(query)[0]!r} in the store's address: sslmode, prepared_statements")
    return url.set(drivername="postgresql+asyncpg", query={}), arguments
