"""Hours of retries in milliseconds: the whole embedded runtime under a clock that only moves when told to."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from itertools import pairwise

import pytest
from pydantic import BaseModel

import actorjobs as aj
from tests.worker.conftest import MakeRuntime


class Work(BaseModel):
    n: int = 0


async def test_retries_of_hours_pass_at_once_and_exactly(make_runtime: MakeRuntime) -> None:
    clock = aj.VirtualClock()
    at: list[float] = []

    @aj.job("test:fail", retry=aj.Retry(attempts=4, backoff=aj.Custom(10, 600, 3600)))
    async def fail(payload: Work) -> None:
        at.append(clock.monotonic())
        raise ValueError

    began = time.monotonic()
    async with make_runtime(fail, clock=clock) as runtime:
        handle = await fail.dispatch(Work(), delay=timedelta(minutes=5))
        await clock.advance(minutes=4, seconds=59)
        assert at == []
        await clock.advance(seconds=1.1)
        assert len(at) == 1
        await clock.advance(hours=1.5)
        run = await runtime.runs.get(handle.id)
    assert run.state is aj.RunState.DEAD_LETTERED
    waits = [later - earlier for earlier, later in pairwise(at)]
    assert waits == pytest.approx([10, 600, 3600], abs=0.05)
    assert all(wait >= exact for wait, exact in zip(waits, (10, 600, 3600), strict=True))
    assert run.failed_at is not None
    assert (run.failed_at - run.inserted_at).total_seconds() == pytest.approx(300 + 4210, abs=0.2)
    assert time.monotonic() - began < 60


async def test_time_outs_and_expiry_go_by_the_virtual_clock(make_runtime: MakeRuntime) -> None:
    clock = aj.VirtualClock()

    @aj.job("test:hang", timeout=30, retry=aj.Retry(attempts=1))
    async def hang(payload: Work) -> None:
        await asyncio.Event().wait()

    @aj.job("test:never", queue="paused")
    async def never(payload: Work) -> None: ...

    async with make_runtime(hang, never, clock=clock) as runtime:
        await runtime.queues.pause("paused")
        await clock.advance(seconds=1)
        hung, stale = await hang.dispatch(Work()), await never.dispatch(Work(), expires_in=20)
        await clock.advance(seconds=15)
        assert (await hung.run()).state is aj.RunState.RUNNING
        await clock.advance(seconds=20)
        assert (await hung.run()).errors[0].name == "AttemptTimedOut"
        assert (await stale.run()).state is aj.RunState.EXPIRED


async def test_work_that_is_due_is_done_before_time_moves(make_runtime: MakeRuntime) -> None:
    clock = aj.VirtualClock()

    @aj.job("test:chain")
    async def chain(payload: Work, ctx: aj.JobContext) -> int:
        await asyncio.sleep(0.005)
        if payload.n:
            await ctx.dispatch(chain, Work(n=payload.n - 1))
        return payload.n

    async with make_runtime(chain, clock=clock) as runtime:
        await chain.dispatch(Work(n=10))
        await clock.settle()
        counts = await runtime.runs.count_by_state()
        assert counts[aj.RunState.SUCCEEDED] == 11
        assert clock.monotonic() == 0.0
