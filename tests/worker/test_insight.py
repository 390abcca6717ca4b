"""Explaining, following and checking what is in the store, through a runtime that works."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

import pytest
from pydantic import BaseModel, field_validator

import actorjobs as aj
from tests.worker.conftest import MakeRuntime


class Work(BaseModel):
    n: int = 0


@aj.job("test:wait", queue="waiting")
async def wait(payload: Work) -> int:
    await asyncio.sleep(payload.n)
    return payload.n


async def test_a_busy_queue_is_explained(make_runtime: MakeRuntime) -> None:
    async with make_runtime(wait, queues={"waiting": 1}) as runtime:
        first = await wait.dispatch(Work(n=60))
        while (await first.run()).state is not aj.RunState.RUNNING:
            await asyncio.sleep(0.01)
        rest = [await wait.dispatch(Work()) for _ in range(3)]
        running = await runtime.runs.explain(first.id)
        assert (running.verdict, "in attempt 1" in running.reasons[0]) == ("running", True)
        waiting = await runtime.runs.explain(rest[-1].id)
        assert waiting.verdict == "busy"
        assert waiting.reasons[0].startswith("All 1 places of queue waiting on 1 living worker are taken: 1 runs")
        assert waiting.reasons[1].startswith("2 due runs of its queue go first")
        await runtime.queues.pause("waiting", reason="later")
        assert (await runtime.runs.explain(rest[0].id)).verdict == "paused"
        await runtime.runs.cancel_many(queue="waiting")
        assert (await runtime.runs.explain(rest[0].id)).verdict == "canceled"


async def test_a_tail_tells_each_step_once_and_in_order(make_runtime: MakeRuntime) -> None:
    watcher = make_runtime()
    async with make_runtime(wait) as runtime, watcher.client():
        with runtime.override():
            assert await (await wait.dispatch(Work(n=0))).result(timeout=10) == 0
        steps: list[tuple[str, str]] = []
        ids: list[str] = []

        async def follow() -> None:
            tail: Any = watcher.runs.tail(job="test:wait")
            async with aclosing(tail):
                async for change in tail:
                    steps.append((change.run_id, change.entry.event))
                    if [step for _, step in steps].count("succeeded") == 3:
                        return

        following = asyncio.create_task(follow())
        await asyncio.sleep(1.0)
        with runtime.override():
            for _ in range(3):
                ids.append((await wait.dispatch(Work())).id)
                await asyncio.sleep(0.3)
        await asyncio.wait_for(following, 20)
    for run_id in ids:
        assert [event for one, event in steps if one == run_id] == ["accepted", "started", "succeeded"]
    assert {one for one, _ in steps} == set(ids)


class NobodyReads:
    def allows(self, access: aj.Access) -> bool:
        return access.action == "enqueue" or access.run is None


async def test_the_policy_hides_runs_from_a_tail_and_explains_nothing(make_runtime: MakeRuntime) -> None:
    runtime = make_runtime(wait, policy=NobodyReads())
    async with runtime.client():
        handle = await wait.dispatch(Work())
        with pytest.raises(aj.PolicyDenied):
            await runtime.runs.explain(handle.id)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(
                anext(runtime.runs.tail(since=(await runtime.store.get(handle.id)).inserted_at)), 1.2
            )


class Odd(BaseModel):
    n: int

    @field_validator("n")
    @classmethod
    def fails(cls, value: int) -> int:
        raise RuntimeError(f"canary {value}")


async def test_what_this_code_could_not_perform(make_runtime: MakeRuntime) -> None:
    @aj.job("test:wait", queue="waiting", version=3)
    async def newer(payload: Work) -> None: ...

    @aj.job("test:odd", queue="waiting")
    async def odd(payload: Work) -> None: ...

    @aj.job("test:odd", queue="waiting")
    async def raising(payload: Odd) -> None: ...

    new, old = make_runtime(newer, odd), make_runtime(wait, raising)
    async with new.client():
        await newer.dispatch(Work())
        await odd.dispatch(Work(n=7))
        done = await odd.dispatch(Work())
        await done.cancel()
        report = await new.check_pending()
        assert (report.checked, report.misfits) == (2, ())
    async with old.client():
        report = await old.check_pending()
    assert [(m.job, m.version, m.reason, m.runs) for m in report.misfits] == [
        ("test:odd", 1, "payload: a validator raised RuntimeError", 1),
        ("test:wait", 3, "newer version: this code knows it up to 1", 1),
    ]
