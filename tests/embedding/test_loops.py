"""A runtime in each kind of event loop, and in several of them."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

import actorjobs as aj
from tests.embedding.life import double, open_and_live
from tests.worker.conftest import MakeRuntime


def uvloop() -> asyncio.AbstractEventLoop:
    loop: asyncio.AbstractEventLoop = pytest.importorskip("uvloop").new_event_loop()
    return loop


def eager() -> asyncio.AbstractEventLoop:
    if sys.version_info < (3, 12):
        pytest.skip("eager tasks came with Python 3.12")
    loop = asyncio.new_event_loop()
    loop.set_task_factory(asyncio.eager_task_factory)
    return loop


def debugging() -> asyncio.AbstractEventLoop:
    """It complains of calls from other threads, and of coroutines that nobody awaits."""
    loop = asyncio.new_event_loop()
    loop.set_debug(True)
    return loop


@pytest.mark.parametrize("make_loop", [asyncio.new_event_loop, debugging, uvloop, eager])
def test_it_lives_on_each_kind_of_loop(runtime: aj.Runtime, make_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    with asyncio.Runner(loop_factory=make_loop) as runner:
        runner.run(open_and_live(runtime))


def test_the_same_object_opens_on_one_kind_after_the_other(runtime: aj.Runtime) -> None:
    for make_loop in (asyncio.new_event_loop, uvloop, asyncio.new_event_loop):
        with asyncio.Runner(loop_factory=make_loop) as runner:
            runner.run(open_and_live(runtime))
    assert not runtime.is_open


@aj.job("embedded:square", queue="squares")
async def square(n: int) -> int:
    return n * n


class Elsewhere:
    """A runtime that is open in a thread and a loop of its own."""

    def __init__(self, runtime: aj.Runtime) -> None:
        self._runtime = runtime
        self._opened: Future[asyncio.AbstractEventLoop] = Future()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._stay()))

    async def _stay(self) -> None:
        async with self._runtime:
            self._opened.set_result(asyncio.get_running_loop())
            await self._stop.wait()

    def __enter__(self) -> None:
        self._thread.start()
        self._loop = self._opened.result(timeout=10)

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(timeout=10)
        assert not self._thread.is_alive()


async def test_two_runtimes_on_two_loops_in_one_process(make_runtime: MakeRuntime) -> None:
    """Each job finds its runtime; one on another loop is asked from a thread."""
    here, there = make_runtime(double, namespace="here"), make_runtime(square, namespace="there")
    with Elsewhere(there):
        async with here:
            assert await (await double.dispatch(4)).result(timeout=10) == 8
            with pytest.raises(aj.InvalidOption, match="another event loop: use dispatch_sync"):
                await square.dispatch(4)
            id = (await asyncio.to_thread(square.dispatch_sync, 4)).id
            ended = await asyncio.to_thread(there.run_sync, lambda: there.runs.wait(id, timeout=10))
            assert (ended.result, ended.namespace) == (16, "there")


def test_clients_without_a_loop_in_many_threads(make_runtime: MakeRuntime) -> None:
    runtime = make_runtime(double)
    with runtime.client_sync(), ThreadPoolExecutor(8) as threads:
        ids = {handle.id for handle in threads.map(double.dispatch_sync, range(50))}
        listed = runtime.run_sync(lambda: runtime.runs.list(limit=100))
    assert {run.id for run in listed} == ids
