"""What becomes of a run, by what its handler does."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
import time
from typing import Any

import pytest
from pydantic import BaseModel, RootModel
from sqlalchemy import text

import actorjobs as aj
from actorjobs.worker import performance
from tests.worker.conftest import MakeRuntime


class Work(BaseModel):
    what: str = ""


async def outcome_of(handle: aj.RunHandle[Any], runtime: aj.Runtime) -> tuple[aj.RunState, list[aj.Outcome]]:
    run = await runtime.runs.wait(handle.id, timeout=10)
    return run.state, [attempt.outcome for attempt in await runtime.runs.attempts(handle.id)]


async def test_a_result_is_recorded_with_its_attempt(make_runtime: MakeRuntime) -> None:
    @aj.job("test:add")
    async def add(a: int, b: int) -> dict[str, int]:
        return {"sum": a + b}

    async with make_runtime(add) as runtime:
        handle = await add.dispatch(2, 40)
        assert await handle.result(timeout=5) == {"sum": 42}
        run = await handle.run()
        [attempt] = await runtime.runs.attempts(handle.id)
    assert (run.state, run.attempt, run.failures, run.result) == (aj.RunState.SUCCEEDED, 1, 0, {"sum": 42})
    assert run.inserted_at <= run.claimed_at <= run.attempted_at <= run.completed_at  # type: ignore[operator]
    assert (attempt.number, attempt.outcome, attempt.error) == (1, aj.Outcome.SUCCEEDED, None)
    assert attempt.worker == run.claimed_by
    assert str(attempt.actor).startswith("default/")
    assert str(run.script).endswith("add")


async def test_failures_are_retried_until_the_attempts_are_used_up(make_runtime: MakeRuntime) -> None:
    @aj.job("test:fail", retry=aj.Retry(attempts=3, backoff=aj.Fixed(0.01)))
    async def fail(payload: Work) -> None:
        raise ValueError("no\x00luck \ud800")

    async with make_runtime(fail):
        handle = await fail.dispatch(Work())
        with pytest.raises(aj.RunFailed, match="dead_lettered after 3 attempts: ValueError") as failed:
            await handle.result(timeout=10)
        run = await handle.run()
    assert failed.value.state == aj.RunState.DEAD_LETTERED
    assert [(error.name, error.attempt) for error in run.errors] == [("ValueError", n) for n in (1, 2, 3)]
    assert all("fail" in error.stack and error.attempt_by and error.attempted_at for error in run.errors)
    assert (run.failures, run.reason) == (3, "exhausted")
    assert run.failed_at is not None


async def test_fail_is_for_good_and_retry_later_waits(make_runtime: MakeRuntime) -> None:
    @aj.job("test:steer", retry=aj.Retry(attempts=5, backoff=aj.Fixed(60)))
    async def steer(payload: Work, ctx: aj.JobContext) -> int:
        if ctx.attempt == 1:
            raise aj.RetryLater(0.01)
        raise aj.Fail("bad account")

    async with make_runtime(steer) as runtime:
        handle = await steer.dispatch(Work())
        assert await outcome_of(handle, runtime) == (aj.RunState.DEAD_LETTERED, [aj.Outcome.FAILED] * 2)
        run = await handle.run()
    assert run.reason == "permanent"
    assert run.errors[-1].message == "bad account"


async def test_snooze_uses_no_attempt_and_cancel_ends_the_run(make_runtime: MakeRuntime) -> None:
    @aj.job("test:doze", retry=aj.Retry(attempts=1))
    async def doze(payload: Work, ctx: aj.JobContext) -> int:
        if ctx.attempt < 3:
            raise aj.Snooze(0.01)
        raise ExceptionGroup("around it", [aj.Cancel("user left")])

    async with make_runtime(doze) as runtime:
        handle = await doze.dispatch(Work())
        state, outcomes = await outcome_of(handle, runtime)
        run = await handle.run()
    assert (state, outcomes) == (
        aj.RunState.CANCELED,
        [aj.Outcome.SNOOZED, aj.Outcome.SNOOZED, aj.Outcome.CANCELED],
    )
    assert (run.failures, run.attempt) == (0, 3)
    assert run.canceled_at is not None


async def test_errors_that_may_not_be_retried_are_final(make_runtime: MakeRuntime) -> None:
    @aj.job("test:never", retry=aj.Retry(attempts=9, never=(KeyError,)))
    async def never(payload: Work) -> None:
        raise KeyError("x")

    async with make_runtime(never) as runtime:
        handle = await never.dispatch(Work())
        assert await outcome_of(handle, runtime) == (aj.RunState.DEAD_LETTERED, [aj.Outcome.FAILED])


async def test_a_late_attempt_times_out_and_says_why(make_runtime: MakeRuntime) -> None:
    reasons: list[Any] = []

    @aj.job("test:late", timeout=0.1, retry=aj.Retry(attempts=1))
    async def late(payload: Work, ctx: aj.JobContext) -> None:
        try:
            await asyncio.sleep(30)
        finally:
            reasons.append(ctx.cancel_reason)

    async with make_runtime(late) as runtime:
        handle = await late.dispatch(Work())
        assert await outcome_of(handle, runtime) == (aj.RunState.DEAD_LETTERED, [aj.Outcome.TIMED_OUT])
        run = await handle.run()
    assert reasons == [aj.CancelReason.TIMEOUT]
    assert run.errors[0].name == "AttemptTimedOut"


async def test_a_value_wins_over_a_cancellation_that_came_meanwhile(make_runtime: MakeRuntime) -> None:
    @aj.job("test:stubborn", timeout=0.05)
    async def stubborn(payload: Work) -> str:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            return "done all the same"
        return "never"

    async with make_runtime(stubborn):
        assert await (await stubborn.dispatch(Work())).result(timeout=5) == "done all the same"


async def test_a_running_run_is_canceled_with_its_reason(make_runtime: MakeRuntime) -> None:
    began = asyncio.Event()

    @aj.job("test:long")
    async def long(payload: Work, ctx: aj.JobContext) -> None:
        began.set()
        await asyncio.sleep(30)

    async with make_runtime(long) as runtime:
        handle = await long.dispatch(Work())
        await began.wait()
        asked = await handle.cancel(reason="not wanted")
        assert asked.state is aj.RunState.RUNNING
        assert await outcome_of(handle, runtime) == (aj.RunState.CANCELED, [aj.Outcome.CANCELED])
        run = await handle.run()
        history = [entry.event for entry in await runtime.runs.history(handle.id)]
    assert run.reason == "not wanted"
    assert history == ["accepted", "started", "cancel_requested", "canceled"]


async def test_cancel_reaches_a_run_in_another_runtime(make_runtime: MakeRuntime) -> None:
    began = asyncio.Event()

    @aj.job("test:elsewhere")
    async def elsewhere(payload: Work) -> None:
        began.set()
        await asyncio.sleep(30)

    other = make_runtime(elsewhere)
    async with make_runtime(elsewhere) as runtime, other.client():
        handle = await runtime.dispatch(elsewhere, Work())
        await began.wait()
        asked_at = time.monotonic()
        await other.runs.cancel(handle.id)
        state, _ = await outcome_of(handle, runtime)
    assert state is aj.RunState.CANCELED
    assert time.monotonic() - asked_at < 2.0


async def test_a_handler_that_ignores_cancellation_loses_its_slot(
    make_runtime: MakeRuntime, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(performance, "CANCEL_GRACE_SECONDS", 0.1)
    let_go = asyncio.Event()

    @aj.job("test:zombie", queue="one", timeout=0.05, retry=aj.Retry(attempts=1))
    async def zombie(payload: Work) -> None:
        while not let_go.is_set():
            try:
                await let_go.wait()
            except asyncio.CancelledError:
                continue

    @aj.job("test:next", queue="one")
    async def following(payload: Work) -> str:
        return "served"

    async with make_runtime(zombie, following, queues={"one": 1}) as runtime:
        try:
            dead = await zombie.dispatch(Work())
            behind = await following.dispatch(Work())
            assert await behind.result(timeout=5) == "served"
            run = await runtime.runs.wait(dead.id, timeout=5)
        finally:
            let_go.set()
    assert (run.state, run.errors[0].name) == (aj.RunState.DEAD_LETTERED, "IgnoredCancellation")
    assert "ignores that it was canceled" in caplog.text


async def test_functions_run_in_threads_with_tenant_context_and_reports(make_runtime: MakeRuntime) -> None:
    seen: dict[str, Any] = {}

    @aj.job("test:thread")
    def in_thread(ctx: aj.JobContext, n: int) -> int:
        seen["thread"] = threading.current_thread() is not threading.main_thread()
        seen["tenant"] = aj.current_tenant()
        seen["context"] = aj.current_context().run_id == ctx.run_id
        ctx.progress_sync(0.5, "half")
        ctx.checkpoint_sync(at=n)
        ctx.check_canceled()
        child = ctx.dispatch_sync(child_of, 1)
        seen["child"] = child.id
        return n * 2

    @aj.job("test:child")
    async def child_of(n: int) -> None: ...

    async with make_runtime(in_thread, child_of) as runtime:
        handle = await in_thread.options(tenant="acme").dispatch(21)
        assert await handle.result(timeout=5) == 42
        run = await handle.run()
        child = await runtime.runs.wait(seen["child"], timeout=5)
    assert (seen["thread"], seen["tenant"], seen["context"]) == (True, "acme", True)
    assert run.progress == {"fraction": 0.5, "message": "half"}
    assert run.checkpoint == {"at": 21}
    assert (child.parent, child.tenant, child.trace_id) == (run.id, "acme", run.trace_id)


async def test_a_thread_is_told_to_end(make_runtime: MakeRuntime) -> None:
    @aj.job("test:polite", timeout=0.1, retry=aj.Retry(attempts=1))
    def polite(ctx: aj.JobContext) -> None:
        until = time.monotonic() + 10
        while time.monotonic() < until:
            time.sleep(0.01)
            ctx.check_canceled()

    async with make_runtime(polite) as runtime:
        handle = await polite.dispatch()
        assert await outcome_of(handle, runtime) == (aj.RunState.DEAD_LETTERED, [aj.Outcome.TIMED_OUT])


async def test_work_resumes_from_its_checkpoint(make_runtime: MakeRuntime) -> None:
    steps: list[int] = []

    @aj.job("test:resume", retry=aj.Retry(attempts=3, backoff=aj.Fixed(0)))
    async def resume(payload: Work, ctx: aj.JobContext) -> list[int]:
        for step in range(ctx.state.get("next", 0), 4):
            if step == 2 and ctx.failures == 0:
                raise RuntimeError("in the middle")
            steps.append(step)
            await ctx.checkpoint(next=step + 1)
        return steps

    async with make_runtime(resume):
        assert await (await resume.dispatch(Work())).result(timeout=5) == [0, 1, 2, 3]


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), asyncio.CancelledError()])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_what_would_end_a_process_ends_only_the_attempt(make_runtime: MakeRuntime, error: BaseException) -> None:
    @aj.job("test:exit", retry=aj.Retry(attempts=1))
    async def leave(payload: Work) -> None:
        raise error

    @aj.job("test:after")
    async def after(payload: Work) -> str:
        return "alive"

    async with make_runtime(leave, after) as runtime:
        handle = await leave.dispatch(Work())
        assert await outcome_of(handle, runtime) == (aj.RunState.DEAD_LETTERED, [aj.Outcome.FAILED])
        assert await (await after.dispatch(Work())).result(timeout=5) == "alive"


async def test_hostile_exceptions_are_kept_as_they_can_be(make_runtime: MakeRuntime) -> None:
    class Hostile(Exception):
        def __str__(self) -> str:
            raise RuntimeError("even this fails")

    @aj.job("test:hostile", retry=aj.Retry(attempts=1))
    async def hostile(payload: Work) -> None:
        raise Hostile

    @aj.job("test:huge", retry=aj.Retry(attempts=1))
    async def huge(payload: Work) -> None:
        raise ValueError("x" * 10_000_000)

    async with make_runtime(hostile, huge) as runtime:
        one, two = await hostile.dispatch(Work()), await huge.dispatch(Work())
        first = (await runtime.runs.wait(one.id, timeout=5)).errors[0]
        second = (await runtime.runs.wait(two.id, timeout=5)).errors[0]
    assert first.name.endswith("Hostile")
    assert len(second.message) < 10_000
    assert "10000000" in second.message or "10,000,000" in second.message


async def test_a_result_that_cannot_be_kept_ends_the_run_without_a_second_try(make_runtime: MakeRuntime) -> None:
    calls: list[int] = []

    @aj.job("test:unfit")
    async def unfit(payload: Work) -> int:
        calls.append(1)
        return "not a number"  # type: ignore[return-value]

    @aj.job("test:circular")
    async def circular(payload: Work) -> Any:
        calls.append(1)
        loop: list[Any] = []
        loop.append(loop)
        return loop

    async with make_runtime(unfit, circular) as runtime:
        for handle in (await unfit.dispatch(Work()), await circular.dispatch(Work())):
            assert await outcome_of(handle, runtime) == (aj.RunState.DEAD_LETTERED, [aj.Outcome.FAILED])
            assert (await handle.run()).errors[0].name == "ResultInvalid"
    assert len(calls) == 2


async def test_context_variables_do_not_leak_from_run_to_run(make_runtime: MakeRuntime) -> None:
    leaky: contextvars.ContextVar[str] = contextvars.ContextVar("leaky", default="clean")

    @aj.job("test:leak", queue="one")
    async def leak(payload: Work) -> str:
        before = leaky.get()
        leaky.set(payload.what)
        return before

    async with make_runtime(leak, queues={"one": 1}):
        handles = [await leak.dispatch(Work(what=str(n)), tenant=f"t{n}") for n in range(5)]
        assert [await handle.result(timeout=5) for handle in handles] == ["clean"] * 5
    assert aj.current_tenant() is None


async def test_tenants_are_kept_apart_in_a_thousand_interleaved_runs(make_runtime: MakeRuntime) -> None:
    class Names(RootModel[str]): ...

    wrong: list[str] = []

    @aj.job("test:tenant")
    async def check(payload: Names) -> None:
        async def below() -> None:
            await asyncio.sleep(0.001)
            if aj.current_tenant() != payload.root:
                wrong.append(payload.root)

        await asyncio.gather(below(), asyncio.create_task(below()), asyncio.to_thread(aj.current_tenant))

    async with make_runtime(check, queues={"default": 50}) as runtime:
        envelopes = [check.envelope(Names(f"t{n % 7}"), tenant=f"t{n % 7}") for n in range(1000)]
        handles = await runtime.dispatch_many(envelopes)
        for handle in handles[-20:]:
            await handle.result(timeout=20)
        counts = await runtime.runs.count_by_state()
    assert wrong == []
    assert counts[aj.RunState.DEAD_LETTERED] == 0


async def test_a_payload_that_no_longer_fits_is_dead_lettered_with_its_payload_kept(make_runtime: MakeRuntime) -> None:
    @aj.job("test:evolve")
    async def old(payload: Work) -> None: ...

    class Newer(BaseModel):
        required: int

    @aj.job("test:evolve")
    async def new(payload: Newer) -> None: ...

    async with make_runtime(old).client():
        handle = await old.dispatch(Work(what="secret-canary"))
    async with make_runtime(new) as runtime:
        run = await runtime.runs.wait(handle.id, timeout=5)
    assert (run.state, run.errors[0].name) == (aj.RunState.DEAD_LETTERED, "PayloadInvalid")
    assert run.payload == {"what": "secret-canary"}
    assert "secret-canary" not in run.errors[0].message


async def test_a_row_that_cannot_be_performed_ends_its_run(make_runtime: MakeRuntime) -> None:
    @aj.job("test:fine", retry=aj.Retry(attempts=3))
    async def fine(payload: Work) -> None: ...

    runtime = make_runtime(fine)
    async with runtime.client():
        handle = await fine.dispatch(Work())
        async with runtime.store.engine.begin() as connection:
            await connection.execute(text("UPDATE actorjobs_runs SET retry = '{}'"))
    async with runtime:
        run = await runtime.runs.wait(handle.id, timeout=5)
    assert (run.state, run.attempt, run.errors[0].name) == (aj.RunState.DEAD_LETTERED, 1, "InvalidOption")


async def test_no_retry_starts_after_the_time_for_retries_is_over(make_runtime: MakeRuntime) -> None:
    @aj.job("test:later", retry=aj.Retry(attempts=50, max_elapsed=0.5))
    async def later(payload: Work) -> None:
        raise aj.RetryLater(0.2)

    @aj.job("test:slow", retry=aj.Retry(attempts=50, backoff=aj.Fixed(0), max_elapsed=0.2))
    async def slow(payload: Work) -> None:
        await asyncio.sleep(0.3)
        raise ValueError

    async with make_runtime(later, slow) as runtime:
        first, second = await later.dispatch(Work()), await slow.dispatch(Work())
        assert 1 < (await runtime.runs.wait(first.id, timeout=10)).attempt < 5
        assert (await runtime.runs.wait(second.id, timeout=10)).attempt == 1


async def test_ctx_log_carries_the_run(make_runtime: MakeRuntime, caplog: pytest.LogCaptureFixture) -> None:
    @aj.job("test:log")
    async def speak(payload: Work, ctx: aj.JobContext) -> None:
        ctx.log.info("hello")

    with caplog.at_level(logging.INFO, "actorjobs.job"):
        async with make_runtime(speak):
            handle = await speak.dispatch(Work(), tenant="acme")
            await handle.result(timeout=5)
    [record] = [record for record in caplog.records if record.message == "hello"]
    assert (record.run_id, record.attempt, record.tenant) == (handle.id, 1, "acme")  # type: ignore[attr-defined]
