"""Store and broker held against each other: what the doctor says and mends, and what workers mend by themselves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import nullcontext
from datetime import timedelta
from uuid import uuid4

import pytest

from actorjobs.brokers.rabbitmq import Topology, connected, message, parse_address
from actorjobs.brokers.rabbitmq.declaring import ready_in
from actorjobs.brokers.rabbitmq.link import guarded
from actorjobs.errors import TopologyMismatch
from actorjobs.model import RunState
from actorjobs.ports import Hint
from actorjobs.runtime import Finding, Queues, Runtime
from actorjobs.stores import SqlStore
from actorjobs.testing.broker_suite import Seen, Work, newer, work
from actorjobs.worker.pool import PoolStatistics
from tests.brokers.pools import broker_of
from tests.brokers.topologies import forget
from tests.contract.databases import read_outbox


class Setup:
    """One store, one namespace on the broker, and as many runtimes on them as are asked for."""

    def __init__(self, store: str, broker: str) -> None:
        self.store, self.broker = store, broker
        self.namespace = f"drift-{uuid4().hex[:12]}"
        self.topology = Topology(self.namespace)
        self.seen = Seen()

    def runtime(self, **options: object) -> Runtime:
        given = {"jobs": [work, newer], "queues": {"work": 10}, "broker": self.broker, "grace": 5.0, **options}
        return Runtime(store=self.store, namespace=self.namespace, context=lambda: nullcontext(self.seen), **given)  # type: ignore[arg-type]

    async def ready(self) -> int | None:
        """How many messages are in the queue; None while there is no queue."""
        async with connected(parse_address(self.broker), name="test") as link:
            return await ready_in(link, self.topology.work_queue("work"))

    async def purge(self) -> None:
        async with connected(parse_address(self.broker), name="test") as link:
            await guarded((await link.channel()).queue_purge(self.topology.work_queue("work")))


@pytest.fixture
async def setup(sqlite_url: str, rabbitmq_server: str) -> AsyncIterator[Setup]:
    setup = Setup(sqlite_url, rabbitmq_server)
    yield setup
    await forget(rabbitmq_server, setup.namespace)


def found(findings: list[Finding], check: str) -> Finding:
    return next(finding for finding in findings if finding.check == check)


async def until(is_so: object, within: float = 15.0) -> None:
    deadline = time.monotonic() + within
    while not await is_so():  # type: ignore[operator]
        assert time.monotonic() < deadline, "it did not come to that"
        await asyncio.sleep(0.02)


async def dispatched(setup: Setup, count: int) -> list[str]:
    """So many runs, their hints confirmed and marked, and nobody to perform them."""
    async with setup.runtime().client() as client:
        handles = [await client.dispatch(work, Work()) for _ in range(count)]

        async def all_there() -> bool:
            return await setup.ready() == count

        await until(all_there)
    return [handle.id for handle in handles]


async def test_the_doctor_finds_store_and_broker_in_step(setup: Setup) -> None:
    await dispatched(setup, 5)
    async with setup.runtime().client() as client:
        findings = await client.examine()
    hints = found(findings, "hints work")
    assert (hints.level, hints.found) == ("ok", "5 due runs wait with a hint, 5 messages in RabbitMQ")
    assert found(findings, "broker").found.startswith("RabbitMQ ")


async def test_the_doctor_says_what_is_missing_and_repairs_it(setup: Setup) -> None:
    runs = await dispatched(setup, 5)
    await forget(setup.broker, setup.namespace)
    async with setup.runtime().client() as client:
        hints = found(await client.examine(), "hints work")
        assert (hints.level, hints.found) == ("error", "5 due runs wait with a hint, no queue in RabbitMQ")
        assert "--repair" in hints.advice
        repaired = found(await client.examine(is_repairing=True), "repair")
        assert repaired.level == "ok"
        assert await setup.ready() == 5
    async with setup.runtime() as worker:
        for run_id in runs:
            assert (await worker.runs.wait(run_id, timeout=15)).state is RunState.SUCCEEDED


async def test_a_broker_that_is_away_is_one_line_of_the_report(setup: Setup) -> None:
    async with setup.runtime(broker="amqp://u:secret-canary@127.0.0.1:1/").client() as client:
        await client.dispatch(work, Work())
        findings = await client.examine()
    broker = found(findings, "broker")
    assert broker.level == "error"
    assert "127.0.0.1:1" in broker.found
    assert "secret-canary" not in str(findings)


async def test_the_doctor_tells_of_messages_in_quarantine(setup: Setup) -> None:
    async with setup.runtime() as worker:
        await (await worker.dispatch(work, Work())).result(timeout=15)  # a queue that was just made may refuse
        async with connected(parse_address(setup.broker), name="test") as link:
            channel = await link.channel(confirms=True)
            await guarded(channel.basic_publish(b"\x00nonsense\xff", routing_key=setup.topology.work_queue("work")))

        async def is_kept() -> bool:
            return bool(await worker.quarantined())

        await until(is_kept)
        [kept] = await worker.quarantined()
        assert (kept.body, kept.queue) == (b"\x00nonsense\xff", setup.topology.work_queue("work"))
        assert found(await worker.examine(), "quarantine").found.startswith("1 messages")
        handle = await worker.dispatch(work, Work())
        assert await handle.result(timeout=15) == "attempt 1"
        assert await worker.release_quarantined([kept.id or ""]) == 1
        assert await worker.quarantined() == []


async def test_hints_of_a_purged_queue_are_found_lost_once_they_are_old(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = await dispatched(setup, 20)
    await setup.purge()
    monkeypatch.setattr("actorjobs.stores.outbox.LOST_AFTER_SECONDS", 0.5)
    monkeypatch.setattr("actorjobs.brokers.rabbitmq.broker.LOST_SECONDS", 0.5)
    async with setup.runtime() as worker:
        for run_id in runs:
            assert (await worker.runs.wait(run_id, timeout=15)).attempt == 1


async def test_a_hint_put_into_another_queue_starts_nothing_there(setup: Setup) -> None:
    async with setup.runtime(queues={"work": 5, "b": 5}) as worker:
        await worker.queues.pause("work")
        handle = await worker.dispatch(work, Work())
        store_id = await worker.store.identity()
        forged = message.encode(Hint(run_id=handle.id, seq=1, job="suite:work", queue="b"), store_id, 0.0)
        async with connected(parse_address(setup.broker), name="test") as link:
            channel = await link.channel()
            await channel.basic_publish(forged, routing_key=setup.topology.work_queue("b"))

        async def is_refused() -> bool:
            return bool(worker.broker.statistics()["consumers"]["b"]["refused"]["stale"])  # type: ignore[attr-defined]

        await until(is_refused)
        assert (await handle.run()).state is RunState.QUEUED
        await worker.queues.resume("work")
        assert await handle.result(timeout=15) == "attempt 1"


async def test_a_run_that_is_due_far_ahead_waits_in_the_store(setup: Setup) -> None:
    async with setup.runtime() as worker:
        handle = await worker.dispatch(work, Work(), delay=3600)
        await asyncio.sleep(0.5)
        assert worker.broker.statistics()["publisher"]["confirmed"] == 0  # type: ignore[attr-defined]
        await worker.runs.reschedule(handle.id, (await handle.run()).inserted_at)
        assert await handle.result(timeout=15) == "attempt 1"


@pytest.mark.parametrize("is_heard", [True, False])
async def test_a_cancel_reaches_a_running_run_anywhere(
    setup: Setup, is_heard: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within 500 ms with the broadcast, within a second without; here the time from the wish to the record."""
    if is_heard:
        monkeypatch.setattr("actorjobs.worker.worker.CONTROL_SECONDS", 30.0)
    async with setup.runtime(), setup.runtime().client() as client:
        handle = await client.dispatch(work, Work(last=30))

        async def runs() -> bool:
            return handle.id in setup.seen.starts

        await until(runs)
        if not is_heard:
            monkeypatch.setattr("actorjobs.brokers.rabbitmq.publisher.Publisher.signal", lambda self: None)
        await handle.cancel()
        asked_at = (await handle.run()).cancel_requested_at
        run = await client.runs.wait(handle.id, timeout=15)
    assert run.canceled_at is not None
    assert asked_at is not None
    assert (run.canceled_at - asked_at).total_seconds() < (0.5 if is_heard else 1.0)


