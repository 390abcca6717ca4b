"""The wishes of operators: queues, and what is to be canceled; and noticing what others did."""

from __future__ import annotations

import asyncio
from typing import Any

from actorjobs.model import RunState
from actorjobs.ports import QueueInfo, Serves, Store
from actorjobs.testing.store_suite.setting import (
    EVERYTHING,
    JOB,
    NASTY,
    OWNER,
    QUEUE,
    StoreSetting,
    accepted,
    brought_to,
    end,
    envelope,
    taken,
    worker,
)


class Wishing(StoreSetting):
    async def test_queues_are_declared_once(self, store: Store, twin: Store, foreign: Store) -> None:
        await store.declare_queues(["b", "a"])
        await asyncio.gather(*(one.declare_queues(["c", "b"]) for one in (store, twin, store, twin)))
        await store.declare_queues([])
        assert list(await twin.queues()) == [QueueInfo(name=name) for name in ("a", "b", "c")]
        assert list(await foreign.queues()) == []

    async def test_declaring_a_queue_again_changes_nothing(self, store: Store, twin: Store) -> None:
        await store.set_queue("a", is_paused=True, concurrency=3, reason="maintenance")
        await twin.declare_queues(["a"])
        assert list(await twin.queues()) == [QueueInfo(name="a", is_paused=True, concurrency=3, reason="maintenance")]

    async def test_pausing_scaling_and_resuming_leave_each_other_alone(self, store: Store) -> None:
        assert await store.set_queue("a", is_paused=True, reason=NASTY) == QueueInfo(
            name="a", is_paused=True, reason=NASTY
        )
        assert await store.set_queue("a", concurrency=7) == QueueInfo(
            name="a", is_paused=True, concurrency=7, reason=NASTY
        )
        assert await store.set_queue("a", is_paused=False) == QueueInfo(name="a", concurrency=7)
        assert await store.set_queue("a") == QueueInfo(name="a", concurrency=7)
        assert list(await store.queues()) == [QueueInfo(name="a", concurrency=7)]

    async def test_queues_show_what_waits_and_runs(self, store: Store, foreign: Store) -> None:
        await store.declare_queues(["idle"])
        for state in RunState:
            await brought_to(store, state, queue=f"of-{state}")
        await accepted(store, envelope(), envelope(delay=60))
        await accepted(foreign, envelope(), envelope(queue="theirs"))
        counts = {queue.name: (queue.waiting, queue.running) for queue in await store.queues()}
        assert counts == {
            "idle": (0, 0),
            "of-queued": (1, 0),
            "of-retrying": (1, 0),
            "of-running": (0, 1),
            "of-scheduled": (1, 0),
            QUEUE: (2, 0),
        }
        assert [queue.name for queue in await store.queues()] == sorted(counts)

    async def test_wishes_tell_a_process_what_is_wanted_of_it(self, store: Store, twin: Store, foreign: Store) -> None:
        await twin.set_queue("a", is_paused=True, reason="maintenance")
        await twin.set_queue("b", concurrency=4)
        await foreign.set_queue("theirs", is_paused=True)
        mine, left, other = await taken(store), await taken(store), await taken(store, "worker-2")
        for claim in (mine, other):
            await twin.cancel(claim.run_id, NASTY, "ann")
        wishes = await store.wishes(OWNER)
        assert dict(wishes.queues) == {
            "a": QueueInfo(name="a", is_paused=True, reason="maintenance"),
            "b": QueueInfo(name="b", concurrency=4),
        }
        assert dict(wishes.cancel) == {mine.run_id: NASTY}
        await store.cancel(left.run_id, None, None)
        assert dict((await store.wishes(OWNER)).cancel) == {mine.run_id: NASTY, left.run_id: None}
        await end(store, mine)
        assert dict((await store.wishes(OWNER)).cancel) == {left.run_id: None}

    async def test_others_are_noticed(self, store: Store, twin: Store) -> None:
        noticed = asyncio.Event()
        async with store.watch(noticed.set):
            await asyncio.sleep(0.2)  # some are woken once to begin with
            noticed.clear()
            await accepted(twin, envelope())
            twin.announce()
            await asyncio.wait_for(noticed.wait(), 5)
        noticed.clear()
        await accepted(twin, envelope())
        twin.announce()
        await asyncio.sleep(0.1)
        assert not noticed.is_set()

    async def test_open_and_close_may_be_repeated(self, store: Store) -> None:
        await store.open()
        await accepted(store, envelope())
        await store.close()
        await store.close()

    async def test_the_address_shows_no_password(self, store: Store) -> None:
        assert store.url
        assert "password" not in store.url

    async def test_what_no_living_worker_knows_is_held(self, store: Store, twin: Store, foreign: Store) -> None:
        fields: dict[str, dict[str, Any]] = {
            "unknown": {"job": "suite:new"},
            "newer": {"version": 3},
            "known": {"version": 2},
        }
        found = {name: await brought_to(store, RunState.QUEUED, **more, queue="q") for name, more in fields.items()}

        async def holds() -> dict[str, str | None]:
            one_by_one = {name: (await twin.get(run.id)).hold for name, run in found.items()}
            listed = {run.id: run.hold for run in await twin.list(EVERYTHING, limit=10, cursor=None)}
            assert one_by_one == {name: listed[run.id] for name, run in found.items()}
            return one_by_one

        assert set((await holds()).values()) == {None}
        await foreign.join(worker("elsewhere"))
        await foreign.serve("elsewhere", Serves(jobs={}, queues={"q": 1}))
        await store.join(worker())
        await store.serve(OWNER, Serves(jobs={JOB: 2}, queues={"other": 1}))
        assert set((await holds()).values()) == {None}
        await store.serve(OWNER, Serves(jobs={JOB: 2}, queues={"q": 1}))
        assert await holds() == {"unknown": "unknown job", "newer": "newer version", "known": None}
        await store.serve(OWNER, Serves(jobs={JOB: 2}, queues={"q": 1}, holds={"q": "no connection"}))
        assert (await holds())["known"] == "no connection"
        await store.join(worker("newest"))
        await store.serve("newest", Serves(jobs={JOB: 3, "suite:new": 1}, queues={"q": 1}))
        assert set((await holds()).values()) == {None}
        assert {one.id: one.serves for one in await twin.workers()}["newest"] == Serves(
            jobs={JOB: 3, "suite:new": 1}, queues={"q": 1}
        )
        await store.leave("newest")
        assert (await holds())["unknown"] == "unknown job"
