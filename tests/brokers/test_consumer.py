"""Consumers of workers: the prefetch follows the places, each delivery is settled once, and all ends begin anew."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, nullcontext
from datetime import timedelta
from typing import Any

import pytest

import actorjobs as aj
from actorjobs.brokers.rabbitmq import Topology
from actorjobs.brokers.rabbitmq.consumer import QUICK_EXTRA
from actorjobs.brokers.rabbitmq.link import Link
from actorjobs.brokers.rabbitmq.settling import Settler
from actorjobs.ports import Hint
from tests.brokers.pools import JOBS, Gate, broker_of, consumer_of, quick, wait
from tests.brokers.watching import becomes_ready, until

Serve = Callable[..., Awaitable[aj.Runtime]]


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def topology(namespace: str) -> Topology:
    return Topology(namespace)


@pytest.fixture
async def serve(sqlite_url: str, rabbitmq_server: str, namespace: str, gate: Gate) -> AsyncGenerator[Serve]:
    """Opens a worker; `ack_within` is its brokers'."""
    async with AsyncExitStack() as stack:

        async def serve(at_once: int, **options: Any) -> aj.Runtime:
            given: dict[str, Any] = {"store": sqlite_url, "broker": rabbitmq_server, "namespace": namespace}
            runtime = aj.Runtime(
                jobs=JOBS, queues={"work": at_once}, context=lambda: nullcontext(gate), grace=2.0, **given | options
            )
            await runtime.open()
            stack.push_async_callback(runtime.close)
            await until(lambda: consumer_of(runtime).prefetch > 0)
            return runtime

        yield serve
        gate.is_open.set()


async def test_the_prefetch_is_the_number_of_places_as_long_as_runs_take_their_time(serve: Serve, gate: Gate) -> None:
    worker = await serve(3)
    assert consumer_of(worker).prefetch == 3
    for _ in range(5):
        await wait.dispatch()
    await until(lambda: len(gate.started) == 3)
    assert consumer_of(worker).prefetch == 3


async def test_quick_runs_have_more_fetched_than_there_are_places(serve: Serve) -> None:
    worker = await serve(2)
    handles = [await quick.dispatch() for _ in range(200)]
    await until(lambda: consumer_of(worker).prefetch >= 2 + QUICK_EXTRA)
    for handle in handles:
        await handle.result(timeout=20)


async def test_long_runs_give_their_messages_back_and_the_prefetch_shrinks_by_them(
    serve: Serve, gate: Gate, monkeypatch: pytest.MonkeyPatch, link: Link, topology: Topology
) -> None:
    worker = await serve(4)
    consumer = consumer_of(worker)
    monkeypatch.setattr(consumer, "_ack_within", 0.3)
    handles = [await wait.dispatch() for _ in range(3)]
    await until(lambda: len(gate.started) == 3)
    await until(lambda: consumer.prefetch == 1, within=4)
    await (await link.channel()).queue_purge(topology.work_queue("work"))  # nothing is left there to come again
    gate.is_open.set()
    for handle in handles:
        await handle.result(timeout=5)
    assert await until(lambda: consumer.prefetch >= 4) < 1.0
    assert [(await handle.run()).attempt for handle in handles] == [1, 1, 1]


async def test_nothing_is_consumed_while_all_places_have_long_runs(
    serve: Serve, gate: Gate, monkeypatch: pytest.MonkeyPatch, link: Link, topology: Topology
) -> None:
    worker = await serve(2)
    consumer = consumer_of(worker)
    monkeypatch.setattr(consumer, "_ack_within", 0.3)
    for _ in range(4):
        await wait.dispatch()
    await until(lambda: len(gate.started) == 2)
    await until(lambda: consumer.prefetch == 0, within=5)
    await becomes_ready(link, topology.work_queue("work"), 2)  # to be had by others
    gate.is_open.set()
    await until(lambda: len(gate.started) == 4)


async def test_a_paused_queue_is_consumed_no_more_and_what_lies_here_goes_back(
    serve: Serve, gate: Gate, link: Link, topology: Topology
) -> None:
    worker = await serve(5)
    consumer = consumer_of(worker)
    await worker.queues.pause("work")
    handles = [await wait.dispatch() for _ in range(3)]
    assert await until(lambda: consumer.prefetch == 0) < 2.0
    await becomes_ready(link, topology.work_queue("work"), 3, within=2.0)
    assert not gate.started
    gate.is_open.set()
    await worker.queues.resume("work")
    assert await until(lambda: len(gate.started) == 3) < 1.0
    for handle in handles:
        await handle.result(timeout=5)


