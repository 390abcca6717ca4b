"""The lease, the thread that renews it, and what happens to those who lose it."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Thread

import pytest
from pydantic import BaseModel

import actorjobs as aj
from actorjobs.lifecycle import LOSSES_UNTIL_POISON
from actorjobs.ports import Demand, Fence, Hint, LostRun, Store, WorkerInfo
from actorjobs.stores import SqlStore, open_store
from actorjobs.worker import heartbeat, sweeps
from actorjobs.worker.heartbeat import Heartbeat, OpenStore, beat_once, begin_lease
from actorjobs.worker.lease import Lease, LockFile, boot_id, host_name, is_known_dead, lock_folder
from tests.worker.conftest import MakeRuntime


class Work(BaseModel):
    seconds: float = 0.0


class HandClock(aj.SystemClock):
    """Real time, but for the monotonic clock, which the test sets."""

    def __init__(self) -> None:
        self.at = 100.0

    def monotonic(self) -> float:
        return self.at


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqlStore]:
    store = await open_store(f"sqlite:///{tmp_path}/runs.db", namespace="default", clock=aj.SystemClock())
    await store.open()
    yield store
    await store.close()


def stamped(lease: Lease, clock: HandClock, *seconds: float) -> None:
    start = datetime(2030, 1, 1, tzinfo=UTC)
    for at in seconds:
        clock.at = 100 + at
        lease.renewed(clock.at, start + timedelta(seconds=at))


@pytest.mark.parametrize(
    ("beats", "is_steady"),
    [
        ((0, 5, 10, 15), True),
        ((0, 5, 10), False),
        ((0, 5, 10, 14.9), False),
        ((0, 5, 11.1, 16), False),
        ((0, 6, 12, 18), True),
        ((0,), False),
        ((10, 5, 20), False),
        ((0, 40, 45, 50, 55), True),
    ],
)
def test_only_who_beats_regularly_judges_others(beats: tuple[float, ...], is_steady: bool) -> None:
    clock = HandClock()
    lease = Lease(clock=clock)
    stamped(lease, clock, *beats)
    assert lease.is_steady is is_steady
    clock.at += 7
    assert not lease.is_steady


async def test_nothing_is_claimed_on_an_old_lease(store: SqlStore) -> None:
    clock = HandClock()
    lease = Lease(clock=clock)
    assert lease.claiming_owner is None
    await begin_lease(store, lease)
    assert lease.claiming_owner == lease.owner is not None
    clock.at += 7.9
    assert lease.claiming_owner is not None
    clock.at += 0.2
    assert lease.claiming_owner is None
    assert await beat_once(store, lease, lambda _: None)
    assert lease.claiming_owner is not None
    lease.end()


async def test_who_was_declared_dead_goes_on_under_a_new_name(store: SqlStore) -> None:
    lease = Lease(clock=aj.SystemClock())
    await begin_lease(store, lease)
    first = lease.owner
    assert first is not None
    assert await store.declare_dead(1e9, [first]) == [first]
    lost: list[str] = []
    assert await beat_once(store, lease, lost.append)
    assert lost == [first]
    assert lease.owner not in (None, first)
    assert [worker.is_dead for worker in await store.workers()] == [True, False]
    lease.end()


def beating(open_store: OpenStore) -> Heartbeat:
    clock = aj.SystemClock()
    return Heartbeat(
        lease=Lease(clock=clock),
        open_store=open_store,
        clock=clock,
        on_lost=lambda _owner: None,
        blame=lambda _variables, _name: None,
        exits_when_stuck=False,
    )


async def opened(url: object) -> Store:
    store = await open_store(str(url), namespace="default", clock=aj.SystemClock())
    await store.open()
    return store


async def test_why_it_cannot_start_is_told_also_when_the_thread_is_gone_by_then() -> None:
    async def refuse() -> Store:
        raise aj.StoreRefused("no right")

    of_a_store = beating(refuse)
    # The answer is seen only once the thread has long ended.
    asyncio.get_running_loop().call_soon(time.sleep, 0.3)
    with pytest.raises(aj.StoreRefused, match="no right"):
        await of_a_store.start()
    assert not of_a_store.is_running


async def test_who_is_called_off_while_it_starts_ends(store: SqlStore, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[Thread] = []
    monkeypatch.setattr(Thread, "start", lambda thread: threads.append(thread))
    of_a_store = beating(lambda: opened(store.url))
    starting = asyncio.ensure_future(of_a_store.start())
    await asyncio.sleep(0)
    monkeypatch.undo()
    monkeypatch.setattr(Thread, "join", lambda _self, _timeout=None: None)  # it has not begun yet
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    monkeypatch.undo()
    [thread] = threads
    thread.start()
    await asyncio.to_thread(thread.join, 10.0)
    assert not thread.is_alive()


async def test_a_lock_file_proves_a_death_and_a_missing_one_nothing() -> None:
    lock = LockFile("tests-owner-1")
    worker = WorkerInfo(id="tests-owner-1", host=host_name(), boot_id=boot_id(), pid=1, lock_path=str(lock.path))
    assert not is_known_dead(worker)
    copy = lock.path.with_suffix(".copy")
    copy.write_text("")
    assert is_known_dead(replace(worker, lock_path=str(copy)))
    assert not is_known_dead(replace(worker, lock_path=str(copy), boot_id="another boot"))
    assert not is_known_dead(replace(worker, lock_path=str(copy), host="elsewhere"))
    with copy.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert not is_known_dead(replace(worker, lock_path=str(copy)))
    copy.unlink()
    lock.release()
    assert not is_known_dead(worker)


async def test_the_lock_file_of_a_dead_worker_is_deleted_and_no_other(store: SqlStore, tmp_path: Path) -> None:
    left, elsewhere = lock_folder() / "tests-owner-2.lock", tmp_path / "tests-owner-3.lock"
    alive = LockFile("tests-owner-4")
    for path in (left, elsewhere, alive.path):
        path.touch()
        await store.join(
            WorkerInfo(id=path.stem, host=host_name(), boot_id=boot_id(), pid=1, lock_path=str(path)),
        )
    try:
        await sweeps.rescue(store, Lease(clock=aj.SystemClock()), lambda *_: None, lambda _owner: None)
        assert not left.exists()
        assert elsewhere.exists()
        assert alive.path.exists()
        assert {worker.id: worker.is_dead for worker in await store.workers()} == {
            left.stem: True,
            elsewhere.stem: True,
            alive.path.stem: False,
        }
    finally:
        alive.release()


def lost(owner: str, run: str, losses: int) -> LostRun:
    return LostRun(
        fence=Fence(run_id=run, attempt=1, owner=owner),
        hint=Hint(run_id=run, seq=1, job="test:x", queue="q"),
        failures=0,
        losses=losses,
        max_attempts=5,
    )


def test_of_a_lost_worker_only_the_culprit_is_counted() -> None:
    runs = [lost("w1", "plain", 0), lost("w1", "suspect", 2), lost("w2", "alone", 1), lost("w3", "named", 0)]
    runs += [lost("w3", "neighbour", 4), lost("w4", "poison", LOSSES_UNTIL_POISON - 1)]
    decided = {s.fence.run_id: s.decision for s in sweeps.rescue_settlements(runs, {"w3": "named"})}
    assert {run: decision.losses for run, decision in decided.items()} == {
        "plain": 0,
        "suspect": 3,
        "alone": 2,
        "named": 1,
        "neighbour": 4,
        "poison": 5,
    }
    assert decided["poison"].reason == "poison"
    assert decided["poison"].state is aj.RunState.DEAD_LETTERED
    assert [decided[run].delay > 0 for run in ("plain", "named", "neighbour", "alone", "suspect")] == [
        False,
        False,
        False,
        True,
        True,
    ]


async def test_a_job_that_blocks_the_loop_is_named_and_keeps_its_lease(
    make_runtime: MakeRuntime, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(heartbeat, "WARN_AFTER_SECONDS", 0.3)
    monkeypatch.setattr(heartbeat, "BEAT_SECONDS", 0.2)

    @aj.job("test:block")
    async def block(payload: Work) -> str:
        async def deep_inside() -> None:
            time.sleep(payload.seconds)

        await asyncio.create_task(deep_inside())
        return "done"

    with caplog.at_level(logging.WARNING, "actorjobs.worker"):
        async with make_runtime(block) as runtime:
            before = await runtime.store.workers()
            handle = await block.dispatch(Work(seconds=1.5))
            assert await handle.result(timeout=10) == "done"
            after = await runtime.store.workers()
            run = await handle.run()
    warnings = [record.getMessage() for record in caplog.records if "blocked the event loop" in record.getMessage()]
    assert warnings
    assert handle.id in warnings[0]
    assert "test:block" in warnings[0]
    assert "time.sleep(payload.seconds)" in warnings[0]
    assert [worker.id for worker in before] == [worker.id for worker in after] == [run.claimed_by]
    assert after[0].beat_at is not None
    assert run.completed_at is not None
    assert run.completed_at - after[0].beat_at < timedelta(seconds=1.5)
    assert run.attempt == 1


async def test_a_zombies_result_is_dropped_and_its_scope_canceled(make_runtime: MakeRuntime) -> None:
    reasons: list[aj.CancelReason | None] = []
    began = asyncio.Event()

    @aj.job("test:zombie")
    async def zombie(payload: Work, ctx: aj.JobContext) -> int:
        if ctx.attempt > 1:
            return ctx.attempt
        began.set()
        try:
            await asyncio.sleep(30)
        finally:
            reasons.append(ctx.cancel_reason)
        return 0

    async with make_runtime(zombie) as runtime:
        handle = await zombie.dispatch(Work())
        await began.wait()
        [worker] = await runtime.store.workers()
        await runtime.store.declare_dead(1e9, [worker.id])
        assert await handle.result(timeout=20) == 2
        outcomes = [attempt.outcome for attempt in await runtime.runs.attempts(handle.id)]
        run = await handle.run()
    assert reasons == [aj.CancelReason.LOST]
    # Whoever is first records it: the rescuer, or the handler that was canceled and still held the fence.
    assert outcomes in ([aj.Outcome.LOST, aj.Outcome.SUCCEEDED], [aj.Outcome.INTERRUPTED, aj.Outcome.SUCCEEDED])
    assert run.claimed_by != worker.id
    assert run.result == 2


async def test_rows_that_nobody_performs_are_released(make_runtime: MakeRuntime, store: SqlStore) -> None:
    @aj.job("test:orphan")
    async def orphan(payload: Work) -> None: ...

    runtime = make_runtime(orphan)
    async with runtime.client():
        handle = await orphan.dispatch(Work())
    clock = HandClock()
    lease = Lease(clock=clock)
    await begin_lease(store, lease)
    assert lease.owner is not None
    [taken] = await store.take([Demand(queue="default", jobs={"test:orphan": 1}, limit=1)], lease.owner)
    assert len(taken.claims) == 1
    reconciler = sweeps.Reconciler(store=store, lease=lease, clock=clock)
    canceled: list[str] = []
    await reconciler.reconcile(lambda: {handle.id: 1, "unknown": 3}, canceled.append)
    assert canceled == ["unknown"]
    for _ in range(2):
        await reconciler.reconcile(dict, canceled.append)
        assert (await store.get(handle.id)).state is aj.RunState.RUNNING
        clock.at += 6
    await reconciler.reconcile(dict, canceled.append)
    run = await store.get(handle.id)
    assert (run.state, run.failures) == (aj.RunState.QUEUED, 0)
    lease.end()
