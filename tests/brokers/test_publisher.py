"""The publisher on its own: what the broker takes is marked in time, and all else is left to the relay."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from typing import Any, cast

import pytest

from actorjobs.brokers.rabbitmq import Declarer, Topology
from actorjobs.brokers.rabbitmq.link import Link
from actorjobs.brokers.rabbitmq.pipeline import Answer, Pipeline
from actorjobs.brokers.rabbitmq.publisher import CAPACITY, WINDOW, Publisher
from actorjobs.ports import PUBLISH_AHEAD_SECONDS, PUBLISH_GRACE_SECONDS, Hint, Store
from actorjobs.stores import SqlStore
from actorjobs.testing.store_suite.hinting import hint
from actorjobs.testing.store_suite.setting import accepted, envelope
from tests.brokers.watching import SkippingClock, ready, until
from tests.contract.databases import Stores, read_outbox


class Spy:
    """A store, and what it was told of hints."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.marked: list[str] = []
        self.put_off: list[tuple[str, float]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)

    async def mark_published(self, hints: Sequence[Hint]) -> None:
        self.marked += [one.run_id for one in hints]
        await self.store.mark_published(hints)

    async def publish_later(self, hints: Sequence[Hint], seconds: float, **options: Any) -> None:
        self.put_off += [(one.run_id, seconds) for one in hints]
        await self.store.publish_later(hints, seconds, **options)


@pytest.fixture
async def store(stores: Stores, sqlite_url: str) -> SqlStore:
    return await stores.opened(sqlite_url, has_outbox=True)


@pytest.fixture
def spy(store: SqlStore) -> Spy:
    return Spy(store)


@pytest.fixture
def clock() -> SkippingClock:
    return SkippingClock()


@pytest.fixture
def publisher(spy: Spy, topology: Topology, clock: SkippingClock) -> Publisher:
    return Publisher(store=cast("Store", spy), declarer=Declarer(topology), clock=clock)


@asynccontextmanager
async def at_work(publisher: Publisher, link: Link) -> AsyncGenerator[None]:
    ready = asyncio.Event()
    working = asyncio.create_task(publisher.work(link, ready.set))
    try:
        async with asyncio.timeout(10):
            await ready.wait()
        yield
        assert not working.done()
    finally:
        working.cancel()
        with suppress(asyncio.CancelledError):
            await working


async def runs(store: SqlStore, number: int, **options: Any) -> list[Hint]:
    ids = await accepted(store, *(envelope(queue="work", **options) for _ in range(number)))
    return [hint(one, queue="work") for one in ids]


def hints(number: int, **options: Any) -> list[Hint]:
    """Of runs that no store has."""
    given = {"seq": 1, "job": "a:job", "queue": "work"} | options
    return [Hint(run_id=f"run-{one}", **given) for one in range(number)]


async def test_what_is_confirmed_is_marked_after_a_second_and_not_before(
    publisher: Publisher, link: Link, topology: Topology, spy: Spy, store: SqlStore, clock: SkippingClock
) -> None:
    given = await runs(store, 3)
    async with at_work(publisher, link):
        publisher.put(given)
        await until(lambda: publisher.is_idle)
        assert publisher.counts.confirmed == 3
        clock.skipped += 0.5
        await publisher.look_after()
        assert not spy.marked
        clock.skipped += 1.0
        await publisher.look_after()
    assert sorted(spy.marked) == [one.run_id for one in given]
    assert (await read_outbox(store, given[0].run_id)).publish_after is None
    assert await ready(link, topology.work_queue("work")) == 3
    await publisher.look_after()
    assert len(spy.marked) == 3


async def test_a_run_that_was_claimed_meanwhile_is_not_marked(
    publisher: Publisher, link: Link, spy: Spy, store: SqlStore, clock: SkippingClock
) -> None:
    claimed, other = await runs(store, 2)
    async with at_work(publisher, link):
        publisher.put([claimed, other])
        await until(lambda: publisher.is_idle)
        publisher.claimed(claimed.run_id)
        clock.skipped += 1.5
        await publisher.look_after()
    assert spy.marked == [other.run_id]


