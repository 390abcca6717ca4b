"""Policy, middleware and observers: what an application puts around dispatches, handlers and operators' acts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import BaseModel
from sqlalchemy import text

import actorjobs as aj
from actorjobs import policy as policies
from actorjobs.worker import observing
from tests.worker.conftest import MakeRuntime


class Work(BaseModel):
    n: int = 0


QUICK = aj.Retry(attempts=2, backoff=aj.Fixed(0.01))


@aj.job("test:double", queue="work", retry=QUICK)
async def double(payload: Work, ctx: aj.JobContext) -> int:
    if payload.n < 0:
        raise ValueError("negative")
    return 2 * payload.n


@aj.job("test:double-in-thread", queue="work")
def double_in_thread(payload: Work) -> int:
    return 2 * payload.n


# --- policy ----------------------------------------------------------------------------------------------------------


class OwnTenantOnly:
    """Runs of one's own tenant; everything for whoever acts for none."""

    def __init__(self) -> None:
        self.asked: list[aj.Access] = []

    async def allows(self, access: aj.Access) -> bool:
        self.asked.append(access)
        return access.caller in (None, access.tenant)


class Denies:
    def __init__(self, *actions: str) -> None:
        self.actions = actions

    def allows(self, access: aj.Access) -> bool:
        return access.action not in self.actions


async def test_a_tenant_gets_at_its_own_runs_only(make_runtime: MakeRuntime) -> None:
    policy = OwnTenantOnly()
    async with make_runtime(double, policy=policy).client() as runtime:
        with aj.tenant("acme"):
            ours = await double.dispatch(Work(n=1))
        with aj.tenant("rival"):
            theirs = await double.dispatch(Work(n=2))
            with pytest.raises(aj.PolicyDenied, match="does not allow to enqueue 'test:double'"):
                await double.dispatch(Work(), tenant="acme")
        with aj.tenant("acme"):
            assert (await ours.run()).tenant == "acme"
            for forbidden in _everything(runtime, theirs.id):
                with pytest.raises(aj.PolicyDenied):
                    await forbidden()
            with pytest.raises(aj.PolicyDenied):
                await runtime.runs.list()
            with pytest.raises(aj.PolicyDenied):
                await runtime.runs.list(tenant="rival")
            with pytest.raises(aj.PolicyDenied):
                await runtime.runs.count_by_state()
            assert [run.id for run in await runtime.runs.list(tenant="acme")] == [ours.id]
            assert (await runtime.runs.count_by_state(tenant="acme"))[aj.RunState.QUEUED] == 1
        assert (await theirs.run()).state is aj.RunState.QUEUED
        assert len(await runtime.runs.list()) == 2
        assert {access.action for access in policy.asked} >= {"enqueue", "read", "cancel", "replay", "retry"}


def _everything(runtime: aj.Runtime, run_id: str) -> list[Callable[[], Awaitable[Any]]]:
    runs = runtime.runs

    async def events() -> None:
        async for _ in runs.events(run_id):
            pass

    return [
        lambda: runs.get(run_id),
        lambda: runs.attempts(run_id),
        lambda: runs.history(run_id),
        lambda: runs.wait(run_id, timeout=0.1),
        lambda: double.handle(run_id).result(timeout=0.1),
        events,
        lambda: runs.cancel(run_id),
        lambda: runs.replay(run_id),
        lambda: runs.retry(run_id),
        lambda: runs.reschedule(run_id, datetime.now(UTC)),
        lambda: runs.delete(run_id),
    ]


