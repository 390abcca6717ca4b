"""Bulk operations: `runtime.runs.cancel_many`, `replay_many`, `retry_many`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import BaseModel

import actorjobs as aj
from actorjobs.runtime import bulk
from tests.worker.conftest import MakeRuntime


class Work(BaseModel):
    n: int = 0


@aj.job("test:many", queue="many", retry=aj.Retry(attempts=1))
async def many(payload: Work) -> int:
    if payload.n < 0:
        raise ValueError("negative")
    await asyncio.sleep(payload.n)
    return payload.n


async def dispatched(runtime: aj.Runtime, count: int, **options: Any) -> list[str]:
    """New runs that wait; their ids."""
    given = [runtime.envelope("test:many", {"n": 0}, **options) for _ in range(count)]
    return [handle.id for handle in await runtime.dispatch_many(given)]


@pytest.fixture(autouse=True)
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "GROUP_RUNS", 7)
    monkeypatch.setattr(bulk, "FAILURES_KEPT", 3)


async def test_a_whole_filter_is_canceled(make_runtime: MakeRuntime) -> None:
    seen: list[tuple[int, int]] = []
    told: list[str] = []
    runtime = make_runtime(many, observers=[lambda seen: told.append(seen.event)])
    async with runtime.client():
        chosen = await dispatched(runtime, 20, tags=["import"])
        others = await dispatched(runtime, 3)
        dry = await runtime.runs.cancel_many(tag="import", dry_run=True)
        assert dry == aj.BulkResult(matched=20)
        done = await runtime.runs.cancel_many(
            aj.RunFilter(tag="import"), reason="wrong file", by="ann", on_progress=lambda *step: seen.append(step)
        )
        assert done == aj.BulkResult(matched=20, done=20)
        assert seen == [(7, 20), (14, 20), (20, 20)]
        assert await runtime.runs.cancel_many(tag="import") == aj.BulkResult(matched=0)
        for run_id in chosen:
            run = await runtime.runs.get(run_id)
            assert (run.state, run.reason) == (aj.RunState.CANCELED, "wrong file")
        assert {(await runtime.runs.get(run_id)).state for run_id in others} == {aj.RunState.QUEUED}
    assert told.count("canceled") == 20


async def test_running_runs_are_asked_and_who_waits_is_told(make_runtime: MakeRuntime) -> None:
    async with make_runtime(many, queues={"many": 2}) as runtime:
        handles = [await many.dispatch(Work(n=60)) for _ in range(4)]
        while (await runtime.runs.count_by_state())[aj.RunState.RUNNING] < 2:
            await asyncio.sleep(0.01)
        assert (await runtime.runs.cancel_many(job="test:many")).done == 4
        for handle in handles:
            with pytest.raises(aj.RunFailed):
                await handle.result(timeout=5)


async def test_a_rate_and_a_limit_are_kept(make_runtime: MakeRuntime) -> None:
    runtime = make_runtime(many)
    async with runtime.client():
        await dispatched(runtime, 30)
        began = time.monotonic()
        assert (await runtime.runs.cancel_many(queue="many", rate=20, limit=14)).done == 14
        assert 0.3 < time.monotonic() - began < 3
        assert (await runtime.runs.count_by_state())[aj.RunState.CANCELED] == 14
        assert (await runtime.runs.cancel_many(queue="many", limit=5, dry_run=True)).matched == 5
        began = time.monotonic()
        assert (await runtime.runs.cancel_many(queue="many", rate=0.5, limit=1)).done == 1
        assert time.monotonic() - began < 1.5  # there is nothing left to pause for


async def test_dead_letters_are_replayed_and_not_the_replays(make_runtime: MakeRuntime) -> None:
    async with make_runtime(many) as runtime:
        dead = [await many.dispatch(Work(n=-1)) for _ in range(9)]
        for handle in dead:
            with pytest.raises(aj.RunFailed):
                await handle.result(timeout=5)
        done = await runtime.runs.replay_many(job="test:many", reason="again")
        assert done == aj.BulkResult(matched=9, done=9)
        while (await runtime.runs.count_by_state())[aj.RunState.DEAD_LETTERED] < 18:
            await asyncio.sleep(0.02)
        again = [run for run in await runtime.runs.list() if run.replay_of is not None]
        assert sorted(str(run.replay_of) for run in again) == sorted(handle.id for handle in dead)
        assert {run.meta["replay_reason"] for run in again} == {"again"}


async def test_runs_are_reopened_and_woken(make_runtime: MakeRuntime) -> None:
    async with make_runtime(many) as runtime:
        ids = await dispatched(runtime, 9, delay=3600)
        await runtime.runs.cancel_many(job="test:many")
        assert (await runtime.runs.retry_many(state="canceled", by="ann")).done == 9
        for run_id in ids:
            assert (await runtime.runs.wait(run_id, timeout=5)).state is aj.RunState.SUCCEEDED


async def test_a_unique_run_whose_place_is_taken_fails_with_the_reason(make_runtime: MakeRuntime) -> None:
    runtime = make_runtime(many)
    async with runtime.client():
        for _ in range(5):
            await runtime.runs.cancel((await dispatched(runtime, 1, unique=aj.Unique()))[0])
        [holder] = await dispatched(runtime, 1, unique=aj.Unique())
        done = await runtime.runs.retry_many(state="canceled")
        assert (done.matched, done.done, done.skipped, len(done.failed)) == (5, 0, 0, 3)
        assert all(holder in reason for _, reason in done.failed)


async def test_runs_that_change_meanwhile_are_skipped(make_runtime: MakeRuntime) -> None:
    runtime, other = make_runtime(many), make_runtime(many)
    async with runtime.client(), other.client():
        with runtime.override():
            ids = await dispatched(runtime, 10)
        real = runtime.store.cancel_many

        async def late(run_ids: Sequence[str], *words: Any) -> Any:
            await other.runs.cancel(run_ids[0])
            await other.runs.delete(run_ids[0])
            return await real(run_ids, *words)

        runtime.store.cancel_many = late  # type: ignore[method-assign]
        done = await runtime.runs.cancel_many(job="test:many")
        assert done == aj.BulkResult(matched=10, done=8, skipped=2)
        assert len(await other.runs.list(state="canceled")) == len(ids) - 2


class OddOnly:
    """Allows what concerns runs with an odd number."""

    def allows(self, access: aj.Access) -> bool:
        if access.run is None or access.action == "read":
            return access.tenant != "closed"
        return bool(access.run.meta["number"] % 2)


async def test_the_policy_is_asked_for_each_run(make_runtime: MakeRuntime) -> None:
    runtime = make_runtime(many, policy=OddOnly())
    async with runtime.client():
        for number in range(9):
            await dispatched(runtime, 1, meta={"number": number})
        for dry in (True, False):
            done = await runtime.runs.cancel_many(job="test:many", dry_run=dry)
            assert (done.matched, done.done, done.skipped) == (9, 0 if dry else 4, 5)
        left = await runtime.runs.list(state="queued")
        assert all(run.meta["number"] % 2 == 0 for run in left)
        with pytest.raises(aj.PolicyDenied):
            await runtime.runs.cancel_many(tenant="closed")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "every run"),
        ({"search": ""}, "every run"),
        ({"search": "", "job": "x"}, "search is empty"),
        ({"state": "succeeded"}, "cannot be done to succeeded runs"),
        ({"state": "done"}, "a state is one of"),
        ({"job": 7}, "job is a string"),
        ({"jobs": "x"}, "not chosen by 'jobs'"),
        ({"job": "x", "rate": 0}, "rate"),
        ({"job": "x", "rate": float("nan")}, "rate"),
        ({"job": "x", "rate": True}, "rate"),
        ({"job": "x", "rate": "2"}, "rate"),
        ({"job": "x", "limit": 0}, "limit"),
        ({"job": "x", "limit": 1.5}, "limit"),
        ({"job": "x", "dry_run": 1}, "dry_run is True or False"),
        ({"job": "x", "dry_run": None}, "dry_run is True or False"),
        ({"everything": "no"}, "everything is True or False"),
        ({"job": "x", "on_progress": 5}, "on_progress is a function"),
        ({"job": "x", "reason": 5}, "reason is a string"),
        ({"job": "x", "by": b"ann"}, "by is a string"),
        ({"since": datetime(2026, 1, 1)}, "time zone"),  # noqa: DTZ001
    ],
)
async def test_what_cannot_be_meant_is_refused(make_runtime: MakeRuntime, given: Any, says: str) -> None:
    runtime = make_runtime(many)
    async with runtime.client():
        await dispatched(runtime, 2)
        with pytest.raises(aj.InvalidOption, match=says):
            await runtime.runs.cancel_many(**given)
        with pytest.raises(aj.InvalidOption, match="not both"):
            await runtime.runs.cancel_many(aj.RunFilter(job="x"), job="x")
        with pytest.raises(aj.InvalidOption, match="RunFilter"):
            await runtime.runs.cancel_many("x")  # type: ignore[arg-type]
        assert (await runtime.runs.count_by_state())[aj.RunState.QUEUED] == 2
        assert (await runtime.runs.cancel_many(everything=True)).done == 2


@pytest.mark.parametrize(
    ("method", "given", "says"),
    [
        ("cancel", {"reason": 5}, "reason is a string"),
        ("cancel", {"by": 5}, "by is a string"),
        ("retry", {"reason": 5}, "reason is a string"),
        ("retry", {"by": 5}, "by is a string"),
        ("replay", {"reason": 5}, "reason is a string"),
        ("reschedule", {"run_at": datetime.now(UTC), "by": 5}, "by is a string"),
        ("replay_many", {"job": "x", "reason": 5}, "reason is a string"),
        ("retry_many", {"job": "x", "reason": 5}, "reason is a string"),
        ("retry_many", {"job": "x", "by": 5}, "by is a string"),
        ("list", {"cursor": 5}, "the cursor is not one"),
        ("list", {"cursor": b"x"}, "the cursor is not one"),
        ("list", {"cursor": "x"}, "the cursor is not one"),
    ],
)
async def test_words_are_strings(make_runtime: MakeRuntime, method: str, given: Any, says: str) -> None:
    runtime = make_runtime(many)
    async with runtime.client():
        [run_id] = await dispatched(runtime, 1)
        before = await runtime.runs.get(run_id)
        whose = () if method == "list" or method.endswith("_many") else (run_id,)
        with pytest.raises(aj.InvalidOption, match=says):
            await getattr(runtime.runs, method)(*whose, **given)
        with pytest.raises(aj.InvalidOption, match="reason is a string"):
            await runtime.queues.pause("many", reason=5)  # type: ignore[arg-type]
        assert (await runtime.runs.get(run_id), len(await runtime.runs.list())) == (before, 1)
        assert not any(queue.is_paused for queue in await runtime.queues.list())


async def test_the_reason_of_a_replay_is_kept_short(make_runtime: MakeRuntime) -> None:
    runtime = make_runtime(many)
    async with runtime.client():
        [run_id] = await dispatched(runtime, 1, meta={"kept": 1})
        again = await (await runtime.runs.replay(run_id, reason="\0" + "x" * 20_000)).run()
        canceled = await runtime.runs.cancel(run_id, reason="\0" + "x" * 20_000)
    assert again.meta == {"kept": 1, "replay_reason": canceled.reason}
    assert len(again.meta["replay_reason"].encode()) <= 8192


async def test_since_and_until_bound_it(make_runtime: MakeRuntime) -> None:
    runtime = make_runtime(many)
    async with runtime.client():
        await dispatched(runtime, 2)
        between = datetime.now(UTC)
        await dispatched(runtime, 3)
        hour = timedelta(hours=1)
        assert (await runtime.runs.cancel_many(since=between - hour, until=between, dry_run=True)).matched == 2
        assert (await runtime.runs.cancel_many(since=between, until=between + hour)).done == 3


async def test_nothing_there_is_nothing_done(make_runtime: MakeRuntime) -> None:
    runtime = make_runtime(many)
    async with runtime.client():
        assert await runtime.runs.cancel_many(everything=True) == aj.BulkResult(matched=0)
