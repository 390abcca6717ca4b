"""F6, F7: hints that the broker has lost. F10: a queue that is not there. F20: a backlog that is not lost."""

from __future__ import annotations

import asyncio
import time

import pytest

from actorjobs.brokers.rabbitmq import broker as broker_module
from actorjobs.stores import outbox
from tests.brokers.topologies import forget
from tests.faults.app import Work
from tests.faults.bench import Bench, becomes, broker_of, consumer_of, until

AT_ONCE = 500
"""More in one dispatch are left to the relay of a worker, and here is none."""


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is looked for every ten seconds is looked for every second, and old after two."""
    monkeypatch.setattr(outbox, "LOST_AFTER_SECONDS", 2.0)
    monkeypatch.setattr(broker_module, "LOST_SECONDS", 1.0)


async def waiting(bench: Bench, number: int, **options: object) -> None:
    """So many runs wait in the broker, marked as published."""
    for done in range(0, number, AT_ONCE):
        await bench.dispatch_many(min(AT_ONCE, number - done), **options)
        await until(lambda: broker_of(bench.client).publisher.is_idle)
    await becomes(lambda: are_ready(bench, 0.99 * number))
    await asyncio.sleep(1.5)  # until they are marked as published


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("how", [pytest.param("deleted", marks=pytest.mark.faults), "purged"])
async def test_hints_come_back_when_their_queue_is(bench: Bench, how: str) -> None:
    """F7, while a worker is there and its places are taken."""
    worker = await bench.worker(at_once=2)
    busy = [await bench.dispatch(Work(seconds=4)) for _ in range(2)]
    await bench.started(busy)
    await bench.dispatch_many(300)
    later = [await bench.dispatch(delay=5) for _ in range(20)]
    await becomes(lambda: has_at_least(bench, 200), within=30)
    await asyncio.sleep(2)  # until they are marked
    async with bench.channel() as channel:
        if how == "deleted":
            await channel.queue_delete(bench.work_queue)
        else:
            await channel.queue_purge(bench.work_queue)
    await bench.judge(within=40, most_attempts=1)
    assert set(later) <= set(bench.effects())
    assert consumer_of(worker).is_consuming


async def has_at_least(bench: Bench, number: int) -> bool:
    return (await bench.ready()).get(bench.work_queue, 0) >= number


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("number", [300, pytest.param(5000, marks=pytest.mark.faults)])
async def test_everything_comes_back_when_the_topology_is_gone(bench: Bench, number: int) -> None:
    """F6 on the shared server: what is deleted is all that this namespace has there."""
    await waiting(bench, number)
    await bench.dispatch_many(50, delay=8)
    await forget(bench.broker, bench.namespace)
    began = time.monotonic()
    await bench.worker(at_once=50)
    await bench.all_over(60)
    print(f"\n{number} runs whose hints were lost: over after {time.monotonic() - began:.1f} s")
    await bench.judge(most_attempts=1)


async def test_a_running_ladder_is_made_again(bench: Bench) -> None:
    """F10: what the delays go through is deleted under the feet of those that use it."""
    worker = await bench.worker()
    for part in (bench.topology.delay(4), bench.topology.delay_out, bench.topology.unrouted):
        async with bench.channel() as channel:
            await channel.exchange_delete(part)
            await channel.queue_delete(part)
        for delay in (0.1, 0.4, 0.9):
            await bench.dispatch(via=worker, delay=delay)
    await bench.judge(most_attempts=1, empties=False)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("number", [500, *(pytest.param(n, marks=pytest.mark.faults) for n in (5_000, 100_000))])
async def test_a_backlog_is_not_taken_for_lost(bench: Bench, quick: None, number: int) -> None:
    """F20: what lies there longer than a lost hint would, in a queue that is never empty."""
    await waiting(bench, number)
    worker = await bench.worker(at_once=5 if number < 1000 else 100)
    await until(lambda: len(bench.effects()) >= min(0.95 * number, 20_000), within=600, every=1.0)
    print(f"\n{number} waited, {broker_of(worker).publisher.counts.confirmed} were published again")
    assert broker_of(worker).publisher.counts.confirmed < 20
    if number < 100_000:
        await bench.judge(120, most_attempts=1)


async def are_ready(bench: Bench, number: float) -> bool:
    return sum((await bench.ready()).values()) >= number
