"""Actors of the application's own: started and stopped with their queue, renewed when a handler asks for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

import actorjobs as aj
from tests.worker.conftest import MakeRuntime

QUICK = aj.Retry(attempts=3, backoff=aj.Fixed(0.01))


class Mailer(aj.Actor):
    """Counts its lives instead of opening connections."""

    lives: list[Mailer]
    is_broken = False
    refuses = 0

    def __init__(self) -> None:
        self.sent = 0
        self.is_open = False

    async def on_start(self) -> None:
        if type(self).refuses:
            type(self).refuses -= 1
            raise ConnectionRefusedError("no mail server")
        self.is_open = True
        type(self).lives.append(self)

    async def on_stop(self) -> None:
        self.is_open = False


@pytest.fixture(autouse=True)
def _no_lives() -> None:
    Mailer.lives = []
    Mailer.refuses = 0


@aj.job("mail:send", queue="smtp", retry=QUICK)
async def send(ctx: aj.JobContext, what: str = "") -> int:
    mailer = ctx.actor(Mailer)
    assert mailer.is_open
    mailer.sent += 1
    if what == "breaks" and ctx.attempt == 1:
        raise aj.RestartActor("the connection is gone")
    await asyncio.sleep(0.01)
    return mailer.sent


@aj.job("mail:thread", queue="smtp")
def send_in_a_thread(ctx: aj.JobContext) -> bool:
    return ctx.actor(Mailer).is_open


@aj.job("mail:plain", queue="plain", retry=aj.Retry(attempts=1))
async def plain(ctx: aj.JobContext) -> None:
    ctx.actor(Mailer)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


def smtp(concurrency: int = 1, actor: Any = Mailer) -> dict[str, aj.Queue]:
    return {"smtp": aj.Queue(concurrency=concurrency, actor=actor)}


async def test_an_actor_keeps_its_state_from_run_to_run(make_runtime: MakeRuntime) -> None:
    async with make_runtime(send, send_in_a_thread, queues=smtp()):
        results = [await (await send.dispatch()).result(timeout=5) for _ in range(3)]
        assert await (await send_in_a_thread.dispatch()).result(timeout=5)
        assert results == [1, 2, 3]
        assert len(Mailer.lives) == 1
        assert Mailer.lives[0].is_open
    assert not Mailer.lives[0].is_open


async def test_each_actor_has_an_instance_of_its_own(make_runtime: MakeRuntime) -> None:
    async with make_runtime(send, queues=smtp(4)) as runtime:
        await until(lambda: len(Mailer.lives) == 4)
        handles = [await send.dispatch() for _ in range(40)]
        for handle in handles:
            await handle.result(timeout=5)
        assert len(Mailer.lives) == 4
        assert sum(mailer.sent for mailer in Mailer.lives) == 40
        assert runtime.statistics()["smtp"].busy == 0


async def test_a_handler_may_have_its_actor_renewed(make_runtime: MakeRuntime) -> None:
    async with make_runtime(send, queues=smtp()) as runtime:
        handle = await send.dispatch("breaks")
        assert await handle.result(timeout=5) == 1
        first, second = Mailer.lives
        assert not first.is_open
        assert second.is_open
        [failed, _] = await runtime.runs.attempts(handle.id)
        assert failed.error is not None
        assert failed.error.name == "RestartActor"
        assert runtime.health == {}


async def test_an_actor_that_cannot_start_holds_its_queue_with_a_reason(make_runtime: MakeRuntime) -> None:
    Mailer.refuses = 4
    async with make_runtime(send, queues=smtp()) as runtime:
        await until(lambda: runtime.health)
        handle = await send.dispatch()
        while (run := await handle.run()).hold is None:
            assert run.state is aj.RunState.QUEUED
            await asyncio.sleep(0.01)
        assert "no mail server" in runtime.health["queue smtp"]
        assert run.hold is not None
        assert "no mail server" in run.hold
        assert await handle.result(timeout=10) == 1
        assert runtime.health == {}
        assert runtime.statistics()["smtp"].hold is None


async def test_an_actor_has_the_application_s_context(make_runtime: MakeRuntime) -> None:
    seen: list[Any] = []

    class Curious(aj.Actor):
        async def on_start(self) -> None:
            seen.append(self.app)

    @asynccontextmanager
    async def services() -> AsyncIterator[str]:
        yield "services"

    async with make_runtime(send, queues=smtp(2, Curious), context=services):
        await until(lambda: len(seen) == 2)
        assert seen == ["services"] * 2


async def test_an_actor_that_takes_long_to_start_holds_up_its_own_queue_alone(make_runtime: MakeRuntime) -> None:
    class Slow(aj.Actor):
        async def on_start(self) -> None:
            await asyncio.sleep(3600)

    @aj.job("mail:quick", queue="quick")
    async def quick() -> int:
        return 1

    async with asyncio.timeout(5):
        async with make_runtime(send, quick, queues=smtp(2, Slow)):
            waiting = await send.dispatch()
            assert await (await quick.dispatch()).result(timeout=5) == 1
            assert (await waiting.run()).state is aj.RunState.QUEUED


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), ValueError("smtp://user:hunter2@mail is down")])
async def test_whatever_a_start_raises_ends_that_actor_alone(make_runtime: MakeRuntime, error: BaseException) -> None:
    class Broken(aj.Actor):
        async def on_start(self) -> None:
            raise error

    @aj.job("mail:quick", queue="quick")
    async def quick() -> int:
        return 1

    async with make_runtime(send, quick, queues=smtp(1, Broken)) as runtime:
        await until(lambda: runtime.health)
        assert await (await quick.dispatch()).result(timeout=5) == 1
        assert "hunter2" not in str(runtime.health)
        assert type(error).__name__ in str(runtime.health)


async def test_a_queue_without_that_actor_says_so(make_runtime: MakeRuntime) -> None:
    async with make_runtime(plain):
        with pytest.raises(aj.RunFailed, match=r"queue 'plain' has no actor of class Mailer"):
            await (await plain.dispatch()).result(timeout=5)


@pytest.mark.parametrize("actor", [Mailer(), object, "Mailer", 5])
def test_only_classes_of_actors_are_taken(actor: Any) -> None:
    with pytest.raises(aj.InvalidOption, match="class derived from Actor"):
        aj.Queue(actor=actor)


async def test_a_handler_is_tested_with_an_actor_of_the_test_s(monkeypatch: pytest.MonkeyPatch) -> None:
    mailer = Mailer()
    await mailer.on_start()
    assert await send(aj.JobContext.fake(actor=mailer)) == 1


async def test_scaling_starts_and_stops_actors(make_runtime: MakeRuntime) -> None:
    async with make_runtime(send, queues=smtp(1)) as runtime:
        await runtime.queues.scale("smtp", 3)
        while sum(mailer.is_open for mailer in Mailer.lives) != 3:
            await asyncio.sleep(0.01)
        await runtime.queues.scale("smtp", 1)
        while sum(mailer.is_open for mailer in Mailer.lives) != 1:
            await asyncio.sleep(0.01)
        assert await (await send.dispatch()).result(timeout=5)
