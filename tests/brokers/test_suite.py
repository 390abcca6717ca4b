"""The conformance suite over every pair of a broker and a store."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import uuid4

import pytest

from actorjobs.config import EMBEDDED
from actorjobs.testing.broker_suite import BrokerSuite, Pair
from tests.brokers.topologies import forget


class OnSqlite:
    @pytest.fixture
    def store_url(self, sqlite_url: str) -> str:
        return sqlite_url


class OnPostgres:
    @pytest.fixture
    def store_url(self, postgres_url: str) -> str:
        return postgres_url


class OnMariadb:
    @pytest.fixture
    def store_url(self, mariadb_url: str) -> str:
        return mariadb_url


class Embedded(BrokerSuite):
    @pytest.fixture
    def pair(self, store_url: str) -> Pair:
        return Pair(store=store_url, broker=EMBEDDED)


class Rabbit(BrokerSuite):
    @pytest.fixture
    async def pair(self, store_url: str, rabbitmq_server: str) -> AsyncIterator[Pair]:
        pair = Pair(store=store_url, broker=rabbitmq_server, namespace=f"suite-{uuid4().hex[:12]}")
        yield pair
        await forget(pair.broker, pair.namespace)


class TestEmbeddedOnSqlite(OnSqlite, Embedded):
    pass


class TestEmbeddedOnPostgres(OnPostgres, Embedded):
    pass


class TestEmbeddedOnMariadb(OnMariadb, Embedded):
    pass


class TestRabbitOnSqlite(OnSqlite, Rabbit):
    pass


class TestRabbitOnPostgres(OnPostgres, Rabbit):
    pass


class TestRabbitOnMariadb(OnMariadb, Rabbit):
    pass
