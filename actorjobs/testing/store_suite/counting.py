"""The backlog: what waits, what is stuck, and for how long."""

from __future__ import annotations

import pytest_asyncio

from actorjobs.clock import Clock
from actorjobs.model import RunState
from actorjobs.ports import PUBLISH_GRACE_SECONDS, Backlog, Hint, Quarantined, Queued, Store
from actorjobs.testing.store_suite.setting import (
    JOB,
    QUEUE,
    OpenStore,
    StoreSetting,
    Travel,
    accepted,
    brought_to,
    envelope,
)


class Counting(StoreSetting):
    @pytest_asyncio.fixture
    async def publishing(self, open_store: OpenStore, namespace: str, clock: Clock) -> Store:
        """The store under test, with an outbox."""
        return await open_store(namespace, clock, has_outbox=True)

    async def test_an_empty_store_has_no_backlog(self, store: Store, foreign: Store) -> None:
        await accepted(foreign, envelope())
        await foreign.quarantine([Quarantined(queue="dead", reason="no hint", body=b"?")])
        assert await store.backlog() == Backlog()

    async def test_a_backlog_has_every_queue_and_what_is_where(self, store: Store, travel: Travel) -> None:
        await store.declare_queues(["idle"])
        for state in RunState:
            await brought_to(store, state, queue=f"of-{state}")
        await accepted(store, envelope(), envelope(), envelope(delay=30))
        await travel(20.0)
        backlog = await store.backlog()
        assert dict(backlog.queues) == {
            "idle": Queued(),
            "of-queued": Queued(ready=1, oldest_age=20.0),
            "of-retrying": Queued(retrying=1),
            "of-running": Queued(running=1),
            "of-scheduled": Queued(scheduled=1),
            "of-dead_lettered": Queued(dead_lettered=1),
            QUEUE: Queued(ready=2, oldest_age=20.0, scheduled=1),
        }
        assert (backlog.unpublished, backlog.unpublished_age) == (0, 0.0)

    async def test_what_is_due_is_ready_and_its_age_counts_from_then(self, store: Store, travel: Travel) -> None:
        await accepted(store, envelope(delay=30))
        retrying = await brought_to(store, RunState.RETRYING)  # due in a minute
        await travel(70.0)
        queues = (await store.backlog()).queues
        assert queues[QUEUE] == Queued(ready=1, oldest_age=40.0)
        assert queues[retrying.queue] == Queued(ready=1, oldest_age=10.0)

    async def test_what_no_broker_knows_is_unpublished(self, publishing: Store, travel: Travel) -> None:
        first, second, third = await accepted(publishing, envelope(), envelope(), envelope())
        await accepted(publishing, envelope(delay=7200))
        await travel(3.0)
        hints = [Hint(run_id=one, seq=1, job=JOB, queue=QUEUE) for one in (first, second, third)]
        backlog = await publishing.backlog()
        assert (backlog.unpublished, backlog.unpublished_age) == (3, 3.0)
        await publishing.publish_later(hints, PUBLISH_GRACE_SECONDS)  # they could not be published yet
        await travel(1.0)
        backlog = await publishing.backlog()
        assert (backlog.unpublished, backlog.unpublished_age) == (3, 4.0)
        await publishing.mark_published(hints[:1])
        assert (await publishing.backlog()).unpublished == 2
        await publishing.publish_later(hints[1:2], 10.0, doubling_to=900.0)  # given back by a consumer
        assert (await publishing.backlog()).unpublished == 1
        await publishing.cancel(third, None, None)
        assert (await publishing.backlog()).unpublished == 0
        await travel(10.0)
        assert (await publishing.backlog()).unpublished == 1

    async def test_messages_in_quarantine_are_counted(self, store: Store, twin: Store) -> None:
        await store.quarantine([Quarantined(queue="dead", reason="no hint", body=b"?") for _ in range(3)])
        assert (await twin.backlog()).quarantined == 3
