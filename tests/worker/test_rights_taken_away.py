"""A database that lets the worker's user write no more, while runs are at work."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

import actorjobs as aj
from tests.contract.databases import create_database, drop_database


@aj.job("rights:waits")
async def waits(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "done"


@pytest.fixture
async def own_postgres_url(postgres_server: str) -> AsyncIterator[str]:
    url = await create_database(postgres_server)
    yield url
    await drop_database(postgres_server, url)


async def _with_attempts(url: str, *, may_be_written: bool) -> None:
    """A trigger refuses as a missing right would: the tests' user owns the table, and an owner has every right."""
    connection: Any = await asyncpg.connect(url)
    try:
        if may_be_written:
            await connection.execute("DROP TRIGGER IF EXISTS refused ON actorjobs_attempts")
            return
        await connection.execute(
            "CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'permission denied' USING ERRCODE = '42501'; END $$"
        )
        await connection.execute(
            "CREATE TRIGGER refused BEFORE INSERT ON actorjobs_attempts FOR EACH ROW EXECUTE FUNCTION refuse()"
        )
    finally:
        await connection.close()


@pytest.mark.parametrize("comes_back", [True, False])
async def test_an_outcome_waits_for_the_right_to_be_written_and_for_no_longer_than_a_close(
    own_postgres_url: str, comes_back: bool
) -> None:
    runtime = aj.Runtime(store=own_postgres_url, jobs=[waits], grace=0.5)
    async with runtime:
        run = await waits.dispatch(0.3)
        while (await runtime.runs.get(run.id)).state is not aj.RunState.RUNNING:
            await asyncio.sleep(0.01)
        await _with_attempts(own_postgres_url, may_be_written=False)
        await asyncio.sleep(0.6)
        if comes_back:
            await _with_attempts(own_postgres_url, may_be_written=True)
            assert await run.result(timeout=10) == "done"
        began = time.monotonic()
    assert time.monotonic() - began < 20
    await _with_attempts(own_postgres_url, may_be_written=True)
    if not comes_back:
        async with runtime:
            assert await run.result(timeout=30) == "done"
            outcomes = [one.outcome for one in await runtime.runs.attempts(run.id)]
        assert outcomes == [aj.Outcome.LOST, aj.Outcome.SUCCEEDED]