@pytest.mark.parametrize("action", ["enqueue", "read", "cancel", "replay", "retry", "reschedule", "delete", "pause"])
async def test_each_entry_asks_for_its_own_action(make_runtime: MakeRuntime, action: str) -> None:
    async with make_runtime(double).client():
        handle = await double.dispatch(Work(n=1), delay=60)
    async with make_runtime(double, policy=Denies(action)).client() as runtime:
        runs, queues = runtime.runs, runtime.queues
        later = datetime.now(UTC) + timedelta(hours=1)
        entries: dict[str, list[Callable[[], Awaitable[Any]]]] = {
            "enqueue": [
                lambda: runtime.perform_envelope(double.envelope(Work())),
                lambda: double.dispatch(Work()),
                lambda: runtime.dispatch(double, Work()),
                lambda: runtime.dispatch_many([double.envelope(Work())]),
                lambda: asyncio.to_thread(double.dispatch_sync, Work()),
            ],
            "read": [
                lambda: runs.explain(handle.id),
                lambda: runs.cancel_many(job="test:none"),
                lambda: anext(aiter(runs.tail(since=later - timedelta(days=1)))),
                runtime.check_pending,
                runtime.examine,
                queues.list,
                lambda: runs.get(handle.id),
                runs.list,
                runs.count_by_state,
                double.handle(handle.id).run,
            ],
            "reschedule": [lambda: runs.reschedule(handle.id, later)],
            "replay": [lambda: runs.replay_run(handle.id)],
            "pause": [lambda: queues.pause("work"), lambda: queues.resume("work"), lambda: queues.scale("work", 3)],
            "cancel": [lambda: runs.cancel(handle.id)],
            "retry": [lambda: runs.retry(handle.id)],
            "delete": [lambda: runs.delete(handle.id)],
        }
        for name, calls in entries.items():
            for call in calls:
                if name == action:
                    with pytest.raises(aj.PolicyDenied):
                        await call()
                else:
                    with suppress(aj.RunStateConflict):  # the state is not what this test is about
                        await call()