async def test_runs_go_on_while_their_queue_is_paused(serve: Serve, gate: Gate) -> None:
    worker = await serve(2)
    consumer = consumer_of(worker)
    handle = await wait.dispatch()
    await until(lambda: len(gate.started) == 1)
    await worker.queues.pause("work")
    await until(lambda: consumer.prefetch == 0)
    gate.is_open.set()
    assert await handle.result(timeout=5) == "done"
    await until(lambda: consumer.prefetch == 0)


async def test_more_places_are_followed_at_once(serve: Serve, gate: Gate) -> None:
    worker = await serve(1)
    for _ in range(6):
        await wait.dispatch()
    await until(lambda: len(gate.started) == 1)
    await worker.queues.scale("work", 5)
    assert await until(lambda: len(gate.started) == 5) < 1.5
    assert consumer_of(worker).prefetch == 5


async def test_more_places_are_followed_though_nothing_comes(serve: Serve) -> None:
    worker = await serve(1)
    await worker.queues.scale("work", 4)
    assert await until(lambda: consumer_of(worker).prefetch == 4) < 2.0


async def test_fewer_places_are_followed(serve: Serve) -> None:
    worker = await serve(6)
    await worker.queues.scale("work", 2)
    assert await until(lambda: consumer_of(worker).prefetch == 2) < 2.0


