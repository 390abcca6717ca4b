"""SQLite: one thread owns the writing connection, so that a whole transaction costs one hop off the loop.

WAL with `synchronous=FULL`: a commit that was answered survives a power cut. Another process is noticed through
`PRAGMA data_version`, which costs microseconds and changes whenever somebody else committed.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, suppress
from pathlib import Path
from typing import Any, TypeVar

from anyio import CancelScope
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL
from sqlalchemy.exc import DatabaseError, DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import StaticPool

from actorjobs.errors import InvalidOption, StoreUnavailable
from actorjobs.stores.database import in_background, is_in_memory, masked, unavailable

T = TypeVar("T")

LOCK_TIMEOUT_SECONDS = 5.0
WATCH_INTERVAL_SECONDS = 0.025
WAL_PAUSE_SECONDS = 0.005
NETWORK_FILE_SYSTEMS = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse.sshfs", "afs", "ceph", "glusterfs"}
)


class SqliteDatabase:
    """A database file (or memory, for tests) and the threads that work on it."""

    def __init__(self, url: URL, *, inline: bool = False, lock_timeout: float = LOCK_TIMEOUT_SECONDS) -> None:
        self.url = _checked(url)
        self._in_memory = is_in_memory(self.url)
        self._lock_timeout = lock_timeout
        self._writer_engine = _engine(self.url, lock_timeout)
        self._inline = inline
        self._writer = ThreadPoolExecutor(1, "actorjobs-writer")
        self._readers = self._writer if self._in_memory else ThreadPoolExecutor(2, "actorjobs-reader")
        self._reader_engine = (
            self._writer_engine if self._in_memory else _engine(self.url, lock_timeout, is_writer=False)
        )
        self._async_engine: AsyncEngine | None = None

    @property
    def engine(self) -> AsyncEngine:
        if self._in_memory:
            raise InvalidOption("a store in memory has one connection, its own: use a file to look at it from outside")
        if self._async_engine is None:
            self._async_engine = create_async_engine(self.url.set(drivername="sqlite+aiosqlite"))
        return self._async_engine

    async def write(self, work: Callable[[Connection], T]) -> T:
        return await self._in_thread(self._writer, lambda: self._transact(self._writer_engine, work))

    async def write_at_once(self, work: Callable[[Connection], T]) -> T:
        return await self.write(work)

    async def read(self, work: Callable[[Connection], T]) -> T:
        return await self._in_thread(self._readers, lambda: self._transact(self._reader_engine, work))

    def _transact(self, engine: Engine, work: Callable[[Connection], T]) -> T:
        try:
            with engine.begin() as connection:
                return work(connection)
        except (DatabaseError, sqlite3.DatabaseError) as error:
            cause: Any = error.orig if isinstance(error, DatabaseError) else error
            if type(cause) not in (sqlite3.OperationalError, sqlite3.DatabaseError):
                raise  # a row that the file refuses, not a file that refuses
            if "locked" in str(cause) or "busy" in str(cause):
                raise StoreUnavailable(
                    f"another writer has held {masked(self.url)} for {self._lock_timeout:g} s; "
                    "if it is a transaction of your own around this dispatch, pass it as tx="
                ) from None
            raise unavailable(error, self.url) from error

    async def _in_thread(self, executor: ThreadPoolExecutor, call: Callable[[], T]) -> T:
        if self._inline:
            return call()
        try:
            work = asyncio.get_running_loop().run_in_executor(executor, call)
        except RuntimeError:
            raise StoreUnavailable(f"the store at {masked(self.url)} is closed") from None
        return await _to_its_end(work)

    def watch(self, notice: Callable[[], None]) -> AbstractAsyncContextManager[None]:
        return in_background(self._watch(notice))

    async def _watch(self, notice: Callable[[], None]) -> None:
        seen: int | None = None
        while True:
            with suppress(StoreUnavailable, DBAPIError):
                version = await self._data_version()
                if version != seen:
                    if seen is not None:
                        notice()
                    seen = version
            await asyncio.sleep(WATCH_INTERVAL_SECONDS)

    async def _data_version(self) -> int:
        def ask() -> int:
            with self._writer_engine.connect() as connection:
                raw: Any = connection.connection.driver_connection
                return int(raw.execute("PRAGMA data_version").fetchone()[0])

        return await self._in_thread(self._writer, ask)

    def announce(self) -> None:
        """Nothing to do: the file's version tells."""

    async def close(self) -> None:
        with suppress(StoreUnavailable):
            await self._in_thread(self._writer, self._writer_engine.dispose)
            await self._in_thread(self._readers, self._reader_engine.dispose)
        if self._async_engine is not None:
            await self._async_engine.dispose()
        for executor in (self._writer, self._readers):
            executor.shutdown(wait=False)