async def test_of_a_crowd_that_is_confirmed_no_more_are_held_than_may_be_claimed_soon(
    publisher: Publisher, link: Link, spy: Spy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("actorjobs.brokers.rabbitmq.publisher.MOST_UNMARKED", 20)
    async with at_work(publisher, link):
        publisher.put(hints(50))
        await until(lambda: publisher.counts.confirmed == 50)
        await publisher.look_after()
        assert len(spy.marked) == 30
        await publisher.look_after()
        assert len(spy.marked) == 30


async def test_whoever_closes_marks_all_that_is_confirmed(publisher: Publisher, link: Link, spy: Spy) -> None:
    crowd = hints(CAPACITY + 10)
    async with at_work(publisher, link):
        for some in (crowd[:CAPACITY], crowd[CAPACITY:]):
            publisher.put(some)
            await until(lambda: publisher.is_idle)
        await publisher.hand_over()
    assert len(spy.marked) == len(crowd)


async def test_no_more_than_the_capacity_is_held_and_the_rest_is_left_to_its_rows(publisher: Publisher) -> None:
    publisher.put(hints(CAPACITY - 1))
    assert not publisher.is_full
    publisher.put(hints(100))
    assert publisher.is_full
    assert len(publisher) == CAPACITY
    assert not await publisher.room_for(1, 0.05)


async def test_the_rest_keeps_the_time_at_which_the_relay_publishes_it(publisher: Publisher, store: SqlStore) -> None:
    [left] = await runs(store, 1)
    publisher.put(hints(CAPACITY))
    publisher.put([left])
    row = await read_outbox(store, left.run_id)
    assert row.published_at is None
    assert row.publish_after is not None
    assert row.publish_after <= await store.now() + timedelta(seconds=PUBLISH_GRACE_SECONDS)


async def test_what_finds_no_room_all_of_a_sudden_does_not_wait_for_its_grace(
    publisher: Publisher, store: SqlStore, clock: SkippingClock
) -> None:
    at_once, sudden, later = await runs(store, 3)
    publisher.put([*hints(CAPACITY), at_once])
    publisher.put([sudden])
    clock.skipped += 0.6
    publisher.put([later])  # stored when it was known that there is no room: with no grace to wait for
    await publisher.look_after()
    now = await store.now()
    after = {one.run_id: (await read_outbox(store, one.run_id)).publish_after for one in (at_once, sudden, later)}
    assert None not in after.values()
    assert [moment <= now for moment in after.values()] == [True, True, False]  # type: ignore[operator]


async def test_hints_without_a_generation_or_due_too_late_are_left_to_the_relay(publisher: Publisher) -> None:
    publisher.put([*hints(1, seq=None), *hints(1, delay=PUBLISH_AHEAD_SECONDS + 1)])
    assert publisher.is_idle


def swallowing(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A broker that takes everything and says nothing; what it was sent."""
    unanswered: list[Any] = []

    async def publish(_pipeline: object, messages: Sequence[tuple[object, object]]) -> None:
        unanswered.extend(what for _, what in messages)

    monkeypatch.setattr(Pipeline, "publish", publish)
    return unanswered


async def test_no_more_wait_for_confirms_than_the_window_takes(
    publisher: Publisher, link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    unanswered = swallowing(monkeypatch)
    async with at_work(publisher, link):
        publisher.put(hints(WINDOW * 2))
        await until(lambda: len(unanswered) == WINDOW)
        await asyncio.sleep(0.05)
        assert len(unanswered) == WINDOW
        for pending in unanswered[:10]:
            publisher._answered(pending, Answer.CONFIRMED)
        await until(lambda: len(unanswered) == WINDOW + 10)
        assert publisher.counts.confirmed == 10


async def test_everything_gets_through_the_window(publisher: Publisher, link: Link, topology: Topology) -> None:
    async with at_work(publisher, link):
        publisher.put(hints(CAPACITY))
        await publisher.drained(15)
    assert publisher.counts.confirmed == CAPACITY
    assert await ready(link, topology.work_queue("work")) == CAPACITY


async def test_a_blocked_broker_is_sent_nothing(publisher: Publisher, link: Link, topology: Topology) -> None:
    async with at_work(publisher, link):
        publisher.note_blocked(is_blocked=True)
        publisher.put(hints(3))
        await asyncio.sleep(0.1)
        assert await ready(link, topology.work_queue("work")) == 0
        publisher.note_blocked(is_blocked=False)
        await publisher.drained(5)
    assert publisher.counts.confirmed == 3


async def test_a_returned_hint_is_left_to_the_relay_and_its_queue_is_made_sure_of_again(
    publisher: Publisher, link: Link, topology: Topology, spy: Spy, store: SqlStore, clock: SkippingClock
) -> None:
    first, lost, later = await runs(store, 3)
    work = topology.work_queue("work")
    async with at_work(publisher, link):
        publisher.put([first])
        await publisher.drained(5)
        await (await link.channel()).queue_delete(work)
        publisher.put([lost])
        await publisher.drained(5)
        assert publisher.counts.returned == 1
        clock.skipped += 1.5
        await publisher.look_after()
        assert spy.marked == [first.run_id]
        row = await read_outbox(store, lost.run_id)
        assert row.published_at is None
        assert row.publish_after is not None
        publisher.put([later])
        await publisher.drained(5)
    assert publisher.counts.confirmed == 2
    assert await ready(link, work) == 1


async def test_a_refused_hint_is_left_to_the_relay(
    publisher: Publisher, link: Link, topology: Topology, spy: Spy, store: SqlStore, clock: SkippingClock
) -> None:
    work, channel = topology.work_queue("work"), await link.channel()
    await channel.queue_delete(work)
    await channel.queue_declare(work, durable=True, arguments={"x-max-length": 1, "x-overflow": "reject-publish"})
    async with at_work(publisher, link):
        publisher.put(await runs(store, 5))
        await publisher.drained(5)
        clock.skipped += 1.5
        await publisher.look_after()
    assert publisher.counts.refused == 4
    assert len(spy.marked) == 1
    assert not spy.put_off  # each row says already when the relay may publish it


async def test_what_waits_is_put_off_every_three_seconds_and_let_go_after_thirty(
    publisher: Publisher, spy: Spy, store: SqlStore, clock: SkippingClock
) -> None:
    [waiting] = await runs(store, 1)
    publisher.put([waiting])
    await publisher.look_after()
    assert not spy.put_off
    for _ in range(9):
        clock.skipped += 3.0
        await publisher.look_after()
        await publisher.look_after()
    assert spy.put_off == [(waiting.run_id, PUBLISH_GRACE_SECONDS)] * 9
    clock.skipped += 3.0
    await publisher.look_after()
    assert len(spy.put_off) == 9
    assert publisher.counts.let_go == 1
    assert publisher.is_idle


async def test_a_confirm_that_comes_after_letting_go_marks_nothing(
    publisher: Publisher, link: Link, spy: Spy, store: SqlStore, clock: SkippingClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    unanswered = swallowing(monkeypatch)
    async with at_work(publisher, link):
        publisher.put(await runs(store, 1))
        await until(lambda: len(publisher._unconfirmed) == 1)
        clock.skipped += 31
        await publisher.look_after()
        publisher._answered(unanswered[0], Answer.CONFIRMED)
        clock.skipped += 2
        await publisher.look_after()
    assert publisher.counts.let_go == 1
    assert not spy.marked


async def test_what_has_no_answer_when_the_connection_ends_goes_out_on_the_next(
    publisher: Publisher, link: Link, topology: Topology, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        unanswered = swallowing(patched)
        async with at_work(publisher, link):
            publisher.put(hints(150))
            await until(lambda: len(unanswered) == 150)
    assert len(publisher) == 150
    async with at_work(publisher, link):
        await publisher.drained(5)
    assert await ready(link, topology.work_queue("work")) == 150


async def test_what_is_handed_over_is_at_once_the_relays(publisher: Publisher, spy: Spy, store: SqlStore) -> None:
    publisher.put(await runs(store, 2))
    await publisher.hand_over()
    assert [seconds for _, seconds in spy.put_off] == [0.0, 0.0]
    assert len(await store.stage(10)) == 2


async def test_every_message_has_an_id_of_its_own_and_says_what_it_is(
    publisher: Publisher, link: Link, topology: Topology
) -> None:
    async with at_work(publisher, link):
        for _ in range(3):
            publisher.put(hints(20))
            await publisher.drained(5)
    channel = await link.channel()
    got = [await channel.basic_get(topology.work_queue("work"), no_ack=True) for _ in range(60)]
    told = [one.header.properties for one in got]
    assert Counter(one.message_id for one in told).most_common(1)[0][1] == 1
    assert {(one.app_id, one.message_type, one.delivery_mode) for one in told} == {("actorjobs", "hint", 2)}
    assert {one.correlation_id for one in told} == {f"run-{number}" for number in range(20)}


async def test_a_broadcast_gets_through_beside_hints(publisher: Publisher, link: Link, topology: Topology) -> None:
    channel = await link.channel()
    queue = (await channel.queue_declare(exclusive=True)).queue or ""
    await channel.queue_bind(queue, topology.control)
    async with at_work(publisher, link):
        publisher.signal()
        publisher.put(hints(5))
        await publisher.drained(5)
    assert await ready(link, topology.work_queue("work")) == 5
    assert (await channel.basic_get(queue, no_ack=True)).body == b"look"


async def test_a_channel_that_the_broker_closed_is_replaced(
    publisher: Publisher, link: Link, topology: Topology
) -> None:
    """Somebody deletes an exchange of the ladder while hints are on their way to it."""
    async with at_work(publisher, link):
        publisher.put(hints(1, delay=5.0))
        await publisher.drained(5)
        await (await link.channel()).exchange_delete(topology.delay(7))
        publisher.put(hints(1, delay=5.0))
        await publisher.drained(5)
    assert publisher.counts.confirmed == 2