async def test_a_queue_that_is_deleted_is_made_again_noted_and_consumed(
    serve: Serve, gate: Gate, link: Link, topology: Topology, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = await serve(1)
    noted: list[tuple[str, bool]] = []
    note = worker.store.note_queue

    async def noting(queue: str, *, is_absent: bool) -> None:
        noted.append((queue, is_absent))
        await note(queue, is_absent=is_absent)

    monkeypatch.setattr(worker.store, "note_queue", noting)
    running = await wait.dispatch()
    await until(lambda: len(gate.started) == 1)
    lost = [await wait.dispatch() for _ in range(5)]
    await until(lambda: broker_of(worker).publisher.is_idle)
    await until(lambda: not broker_of(worker).publisher._confirmed)
    await (await link.channel()).queue_delete(topology.work_queue("work"))
    await until(lambda: ("work", True) in noted)
    await until(lambda: consumer_of(worker).is_consuming)
    assert consumer_of(worker).prefetch == 0  # the only place is taken, by a run whose message is gone
    gate.is_open.set()
    for handle in [running, *lost]:
        assert await handle.result(timeout=20) == "done"
        assert (await handle.run()).attempt == 1
    assert broker_of(worker)._consuming.connections == 1


async def test_a_consumer_that_is_begun_anew_loses_and_doubles_nothing(
    serve: Serve, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    """What was delivered on a channel is never settled on another: the broker would close that one."""
    worker = await serve(3)
    consumer = consumer_of(worker)
    handles = [await wait.dispatch() for _ in range(8)]
    await until(lambda: len(gate.started) == 3)
    for _ in range(3):
        before = consumer._consuming_since
        consumer.consume_again()
        await until(lambda before=before: consumer._consuming_since > before and consumer.is_consuming)
    gate.is_open.set()
    for handle in handles:
        await handle.result(timeout=10)
    assert [(await handle.run()).attempt for handle in handles] == [1] * 8
    assert broker_of(worker)._consuming.connections == 1
    assert "ended the consumer" not in caplog.text


async def test_what_has_ended_is_not_kept_because_of_a_long_run_before_it(serve: Serve, gate: Gate) -> None:
    worker = await serve(4)
    consumer = consumer_of(worker)
    await wait.dispatch()
    await until(lambda: len(gate.started) == 1)
    for handle in await worker.dispatch_many([quick.envelope() for _ in range(200)]):
        await handle.result(timeout=20)
    await until(lambda: len(consumer._attached) == 1)


async def test_long_runs_of_a_lost_channel_are_counted_once(
    serve: Serve, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = await serve(3)
    consumer = consumer_of(worker)
    handles = [await wait.dispatch() for _ in range(2)]
    await until(lambda: len(gate.started) == 2)
    consumer.consume_again()
    await until(lambda: consumer.statistics()["without_message"] == 2)
    monkeypatch.setattr(consumer, "_ack_within", 0.3)
    await asyncio.sleep(1.0)
    assert consumer.statistics()["without_message"] == 2
    gate.is_open.set()
    for handle in handles:
        await handle.result(timeout=10)
    assert consumer.statistics()["without_message"] == 0
    await until(lambda: consumer.prefetch >= 3)


async def test_a_delivery_is_settled_once_however_often_that_is_said(link: Link, topology: Topology) -> None:
    channel = await link.channel()
    queue = (await channel.queue_declare(exclusive=True)).queue or ""
    for _ in range(3):
        await channel.basic_publish(b"", routing_key=queue)
    settler = Settler(channel)
    tags = [(await channel.basic_get(queue)).delivery.delivery_tag for _ in range(3)]
    for tag in tags:
        settler.received(tag)
    for _ in range(3):
        settler.settle(tags[0], is_done=True)
        settler.settle(tags[0], is_done=False)
        settler.settle(tags[1], is_done=False)
        await settler.flush()
    assert len(settler) == 1
    await becomes_ready(link, queue, 1)
    settler.void()
    settler.settle(tags[2], is_done=True)
    await settler.flush()
    await channel.basic_qos(prefetch_count=1)  # the broker has closed nothing
    assert len(settler) == 0


async def test_a_queue_that_delivers_nothing_though_it_has_messages_is_consumed_anew(
    serve: Serve,
    gate: Gate,
    link: Link,
    topology: Topology,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A broker that has forgotten its consumer is told by a basic.cancel here of which the worker knows nothing."""
    worker = await serve(3)
    consumer, broker = consumer_of(worker), broker_of(worker)
    monkeypatch.setattr("actorjobs.brokers.rabbitmq.drift.SILENT_SECONDS", 0.3)
    await (await link.channel()).queue_purge(topology.work_queue("work"))
    await _stop_deliveries(broker)
    handle = await wait.dispatch()
    gate.is_open.set()
    await becomes_ready(link, topology.work_queue("work"), 1)
    await until(lambda: consumer.is_starving(0.3))
    with caplog.at_level(logging.WARNING, "actorjobs.broker"):
        await broker.find_lost()
    assert "none delivered" in caplog.text
    assert await handle.result(timeout=10) == "done"
    assert (await handle.run()).attempt == 1


async def _stop_deliveries(broker: Any) -> None:
    link = broker._consuming.link
    for channel in link._connection.channels.values():
        for tag in [tag for tag, call in getattr(channel, "consumers", {}).items() if "_nothing" in repr(call)]:
            await channel.basic_cancel(tag)


async def test_hints_are_early_stale_and_twice_without_harm(serve: Serve, gate: Gate) -> None:
    worker = await serve(5)
    gate.is_open.set()
    handle = await wait.options(delay=0.5).dispatch()
    hint = Hint(run_id=handle.id, seq=1, job="brokers:wait", queue="work")
    broker_of(worker).publish([hint] * 10)
    assert await handle.result(timeout=10) == "done"
    run = await handle.run()
    assert run.attempt == 1
    assert run.claimed_at is not None
    assert timedelta(0) <= run.claimed_at - run.available_at < timedelta(seconds=1)
    await until(lambda: broker_of(worker).publisher.is_idle)


async def test_early_hints_take_nobodys_place(serve: Serve, gate: Gate) -> None:
    """They leave the ladder before they are due and are waited for here, besides those that can start."""
    worker = await serve(2)
    gate.is_open.set()
    later = [await wait.options(delay=1.5).dispatch() for _ in range(8)]
    consumer = consumer_of(worker)
    await until(lambda: len(consumer._parked) == 8)
    urgent = await wait.dispatch()
    await urgent.result(timeout=10)
    assert gate.started == [urgent.id]
    runs = [await handle.run() for handle in later if await handle.result(timeout=10)]
    assert [(run.attempt, run.claimed_at and run.claimed_at >= run.available_at) for run in runs] == [(1, True)] * 8


async def test_what_is_just_being_claimed_when_a_worker_closes_is_performed(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several groups of claims may be on their way then."""
    worker = await serve(20)
    claim = worker.store.claim

    async def slow(*asked: Any) -> Any:
        answers = await claim(*asked)
        await asyncio.sleep(0.05)
        return answers

    monkeypatch.setattr(worker.store, "claim", slow)
    handles = []
    for _ in range(3):
        handles += [await quick.dispatch() for _ in range(150)]
        await asyncio.sleep(0.12)
    began = time.monotonic()
    await worker.close()
    assert time.monotonic() - began < 4
    settings = worker.settings
    reader = aj.Runtime(store=settings.store_url, broker=settings.broker_url, namespace=settings.namespace)
    async with reader.client():
        runs = [await reader.runs.get(handle.id) for handle in handles]
    assert {run.state for run in runs} == {aj.RunState.SUCCEEDED, aj.RunState.QUEUED}
    assert {run.losses for run in runs} == {0}