async def _to_its_end(work: asyncio.Future[T]) -> T:
    """The answer of a transaction in a thread. A canceled caller is told so only when it is decided: a thread cannot
    be called back, and nobody may close the connection under it."""
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        with CancelScope(shield=True):  # a scope of anyio cancels anew at every await, until it is left
            while not work.done():
                with suppress(asyncio.CancelledError):
                    await asyncio.wait([work])
        if not work.cancelled():
            work.exception()
        raise


def _engine(url: URL, lock_timeout: float, *, is_writer: bool = True) -> Engine:
    pool: dict[str, Any] = {"poolclass": StaticPool} if is_writer else {"pool_size": 2, "max_overflow": 0}
    engine = create_engine(
        url.set(drivername="sqlite+pysqlite"),
        connect_args={"check_same_thread": False, "timeout": lock_timeout},
        **pool,
    )

    def on_connect(connection: sqlite3.Connection, _record: Any) -> None:
        # The driver must not begin transactions by itself: `on_begin` says when, and which kind.
        connection.isolation_level = None
        _use_wal(connection, lock_timeout)
        for pragma in ("synchronous=FULL", "temp_store=MEMORY"):
            connection.execute(f"PRAGMA {pragma}")

    def on_begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE" if is_writer else "BEGIN")

    event.listen(engine, "connect", on_connect)
    event.listen(engine, "begin", on_begin)
    return engine


def _use_wal(connection: sqlite3.Connection, lock_timeout: float) -> None:
    """Switch the file to WAL, if nobody has. While processes that open a new file at the same moment do so, each finds
    it locked at once: for this SQLite does not wait, whatever the time-out."""
    deadline = time.monotonic() + lock_timeout
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() >= deadline:
                raise
        time.sleep(WAL_PAUSE_SECONDS)


def _checked(url: URL) -> URL:
    if url.host or url.password:
        raise InvalidOption("a SQLite store is a file: sqlite:///relative.db or sqlite:////absolute.db")
    if url.query:
        raise InvalidOption(f"a SQLite store takes no options in its address: {', '.join(url.query)}")
    if is_in_memory(url):
        return url
    path = Path(str(url.database))
    if path.is_dir():
        raise InvalidOption(f"{path} is a folder: name a file, like sqlite:///{path}/actorjobs.db")
    if not path.absolute().parent.is_dir():
        raise InvalidOption(f"the folder {path.absolute().parent} does not exist: create it, or name another file")
    kind = file_system(path.absolute().parent)
    if kind in NETWORK_FILE_SYSTEMS:
        raise InvalidOption(f"{path} lies on a network file system ({kind}), where SQLite loses data: use a local disk")
    return url


def file_system(folder: Path) -> str | None:
    """The type of the file system that holds `folder`; None where the system does not tell."""
    try:
        mounts = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    real = folder.resolve()
    best, kind = Path(), None
    for line in mounts.splitlines():
        _, point, found, *_ = line.split(" ")
        mount = Path(point.replace("\\040", " "))
        if real.is_relative_to(mount) and len(mount.parts) >= len(best.parts):
            best, kind = mount, found
    return kind
