"""F14: a database that is away at a claim, in a job, at a finish. F15: two of everybody."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from sqlalchemy import text

from tests.faults.app import Work
from tests.faults.bench import Bench, canceled, consumer_of, until
from tests.rabbit.proxy import Proxy


@pytest.mark.parametrize("how", [pytest.param("reset", marks=pytest.mark.faults), "black hole"])
async def test_a_database_that_is_away_for_six_seconds_costs_no_attempt(
    bench: Bench, store_proxy: Proxy, how: str
) -> None:
    """F14: hints are kept and asked for again, jobs go on, ends are recorded once it is back."""
    worker = await bench.worker(at_once=10, store=store_proxy.url)
    at_finish = [await bench.dispatch(Work(seconds=2)) for _ in range(4)]
    in_job = [await bench.dispatch(Work(seconds=9)) for _ in range(3)]
    await bench.started([*at_finish, *in_job])
    if how == "reset":
        store_proxy.refuse()
        store_proxy.reset()
    else:
        store_proxy.black_hole()
    await bench.dispatch_many(60, Work(seconds=0.01))  # by the client, whose way is free
    await asyncio.sleep(6)
    assert consumer_of(worker).is_consuming
    if how == "black hole":
        store_proxy.reset()
    store_proxy.heal()
    # A claim whose answer was lost is the one attempt that may be in vain.
    await bench.judge(most_attempts=1 if how == "reset" else 2)
    assert not canceled(bench.effects())


@pytest.mark.faults
async def test_a_database_that_is_away_for_long_interrupts_and_loses_nothing(bench: Bench, store_proxy: Proxy) -> None:
    await bench.worker(at_once=10, store=store_proxy.url)
    long = [await bench.dispatch(Work(seconds=25)) for _ in range(5)]
    await bench.started(long)
    store_proxy.refuse()
    store_proxy.reset()
    began = time.monotonic()
    await bench.dispatch_many(50)
    await until(lambda: set(canceled(bench.effects())) == set(long), within=15)
    assert time.monotonic() - began > 7
    await asyncio.sleep(max(0.0, 25 - (time.monotonic() - began)))
    store_proxy.heal()
    await bench.judge(120)
    runs = [await bench.client.runs.get(run_id) for run_id in long]
    assert {run.failures for run in runs} == {0}


@pytest.mark.parametrize("code", ["40P01", "40001"], ids=["deadlock", "serialization failure"])
async def test_what_the_database_takes_back_is_written_again(bench: Bench, code: str) -> None:
    """F14: each third statement that writes runs ends in what PostgreSQL says to a victim."""
    await bench.worker(at_once=20)
    await bench.dispatch_many(20)
    await bench.all_over()
    async with victims(bench, code) as number:
        for _ in range(30):
            await bench.dispatch_many(3, Work(seconds=0.01))
            await bench.dispatch(Work(failures=1))
        await bench.judge(most_attempts=2)
        assert await number() > 20


@asynccontextmanager
async def victims(bench: Bench, code: str) -> AsyncGenerator[Callable[[], Awaitable[int]]]:
    """Have PostgreSQL itself refuse what is written, each third time; how often, is the answer to a call."""
    engine = bench.client.store.engine

    async def run(*statements: str) -> None:
        async with engine.begin() as connection:
            for statement in statements:
                await connection.execute(text(statement))

    async def number() -> int:
        async with engine.connect() as connection:
            return int((await connection.execute(text("SELECT last_value FROM faults_victims"))).scalar_one()) // 3

    await run(
        "CREATE SEQUENCE faults_victims",  # which no rollback takes back
        f"""CREATE FUNCTION faults_victim() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
              IF nextval('faults_victims') % 3 = 0 THEN RAISE EXCEPTION 'a victim' USING ERRCODE = '{code}'; END IF;
              RETURN NULL;
            END $$""",
        "CREATE TRIGGER faults_victim AFTER INSERT OR UPDATE ON actorjobs_runs EXECUTE FUNCTION faults_victim()",
    )
    try:
        yield number
    finally:
        await run(
            "DROP TRIGGER faults_victim ON actorjobs_runs",
            "DROP FUNCTION faults_victim",
            "DROP SEQUENCE faults_victims",
        )


async def test_drains_and_dead_letters_wait_for_the_database(bench: Bench, store_proxy: Proxy) -> None:
    worker = await bench.worker(at_once=1, store=store_proxy.url)
    store_proxy.refuse()
    store_proxy.reset()
    async with bench.channel() as channel:
        for queue in (bench.work_queue, bench.topology.dead, bench.topology.unrouted):
            await channel.basic_publish(b"not a hint", routing_key=queue)
    await asyncio.sleep(1.5)
    store_proxy.heal()
    await until(lambda: not worker.health)
    deadline = time.monotonic() + 20
    while len(await bench.client.quarantined()) < 3:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.1)
    await bench.empty()


async def test_two_relays_and_two_rescuers_do_everything_once(bench: Bench) -> None:
    """F15: rows that only a relay can publish, and runs that only a rescuer can take back."""
    dying = await bench.process(FAULTS_AT_ONCE="40")
    lost = await bench.dispatch_many(40, Work(seconds=2))
    await bench.started(lost)
    dying.kill()
    await dying.wait()
    async with bench.client.store.engine.connect() as connection:
        await connection.begin()
        for _ in range(200):
            await bench.dispatch(tx=connection)
        await connection.commit()
    for _ in range(3):
        await bench.worker(at_once=20)
    await bench.judge(most_attempts=2)
