"""F8, F9, F21: how many messages a worker holds, and for how long; a broker that takes nothing."""

from __future__ import annotations

import asyncio
import time

import pytest
from aiormq.abc import AbstractChannel

from actorjobs.brokers.rabbitmq.broker import RabbitBroker
from tests.faults.app import Work
from tests.faults.bench import Bench, broker_of, canceled, consumer_of, until
from tests.rabbit.nodes import Node


@pytest.fixture
def quick_acks(monkeypatch: pytest.MonkeyPatch) -> None:
    """What runs for a second holds no message any more."""
    make = RabbitBroker.__init__
    monkeypatch.setattr(RabbitBroker, "__init__", lambda self, **given: make(self, ack_within=1.0, **given))


@pytest.mark.usefixtures("quick_acks")
async def test_a_short_job_goes_to_the_worker_that_is_idle(bench: Bench) -> None:
    """F21: the other one is full of long jobs, whose messages are acknowledged already."""
    full = await bench.worker(at_once=4)
    long = [await bench.dispatch(Work(seconds=8)) for _ in range(4)]
    await bench.started(long)
    await until(lambda: consumer_of(full).prefetch == 0)
    idle = await bench.worker(at_once=4)
    await until(lambda: consumer_of(idle).prefetch > 0)
    took: list[float] = []
    for _ in range(10):
        began = time.monotonic()
        await bench.started([await bench.dispatch()], within=5)
        took.append(time.monotonic() - began)
    assert max(took) < 2
    await bench.judge(most_attempts=1)


@pytest.mark.faults
async def test_a_worker_that_has_just_got_full_keeps_nothing_from_others(bench: Bench) -> None:
    """F21: short jobs behind long ones, while the messages of the long ones are still held."""
    first = await bench.worker(at_once=2)
    for _ in range(50):  # so quick that more than it has room for is fetched
        await bench.dispatch()
    await bench.all_over()
    long = [await bench.dispatch(Work(seconds=8)) for _ in range(2)]
    await bench.started(long)
    waiting = await bench.dispatch_many(20)
    await bench.worker(at_once=2)
    began = time.monotonic()
    await bench.started(waiting, within=10)
    print(f"\nafter {time.monotonic() - began:.1f} s")
    assert time.monotonic() - began < 4
    await bench.judge(most_attempts=1)
    assert first.is_open


@pytest.mark.faults
@pytest.mark.usefixtures("quick_acks")
async def test_the_brokers_delivery_timeout_never_bites(own_bench: Bench, node: Node) -> None:
    """F9."""
    await node.set_consumer_timeout(4000)
    worker = await own_bench.worker(at_once=3)
    await until(lambda: consumer_of(worker).prefetch > 0)
    connections = broker_of(worker)._consuming.connections
    began_at = consumer_of(worker)._consuming_since
    for _ in range(8):
        await own_bench.dispatch(Work(seconds=12))
    await own_bench.judge(90, most_attempts=1)
    assert broker_of(worker)._consuming.connections == connections
    assert consumer_of(worker)._consuming_since == began_at
    assert not canceled(own_bench.effects())


@pytest.mark.faults
async def test_a_broker_without_memory_takes_nothing_and_loses_nothing(own_bench: Bench, node: Node) -> None:
    """F8: acknowledgements go on, dispatches are accepted, and everything leaves afterwards."""
    worker = await own_bench.worker(at_once=5)
    await own_bench.dispatch()
    await own_bench.dispatch(via=worker)
    await own_bench.all_over()
    await own_bench.dispatch_many(60, Work(seconds=0.5))
    await asyncio.sleep(1)
    await node.set_alarm(True)
    began = time.monotonic()
    while time.monotonic() - began < 8:
        await own_bench.dispatch(via=worker)
        await own_bench.dispatch()
        await asyncio.sleep(0.02)
    assert "blocked" in worker.health["broker publish"]
    assert "blocked" in own_bench.client.health["broker publish"]
    assert len([1 for attempts in own_bench.effects().values() if attempts[1].ended]) >= 50
    await node.set_alarm(False)
    await own_bench.judge(90, most_attempts=1)
    await until(lambda: not worker.health)


@pytest.mark.faults
async def test_what_waits_behind_long_jobs_is_not_delivered_time_and_again(bench: Bench) -> None:
    """A full worker that had fetched more than it has room for gives that back once, not once a second."""
    await bench.worker(at_once=2)
    for _ in range(50):
        await bench.dispatch()
    await bench.all_over()
    await bench.started([await bench.dispatch(Work(seconds=40)) for _ in range(2)])
    await bench.dispatch_many(20)
    await asyncio.sleep(30)
    async with bench.channel() as channel:
        counts = [await delivery_count(channel, bench.work_queue) for _ in range(16)]
    print(f"\ndelivered before: {counts}")
    assert max(counts) <= 3
    await bench.judge(most_attempts=1)


async def delivery_count(channel: AbstractChannel, queue: str) -> int:
    got = await channel.basic_get(queue)
    return int((got.header.properties.headers or {}).get("x-delivery-count", 0))
