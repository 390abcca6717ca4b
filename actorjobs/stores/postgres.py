"""PostgreSQL through asyncpg.

`LISTEN`/`NOTIFY` is a speed-up only: a notification that is lost costs one polling interval. `NOTIFY` is sent in a
transaction of its own, never in a caller's, because it serialises commits.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress
from typing import Any, TypeVar

from sqlalchemy import Connection, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import create_async_engine

from actorjobs.errors import InvalidOption
from actorjobs.stores.database import LockHeld, in_background, unavailable
from actorjobs.stores.pooled import POOL_TIMEOUT_SECONDS, PooledDatabase

T = TypeVar("T")

CHANNEL = "actorjobs"
STATEMENT_TIMEOUT_SECONDS = 30.0
CONNECT_TIMEOUT_SECONDS = 10.0
_TRY_AGAIN = frozenset({"40001", "40P01"})
_LOCK_TIMEOUT = "55P03"
_NO_ANSWER = ("08", "25006", "28", "3D", "53", "57", "58", "XX")
"""Beginnings of SQLSTATEs that are about the server, or the way to it, and not about what was asked of it."""
_SSL_MODES = frozenset({"disable", "allow", "prefer", "require", "verify-ca", "verify-full"})


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
        self._committing = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._announcing: asyncio.Task[None] | None = None

    def _is_to_be_tried_again(self, error: DBAPIError) -> bool:
        return _sqlstate(error) in _TRY_AGAIN

    def _translated(self, error: DBAPIError) -> Exception:
        state = _sqlstate(error) or ""
        if state == _LOCK_TIMEOUT:
            return unavailable(error, self.url, LockHeld)
        lost = error.connection_invalidated or isinstance(error, OperationalError | InterfaceError)
        if lost or state in _TRY_AGAIN or state.startswith(_NO_ANSWER):
            return unavailable(error, self.url)
        return error

    async def write_at_once(self, work: Callable[[Connection], T]) -> T:
        """One round trip instead of three: no BEGIN before the statement, no COMMIT after it."""
        return await self._written(work, self._committing.connect)

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
        """Notify listeners soon, once for all that was committed meanwhile."""
        if self._announcing is None or self._announcing.done():
            self._announcing = asyncio.create_task(self._notify(), name="actorjobs-notify")

    async def _notify(self) -> None:
        await asyncio.sleep(0.002)
        with suppress(DBAPIError, OSError, PoolTimeout, asyncio.TimeoutError):
            async with self._engine.begin() as connection:
                await connection.execute(text("SELECT pg_notify(:channel, '')"), {"channel": CHANNEL})

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
