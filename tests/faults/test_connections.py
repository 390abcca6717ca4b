"""F4: connections to the broker that break, in every way, while jobs run. F18: a loop that is held up."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.faults.app import Work
from tests.faults.bench import Bench, broker_of, canceled, consumer_of, until
from tests.rabbit.proxy import Proxy


async def breaks(proxy: Proxy, how: str) -> None:
    if how == "reset":
        proxy.reset()
    elif how == "half-open":
        proxy.half_open()
    else:
        proxy.black_hole()
        await asyncio.sleep(3)
        proxy.reset()
        proxy.heal()


# A broker that is not told holds what it has delivered until it misses three heartbeats.
@pytest.mark.parametrize(
    "how", ["reset", *(pytest.param(how, marks=pytest.mark.faults) for how in ("black hole", "half-open"))]
)
async def test_jobs_go_on_while_connections_break(bench: Bench, proxy: Proxy, how: str) -> None:
    worker = await bench.worker(at_once=20, broker=proxy.url)
    long = [await bench.dispatch(Work(seconds=5), via=worker) for _ in range(5)]
    await bench.started(long)
    for _ in range(2 if how == "reset" else 1):
        await bench.dispatch_many(100, Work(seconds=0.01))
        delayed = [await bench.dispatch(via=worker, delay=0.3) for _ in range(20)]
        await breaks(proxy, how)
        await bench.started(delayed, within=45)
    await bench.judge(most_attempts=1)
    assert not canceled(bench.effects())
    assert consumer_of(worker).is_consuming
    assert not worker.health


async def test_work_goes_on_through_the_host_that_answers(bench: Bench, proxy: Proxy) -> None:
    proxy.refuse()
    hosts = f"127.0.0.1:{proxy.port},{bench.broker.rpartition('@')[2]}"
    address = bench.broker.rpartition("@")[0] + "@" + hosts
    worker = await bench.worker(broker=address)
    for _ in range(20):
        await bench.dispatch(via=worker)
    await bench.judge(most_attempts=1)


@pytest.mark.parametrize("seconds", [3, pytest.param(45, marks=pytest.mark.faults)])
async def test_a_loop_that_is_held_up_settles_its_run_once(bench: Bench, seconds: int) -> None:
    """F18: for longer than the broker believes in a connection that is silent."""
    await bench.process(FAULTS_AT_ONCE="4")
    blocking = await bench.dispatch(Work(blocks=seconds, seconds=0.2))
    others = [await bench.dispatch(Work(seconds=0.5)) for _ in range(10)]
    await bench.started([blocking])
    await bench.judge(seconds + 60, most_attempts=1)
    assert set(others) <= set(bench.effects())


async def test_broker_that_refuses_for_a_while_costs_no_dispatch(bench: Bench, proxy: Proxy) -> None:
    worker = await bench.worker(broker=proxy.url)
    proxy.refuse()
    proxy.reset()
    began = time.monotonic()
    while time.monotonic() - began < 3:
        await bench.dispatch(via=worker)
        await asyncio.sleep(0.01)
    assert "broker publish" in worker.health
    proxy.heal()
    await bench.judge(most_attempts=1)
    await until(lambda: not worker.health)
    assert broker_of(worker).publisher.is_idle
