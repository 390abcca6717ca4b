"""Where runs are quick, more are claimed than there are places; that must not hold up any of them."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

import actorjobs as aj
from actorjobs.worker import pool as pools
from tests.worker.conftest import MakeRuntime

PLACES = 4
QUICK_RUNS = 200


class Gate:
    """Where handlers wait until they are let through."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()
        self.inside = 0
        self.most_inside = 0
        self.begun = Counter[str]()

    async def through(self, run_id: str) -> None:
        self.begun[run_id] += 1
        self.inside += 1
        self.most_inside = max(self.most_inside, self.inside)
        try:
            await self.opened.wait()
        finally:
            self.inside -= 1


gate = Gate()


@pytest.fixture(autouse=True)
def _new_gate() -> None:
    global gate
    gate = Gate()


@aj.job("ahead:work", queue="work")
async def work(ctx: aj.JobContext, is_slow: bool) -> None:
    if is_slow:
        await gate.through(ctx.run_id)


async def _made_quick(runtime: aj.Runtime) -> None:
    """Have so many quick runs performed that the pool claims ahead."""
    handles = await runtime.dispatch_many([work.envelope(is_slow=False) for _ in range(QUICK_RUNS)])
    await asyncio.gather(*(handle.result(timeout=30) for handle in handles))


async def _slow(runtime: aj.Runtime, count: int) -> list[aj.RunHandle[None]]:
    return await runtime.dispatch_many([work.envelope(is_slow=True) for _ in range(count)])


async def _until_running(runtime: aj.Runtime, count: int) -> None:
    async with asyncio.timeout(10):
        while len((await runtime.runs.list(state="running")).runs) < count:
            await asyncio.sleep(0.01)


async def test_more_are_claimed_than_performed(make_runtime: MakeRuntime) -> None:
    async with make_runtime(work, queues={"work": PLACES}) as runtime:
        await _made_quick(runtime)
        handles = await _slow(runtime, PLACES * 4)
        await _until_running(runtime, PLACES * 2)
        assert gate.inside == PLACES
        gate.opened.set()
        await asyncio.gather(*(handle.result(timeout=30) for handle in handles))
    assert gate.most_inside == PLACES


async def test_what_finds_no_place_is_handed_back_for_others(
    make_runtime: MakeRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pools, "AHEAD_SECONDS", 0.2)
    async with make_runtime(work, queues={"work": PLACES}) as runtime:
        await _made_quick(runtime)
        handles = await _slow(runtime, PLACES * 2)
        await _until_running(runtime, PLACES * 2)
        assert gate.inside == PLACES
        async with make_runtime(work, queues={"work": PLACES}):
            async with asyncio.timeout(10):
                while gate.inside < PLACES * 2:
                    await asyncio.sleep(0.01)
            gate.opened.set()
            await asyncio.gather(*(handle.result(timeout=30) for handle in handles))
        for handle in handles:
            attempts = await runtime.runs.attempts(handle.id)
            outcomes = [attempt.outcome for attempt in attempts]
            assert outcomes in (["succeeded"], ["interrupted", "succeeded"])
            assert (await handle.run()).failures == 0
    assert set(gate.begun.values()) == {1}


async def test_closing_hands_back_what_was_not_begun(make_runtime: MakeRuntime) -> None:
    async with make_runtime(work, queues={"work": PLACES}, grace=0.1) as runtime:
        await _made_quick(runtime)
        handles = await _slow(runtime, PLACES * 2)
        await _until_running(runtime, PLACES * 2)
    assert sum(gate.begun.values()) == PLACES
    async with make_runtime(work).client() as client:
        states = [(await client.runs.get(handle.id)).state for handle in handles]
    assert states == ["queued"] * (PLACES * 2)


async def test_slow_runs_are_not_claimed_ahead(make_runtime: MakeRuntime) -> None:
    async with make_runtime(work, queues={"work": PLACES}) as runtime:
        handles = await _slow(runtime, PLACES * 4)
        await _until_running(runtime, PLACES)
        await asyncio.sleep(0.2)
        assert len((await runtime.runs.list(state="running")).runs) == PLACES
        gate.opened.set()
        await asyncio.gather(*(handle.result(timeout=30) for handle in handles))
