"""A runtime among anyio's task groups and cancel scopes, which cancel again and again until they are left."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import anyio
import pytest

import actorjobs as aj
from tests.embedding.life import double, endless, live, open_and_live
from tests.worker.conftest import MakeRuntime


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[..., Any]:
    def run(work: Callable[..., Any], *arguments: Any) -> Any:
        return anyio.run(work, *arguments, backend="asyncio", backend_options={"use_uvloop": request.param})

    return run


def test_tasks_of_a_group_dispatch_and_wait(runtime: aj.Runtime, run: Callable[..., Any]) -> None:
    results: list[int] = []

    async def one(n: int) -> None:
        results.append(await (await double.dispatch(n)).result(timeout=10))

    async def main() -> None:
        async with runtime, anyio.create_task_group() as group:
            for n in range(20):
                group.start_soon(one, n)
        async with anyio.create_task_group() as group:  # and a group may be what holds the runtime
            group.start_soon(open_and_live, runtime)

    run(main)
    assert sorted(results) == [2 * n for n in range(20)]


def test_a_time_out_around_it_still_hands_back_what_runs(runtime: aj.Runtime, run: Callable[..., Any]) -> None:
    async def main() -> str:
        with anyio.move_on_after(0.5) as scope:
            async with runtime:
                id = (await endless.dispatch()).id
                await anyio.sleep_forever()
        assert scope.cancelled_caught
        async with runtime.client():
            found = await runtime.runs.get(id)
            assert (found.state, found.attempt, found.failures) == ("queued", 1, 0)
            [attempt] = await runtime.runs.attempts(id)
            assert attempt.outcome is aj.Outcome.INTERRUPTED
        return id

    began = time.monotonic()
    assert run(main)
    assert time.monotonic() - began < 10


def test_a_neighbour_that_fails_ends_it_in_order(runtime: aj.Runtime, run: Callable[..., Any]) -> None:
    async def fail_when(opened: anyio.Event) -> None:
        await opened.wait()
        raise ConnectionError("the neighbour's")

    async def main() -> None:
        opened = anyio.Event()
        async with anyio.create_task_group() as group:
            group.start_soon(fail_when, opened)
            async with runtime:
                await live(runtime)
                opened.set()
                await anyio.sleep_forever()

    with pytest.raises(ExceptionGroup) as failed:
        run(main)
    assert failed.group_contains(ConnectionError, match="the neighbour's")
    assert not runtime.is_open
    run(open_and_live, runtime)


def test_a_call_that_is_given_up_leaves_the_run(runtime: aj.Runtime, run: Callable[..., Any]) -> None:
    async def main() -> None:
        async with runtime:
            handle = await endless.dispatch()
            with anyio.move_on_after(0.2) as scope:
                await handle.result()
            assert scope.cancelled_caught
            assert (await handle.run()).state is aj.RunState.RUNNING
            await handle.cancel()

    run(main)


def test_reads_that_are_given_up_leave_sqlite_usable(runtime: aj.Runtime, run: Callable[..., Any]) -> None:
    run(give_up_reads, runtime)


def test_reads_that_are_given_up_leave_postgres_usable(
    make_runtime: MakeRuntime, postgres_url: str, run: Callable[..., Any]
) -> None:
    run(give_up_reads, make_runtime(double, store=postgres_url))


def test_reads_that_are_given_up_leave_mariadb_usable(
    make_runtime: MakeRuntime, mariadb_url: str, run: Callable[..., Any]
) -> None:
    run(give_up_reads, make_runtime(double, store=mariadb_url))


async def give_up_reads(runtime: aj.Runtime) -> None:
    async with runtime.client() as client:
        ids = [(await double.dispatch(n)).id for n in range(20)]
        given_up = 0
        for n in range(60):
            with anyio.move_on_after(n / 20_000) as scope:  # 0 to 3 ms
                await client.runs.list()
            given_up += scope.cancelled_caught
        assert given_up >= 1
        assert sorted(run.id for run in await client.runs.list()) == ids
