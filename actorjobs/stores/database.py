"""A database as the store needs it: transactions as functions, run where they do not block the loop.

Every verb of the store is a plain function over a synchronous SQLAlchemy `Connection`, so that it is written once:
a server's database runs it on a pooled connection, SQLite in the one thread that owns the file's writing connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any, Protocol, TypeVar

from sqlalchemy import Connection
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from actorjobs.clock import Clock
from actorjobs.errors import InvalidOption, StoreRefused, StoreUnavailable
from actorjobs.stores.schema import MYSQL

T = TypeVar("T")

LANES = ("sqlite", "postgresql", *MYSQL)


class LockHeld(StoreUnavailable):
    """Somebody's open transaction has held a key or a row for longer than we wait."""


class Database(Protocol):
    """Transactions on one database. `write` commits; `read` never does."""

    url: URL

    @property
    def engine(self) -> AsyncEngine:
        """The application's own way in: an ordinary SQLAlchemy engine on the same database."""
        ...

    async def write(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in a transaction and commit. Deadlocks are retried; `StoreUnavailable` when nothing answers."""
        ...

    async def write_at_once(self, work: Callable[[Connection], T]) -> T:
        """The same for work whose writing is a single statement: where that saves something, without a transaction
        around it."""
        ...

    async def read(self, work: Callable[[Connection], T]) -> T: ...

    def watch(self, notice: Callable[[], None]) -> AbstractAsyncContextManager[None]: ...

    def announce(self) -> None: ...

    async def close(self) -> None: ...


def parse_url(url: str) -> URL:
    """The parsed address; `InvalidOption`, without the password, when it is none."""
    try:
        parsed = make_url(url.strip())
    except (ArgumentError, ValueError):
        raise InvalidOption(
            "the store's address is not a URL: write sqlite:///file.db, "
            "postgresql://user:password@host/database or mysql://user:password@host/database"
        ) from None
    if url.partition("?")[0].count("@") > 1:
        # Split in the wrong place, a part of the password would be taken for the host, and shown.
        raise InvalidOption("the store's address has more than one @: write the one in the password as %40, a / as %2F")
    _check_port(parsed)
    if parsed.get_backend_name() == "postgres":
        parsed = parsed.set(drivername="postgresql")
    if parsed.get_backend_name() not in LANES:
        raise InvalidOption(f"no store speaks {parsed.get_backend_name()!r}: use sqlite:///, postgresql:// or mysql://")
    return parsed


def is_in_memory(url: str | URL) -> bool:
    """Whether the address is that of a SQLite database without a file."""
    parsed = parse_url(url) if isinstance(url, str) else url
    return parsed.get_backend_name() == "sqlite" and parsed.database in (None, "", ":memory:")


def file_of(url: URL) -> str | None:
    """The file of a SQLite database; None where there is none."""
    return url.database if url.get_backend_name() == "sqlite" and not is_in_memory(url) else None


@asynccontextmanager
async def in_background(work: Coroutine[Any, Any, None]) -> AsyncGenerator[None]:
    """The work goes on for as long as the block lasts."""
    task = asyncio.create_task(work, name="actorjobs-watch")
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def _check_port(url: URL) -> None:
    if url.port is not None and not 0 < url.port < 65536:
        raise InvalidOption(f"the store's port lies between 1 and 65535, not {url.port}")


def masked(url: URL) -> str:
    """The address as it may be shown."""
    return url.render_as_string(hide_password=True)


async def open_database(url: str, clock: Clock, *, inline: bool = False) -> Database:
    """Connect to whatever `url` names. `inline` runs SQLite in the calling thread, for one that may block."""
    parsed = parse_url(url)
    if parsed.get_backend_name() == "sqlite":
        from actorjobs.stores.sqlite import SqliteDatabase

        return SqliteDatabase(parsed, inline=inline)
    try:
        if parsed.get_backend_name() in MYSQL:
            from actorjobs.stores.mysql import MysqlDatabase

            return MysqlDatabase(parsed)
        from actorjobs.stores.postgres import PostgresDatabase

        return PostgresDatabase(parsed)
    except ModuleNotFoundError as error:
        extra = "mysql" if parsed.get_backend_name() in MYSQL else "postgres"
        raise InvalidOption(f"{parsed.drivername}:// needs {error.name}: pip install 'actorjobs[{extra}]'") from None


def refused(error: DBAPIError, url: URL) -> StoreRefused:
    """`StoreRefused` with the database's words and nobody's data."""
    words = str(error.orig).strip().splitlines()[0].split(": ", 1)[-1][:300] if error.orig is not None else ""
    return StoreRefused(f"the user of {masked(url)} may not do this ({words}): use one that may, or grant it the right")


def unavailable(error: BaseException, url: URL, kind: type[StoreUnavailable] = StoreUnavailable) -> StoreUnavailable:
    """`StoreUnavailable` with the cause in one line and no secret."""
    cause: Any = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    lines = str(cause).strip().splitlines()
    text = lines[0] if lines else ""
    if url.password:
        text = text.replace(str(url.password), "***")
    return kind(f"the store at {masked(url)} does not answer: {type(cause).__name__}: {text[:300]}")
