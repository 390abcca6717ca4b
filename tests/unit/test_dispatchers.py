"""Stand-ins for a runtime: one performs at once, one takes notes; application code sees no difference."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, Protocol

import pytest
from pydantic import BaseModel

import actorjobs as aj
from actorjobs.testing import InlineDispatcher, RecordingDispatcher


class Mail(BaseModel):
    to: str
    title: str = "hello"


sent: list[tuple[str, str | None, str]] = []


@pytest.fixture(autouse=True)
def _nothing_sent() -> None:
    sent.clear()


@aj.job("mail:send", queue="emails", retry=aj.Retry(attempts=3), version=2)
async def send(payload: Mail, ctx: aj.JobContext[Any]) -> str:
    if payload.to == "nobody":
        raise LookupError("no such address")
    if payload.to == "later":
        raise aj.Snooze(60)
    if payload.to == "never":
        raise aj.Cancel("unsubscribed")
    sent.append((payload.to, aj.current_tenant(), str(ctx.app)))
    return f"sent to {payload.to}"


@aj.job("mail:count")
def count(to: str, n: int = 1) -> int:
    return n + 1


@aj.job("mail:all")
async def send_all(names: list[str], ctx_free: bool = True) -> int:
    for name in names:
        await send.dispatch(Mail(to=name))
    return len(names)


class Dispatcher(Protocol):
    """The port that an application might declare for itself."""

    def dispatch(self, job: Any, /, *args: Any, **options: Any) -> Awaitable[aj.RunHandle[Any]]: ...


async def sign_up(jobs: Dispatcher, name: str) -> aj.RunHandle[Any]:
    """Application code that is given a dispatcher, whichever."""
    return await jobs.dispatch(send, Mail(to=name), tenant="acme")


async def test_the_dispatcher_decides(tmp_path: Any) -> None:
    with InlineDispatcher(app="the app") as inline:
        handle = await sign_up(inline, "ann")
        assert await handle.result() == "sent to ann"
        assert sent == [("ann", "acme", "the app")]
    with RecordingDispatcher() as recording:
        handle = await sign_up(recording, "ben")
        with pytest.raises(aj.ResultTimeout, match="only recorded"):
            await handle.result(timeout=1)
        assert len(sent) == 1
        assert [(one.job, one.payload, one.queue) for one in recording.dispatches] == [
            ("mail:send", {"to": "ben", "title": "hello"}, "emails")
        ]
    async with aj.Runtime(store=f"sqlite:///{tmp_path}/runs.db", jobs=[send]) as runtime:
        handle = await sign_up(runtime, "cat")
        assert await handle.result(timeout=5) == "sent to cat"
        assert [name for name, _, _ in sent] == ["ann", "cat"]


async def test_inline_errors_go_to_the_hook() -> None:
    failed: list[tuple[str, str]] = []
    with InlineDispatcher(on_error=lambda error, job: failed.append((job, str(error)))):
        handle = await send.dispatch(Mail(to="nobody"))
        run = await handle.run()
    assert failed == [("mail:send", "no such address")]
    assert (run.state, run.errors[0].name) == (aj.RunState.DEAD_LETTERED, "LookupError")
    with InlineDispatcher(), pytest.raises(LookupError, match="no such address"):
        await send.dispatch(Mail(to="nobody"))


async def test_inline_signals_and_children() -> None:
    with InlineDispatcher():
        assert (await (await send.dispatch(Mail(to="later"))).run()).state is aj.RunState.SCHEDULED
        canceled = await (await send.dispatch(Mail(to="never"))).run()
        assert (canceled.state, canceled.reason) == (aj.RunState.CANCELED, "unsubscribed")
        assert await (await send_all.dispatch(["ann", "ben"])).result() == 2
        assert [name for name, _, _ in sent] == ["ann", "ben"]
        assert await (await count.dispatch("ann", n=4)).result() == 5
        assert await asyncio.to_thread(lambda: asyncio.run(count.dispatch_sync("ann").result())) == 2


@pytest.mark.parametrize("make", [InlineDispatcher, RecordingDispatcher])
async def test_keys_payloads_and_options_are_checked_as_by_a_runtime(make: Callable[[], Any]) -> None:
    with make() as dispatcher:
        first = await send.dispatch(Mail(to="ann"), idempotency_key="k")
        again = await send.dispatch(Mail(to="ann"), idempotency_key="k")
        assert (again.id, again.existing) == (first.id, True)
        with pytest.raises(aj.IdempotencyConflict) as conflict:
            await send.dispatch(Mail(to="ben"), idempotency_key="k")
        assert conflict.value.run_id == first.id
        with pytest.raises(aj.PayloadInvalid):
            await dispatcher.dispatch(send, {"to": 5})
        with pytest.raises(aj.InvalidOption):
            await send.dispatch(Mail(to="ann"), delay=-1)
        with pytest.raises(aj.RunNotFound):
            await dispatcher.get("unknown")


async def test_recorded_dispatches_can_be_asserted() -> None:
    with RecordingDispatcher() as recorded:
        recorded.assert_nothing_dispatched()
        await send.dispatch(Mail(to="ann"), delay=timedelta(minutes=5))
        await send.dispatch_to("bulk", Mail(to="ben"))
        recorded.assert_dispatched(send)
        recorded.assert_dispatched("mail:send", Mail(to="ann"), times=1, delay=timedelta(minutes=5))
        recorded.assert_dispatched(send, {"to": "ben", "title": "hello"}, queue="bulk")
        recorded.assert_not_dispatched(count)
        for failing in (
            lambda: recorded.assert_dispatched(count),
            lambda: recorded.assert_dispatched(send, times=1),
            lambda: recorded.assert_dispatched(send, Mail(to="cat")),
            lambda: recorded.assert_not_dispatched(send),
            recorded.assert_nothing_dispatched,
        ):
            with pytest.raises(AssertionError, match="mail"):
                failing()
        assert [one.payload["to"] for one in recorded.of(send)] == ["ann", "ben"]


async def test_a_recorded_run_can_be_canceled_and_replayed() -> None:
    with RecordingDispatcher() as recorded:
        handle = await send.dispatch(Mail(to="ann"))
        replayed = await handle.replay()
        assert (await replayed.run()).replay_of == handle.id
        assert (await handle.cancel("no need")).state is aj.RunState.CANCELED
        assert [entry.event async for entry in handle.events()] == ["accepted", "canceled"]
        assert len(recorded.dispatches) == 2


async def test_outside_of_it_nothing_is_dispatched_there() -> None:
    with RecordingDispatcher() as recorded:
        pass
    with pytest.raises(aj.NoRuntime):
        await send.dispatch(Mail(to="ann"))
    recorded.assert_nothing_dispatched()
