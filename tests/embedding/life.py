"""What an embedded runtime has to do wherever it is embedded."""

from __future__ import annotations

import asyncio

import actorjobs as aj


@aj.job("embedded:double", queue="embedded")
async def double(ctx: aj.JobContext, n: int) -> int:
    await asyncio.sleep(0)
    return 2 * n


@aj.job("embedded:in-thread", queue="embedded")
def in_thread(ctx: aj.JobContext, n: int) -> int:
    ctx.progress_sync(0.5)
    return ctx.dispatch_sync(double, n).id != ctx.run_id and n


@aj.job("embedded:flaky", queue="embedded", retry=aj.Retry(attempts=2, backoff=aj.Fixed(0)))
async def flaky(ctx: aj.JobContext) -> int:
    if ctx.attempt == 1:
        raise RuntimeError("not yet")
    return ctx.attempt


@aj.job("embedded:endless", queue="embedded")
async def endless() -> None:
    await asyncio.sleep(3600)


JOBS = (double, in_thread, flaky, endless)


async def live(runtime: aj.Runtime) -> None:
    """Through an open runtime: tasks, threads, retries and a cancellation."""
    doubled = [await double.dispatch(n) for n in range(10)]
    assert [await run.result(timeout=10) for run in doubled] == [2 * n for n in range(10)]
    assert await (await in_thread.dispatch(7)).result(timeout=10) == 7
    run = await asyncio.to_thread(double.dispatch_sync, 21)
    assert await run.result(timeout=10) == 42
    assert await (await flaky.dispatch()).result(timeout=10) == 2
    canceled = await endless.dispatch()
    while (await canceled.run()).state is not aj.RunState.RUNNING:
        await asyncio.sleep(0.02)
    await canceled.cancel()
    assert (await runtime.runs.wait(canceled.id, timeout=10)).state is aj.RunState.CANCELED


async def open_and_live(runtime: aj.Runtime) -> None:
    async with runtime:
        await live(runtime)