@pytest.mark.parametrize("answer", ["error", "nothing", "a yes", "never", "late"])
async def test_whatever_goes_wrong_in_a_policy_denies(
    make_runtime: MakeRuntime, answer: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(policies, "ANSWER_SECONDS", 0.05)

    class Late:
        def allows(self, access: aj.Access) -> bool:
            time.sleep(0.1)
            return True

    class Broken:
        async def allows(self, access: aj.Access) -> Any:
            if answer == "error":
                raise RuntimeError("the directory is down: password=hunter2")
            if answer == "never":
                await asyncio.sleep(60)
            return "yes" if answer == "a yes" else None

    policy: aj.Policy = Late() if answer == "late" else Broken()
    async with make_runtime(double, policy=policy).client() as runtime:
        with pytest.raises(aj.PolicyDenied) as refusal:
            await double.dispatch(Work())
        assert "hunter2" not in str(refusal.value)
    async with make_runtime(double).client() as runtime:
        assert len(await runtime.runs.list()) == 0


async def test_a_bulk_dispatch_is_refused_as_a_whole(make_runtime: MakeRuntime) -> None:
    class NoSevens:
        def allows(self, access: aj.Access) -> bool:
            return access.envelope is None or access.envelope.payload["n"] != 7

    async with make_runtime(double, policy=NoSevens()).client() as runtime:
        with pytest.raises(aj.PolicyDenied, match="envelope 1"):
            await runtime.dispatch_many([double.envelope(Work(n=n)) for n in (1, 7, 3)])
        assert len(await runtime.runs.list()) == 0


async def test_handlers_dispatch_for_their_own_tenant(make_runtime: MakeRuntime) -> None:
    @aj.job("test:parent")
    async def parent(ctx: aj.JobContext) -> str:
        return (await ctx.dispatch(double, Work(n=4))).id

    policy = OwnTenantOnly()
    async with make_runtime(parent, double, policy=policy) as runtime:
        child = await (await parent.options(tenant="acme").dispatch()).result(timeout=5)
        assert (await runtime.runs.wait(child, timeout=5)).result == 8
    assert ("enqueue", "acme", "acme") in [(a.action, a.caller, a.tenant) for a in policy.asked]


def test_a_policy_has_a_method_to_ask() -> None:
    with pytest.raises(aj.InvalidOption, match="allows"):
        aj.Runtime(policy=object())  # type: ignore[arg-type]


# --- middleware ------------------------------------------------------------------------------------------------------

user: ContextVar[str] = ContextVar("user", default="nobody")


async def test_middleware_goes_around_every_attempt_in_order(make_runtime: MakeRuntime) -> None:
    seen: list[str] = []

    def named(name: str) -> Any:
        async def middleware(ctx: aj.JobContext, call_next: Any) -> Any:
            seen.append(f"{name} before {ctx.attempt}")
            try:
                return await call_next(ctx)
            finally:
                seen.append(f"{name} after {ctx.attempt}")

        return middleware

    async with make_runtime(double, double_in_thread, middleware=[named("a"), named("b")]) as runtime:
        assert await (await double.dispatch(Work(n=2))).result(timeout=5) == 4
        assert seen == ["a before 1", "b before 1", "b after 1", "a after 1"]
        seen.clear()
        with pytest.raises(aj.RunFailed, match="negative"):
            await (await double.dispatch(Work(n=-1))).result(timeout=5)
        assert [step for step in seen if "a before" in step] == ["a before 1", "a before 2"]
        assert await (await double_in_thread.dispatch(Work(n=3))).result(timeout=5) == 6
        seen.clear()
        assert await runtime.perform_envelope(double.envelope(Work(n=2))) == 4
        assert len(seen) == 4


async def test_middleware_may_change_answer_refuse_and_set_context(make_runtime: MakeRuntime) -> None:
    @aj.job("test:who", retry=aj.Retry(attempts=1))
    def who(n: int) -> str:
        return user.get()

    async def middleware(ctx: aj.JobContext, call_next: Any) -> Any:
        user.set("ann")
        if ctx.tenant == "closed":
            raise aj.Fail("closed for this tenant")
        if ctx.tenant == "short":
            return "cut short"
        return f"{await call_next()}!"

    async with make_runtime(who, middleware=[middleware]):
        assert await (await who.dispatch(1)).result(timeout=5) == "ann!"
        assert await (await who.options(tenant="short").dispatch(1)).result(timeout=5) == "cut short"
        with pytest.raises(aj.RunFailed, match="closed for this tenant"):
            await (await who.options(tenant="closed").dispatch(1)).result(timeout=5)
    assert user.get() == "nobody"


async def test_middleware_for_dispatch_may_change_count_and_refuse(make_runtime: MakeRuntime) -> None:
    seen: list[str] = []

    async def stamp(envelope: aj.Envelope, call_next: Any) -> aj.Accepted:
        if envelope.payload == {"n": 13}:
            raise aj.InvalidOption("unlucky")
        accepted: aj.Accepted = await call_next(envelope.model_copy(update={"tags": ("stamped",)}))
        seen.append(accepted.run_id)
        return accepted

    async with make_runtime(double, dispatch_middleware=[stamp]).client() as runtime:
        one = await double.dispatch(Work(n=1))
        two = await asyncio.to_thread(double.dispatch_sync, Work(n=2))
        many = await runtime.dispatch_many([double.envelope(Work(n=n)) for n in range(3, 6)])
        assert seen == [one.id, two.id, *(handle.id for handle in many)]
        assert {run.tags for run in await runtime.runs.list()} == {("stamped",)}
        assert (await (await one.replay()).run()).tags == ("stamped",)
        with pytest.raises(aj.InvalidOption, match="unlucky"):
            await double.dispatch(Work(n=13))
        with pytest.raises(aj.InvalidOption, match="unlucky"):
            await runtime.dispatch_many([double.envelope(Work(n=n)) for n in (12, 13, 14)])
        assert len(await runtime.runs.list()) == 6


async def test_what_a_middleware_hands_on_is_checked(make_runtime: MakeRuntime) -> None:
    async def spoil(envelope: aj.Envelope, call_next: Any) -> aj.Accepted:
        accepted: aj.Accepted = await call_next(envelope.model_copy(update={"payload": {"n": "many"}}))
        return accepted

    async with make_runtime(double, dispatch_middleware=[spoil]).client() as runtime:
        with pytest.raises(aj.PayloadInvalid):
            await double.dispatch(Work())
        with pytest.raises(aj.PayloadInvalid, match="envelope 0"):
            await runtime.dispatch_many([double.envelope(Work())])
        assert len(await runtime.runs.list()) == 0


@pytest.mark.parametrize("kind", ["middleware", "dispatch_middleware"])
def test_middleware_is_an_async_function(kind: str) -> None:
    with pytest.raises(aj.InvalidOption, match="async def"):
        aj.Runtime(**{kind: [lambda ctx, call_next: None]})  # type: ignore[arg-type]


# --- observers -------------------------------------------------------------------------------------------------------


async def test_observers_are_told_of_every_transition(make_runtime: MakeRuntime) -> None:
    told: list[aj.Observation] = []

    async def until(*events: str, run_id: str | None) -> list[aj.Observation]:
        async with asyncio.timeout(10):
            while True:
                mine = [one for one in told if one.run_id == run_id]
                if [one.event for one in mine] == list(events):
                    return mine
                await asyncio.sleep(0.01)

    async with make_runtime(double, observers=[told.append]) as runtime:
        good = await double.dispatch(Work(n=1), tenant="acme", idempotency_key="k")
        first, started, ended = await until("accepted", "started", "succeeded", run_id=good.id)
        assert {(one.job, one.queue, one.tenant) for one in (first, started, ended)} == {
            ("test:double", "work", "acme")
        }
        assert (started.state, ended.state, ended.attempt) == (aj.RunState.RUNNING, aj.RunState.SUCCEEDED, 1)
        assert ended.seconds is not None
        await double.dispatch(Work(n=1), tenant="acme", idempotency_key="k")
        await until("accepted", "started", "succeeded", "existing", run_id=good.id)

        bad = await double.dispatch(Work(n=-1))
        steps = await until("accepted", "started", "failed", "started", "failed", run_id=bad.id)
        assert [one.state for one in steps[2:]] == [
            aj.RunState.RETRYING,
            aj.RunState.RUNNING,
            aj.RunState.DEAD_LETTERED,
        ]
        assert {one.error for one in steps if one.event == "failed"} == {"ValueError"}

        waiting = await double.dispatch(Work(n=1), delay=60)
        await runtime.runs.reschedule(waiting.id, datetime.now(UTC) + timedelta(hours=1))
        await waiting.cancel("no need")
        await waiting.cancel("no need")
        canceled = (await until("accepted", "rescheduled", "canceled", run_id=waiting.id))[-1]
        assert canceled.detail == {"reason": "no need"}
        await runtime.runs.delete(waiting.id)
        await until("accepted", "rescheduled", "canceled", "deleted", run_id=waiting.id)

        late = await double.dispatch(Work(n=1), delay=60, expires_in=0.01)
        expired = (await until("accepted", "expired", run_id=late.id))[-1]
        assert (expired.job, expired.state) == ("test:double", aj.RunState.EXPIRED)
        await runtime.runs.retry(late.id)
        await until("accepted", "expired", "reopened", "started", "succeeded", run_id=late.id)

        await runtime.queues.pause("work", reason="maintenance")
        await runtime.queues.scale("work", 2)
        await runtime.queues.resume("work")
        queues = await until("queue_paused", "queue_scaled", "queue_resumed", run_id=None)
        assert {one.queue for one in queues} == {"work"}


async def test_observers_that_fail_or_hang_disturb_nobody(
    make_runtime: MakeRuntime, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(observing, "ANSWER_SECONDS", 0.05)
    told: list[str] = []

    def broken(observation: aj.Observation) -> None:
        raise RuntimeError("no")

    async def slow(observation: aj.Observation) -> None:
        await asyncio.sleep(60)

    def good(observation: aj.Observation) -> None:
        told.append(observation.event)

    async with make_runtime(double, observers=[broken, slow, good]):
        assert await (await double.dispatch(Work(n=1))).result(timeout=5) == 2
    assert told == ["accepted", "started", "succeeded"]
    assert "an observer failed on 'accepted'" in caplog.text


# --- escape hatches --------------------------------------------------------------------------------------------------


async def test_the_store_s_engine_is_at_hand(make_runtime: MakeRuntime) -> None:
    async with make_runtime(double).client() as runtime:
        handle = await double.dispatch(Work(n=1))
        async with runtime.store.engine.connect() as connection:
            found = await connection.execute(text("SELECT id, state FROM actorjobs_runs"))
            assert [tuple(row) for row in found] == [(handle.id, "queued")]
        assert "EmbeddedBroker" in repr(runtime.broker)