WISHES: list[tuple[Callable[[Queues], Awaitable[object]], Callable[[PoolStatistics], bool]]] = [
    (lambda queues: queues.pause("work"), lambda pool: pool.is_paused),
    (lambda queues: queues.resume("work"), lambda pool: not pool.is_paused),
    (lambda queues: queues.scale("work", 3), lambda pool: pool.concurrency == 3),
    (lambda queues: queues.scale("work", 10), lambda pool: pool.concurrency == 10),
]


@pytest.mark.parametrize("is_heard", [True, False])
async def test_a_wish_reaches_a_pool_anywhere(setup: Setup, is_heard: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pause, resume and scale: within 500 ms with the broadcast, within a second without."""
    if is_heard:
        monkeypatch.setattr("actorjobs.worker.worker.CONTROL_SECONDS", 30.0)
    async with setup.runtime() as worker, setup.runtime().client() as client:
        await (await client.dispatch(work, Work())).result(timeout=15)
        if not is_heard:
            monkeypatch.setattr("actorjobs.brokers.rabbitmq.publisher.Publisher.signal", lambda self: None)
        opened = worker._opened
        assert opened is not None
        assert opened.worker is not None
        [pool] = opened.worker.pools
        for _ in range(3):
            for wish, is_so in WISHES:
                began = time.monotonic()
                await wish(client.queues)
                while not is_so(pool.statistics()):
                    await asyncio.sleep(0.005)
                assert time.monotonic() - began < (0.5 if is_heard else 1.0)


async def test_a_queue_that_is_not_as_it_should_be_ends_the_start_if_that_is_wanted(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with connected(parse_address(setup.broker), name="test") as link:
        arguments = {"x-queue-type": "quorum", "x-delivery-limit": 3}
        channel = await link.channel()
        await guarded(channel.queue_declare(setup.topology.work_queue("work"), durable=True, arguments=arguments))
    monkeypatch.setenv("ACTORJOBS_BROKER_ON_MISMATCH", "error")
    with pytest.raises(TopologyMismatch, match="and should be"):
        await setup.runtime().open()
    monkeypatch.delenv("ACTORJOBS_BROKER_ON_MISMATCH")
    async with setup.runtime() as worker:
        assert await (await worker.dispatch(work, Work())).result(timeout=15) == "attempt 1"


async def test_a_queue_that_goes_wrong_later_holds_up_itself_alone(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACTORJOBS_BROKER_ON_MISMATCH", "error")
    async with setup.runtime(queues={"work": 5, "b": 5}) as worker:
        async with connected(parse_address(setup.broker), name="test") as link:
            channel, name = await link.channel(), setup.topology.work_queue("b")

            async def is_consumed() -> bool:
                return (await guarded(channel.queue_declare(name, passive=True))).consumer_count == 1

            await until(is_consumed)
            arguments = {"x-queue-type": "quorum", "x-delivery-limit": 3}
            await guarded(channel.queue_delete(name))
            await guarded(channel.queue_declare(name, durable=True, arguments=arguments))
        # RabbitMQ says nothing to the consumers of a queue that is made again at once: the watchdog notices, later.
        worker.broker._consumers["b"].consume_again()  # type: ignore[attr-defined]

        async def is_told() -> bool:
            return "queue b" in worker.health

        await until(is_told)
        assert "should be" in worker.health["queue b"]
        assert await (await worker.dispatch(work, Work())).result(timeout=15) == "attempt 1"


async def test_a_start_that_fails_leaves_nothing_behind(setup: Setup) -> None:
    before = asyncio.all_tasks()
    wrong = parse_address(setup.broker)
    runtime = setup.runtime(broker=f"amqp://nobody:secret-canary@127.0.0.1:{wrong.hosts[0][1]}/")
    with pytest.raises(Exception, match="does not let user 'nobody' in") as caught:
        await runtime.open()
    assert "secret-canary" not in str(caught.value)
    assert not runtime.is_open
    await asyncio.sleep(0)
    assert {task.get_name() for task in asyncio.all_tasks() - before} == set()


@pytest.mark.parametrize("is_queue_gone", [False, True])
async def test_the_exchange_that_delays_end_in_is_made_again(
    setup: Setup, is_queue_gone: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of its absence the broker tells nobody; a queue cannot be bound to it then."""
    monkeypatch.setattr("actorjobs.brokers.rabbitmq.broker.LOST_SECONDS", 1.0)
    monkeypatch.setattr("actorjobs.stores.outbox.LOST_AFTER_SECONDS", 2.0)
    async with setup.runtime() as worker:
        assert await (await worker.dispatch(work, Work())).result(timeout=15) == "attempt 1"
        async with connected(parse_address(setup.broker), name="test") as link:
            channel = await link.channel()
            await guarded(channel.exchange_delete(setup.topology.delay_out))
            if is_queue_gone:
                await guarded(channel.queue_delete(setup.topology.work_queue("work")))
        handle = await worker.dispatch(work, Work(), delay=0.3)
        assert await handle.result(timeout=25) == "attempt 1"
        assert await (await worker.dispatch(work, Work())).result(timeout=15) == "attempt 1"


async def test_what_finds_no_room_after_all_is_not_promised_for_half_a_minute(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with setup.runtime().client() as client:
        broker, store = broker_of(client), client.store
        assert isinstance(store, SqlStore)
        await broker._publishing.tried()
        kept: list[Hint] = []

        def refuse(hints: Sequence[Hint]) -> list[Hint]:  # as while it is full, or the queue stalled
            kept.extend(hints)
            return list(hints)

        monkeypatch.setattr(broker.publisher, "put", refuse)
        run = await client.dispatch(work, Work())
        await store.publish_later(kept, 0)
        kept.clear()
        await broker.relay()
        assert [hint.run_id for hint in kept] == [run.id]
        row = await read_outbox(store, run.id)
        assert row.publish_after is not None
        assert row.publish_after <= await store.now() + timedelta(seconds=2)
