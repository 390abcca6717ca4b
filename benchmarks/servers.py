"""The servers that trials use, and what trials make on them: databases of their own, deleted afterwards."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from sqlalchemy import URL, make_url, text
from sqlalchemy.ext.asyncio import create_async_engine

from actorjobs.clock import SystemClock
from actorjobs.stores import open_store
from benchmarks import machine
from benchmarks.systems import MARIADB, POSTGRESQL, RABBITMQ

VARIABLES = {
    POSTGRESQL: "ACTORJOBS_TEST_POSTGRES_URL",
    MARIADB: "ACTORJOBS_TEST_MARIADB_URL",
    RABBITMQ: "ACTORJOBS_TEST_RABBITMQ_URL",
}
_DRIVERS = {POSTGRESQL: "postgresql+asyncpg", MARIADB: "mysql+asyncmy"}
_PORTS = {POSTGRESQL: 5432, MARIADB: 3306, RABBITMQ: 5672}
DEFAULT_HOST = "%2F"
"""RabbitMQ's virtual host `/`, as it is written in a URL that every client understands."""


def address(kind: str) -> str | None:
    """The URL of the server of that kind, from the environment; None without one."""
    url = os.environ.get(VARIABLES[kind]) or None
    if url is not None and kind == RABBITMQ and url.rstrip("/").count("/") == 2:
        return f"{url.rstrip('/')}/{DEFAULT_HOST}"
    return url


def process(kind: str | None) -> int | None:
    """The id of that server's first process, if it runs on this machine and may be looked at."""
    url = address(kind) if kind in VARIABLES else None
    return None if url is None or kind is None else machine.listener(urlsplit(url).port or _PORTS[kind])


def missing(kinds: Iterable[str | None]) -> str | None:
    """Why these servers cannot be used, for people; None if all are there."""
    absent = [kind for kind in kinds if kind in VARIABLES and address(kind) is None]
    return ", ".join(f"{VARIABLES[kind]} is not set" for kind in absent) or None


async def create_database(kind: str) -> str | None:
    """The URL of a new and empty database on the server of that kind; None without a server."""
    server = address(kind)
    if server is None:
        return None
    name = f"aj_bench_{uuid.uuid4().hex[:8]}"
    await _execute(engine_url(server, kind), f"CREATE DATABASE {name}")
    return make_url(server).set(database=name).render_as_string(hide_password=False)


async def drop_database(url: str) -> None:
    """Delete a database that `create_database` made, whoever is connected."""
    kind = POSTGRESQL if make_url(url).get_backend_name() == "postgresql" else MARIADB
    server = address(kind)
    if server is None:
        raise RuntimeError(f"{VARIABLES[kind]} is not set any more")
    force = " WITH (FORCE)" if kind == POSTGRESQL else ""
    await _execute(engine_url(server, kind), f"DROP DATABASE IF EXISTS {make_url(url).database}{force}")


async def server_store(kind: str) -> str | None:
    """The URL of a new database on the server of that kind, with our tables in it; None without a server."""
    url = await create_database(kind)
    if url is not None:
        store = await open_store(url, namespace="bench", clock=SystemClock())
        await store.migrate()
        await store.close()
    return url


async def delete_from_broker(broker: str, queues: Sequence[str], exchanges: Sequence[str]) -> None:
    """Delete these from RabbitMQ, if they are there."""
    from actorjobs.brokers.rabbitmq import connected, parse_address  # the driver may not be installed

    async with connected(parse_address(broker), name="benchmarks") as link:
        channel = await link.channel()
        for queue in queues:
            await channel.queue_delete(queue)
        for exchange in exchanges:
            await channel.exchange_delete(exchange)


async def delete_namespace(broker: str, namespace: str, queues: Sequence[str]) -> None:
    """Delete what a namespace of actorjobs has in RabbitMQ."""
    from actorjobs.brokers.rabbitmq import Topology  # the driver may not be installed

    topology = Topology(namespace)
    parts = [topology.base(), *(topology.of_queue(queue) for queue in queues)]
    await delete_from_broker(
        broker,
        [queue.name for part in parts for queue in part.queues],
        [exchange.name for part in parts for exchange in part.exchanges],
    )


def engine_url(server: str, kind: str) -> URL:
    """The same address as SQLAlchemy wants it."""
    return make_url(server).set(drivername=_DRIVERS[kind])


async def _execute(url: URL, statement: str) -> Any:
    engine = create_async_engine(url, isolation_level="AUTOCOMMIT")
    try:
        async with engine.connect() as connection:
            await connection.execute(text(statement))
    finally:
        with suppress(Exception):
            await engine.dispose()
