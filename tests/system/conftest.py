from __future__ import annotations

import os
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import make_url, text
from sqlalchemy.ext.asyncio import create_async_engine

from actorjobs.clock import SystemClock
from actorjobs.stores import open_store

DRIVERS = {"postgres": "postgresql+asyncpg", "mariadb": "mysql+asyncmy"}
DROP = {"postgres": "DROP DATABASE {} WITH (FORCE)", "mariadb": "DROP DATABASE {}"}


@pytest.fixture(params=["sqlite", "postgres", "mariadb"])
async def system_store_url(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    """A store of the test's own, ready to use: a file, or a database that is dropped afterwards."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/runs.db"
        return
    kind: str = request.param
    variable = f"ACTORJOBS_TEST_{kind.upper()}_URL"
    server = os.environ.get(variable)
    if server is None:
        if os.environ.get("CI") == "true":
            pytest.fail(f"{variable} is not set: run `scripts/services up` first")
        pytest.skip(f"no {kind}: run `scripts/services up` and set what `scripts/services env` says")
    name = f"aj_{uuid.uuid4().hex[:12]}"
    await _administer(server, DRIVERS[kind], f"CREATE DATABASE {name}")
    url = make_url(server).set(database=name).render_as_string(hide_password=False)
    store = await open_store(url, namespace="default", clock=SystemClock())
    await store.migrate()
    await store.close()
    yield url
    await _administer(server, DRIVERS[kind], DROP[kind].format(name))


async def _administer(server: str, driver: str, statement: str) -> None:
    url = make_url(server).set(drivername=driver)
    engine = create_async_engine(url, isolation_level="AUTOCOMMIT")
    async with engine.connect() as connection:
        await connection.execute(text(statement))
    await engine.dispose()
