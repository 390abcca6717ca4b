"""MariaDB and MySQL through asyncmy.

These servers tell nobody what others have committed. `watch` asks ten times a second for the newest run, one seek to
the end of the primary key; what that does not show (a run rescheduled, a queue resumed) is found by the next poll.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress
from importlib import import_module
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, InterfaceError, InternalError
from sqlalchemy.ext.asyncio import create_async_engine

from actorjobs.errors import InvalidOption, StoreUnavailable
from actorjobs.stores.database import LockHeld, in_background, refused, unavailable
from actorjobs.stores.dialects import LOCK_WAIT_SECONDS, STRICT
from actorjobs.stores.pooled import POOL_TIMEOUT_SECONDS, PooledDatabase

TRANSACTION_TIMEOUT_SECONDS = 30.0
CONNECT_TIMEOUT_SECONDS = 10
WATCH_INTERVAL_SECONDS = 0.1
_TRY_AGAIN = frozenset({1213, 1020})
"""Deadlock, and "record has changed since last read", which MariaDB says instead under `innodb_snapshot_isolation`."""

_LOCK_TIMEOUT = 1205
_NO_RIGHT = frozenset({1142, 1143, 1227, 1370})  # ER_TABLEACCESS_DENIED_ERROR and its like
_NO_ANSWER = frozenset(
    # What servers say when they refuse, stop, are full or may only be read; 2000 and above are the driver's own words.
    {1021, 1037, 1038, 1040, 1041, 1042, 1043, 1044, 1045, 1049, 1053, 1077, 1078, 1079, 1080, 1081, 1114, 1129, 1130}
    | {1135, 1152, 1153, 1154, 1155, 1156, 1157, 1158, 1159, 1160, 1161, 1184, 1203, 1226, 1251, 1290, 1317}
    | {1637, 1698, 1792, 1836, 1927, 1969, 3024, 3032, 3118, 3159, 3168, 3169, 4031}
)
_DRIVERS_OWN = range(2000, 3000)
_SSL_MODES = ("off", "require", "verify")
_SESSION = f"SET SESSION sql_mode = '{STRICT}', time_zone = '+00:00', innodb_lock_wait_timeout = {LOCK_WAIT_SECONDS}"


class MysqlDatabase(PooledDatabase):
    """A pool of connections to one database of a MariaDB or MySQL server."""

    def __init__(self, url: URL, *, pool_size: int = 5) -> None:
        driver_url, arguments = _driver_settings(url)
        import_module("asyncmy")
        engine = create_async_engine(
            driver_url,
            pool_size=pool_size,
            max_overflow=pool_size,
            pool_timeout=POOL_TIMEOUT_SECONDS,
            pool_pre_ping=False,
            # Whoever closes a connection in a transaction rolls that back; once more would be a round trip for nothing.
            pool_reset_on_return=None,
            isolation_level="READ COMMITTED",
            connect_args=arguments,
        )
        super().__init__(url, engine, timeout_seconds=TRANSACTION_TIMEOUT_SECONDS)

    def _is_to_be_tried_again(self, error: DBAPIError) -> bool:
        return _code(error) in _TRY_AGAIN

    def _translated(self, error: DBAPIError) -> Exception:
        code = _code(error)
        if code == _LOCK_TIMEOUT:
            return unavailable(error, self.url, LockHeld)
        # What has no number is the driver's own complaint, about a connection or about what came through it.
        is_garbled = isinstance(error, InternalError) and code == 0
        is_lost = error.connection_invalidated or is_garbled or isinstance(error, InterfaceError)
        if is_lost or code in _TRY_AGAIN or code in _NO_ANSWER or code in _DRIVERS_OWN:
            return unavailable(error, self.url)
        return refused(error, self.url) if code in _NO_RIGHT else error

    def watch(self, notice: Callable[[], None]) -> AbstractAsyncContextManager[None]:
        return in_background(self._watch(notice))

    async def _watch(self, notice: Callable[[], None]) -> None:
        seen = None
        while True:
            with suppress(StoreUnavailable, DBAPIError):
                newest = await self.read(_newest)
                if newest != seen:
                    notice()
                seen = newest
            await asyncio.sleep(WATCH_INTERVAL_SECONDS)

    def announce(self) -> None:
        """Nobody listens: others ask."""


def _newest(connection: Connection) -> str | None:
    newest: str | None = connection.exec_driver_sql("SELECT max(id) FROM actorjobs_runs").scalar()
    return newest


def _code(error: DBAPIError) -> int:
    arguments = error.orig.args if error.orig is not None else ()
    return arguments[0] if arguments and isinstance(arguments[0], int) else 0


def _driver_settings(url: URL) -> tuple[URL, dict[str, Any]]:
    """The address for asyncmy, and what else its connections are given."""
    if url.database in (None, ""):
        raise InvalidOption("the store's address names no database: mysql://user:password@host/database")
    query = dict(url.query)
    mode = query.pop("ssl", "off")
    if mode not in _SSL_MODES:
        raise InvalidOption(f"ssl is one of {', '.join(_SSL_MODES)}")
    if query:
        raise InvalidOption(f"unknown option {sorted(query)[0]!r} in the store's address: ssl")
    arguments: dict[str, Any] = {
        "charset": "utf8mb4",
        "init_command": _SESSION,
        "connect_timeout": CONNECT_TIMEOUT_SECONDS,
    }
    if mode != "off":
        arguments["ssl"] = _ssl_context(is_verified=mode == "verify")
    return url.set(drivername="mysql+asyncmy", query={}), arguments


def _ssl_context(*, is_verified: bool) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if not is_verified:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
