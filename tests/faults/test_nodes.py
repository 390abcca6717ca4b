"""F5, F6, F10, F11, F22: nodes that are killed, wiped, cut off, or refuse; on nodes of the tests' own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from actorjobs.brokers.rabbitmq import connected, parse_address
from actorjobs.errors import TopologyMismatch
from actorjobs.runtime.brokering import open_topology
from tests.brokers.topologies import forget
from tests.faults.app import Work
from tests.faults.bench import Bench, broker_of, canceled, until
from tests.faults.test_lost_hints import waiting
from tests.rabbit.nodes import Cluster, Node
from tests.rabbit.proxy import Proxy

pytestmark = pytest.mark.faults


async def test_a_node_that_is_killed_gives_everything_back(own_bench: Bench, node: Node) -> None:
    """F5: hints in its queues and on its ladder, runs at work and dispatches meanwhile."""
    worker = await own_bench.worker(at_once=5)
    await own_bench.dispatch_many(300, Work(seconds=0.05))
    await own_bench.dispatch_many(50, delay=4)
    await own_bench.dispatch_many(50, delay=25)
    long = [await own_bench.dispatch(Work(seconds=10)) for _ in range(2)]
    await own_bench.started(long)
    node.kill()
    for _ in range(50):
        await own_bench.dispatch()
    await node.start()
    await own_bench.judge(120, most_attempts=1)
    assert not canceled(own_bench.effects())
    assert not worker.health


@pytest.mark.timeout(900)
@pytest.mark.parametrize("number", [5_000, 100_000])
async def test_a_broker_that_was_wiped_gets_everything_back(own_bench: Bench, node: Node, number: int) -> None:
    """F6: what waits is back within a minute of its return, by a worker that goes on meanwhile."""
    # A worker whose places are all taken, so that what comes back can be counted.
    worker = await own_bench.worker(at_once=1)
    await own_bench.started([await own_bench.dispatch(Work(seconds=75 if number <= 5_000 else 1000))], within=60)
    await waiting(own_bench, number)
    await own_bench.dispatch_many(50, delay=60)
    left = min(number, sum((await own_bench.ready()).values()))  # without doubles
    await node.wipe()
    began = time.monotonic()
    while sum((await own_bench.ready()).values()) < 0.99 * left:
        assert time.monotonic() - began < 90, await own_bench.ready()
        await asyncio.sleep(0.5)
    took = time.monotonic() - began
    print(f"\n{left} hints were back {took:.1f} s after the broker")
    assert took < 60
    assert worker.is_open
    if number <= 5_000:
        await own_bench.worker(at_once=50)
        await own_bench.judge(240, most_attempts=1, empties=False)


@pytest.fixture
async def three(postgres_url: str, cluster: Cluster, namespace: str, tmp_path: Path) -> AsyncGenerator[Bench]:
    """A bench on a cluster: every runtime knows all hosts."""
    first = cluster.nodes[0]
    hosts = ",".join(f"127.0.0.1:{node.port}" for node in cluster.nodes)
    address = f"{first.url.rpartition('@')[0]}@{hosts}/"
    async with AsyncExitStack() as stack:
        bench = Bench(store=postgres_url, broker=address, namespace=namespace, folder=tmp_path, stack=stack)
        await bench.open_client()
        yield bench
        await cluster.restore()
    await forget(address, namespace)


@pytest.mark.parametrize("how", ["killed", "cut off", "isolated from its peers"])
async def test_a_leader_that_is_gone_is_replaced(three: Bench, cluster: Cluster, how: str) -> None:
    """F22."""
    await three.worker(at_once=10)
    await three.dispatch()
    await three.all_over()
    leader = await cluster.leader_of(three.work_queue)
    asking = asyncio.create_task(ask(three, seconds=25))
    await asyncio.sleep(2)
    if how == "killed":
        leader.kill()
    elif how == "cut off":
        leader.pause()
    else:
        await cluster.isolate(leader)
    await asyncio.sleep(15)
    await cluster.restore()
    await asking
    await three.judge(120, most_attempts=1)


async def ask(bench: Bench, seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        await bench.dispatch(Work(seconds=0.05))
        await bench.dispatch(delay=1.5)
        await asyncio.sleep(0.05)


async def test_no_quorum_for_half_a_minute_costs_no_dispatch(three: Bench, cluster: Cluster) -> None:
    """F10."""
    worker = await three.worker(at_once=10)
    await three.dispatch()
    await three.all_over()
    for node in cluster.nodes[1:]:
        node.kill()
    await ask(three, seconds=30)
    await cluster.restore()
    await three.judge(150, most_attempts=1)
    await until(lambda: not worker.health, within=30)


async def test_a_queue_whose_only_node_is_down_comes_back_with_it(three: Bench, cluster: Cluster) -> None:
    """F10: somebody has made it a classic queue, which lives on one node; meanwhile the broker answers 404."""
    home = cluster.nodes[0]
    async with connected(parse_address(home.url), name="test:classic") as link:
        channel = await link.channel()
        await channel.queue_declare(three.work_queue, durable=True, arguments={"x-queue-type": "classic"})
    assert await cluster.leader_of(three.work_queue) is home
    worker = await three.worker(at_once=10)
    await three.dispatch()
    await three.all_over()
    home.kill()
    await ask(three, seconds=12)
    assert worker.is_open
    await cluster.restore()
    await three.judge(150, most_attempts=1)
    await until(lambda: not worker.health, within=30)


async def test_a_queue_that_somebody_holds_for_himself_is_waited_for(own_bench: Bench) -> None:
    """F11: 405, RESOURCE_LOCKED: an exclusive queue of our name on another connection."""
    async with own_bench.channel() as channel:
        await channel.queue_declare(own_bench.work_queue, exclusive=True)
        await own_bench.dispatch()
        worker = await own_bench.worker()
        await own_bench.dispatch()
        await until(lambda: bool(worker.health))
        assert "RESOURCE_LOCKED" in str(worker.health)
        assert not own_bench.effects()
    await own_bench.judge(90, most_attempts=1)
    await until(lambda: not worker.health)


async def test_a_topology_that_differs_is_used_or_refused(own_bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """F11."""
    async with own_bench.channel() as channel:
        await channel.queue_declare(own_bench.work_queue, durable=True, arguments={"x-queue-type": "quorum"})
    await own_bench.dispatch()
    await own_bench.worker()
    await own_bench.judge(most_attempts=1, empties=False)
    assert "x-dead-letter-exchange is none there" in caplog.text
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACTORJOBS_BROKER_ON_MISMATCH", "error")
        with pytest.raises(TopologyMismatch, match="x-dead-letter-exchange is none there and should be"):
            await own_bench.runtime().open()


async def test_a_user_who_may_not_configure_works_once_an_administrator_has(
    own_bench: Bench, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F11: 403."""
    await node.ctl("add_user", "plain", "plain")
    await node.ctl("set_permissions", "plain", "", ".*", ".*")
    plain = own_bench.broker.replace(own_bench.broker.split("@")[0], "amqp://plain:plain")
    monkeypatch.setenv("ACTORJOBS_BROKER_DECLARE", "false")
    await own_bench.client.close()
    await forget(own_bench.broker, own_bench.namespace)
    runtime = own_bench.runtime(broker=plain)
    with pytest.raises(TopologyMismatch, match=r"missing.*topology apply"):
        await runtime.open()
    settings = own_bench.runtime().settings
    await open_topology(settings, ["work"]).apply()
    await own_bench.open_client(broker=plain)
    worker = await own_bench.worker(broker=plain)
    for delay in (0, 0.3, 1):
        await own_bench.dispatch(delay=delay)
    await own_bench.judge(most_attempts=1)
    assert not worker.health
    monkeypatch.setenv("ACTORJOBS_BROKER_DECLARE", "true")
    declaring = own_bench.runtime(broker=plain)
    with pytest.raises(TopologyMismatch, match="ACTORJOBS_BROKER_DECLARE=false"):
        await declaring.open()


@pytest.mark.timeout(900)
@pytest.mark.parametrize("seconds", [40, 600])
async def test_a_broker_that_is_down_for_long_costs_no_dispatch(bench: Bench, proxy: Proxy, seconds: int) -> None:
    worker = await bench.worker(at_once=50, broker=proxy.url)
    proxy.refuse()
    proxy.reset()
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        await bench.dispatch(via=worker)
        await asyncio.sleep(0.05)
    proxy.heal()
    healed = time.monotonic()
    await bench.judge(300, most_attempts=1)
    print(f"\n{len(bench.told)} dispatches, over {time.monotonic() - healed:.1f} s after the broker's return")
    assert broker_of(worker).publisher.is_idle
