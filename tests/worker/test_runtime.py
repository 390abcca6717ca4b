"""Opening, closing, dispatching and managing: the runtime as an application uses it."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, field_validator
from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

import actorjobs as aj
from actorjobs.model import new_id
from tests.worker.conftest import MakeRuntime


class Work(BaseModel):
    n: int = 0


@aj.job("test:echo", queue="echo")
async def echo(payload: Work) -> int:
    return payload.n


@aj.job("test:wait", queue="waiting", aliases=["test:wait-old"])
async def wait_long(payload: Work, ctx: aj.JobContext) -> str:
    await asyncio.sleep(payload.n)
    return "waited"


async def test_a_dispatch_needs_an_open_runtime(make_runtime: MakeRuntime) -> None:
    with pytest.raises(aj.NoRuntime, match="open"):
        await echo.dispatch(Work())
    runtime = make_runtime(echo)
    with pytest.raises(aj.NoRuntime):
        await runtime.dispatch(echo, Work())
    async with runtime:
        pass
    with pytest.raises(aj.NoRuntime):
        await echo.dispatch(Work())


async def test_of_two_open_runtimes_the_one_that_knows_the_job_is_meant(make_runtime: MakeRuntime) -> None:
    async with make_runtime(echo, namespace="one") as one, make_runtime(wait_long, namespace="two") as two:
        assert await (await echo.dispatch(Work(n=1))).result(timeout=5) == 1
        assert (await one.runs.list())[0].namespace == "one"
        ref = aj.JobRef("test:unknown", Work, int)
        with pytest.raises(aj.AmbiguousRuntime, match="2 runtimes"):
            await ref.dispatch(Work())
        with two.override():
            handle = await ref.dispatch(Work())
        assert (await two.runs.get(handle.id)).job == "test:unknown"


async def test_it_opens_again_and_on_another_loop(make_runtime: MakeRuntime) -> None:
    runtime = make_runtime(echo)
    async with runtime:
        assert await (await echo.dispatch(Work(n=1))).result(timeout=5) == 1
    async with runtime:
        assert await (await echo.dispatch(Work(n=2))).result(timeout=5) == 2

    def elsewhere() -> int:
        async def once() -> int:
            async with runtime:
                return await (await echo.dispatch(Work(n=3))).result(timeout=5)

        return asyncio.run(once())

    assert await asyncio.to_thread(elsewhere) == 3
    assert not runtime.is_open


async def test_opening_twice_is_refused(make_runtime: MakeRuntime) -> None:
    runtime = make_runtime(echo)
    async with runtime:
        with pytest.raises(aj.InvalidOption, match="open already"):
            await runtime.open()
        assert await (await echo.dispatch(Work(n=4))).result(timeout=5) == 4


async def test_registration(make_runtime: MakeRuntime) -> None:
    @aj.job("test:echo")
    async def impostor(payload: Work) -> None: ...

    with pytest.raises(aj.DuplicateJob, match="test:echo"):
        make_runtime(echo, impostor)
    with pytest.raises(aj.InvalidOption, match="no module"):
        make_runtime("no.such.module")
    with pytest.raises(aj.InvalidOption, match="not a job"):
        make_runtime(lambda: None)
    runtime = make_runtime("tests.worker.test_runtime")
    assert {"test:echo", "test:wait", "test:wait-old"} <= set(runtime.job_names)
    async with runtime:
        with pytest.raises(aj.RegistrationClosed):
            runtime.register(echo)
    runtime.register(echo)


async def test_an_alias_keeps_an_old_name_working(make_runtime: MakeRuntime) -> None:
    async with make_runtime(wait_long) as runtime:
        old = aj.JobRef("test:wait-old", Work, str, queue="waiting")
        assert await (await runtime.dispatch(old, Work())).result(timeout=5) == "waited"


async def test_an_undeclared_queue_is_refused_with_the_nearest(make_runtime: MakeRuntime) -> None:
    async with make_runtime(echo, queues={"bulk": 2}) as runtime:
        with pytest.raises(aj.UnknownQueue, match="'bulk'"):
            await echo.dispatch_to("bulkk", Work())
        handle = await echo.dispatch_to("bulk", Work(n=9))
        assert await handle.result(timeout=5) == 9
        assert (await handle.run()).queue == "bulk"
        assert {queue.name for queue in await runtime.queues.list()} >= {"bulk", "echo"}


async def test_keys_give_one_run_also_when_raced(make_runtime: MakeRuntime) -> None:
    async with make_runtime(echo) as runtime:
        handles = await asyncio.gather(*(echo.dispatch(Work(n=1), idempotency_key="k") for _ in range(50)))
        assert len({handle.id for handle in handles}) == 1
        assert sum(not handle.existing for handle in handles) == 1
        with pytest.raises(aj.IdempotencyConflict) as conflict:
            await echo.dispatch(Work(n=2), idempotency_key="k")
        assert conflict.value.run_id == handles[0].id
        other = await echo.dispatch(Work(n=2), idempotency_key="k", tenant="acme")
        assert other.id != handles[0].id
        envelope = echo.envelope(Work(n=3))
        first, second = await runtime.dispatch(envelope), await runtime.dispatch(envelope)
        assert (first.id, first.existing, second.existing) == (second.id, False, True)


async def test_dispatch_many_takes_all_or_none_and_names_the_bad_one(make_runtime: MakeRuntime) -> None:
    async with make_runtime(echo).client() as runtime:
        await echo.dispatch(Work(n=1), idempotency_key="taken")
        good = [echo.envelope(Work(n=n)) for n in range(3)]
        bad = echo.envelope(Work(n=2), idempotency_key="taken")
        with pytest.raises(aj.IdempotencyConflict, match="envelope 3"):
            await runtime.dispatch_many([*good, bad])
        with pytest.raises(aj.UnknownQueue, match="envelope 1"):
            await runtime.dispatch_many([good[0], good[1].model_copy(update={"queue": "nowhere"})])
        assert sum((await runtime.runs.count_by_state()).values()) == 1
        assert len(await runtime.dispatch_many(good)) == 3
        assert await runtime.dispatch_many([]) == []


async def test_a_run_in_the_callers_transaction_exists_if_it_commits(make_runtime: MakeRuntime) -> None:
    async with make_runtime(echo) as runtime:
        async with AsyncSession(runtime.store.engine) as session:
            gone = await echo.dispatch(Work(n=1), tx=session)
            await session.rollback()
            kept = await echo.dispatch(Work(n=2), tx=session)
            await session.commit()
        assert await kept.result(timeout=5) == 2
        with pytest.raises(aj.RunNotFound):
            await runtime.runs.get(gone.id)


async def test_a_synchronous_session_works_too(make_runtime: MakeRuntime, tmp_path: Path) -> None:
    async with make_runtime(echo) as runtime:
        engine = create_engine(f"sqlite:///{tmp_path}/runs.db")

        def in_thread() -> str:
            with Session(engine) as session:
                session.execute(text("SELECT 1"))
                handle = echo.dispatch_sync(Work(n=5), tx=session)
                session.commit()
                return handle.id

        run_id = await asyncio.to_thread(in_thread)
        engine.dispose()
        assert (await runtime.runs.wait(run_id, timeout=5)).result == 5
        with pytest.raises(aj.InvalidOption, match="tx must be a SQLAlchemy Session"):
            await echo.dispatch(Work(), tx="nonsense")  # type: ignore[arg-type]


async def test_dispatch_sync_from_threads_only(make_runtime: MakeRuntime) -> None:
    async with make_runtime(echo):
        handle = await asyncio.to_thread(echo.dispatch_sync, Work(n=6))
        assert await handle.result(timeout=5) == 6
        with pytest.raises(aj.InvalidOption, match="await"):
            echo.dispatch_sync(Work())


def test_a_client_without_a_loop(make_runtime: MakeRuntime) -> None:
    runtime = make_runtime(echo)
    with runtime.client_sync():
        handle = echo.dispatch_sync(Work(n=7))
        run = runtime.run_sync(lambda: runtime.runs.get(handle.id))
        assert run.state is aj.RunState.QUEUED
    assert not runtime.is_open


async def test_perform_envelope_executes_here_and_now(make_runtime: MakeRuntime) -> None:
    @aj.job("test:tenant", timeout=0.05)
    async def whose(payload: Work) -> str | None:
        await asyncio.sleep(payload.n)
        return aj.current_tenant()

    runtime = make_runtime(whose)
    assert await runtime.perform_envelope(whose.envelope(Work(), tenant="acme")) == "acme"
    with pytest.raises(TimeoutError):
        await runtime.perform_envelope(whose.envelope(Work(n=5)))
    with pytest.raises(aj.PayloadInvalid):
        await runtime.perform_envelope(whose.envelope(Work()).model_copy(update={"payload": {"n": "x"}}))
    with pytest.raises(aj.UnknownJob):
        await runtime.perform_envelope(echo.envelope(Work()))


async def test_delays_and_run_at_are_never_early(make_runtime: MakeRuntime) -> None:
    async with make_runtime(echo):
        delayed = await echo.dispatch(Work(n=1), delay=0.3)
        at = datetime.now(UTC) + timedelta(seconds=0.4)
        timed = await echo.dispatch(Work(n=2), run_at=at)
        past = await echo.dispatch(Work(n=3), run_at=datetime.now(UTC) - timedelta(days=1))
        assert (await delayed.run()).state is aj.RunState.SCHEDULED
        assert await past.result(timeout=5) == 3
        await delayed.result(timeout=5)
        await timed.result(timeout=5)
        first, second = await delayed.run(), await timed.run()
    assert first.claimed_at is not None
    assert second.claimed_at is not None
    assert timedelta(seconds=0.3) <= first.claimed_at - first.inserted_at < timedelta(seconds=1.3)
    assert at <= second.claimed_at < at + timedelta(seconds=1)


async def test_priorities_go_first(make_runtime: MakeRuntime) -> None:
    order: list[int] = []

    @aj.job("test:order", queue="one")
    async def note(payload: Work) -> None:
        order.append(payload.n)

    runtime = make_runtime(note, queues={"one": 1})
    async with runtime.client():
        for n, priority in ((1, 1), (9, 9), (4, 4), (99, 9)):
            await note.dispatch(Work(n=n), priority=priority)
    async with runtime:
        while len(order) < 4:
            await asyncio.sleep(0.01)
    assert order == [9, 99, 4, 1]


async def test_what_has_not_started_in_time_expires(make_runtime: MakeRuntime) -> None:
    async with make_runtime(echo) as runtime:
        await runtime.queues.pause("echo")
        await asyncio.sleep(0.6)
        handle = await echo.dispatch(Work(), expires_in=0.2)
        with pytest.raises(aj.RunFailed, match="expired"):
            await handle.result(timeout=10)
        assert (await handle.run()).expired_at is not None


async def test_pause_resume_and_scale_are_followed_within_a_second(make_runtime: MakeRuntime) -> None:
    async with make_runtime(wait_long, queues={"waiting": 1}) as runtime:
        await runtime.queues.pause("waiting", reason="maintenance")
        handle = await wait_long.dispatch(Work())
        await asyncio.sleep(1.0)
        run = await handle.run()
        assert (run.state, run.hold) == (aj.RunState.QUEUED, "paused")
        with pytest.raises(aj.UnknownQueue, match="'waiting'"):
            await runtime.queues.pause("waitin")
        await runtime.queues.resume("waiting")
        resumed_at = time.monotonic()
        assert await handle.result(timeout=5) == "waited"
        assert time.monotonic() - resumed_at < 1.5
        await runtime.queues.scale("waiting", 5)
        await asyncio.sleep(1.0)
        assert runtime.statistics()["waiting"].concurrency == 5
        await asyncio.gather(*(wait_long.dispatch(Work(n=1)) for _ in range(5)))
        began = time.monotonic()
        while runtime.statistics()["waiting"].busy < 5:
            assert time.monotonic() - began < 1.0
            await asyncio.sleep(0.01)
        await runtime.queues.scale("waiting", 1)
        await asyncio.sleep(1.5)
        assert runtime.statistics()["waiting"].concurrency == 1


async def test_leaving_lets_work_end_and_hands_back_what_does_not(make_runtime: MakeRuntime) -> None:
    reasons: list[Any] = []

    @aj.job("test:endless")
    async def endless(payload: Work, ctx: aj.JobContext) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            reasons.append(ctx.cancel_reason)

    runtime = make_runtime(endless, wait_long, grace=0.7)
    async with runtime:
        short = await wait_long.dispatch(Work(n=0))
        long = await endless.dispatch(Work())
        while not any(pool.busy for pool in runtime.statistics().values()):
            await asyncio.sleep(0.01)
        began = time.monotonic()
    took = time.monotonic() - began
    assert 0.6 < took < 3
    assert reasons == [aj.CancelReason.SHUTDOWN]
    async with runtime.client():
        assert (await runtime.runs.get(short.id)).state is aj.RunState.SUCCEEDED
        run = await runtime.runs.get(long.id)
        [attempt] = await runtime.runs.attempts(long.id)
    assert (run.state, run.attempt, run.failures) == (aj.RunState.QUEUED, 1, 0)
    assert attempt.outcome is aj.Outcome.INTERRUPTED


async def test_the_app_context_is_entered_once_and_left_in_its_own_task(make_runtime: MakeRuntime) -> None:
    seen: list[Any] = []

    @asynccontextmanager
    async def services() -> Any:
        seen.append(asyncio.current_task())
        async with asyncio.timeout(None):
            yield {"name": "app"}
        seen.append(asyncio.current_task())

    @aj.job("test:app")
    async def use(ctx: aj.JobContext[dict[str, str]], n: int) -> str:
        return ctx.app["name"]

    runtime = make_runtime(use, context=services)
    await runtime.open()
    assert [await (await use.dispatch(n)).result(timeout=5) for n in range(3)] == ["app"] * 3
    await asyncio.create_task(runtime.close())
    assert len(seen) == 2
    assert seen[0] is seen[1]


async def test_a_context_that_fails_to_open_is_the_openers_error(make_runtime: MakeRuntime) -> None:
    @asynccontextmanager
    async def broken() -> Any:
        raise ConnectionRefusedError("no database")
        yield

    runtime = make_runtime(echo, context=broken)
    with pytest.raises(ConnectionRefusedError):
        await runtime.open()
    assert not runtime.is_open


async def test_managing_runs(make_runtime: MakeRuntime) -> None:
    async with make_runtime(echo).client() as runtime:
        handles = [await echo.dispatch(Work(n=n), tags=["t"], tenant="acme") for n in range(5)]
        page = await runtime.runs.list(limit=2, tenant="acme", state="queued")
        assert [run.id for run in page] == [handles[4].id, handles[3].id]
        assert (await runtime.runs.list(limit=2, cursor=page.cursor))[0].id == handles[2].id
        moved = await runtime.runs.reschedule(handles[0].id, datetime.now(UTC) + timedelta(hours=1))
        assert moved.state is aj.RunState.SCHEDULED
        canceled = await handles[1].cancel()
        assert canceled.state is aj.RunState.CANCELED
        with pytest.raises(aj.RunStateConflict):
            await runtime.runs.reschedule(handles[1].id, datetime.now(UTC))
        reopened = await runtime.runs.retry(handles[1].id, reason="after all")
        assert reopened.state is aj.RunState.QUEUED
        with pytest.raises(aj.RunStateConflict, match="cannot reopen"):
            await runtime.runs.retry(handles[1].id)
        again = await runtime.runs.replay(handles[2].id)
        assert (await again.run()).replay_of == handles[2].id
        await runtime.runs.delete(handles[3].id)
        for missing in (handles[3].id, "nope", "' OR 1=1 --", "\x00", ""):
            with pytest.raises(aj.RunNotFound):
                await runtime.runs.get(missing)
        for wrong in (0, -1, 10**9, True):
            with pytest.raises(aj.InvalidOption):
                await runtime.runs.list(limit=wrong)
        with pytest.raises(aj.InvalidOption, match="state"):
            await runtime.runs.list(state="done")
        with pytest.raises(aj.ResultTimeout):
            await handles[4].result(timeout=0.1)


async def test_events_follow_a_run_to_its_end(make_runtime: MakeRuntime) -> None:
    @aj.job("test:steps", retry=aj.Retry(attempts=2, backoff=aj.Fixed(0.05)))
    async def steps(payload: Work, ctx: aj.JobContext) -> None:
        await ctx.progress(0.5, "half")
        await asyncio.sleep(0.3)
        if ctx.attempt == 1:
            raise ValueError

    async with make_runtime(steps):
        handle = await steps.dispatch(Work())
        events = [entry.event async for entry in handle.events()]
    assert [event for event in events if event != "progress"] == [
        "accepted",
        "started",
        "failed",
        "started",
        "succeeded",
    ]
    assert "progress" in events


async def test_results_are_awaited_across_processes(make_runtime: MakeRuntime) -> None:
    other = make_runtime(echo)
    async with make_runtime(echo), other.client():
        with other.override():
            handle = await echo.dispatch(Work(n=8))
            began = time.monotonic()
            assert await handle.result(timeout=5) == 8
    assert time.monotonic() - began < 1


async def test_a_handle_outlives_an_opening(make_runtime: MakeRuntime) -> None:
    runtime = make_runtime(echo)
    async with runtime:
        handle = await echo.dispatch(Work(n=1))
        await handle.result(timeout=5)
    with pytest.raises(aj.NoRuntime):
        await handle.run()
    async with runtime.client():
        assert (await handle.run()).result == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"payload": {"n": "zz"}},
        {"payload": None},
        {"constructor_args": {"zz": 1}},
        {"max_attempts": 0},
        {"tags": ("x" * 5000,)},
        {"idempotency_key": ""},
        {"delay": 1.0, "run_at": datetime(2030, 1, 1, tzinfo=UTC)},
        {"traceparent": "junk"},
        {"retry": {"x": 1}},
        {"priority": 10},
        {"id": "not-an-id"},
    ],
)
async def test_an_envelope_made_by_hand_is_checked(make_runtime: MakeRuntime, changes: dict[str, Any]) -> None:
    async with make_runtime(echo).client() as runtime:
        envelope = echo.envelope(Work(n=1)).model_copy(update=changes)
        for refused in (runtime.dispatch(envelope), runtime.dispatch_many([echo.envelope(Work()), envelope])):
            with pytest.raises((aj.InvalidOption, aj.PayloadInvalid)):
                await refused
        assert sum((await runtime.runs.count_by_state()).values()) == 0
        with pytest.raises(aj.InvalidOption, match="envelope 0"):
            await runtime.dispatch_many([1])  # type: ignore[list-item]
        with pytest.raises(aj.InvalidOption, match="takes a list"):
            await runtime.dispatch_many(echo.envelope(Work()))  # type: ignore[arg-type]


async def test_what_a_job_has_built_is_not_read_a_second_time_and_a_copy_is(make_runtime: MakeRuntime) -> None:
    read: list[int] = []

    class Counted(BaseModel):
        n: int

        @field_validator("n")
        @classmethod
        def count(cls, n: int) -> int:
            read.append(n)
            return n

    @aj.job("test:counted")
    async def counted(payload: Counted) -> None: ...

    async with make_runtime(counted).client() as runtime:
        built = [counted.envelope(Counted(n=1)), runtime.envelope("test:counted", {"n": 2})]
        before = len(read)
        assert before >= 4  # made, and read back as the worker will
        await runtime.dispatch_many(built)
        await runtime.dispatch(counted.envelope(Counted(n=3)))
        assert len(read) == before + 2
        await runtime.dispatch_many([one.model_copy(update={"id": new_id()}) for one in built])
        assert len(read) == before + 4
        changed = counted.envelope(Counted(n=4))
        for wrong in ("no number", object(), {1: 2}):
            changed.payload["n"] = wrong
            for refused in (runtime.dispatch_many([changed]), runtime.dispatch(changed)):
                with pytest.raises(aj.PayloadInvalid):
                    await refused


async def test_nothing_is_left_behind(make_runtime: MakeRuntime) -> None:
    await asyncio.sleep(0)
    tasks, threads = len(asyncio.all_tasks()), {thread.name for thread in threading.enumerate()}
    for _ in range(3):
        async with make_runtime(echo, wait_long):
            await (await echo.dispatch(Work())).result(timeout=5)
    await asyncio.sleep(0.1)
    assert len(asyncio.all_tasks()) == tasks
    left = {thread.name for thread in threading.enumerate()} - threads
    assert not {name for name in left if name.startswith("actorjobs-heartbeat")}
