"""The conformance suite over every store there is."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping

import pytest

from actorjobs.clock import Clock, SystemClock
from actorjobs.ports import Store
from actorjobs.testing import MemoryDatabase, MemoryStore
from actorjobs.testing.store_suite import InOutbox, OpenStore, StoreSuite
from tests.contract.databases import Begin, opening, read_outbox, transactions_on, write_hold


class TestMemory(StoreSuite):
    @pytest.fixture
    def open_store(self) -> OpenStore:
        database = MemoryDatabase()

        async def open_store(namespace: str, clock: Clock, *, has_outbox: bool = False) -> Store:
            return MemoryStore(namespace=namespace, clock=clock, database=database, has_outbox=has_outbox)

        return open_store

    async def hold(self, store: Store, run_id: str, reason: str | None) -> None:
        assert isinstance(store, MemoryStore)
        store.database.runs[run_id]["hold"] = reason

    async def outbox_of(self, store: Store, run_id: str) -> InOutbox:
        assert isinstance(store, MemoryStore)
        return InOutbox(*(store.database.runs[run_id][name] for name in InOutbox._fields))


class OnDatabase:
    """What stores on SQL databases have in common."""

    def transactions(self, store: Store) -> Mapping[str, Begin]:
        return transactions_on(store)

    async def hold(self, store: Store, run_id: str, reason: str | None) -> None:
        await write_hold(store, run_id, reason)

    async def outbox_of(self, store: Store, run_id: str) -> InOutbox:
        return await read_outbox(store, run_id)


class InRealTime:
    @pytest.fixture
    def clock(self) -> Clock:
        return SystemClock()


class OnSqlite(OnDatabase):
    @pytest.fixture
    async def open_store(self, sqlite_url: str) -> AsyncGenerator[OpenStore]:
        async with opening(sqlite_url) as open_store:
            yield open_store


class OnPostgres(OnDatabase):
    @pytest.fixture
    async def open_store(self, postgres_url: str) -> AsyncGenerator[OpenStore]:
        async with opening(postgres_url) as open_store:
            yield open_store


class OnMariadb(OnDatabase):
    @pytest.fixture
    async def open_store(self, mariadb_url: str) -> AsyncGenerator[OpenStore]:
        async with opening(mariadb_url) as open_store:
            yield open_store


class TestSqlite(OnSqlite, StoreSuite):
    pass


class TestSqliteInRealTime(InRealTime, OnSqlite, StoreSuite, virtual_time=False):
    pass


class TestPostgres(OnPostgres, StoreSuite):
    pass


class TestPostgresInRealTime(InRealTime, OnPostgres, StoreSuite, virtual_time=False):
    pass


class TestMariadb(OnMariadb, StoreSuite):
    pass


class TestMariadbInRealTime(InRealTime, OnMariadb, StoreSuite, virtual_time=False):
    pass
