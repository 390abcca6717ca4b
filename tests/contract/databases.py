"""Making databases for tests, and getting into them past the store."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, create_engine, select, text, update
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from actorjobs.clock import Clock, SystemClock
from actorjobs.ports import Store
from actorjobs.stores import SqlStore, open_store
from actorjobs.stores.migrate import upgrade
from actorjobs.stores.schema import metadata, runs
from actorjobs.testing.store_suite import InOutbox, OpenStore, OpenTransaction


def migrated_file(path: Path) -> Path:
    """A SQLite file with the tables in it, all in one piece."""
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        upgrade(connection)
    engine.dispose()
    return path


async def create_database(server: str, *, is_migrated: bool = True) -> str:
    """A new database on that server; its address."""
    name = f"actorjobs_test_{os.getpid()}_{os.urandom(3).hex()}"
    await _maintain(server, f"CREATE DATABASE {name}")
    if _is_postgres(server):
        await _maintain(server, f"ALTER DATABASE {name} SET synchronous_commit = off")
    url = make_url(server).set(database=name)
    if is_migrated:
        engine = admin_engine(url.render_as_string(hide_password=False))
        async with engine.begin() as connection:
            await connection.run_sync(upgrade)
        await engine.dispose()
    return url.render_as_string(hide_password=False)


def _is_postgres(url: str) -> bool:
    return make_url(url).get_backend_name() in ("postgres", "postgresql")


async def emptied(url: str) -> None:
    """Delete every row."""
    engine = admin_engine(url)
    async with engine.begin() as connection:
        for table in metadata.tables:
            await connection.execute(text(f"DELETE FROM {table}"))
    await engine.dispose()


async def drop_database(server: str, url: str) -> None:
    force = "WITH (FORCE)" if _is_postgres(server) else ""
    await _maintain(server, f"DROP DATABASE {make_url(url).database} {force}")


async def _maintain(server: str, statement: str) -> None:
    engine = admin_engine(server, isolation_level="AUTOCOMMIT")
    async with engine.connect() as connection:
        await connection.execute(text(statement))
    await engine.dispose()


def admin_engine(url: str, **options: Any) -> AsyncEngine:
    """An engine of the test's own on a server's database."""
    driver = "postgresql+asyncpg" if _is_postgres(url) else "mysql+asyncmy"
    return create_async_engine(make_url(url).set(drivername=driver), **options)


@asynccontextmanager
async def opening(url: str) -> AsyncGenerator[OpenStore]:
    """Opens stores on one database and closes them in the end."""
    async with AsyncExitStack() as stack:

        async def opened(namespace: str, clock: Clock, *, has_outbox: bool = False) -> Store:
            store = await open_store(url, namespace=namespace, clock=clock, has_outbox=has_outbox)
            stack.push_async_callback(store.close)
            await store.open()
            return store

        yield opened


class Stores:
    """Makes stores on databases anywhere, and closes them in the end."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack

    async def made(self, url: str, *, clock: Clock | None = None, **options: Any) -> SqlStore:
        store = await open_store(url, namespace="default", clock=clock or SystemClock(), **options)
        self._stack.push_async_callback(store.close)
        return store

    async def opened(self, url: str, *, clock: Clock | None = None, **options: Any) -> SqlStore:
        store = await self.made(url, clock=clock, **options)
        await store.open()
        return store


def engine_of(store: Store) -> AsyncEngine:
    assert isinstance(store, SqlStore)
    return store.engine


async def write_hold(store: Store, run_id: str, reason: str | None) -> None:
    async with engine_of(store).begin() as connection:
        await connection.execute(update(runs).where(runs.c.id == run_id).values(hold=reason))


async def read_outbox(store: Store, run_id: str) -> InOutbox:
    columns = (runs.c.publish_after, runs.c.published_at, runs.c.republished)
    async with engine_of(store).connect() as connection:
        return InOutbox(*(await connection.execute(select(*columns).where(runs.c.id == run_id))).one())


# --- transactions of an application ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class AsyncTransaction:
    tx: AsyncSession | AsyncConnection

    async def commit(self) -> None:
        await self.tx.commit()

    async def rollback(self) -> None:
        await self.tx.rollback()


@dataclass(frozen=True)
class SyncTransaction:
    tx: Session | Connection

    async def commit(self) -> None:
        self.tx.commit()

    async def rollback(self) -> None:
        self.tx.rollback()


Begin = Callable[[], AbstractAsyncContextManager[OpenTransaction]]


def transactions_on(store: Store) -> Mapping[str, Begin]:
    """What `tx=` takes on this store. There is no driver without asyncio for PostgreSQL here."""
    engine = engine_of(store)
    driver = {"sqlite": "sqlite", "mysql": "mysql+pymysql"}.get(engine.url.get_backend_name())

    @asynccontextmanager
    async def async_session() -> AsyncGenerator[OpenTransaction]:
        async with AsyncSession(engine) as session:
            yield AsyncTransaction(session)

    @asynccontextmanager
    async def async_connection() -> AsyncGenerator[OpenTransaction]:
        async with engine.connect() as connection:
            yield AsyncTransaction(connection)

    @asynccontextmanager
    async def session() -> AsyncGenerator[OpenTransaction]:
        sync_engine = create_engine(engine.url.set(drivername=str(driver)))
        with Session(sync_engine) as session:
            yield SyncTransaction(session)
        sync_engine.dispose()

    @asynccontextmanager
    async def connection() -> AsyncGenerator[OpenTransaction]:
        sync_engine = create_engine(engine.url.set(drivername=str(driver)))
        with sync_engine.connect() as connection:
            yield SyncTransaction(connection)
        sync_engine.dispose()

    kinds: dict[str, Begin] = {"async-session": async_session, "async-connection": async_connection}
    if driver is not None:
        kinds |= {"session": session, "connection": connection}
    return kinds
