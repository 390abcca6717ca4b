"""The roles of deploy/postgres-roles.sql, each at its work on the running server, in a database of the test's own."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy.engine import make_url

import actorjobs as aj
from actorjobs.stores.migrate import upgrade
from tests.brokers.topologies import forget
from tests.contract.databases import admin_engine, create_database, drop_database

SQL = (Path(__file__).parents[2] / "deploy" / "postgres-roles.sql").read_text(encoding="utf-8")
ROLES = ("owner", "worker", "client", "reader")
PASSWORD = "a-password"


@aj.job("roles:flaky", retry=aj.Retry(attempts=2, backoff=aj.Fixed(0)))
async def flaky(ctx: aj.JobContext) -> int:
    if ctx.attempt == 1:
        raise RuntimeError("not yet")
    return ctx.attempt


@aj.job("roles:one", unique=aj.Unique(on_conflict="replace"))
async def one(text: str) -> None: ...


class Database:
    """A database whose roles have a prefix of their own: roles belong to the whole server."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.prefix = f"aj{os.getpid()}{os.urandom(3).hex()}"

    def of(self, role: str) -> str:
        given = make_url(self.url).set(username=f"{self.prefix}_{role}", password=PASSWORD)
        return given.render_as_string(hide_password=False)

    async def administer(self, *statements: str) -> None:
        connection = await asyncpg.connect(self.url)
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()

    async def apply(self) -> None:
        await self.administer(re.sub(r"\bjobs_", f"{self.prefix}_", SQL))

    async def query(self, role: str, statement: str) -> list[Any]:
        connection = await asyncpg.connect(self.of(role))
        try:
            rows: list[Any] = await connection.fetch(statement)
            return rows
        finally:
            await connection.close()


@pytest.fixture
async def database(postgres_server: str) -> AsyncGenerator[Database]:
    """As the file says: applied, upgraded by the owner, applied again."""
    database = Database(await create_database(postgres_server, is_migrated=False))
    try:
        await database.apply()
        await database.administer(*(f"ALTER ROLE {database.prefix}_{role} PASSWORD '{PASSWORD}'" for role in ROLES))
        engine = admin_engine(database.of("owner"))
        async with engine.begin() as connection:
            await connection.run_sync(upgrade)
        await engine.dispose()
        await database.apply()
        yield database
    finally:
        roles = ", ".join(f"{database.prefix}_{role}" for role in ROLES)
        await drop_database(postgres_server, database.url)
        database.url = postgres_server
        await database.administer(f"DROP ROLE {roles}")


@pytest.mark.parametrize("broker", ["embedded", "rabbitmq"])
async def test_each_role_can_do_its_work(database: Database, broker: str, rabbitmq_server: str) -> None:
    namespace = f"roles-{os.urandom(4).hex()}"
    options: dict[str, Any] = {"jobs": [flaky, one], "namespace": namespace}
    if broker == "rabbitmq":
        options["broker"] = rabbitmq_server
    try:
        async with (
            aj.Runtime(store=database.of("client"), **options).client() as client,
            aj.Runtime(store=database.of("worker"), **options) as worker,
        ):
            run = await client.dispatch(flaky)
            assert await run.result(timeout=20) == 2
            await worker.queues.pause("default", reason="a test")
            waiting = await client.dispatch(one.options(delay=60), "a")
            assert (await client.dispatch(one.options(delay=60), "a")).id == waiting.id
            await client.runs.cancel(waiting.id)
            assert (await client.runs.get(waiting.id)).state is aj.RunState.CANCELED
            await client.runs.retry(waiting.id)
            replayed = await client.runs.replay(run.id)
            assert len(await client.runs.list()) == 3
            await client.runs.cancel(replayed.id)
            await client.runs.delete(run.id)
            await client.dispatch_many([flaky.envelope() for _ in range(3)])
            await worker.queues.resume("default")
            assert not [one for one in await worker.examine() if one.level == "error"]
        rows = await database.query("reader", "SELECT count(*) FROM actorjobs_runs")
        assert rows[0][0] == 5
    finally:
        if broker == "rabbitmq":
            await asyncio.shield(forget(rabbitmq_server, namespace, ("default",)))


@pytest.mark.parametrize(
    ("role", "statement"),
    [
        ("reader", "DELETE FROM actorjobs_runs"),
        ("reader", "UPDATE actorjobs_queues SET is_paused = true"),
        ("client", "UPDATE actorjobs_queues SET is_paused = true"),
        ("client", "DELETE FROM actorjobs_workers"),
        ("client", "UPDATE actorjobs_attempts SET outcome = 'succeeded'"),
        ("client", "DELETE FROM actorjobs_quarantine"),
        ("worker", "DROP TABLE actorjobs_runs"),
        ("worker", "CREATE TABLE mine (id int)"),
        ("client", "TRUNCATE actorjobs_runs"),
        ("worker", "SELECT * FROM of_the_application"),
    ],
)
async def test_and_nothing_else(database: Database, role: str, statement: str) -> None:
    await database.administer("CREATE TABLE of_the_application (id int)")
    await database.apply()
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await database.query(role, statement)


async def test_a_web_process_cannot_perform(database: Database) -> None:
    with pytest.raises(aj.StoreRefused, match="permission denied for table actorjobs_workers") as refused:
        async with aj.Runtime(store=database.of("client"), jobs=[flaky]):
            pass
    assert PASSWORD not in str(refused.value)
