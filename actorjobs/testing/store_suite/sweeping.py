"""Sweeps: expiry and retention."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from actorjobs.clock import Clock
from actorjobs.errors import RunNotFound
from actorjobs.lifecycle import TERMINAL, WAITING
from actorjobs.model import RunState
from actorjobs.ports import Store
from actorjobs.testing.store_suite.setting import (
    EVERYTHING,
    StoreSetting,
    Travel,
    accepted,
    brought_to,
    envelope,
    take,
)

KEEP_NOTHING: dict[RunState, float | None] = dict.fromkeys(TERMINAL, 0.0)


async def purge(store: Store, keep: Mapping[RunState, float | None], limit: int = 100) -> int:
    """Purge to the end; how many were deleted."""
    deleted = 0
    for _ in range(100):
        purged = await store.purge(keep, limit)
        assert purged.deleted <= limit
        deleted += purged.deleted
        if not purged.has_more:
            return deleted
    raise AssertionError("a purge must come to an end")


class Sweeping(StoreSetting):
    # expiry

    @pytest.mark.parametrize("state", list(RunState))
    async def test_only_waiting_runs_expire(self, store: Store, travel: Travel, clock: Clock, state: RunState) -> None:
        if state is RunState.EXPIRED:
            return
        run = await brought_to(store, state, expires_in=3600)
        assert list(await store.expire(10)) == []
        await travel(3599.999_999)
        assert list(await store.expire(10)) == []
        await travel(0.000_001)
        assert list(await store.expire(10)) == ([run.id] if state in WAITING else [])
        after = await store.get(run.id)
        if state in WAITING:
            assert (after.state, after.expired_at) == (RunState.EXPIRED, clock.now())
            assert after.reason == "expired before it could start"
            assert await take(store, queue=run.queue) == []
        else:
            assert after == run
        assert list(await store.expire(10)) == []

    async def test_expiry_goes_by_portions(self, store: Store, twin: Store, travel: Travel, foreign: Store) -> None:
        new = await accepted(store, *(envelope(expires_in=1) for _ in range(5)), envelope(expires_in=3), envelope())
        await accepted(foreign, envelope(expires_in=1))
        await travel(2)
        first = list(await store.expire(2))
        assert len(first) == 2
        rest = await asyncio.gather(store.expire(10), twin.expire(10))
        assert sorted([*first, *rest[0], *rest[1]]) == sorted(new[:5])

    # retention

    @pytest.mark.parametrize("state", list(RunState))
    async def test_a_run_is_deleted_when_its_state_was_kept_long_enough(
        self, store: Store, travel: Travel, state: RunState
    ) -> None:
        run = await brought_to(store, state)
        keep = KEEP_NOTHING | {state: 10.0}
        await travel(10)
        assert await purge(store, keep) == 0
        await travel(0.000_001)
        assert await purge(store, keep) == (1 if state in TERMINAL else 0)
        if state in TERMINAL:
            await self._is_gone(store, run.id)
        else:
            assert await store.get(run.id) == run

    async def _is_gone(self, store: Store, run_id: str) -> None:
        for read in (store.get, store.attempts, store.history, store.envelope):
            with pytest.raises(RunNotFound):
                await read(run_id)
        # Nothing of the old life comes back with its id.
        await accepted(store, envelope(id=run_id, delay=1))
        assert list(await store.attempts(run_id)) == []
        assert [entry.event for entry in await store.history(run_id)] == ["accepted"]
        assert (await store.get(run_id)).errors == ()

    @pytest.mark.parametrize("state", sorted(TERMINAL))
    async def test_a_kind_that_is_kept_for_ever_stays(self, store: Store, travel: Travel, state: RunState) -> None:
        run = await brought_to(store, state)
        await travel(1e8)
        assert await purge(store, KEEP_NOTHING | {state: None}) == 0
        assert await purge(store, {other: 0.0 for other in TERMINAL if other is not state}) == 0
        assert await store.get(run.id) == run

    @pytest.mark.parametrize("keep", [None, 1.0, 1000.0])
    async def test_a_runs_own_retention_wins(self, store: Store, travel: Travel, keep: float | None) -> None:
        run = await brought_to(store, RunState.SUCCEEDED, retention=100)
        await travel(100)
        assert await purge(store, dict.fromkeys(TERMINAL, keep)) == 0
        await travel(1)
        assert await purge(store, dict.fromkeys(TERMINAL, keep)) == 1
        await self._is_gone(store, run.id)

    async def test_a_reopened_run_stays(self, store: Store, travel: Travel) -> None:
        run = await brought_to(store, RunState.DEAD_LETTERED)
        await travel(10)
        await store.reopen(run.id, None, None)
        assert await purge(store, KEEP_NOTHING) == 0

    @pytest.mark.parametrize("limit", [1, 2, 3, 7, 100])
    async def test_a_purge_goes_by_portions_and_comes_to_an_end(self, store: Store, travel: Travel, limit: int) -> None:
        kept: list[str] = []
        old: list[str] = []
        for state in (*RunState, *RunState):
            run = await brought_to(store, state)
            (old if state in TERMINAL else kept).append(run.id)
        await travel(1)
        assert await purge(store, KEEP_NOTHING, limit) == len(old)
        page = await store.list(EVERYTHING, limit=100, cursor=None)
        assert sorted(run.id for run in page) == sorted(kept)
        # It begins again: what ended meanwhile goes in the next round.
        for run_id in kept:
            await store.cancel(run_id, None, None)
        await travel(1)
        canceled = (await store.count_by_state(EVERYTHING))[RunState.CANCELED]
        assert await purge(store, KEEP_NOTHING, limit) == canceled > 0

    async def test_a_purge_leaves_other_namespaces_alone(self, store: Store, foreign: Store, travel: Travel) -> None:
        run = await brought_to(foreign, RunState.SUCCEEDED)
        await travel(10)
        assert await purge(store, KEEP_NOTHING) == 0
        assert await foreign.get(run.id) == run

    async def test_two_purges_at_once_delete_once(self, store: Store, twin: Store, travel: Travel) -> None:
        for _ in range(20):
            await brought_to(store, RunState.CANCELED)
        await travel(1)
        deleted = await asyncio.gather(*(purge(one, KEEP_NOTHING, 7) for one in (store, twin)))
        assert sum(deleted) >= 20
        assert len(await store.list(EVERYTHING, limit=10, cursor=None)) == 0
