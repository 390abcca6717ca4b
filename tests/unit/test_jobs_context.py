"""What a handler sees: the attempt, its log, progress, checkpoints, children; and the fake that stands for it."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import BaseModel

from actorjobs.errors import ActorJobsError, AttemptCanceled, ContextMissing, InvalidOption, PayloadInvalid
from actorjobs.jobs import FakeContext, Job, JobContext, bind_context, current_context, job, running_context
from actorjobs.model import CancelReason, Envelope
from actorjobs.ports import Accepted, dispatching_through

SECRET = "s3cr3t-hunter2"


class Note(BaseModel):
    text: str


@job("note:keep")
async def keep(payload: Note) -> int:
    return len(payload.text)


@job("note:count")
async def count(number: int, *, delay: int = 0) -> int:
    return number


class Build(Job[Note, str]):
    name = "note:build"
    locale: str = "en"

    async def perform(self, payload: Note, ctx: JobContext) -> str:
        return self.locale


class Link:
    """The attempt behind a context, as a worker would offer it."""

    def __init__(self) -> None:
        self.saved: list[Any] = []
        self.loop = asyncio.get_running_loop()

    async def save_progress(self, fraction: float, message: str | None) -> None:
        self.saved.append((fraction, message))

    async def save_checkpoint(self, state: Mapping[str, Any]) -> None:
        self.saved.append(dict(state))

    def run_on_loop(self, make: Any) -> Any:
        async def call() -> Any:
            return await make()

        return asyncio.run_coroutine_threadsafe(call(), self.loop).result(5)


class Accepting:
    """A dispatcher that takes note."""

    def __init__(self) -> None:
        self.envelopes: list[Envelope] = []

    @property
    def runs(self) -> Any:
        return None

    def knows(self, job: str) -> bool:
        return True

    async def accept(self, envelope: Envelope, *, tx: Any = None) -> Accepted:
        self.envelopes.append(envelope)
        return Accepted(run_id="accepted", existing=False)

    def accept_sync(self, envelope: Envelope, *, tx: Any = None) -> Accepted:
        raise AssertionError("a handler dispatches on the loop")


def a_context(link: Any = None, **fields: Any) -> JobContext[str]:
    values: dict[str, Any] = {
        "run_id": "r1",
        "job": "note:keep",
        "queue": "default",
        "attempt": 2,
        "failures": 1,
        "max_attempts": 3,
        "tenant": "acme",
        "traceparent": "00-" + "a" * 32 + "-" + "b" * 16 + "-01",
        "deadline": datetime(2030, 1, 1, tzinfo=UTC),
        "app": "the app",
        "link": link,
    }
    return JobContext(**(values | fields))


# --- what it tells ---------------------------------------------------------------------------------------------------


def test_it_tells_about_the_attempt() -> None:
    ctx = a_context()
    assert (ctx.run_id, ctx.job, ctx.queue, ctx.tenant, ctx.app) == (
        "r1",
        "note:keep",
        "default",
        "acme",
        "the app",
    )
    assert (ctx.attempt, ctx.failures, ctx.max_attempts) == (2, 1, 3)
    assert ctx.trace_id == "a" * 32
    assert ctx.cancel_reason is None
    assert repr(ctx) == "<JobContext of run r1, attempt 2 of job 'note:keep'>"
    assert a_context(traceparent=None).trace_id is None


@pytest.mark.parametrize(("failures", "is_last"), [(0, False), (1, False), (2, True), (3, True)])
def test_failures_and_not_attempts_decide_which_is_the_last(failures: int, is_last: bool) -> None:
    assert a_context(failures=failures, attempt=9).is_last_attempt is is_last


def test_it_is_light() -> None:
    with pytest.raises(AttributeError):
        a_context().surprise = 1  # type: ignore[attr-defined]


def test_its_log_names_the_attempt(caplog: pytest.LogCaptureFixture) -> None:
    ctx = a_context()
    with caplog.at_level(logging.INFO, "actorjobs.job"):
        ctx.log.info("kept %d", 5, extra={"own": 1, "job": "overridden"})
    (record,) = caplog.records
    assert record.getMessage() == "kept 5"
    assert (record.name, record.run_id, record.job, record.attempt) == ("actorjobs.job", "r1", "note:keep", 2)  # type: ignore[attr-defined]
    assert (record.tenant, record.trace_id, record.own) == ("acme", "a" * 32, 1)  # type: ignore[attr-defined]
    assert ctx.log is ctx.log


# --- progress and checkpoints ----------------------------------------------------------------------------------------


async def test_progress_reaches_the_attempt() -> None:
    link = Link()
    ctx = a_context(link)
    await ctx.progress(0)
    await ctx.progress(1, "done\x00 " + "x" * 5_000)
    assert link.saved[0] == (0.0, None)
    fraction, message = link.saved[1]
    assert (fraction, type(fraction)) == (1.0, float)
    assert message.startswith("done\ufffd x")
    assert len(message.encode()) <= 1024


@pytest.mark.parametrize("fraction", [-0.1, 1.1, 50, math.nan, math.inf, True, False, "0.5", None, SECRET])
async def test_progress_goes_from_0_to_1(fraction: Any) -> None:
    with pytest.raises(InvalidOption, match="progress goes from 0 to 1") as refusal:
        await JobContext.fake().progress(fraction)
    assert SECRET not in str(refusal.value)


@pytest.mark.parametrize("message", [5, b"x", object()])
async def test_the_message_of_a_progress_is_text(message: Any) -> None:
    with pytest.raises(InvalidOption, match="must be a string"):
        await JobContext.fake().progress(0.5, message)


async def test_a_checkpoint_becomes_the_state() -> None:
    link = Link()
    ctx = a_context(link, checkpoint='{"page": 3}')
    assert ctx.state == {"page": 3}
    await ctx.checkpoint(page=4, seen=(1, 2), at=datetime(2030, 1, 1, tzinfo=UTC))
    assert ctx.state == {"page": 4, "seen": [1, 2], "at": "2030-01-01T00:00:00+00:00"}
    assert link.saved == [ctx.state]
    await ctx.checkpoint(other=1)
    assert ctx.state == {"other": 1}, "a checkpoint replaces the one before"


def test_before_the_first_checkpoint_the_state_is_empty() -> None:
    assert a_context().state == {}


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"a": math.nan}, "checkpoint.a is NaN"),
        ({"a": {SECRET}}, "checkpoint.a has the type set"),
        ({"a": SECRET * 20_000}, "checkpoint takes"),
        ({"a": "\x00"}, "checkpoint.a holds a NUL"),
    ],
)
async def test_a_checkpoint_is_json(state: Any, message: str) -> None:
    ctx = JobContext.fake()
    with pytest.raises(PayloadInvalid) as refusal:
        await ctx.checkpoint(**state)
    assert message in str(refusal.value)
    assert SECRET not in str(refusal.value)
    assert (ctx.state, ctx.checkpoints) == ({}, [])


# --- children --------------------------------------------------------------------------------------------------------


async def test_a_child_is_linked_and_stays_in_trace_and_tenant() -> None:
    accepting = Accepting()
    ctx = a_context(Link())
    with dispatching_through(accepting):
        handle = await ctx.dispatch(keep, Note(text="a"), delay=5)
        await ctx.dispatch(count, 7, delay=3)
        await ctx.dispatch(Build, Note(text="a"), tenant="other")
        await ctx.dispatch(Build.build(locale="de"), Note(text="a"))
        await ctx.dispatch(keep.envelope(Note(text="b")))
    assert handle.id == "accepted"
    assert {envelope.parent for envelope in accepting.envelopes} == {"r1"}
    assert {envelope.traceparent for envelope in accepting.envelopes} == {ctx.traceparent}
    assert [envelope.tenant for envelope in accepting.envelopes] == ["acme", "acme", "other", "acme", "acme"]
    assert [envelope.delay for envelope in accepting.envelopes] == [5, None, None, None, None]
    assert accepting.envelopes[1].payload == {"number": 7, "delay": 3}
    assert accepting.envelopes[3].constructor_args == {"locale": "de"}


async def test_a_child_is_validated_like_any_other() -> None:
    with pytest.raises(PayloadInvalid):
        await a_context().dispatch(count, SECRET)  # type: ignore[arg-type]
    with pytest.raises(InvalidOption):
        await a_context().dispatch(keep, Note(text="a"), dely=5)  # type: ignore[call-overload]


# --- in threads ------------------------------------------------------------------------------------------------------


async def test_a_thread_does_the_same_through_the_loop() -> None:
    link, accepting = Link(), Accepting()
    ctx = a_context(link)
    ran_in: list[int] = []

    def handler() -> str:
        ctx.progress_sync(0.5, "half")
        ctx.checkpoint_sync(page=1)
        ran_in.append(threading.get_ident())
        return ctx.dispatch_sync(keep, Note(text="a")).id

    with dispatching_through(accepting):
        assert await asyncio.to_thread(handler) == "accepted"
    assert link.saved == [(0.5, "half"), {"page": 1}]
    assert ctx.state == {"page": 1}
    assert accepting.envelopes[0].parent == "r1"
    assert ran_in != [threading.get_ident()]


def test_a_thread_asks_whether_it_is_canceled() -> None:
    ctx = a_context()
    ctx.check_canceled()
    ctx.cancel_reason = CancelReason.SHUTDOWN
    with pytest.raises(AttemptCanceled, match="being canceled: shutdown") as canceled:
        ctx.check_canceled()
    assert canceled.value.reason == "shutdown"
    assert not isinstance(canceled.value, Exception | ActorJobsError), "`except Exception` must let it through"


# --- the current one -------------------------------------------------------------------------------------------------


async def test_the_current_context_is_known_below_a_handler_only() -> None:
    with pytest.raises(ContextMissing):
        current_context()
    assert running_context() is None
    ctx = a_context()

    async def below() -> JobContext[Any]:
        return await asyncio.to_thread(current_context)

    async def handler() -> None:
        bind_context(ctx)
        assert current_context() is running_context() is ctx
        assert await asyncio.create_task(below()) is ctx

    await asyncio.create_task(handler())
    assert running_context() is None


# --- the fake --------------------------------------------------------------------------------------------------------


async def test_a_fake_records_what_a_handler_does() -> None:
    ctx = JobContext.fake(app="app", attempt=2, state={"page": 1})
    assert isinstance(ctx, FakeContext)
    assert (ctx.app, ctx.attempt, ctx.state) == ("app", 2, {"page": 1})
    await ctx.progress(0.5, "half")
    await ctx.checkpoint(page=2)
    handle = await ctx.dispatch(keep, Note(text="a"))
    assert ctx.progresses == [(0.5, "half")]
    assert ctx.checkpoints == [{"page": 2}]
    assert ctx.state == {"page": 2}
    (envelope,) = ctx.dispatches
    assert (envelope.job, envelope.parent, envelope.trace_id) == ("note:keep", ctx.run_id, ctx.trace_id)
    assert handle.id == envelope.id


def test_a_fake_serves_functions_too() -> None:
    ctx = JobContext.fake(cancel_reason=CancelReason.TIMEOUT)
    ctx.progress_sync(1)
    ctx.checkpoint_sync(a=1)
    assert ctx.dispatch_sync(count, 5).id == ctx.dispatches[0].id
    assert (ctx.progresses, ctx.checkpoints) == ([(1.0, None)], [{"a": 1}])
    with pytest.raises(AttemptCanceled):
        ctx.check_canceled()


def test_a_fake_has_sensible_defaults() -> None:
    ctx = JobContext.fake()
    assert (ctx.app, ctx.attempt, ctx.failures, ctx.max_attempts, ctx.queue) == (None, 1, 0, 5, "default")
    assert (ctx.tenant, ctx.deadline, ctx.state, ctx.cancel_reason) == (None, None, {}, None)
    assert ctx.run_id != JobContext.fake().run_id
    assert ctx.trace_id is not None


def test_a_fake_cannot_wait() -> None:
    with pytest.raises(RuntimeError, match="cannot wait"):
        JobContext.fake().run_on_loop(lambda: asyncio.sleep(0))


def test_a_fake_refuses_fields_it_does_not_have() -> None:
    with pytest.raises(TypeError, match="knows no atempt"):
        JobContext.fake(atempt=2)  # type: ignore[call-overload]
