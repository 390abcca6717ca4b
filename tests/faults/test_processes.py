"""F1, F2, F3, F16, F19: worker processes that die, stop, or have the wrong time; and one that is asked to leave."""

from __future__ import annotations

import asyncio
import signal
import sys
import time

import pytest

import actorjobs as aj
from actorjobs.brokers.rabbitmq.topology import DELIVERY_LIMIT
from tests.faults.app import Work
from tests.faults.bench import ROOT, Bench, until

pytestmark = pytest.mark.system

STEPS = {
    "before a claim": "claim:before:1",
    "after a claim": "claim:after:1",
    "before a settle": "settle:before:1",
    "after a settle": "settle:after:1",
    "after an acknowledgement": "acknowledge:after:2",
    "before a publish": "publish:before:1",
    "after a publish": "publish:after:1",
}
WAITED_OUT_BY_THE_RELAY = {
    "after the relay has taken hints": "stage:after:1",
    "before the mark": "mark_published:before:1",
    "after the mark": "mark_published:after:1",
    "after a hint was put off": "publish_later:after:1",
}


async def test_workers_may_die_at_any_step(bench: Bench) -> None:
    """F1: one worker after the other dies where it hurts, all on the same runs; none is lost, none is done twice."""
    for step in ("claim:after:1", "settle:before:1", "acknowledge:before:2"):
        await bench.dispatch_many(15, Work(seconds=0.05))
        await bench.dispatch(Work(failures=1))
        process = await bench.process(FAULTS_DIE=step, FAULTS_AT_ONCE="5")
        assert await asyncio.wait_for(process.wait(), 30) == -signal.SIGKILL, step
    await bench.process()
    await bench.judge(90)


@pytest.mark.faults
@pytest.mark.parametrize("step", [*STEPS.values(), *WAITED_OUT_BY_THE_RELAY.values()])
async def test_a_worker_may_die_at_this_step(bench: Bench, step: str) -> None:
    await bench.dispatch_many(50, Work(seconds=0.1, failures=1))  # whose second hints wait long enough to be marked
    await bench.dispatch_many(20, delay=8)
    # One whose job no worker knows: its hint is put off.
    foreign = await bench.client.dispatch(aj.JobRef("faults:unknown", Work, str, queue="work"), Work())
    process = await bench.process(FAULTS_DIE=step, FAULTS_AT_ONCE="4")
    assert await asyncio.wait_for(process.wait(), 60) == -signal.SIGKILL
    await bench.process()
    await foreign.cancel()
    await bench.judge(90)


@pytest.mark.parametrize(
    "step",
    ["insert:after:3", *(pytest.param(f"publish:{when}:1", marks=pytest.mark.faults) for when in ("before", "after"))],
)
async def test_a_caller_may_die_at_any_step(bench: Bench, step: str) -> None:
    """F1: what it was told is performed; what it was not told was not asked for in vain, or never."""
    client = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.faults.client",
        "50",
        env=bench.environment(FAULTS_DIE=step),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await asyncio.wait_for(client.communicate(), 30)
    assert client.returncode == -signal.SIGKILL
    told = out.decode().split()
    assert told
    await bench.told_all()
    assert set(told) <= set(bench.told)
    await bench.worker()
    await bench.judge(most_attempts=1)


@pytest.mark.faults
async def test_a_dead_workers_runs_are_rescued(bench: Bench) -> None:
    """F2, on one host."""
    first = await bench.process()
    runs = [await bench.dispatch(Work(seconds=3)) for _ in range(5)]
    await bench.started(runs)
    other = await bench.worker()
    first.kill()
    await first.wait()
    began = time.monotonic()
    await until(lambda: all(2 in attempts for attempts in bench.effects().values()), within=25)
    print(f"\nrescued after {time.monotonic() - began:.1f} s")
    await bench.judge()
    for run_id in runs:
        outcomes = [attempt.outcome for attempt in await bench.client.runs.attempts(run_id)]
        assert outcomes == [aj.Outcome.LOST, aj.Outcome.SUCCEEDED]
    assert other.is_open


@pytest.mark.faults
async def test_a_worker_that_dies_again_and_again_harms_no_neighbors(bench: Bench) -> None:
    """F12: what it had fetched is given back by the broker more often than the delivery limit allows."""
    runs = await bench.dispatch_many(40)
    given_up = 0
    for _ in range(DELIVERY_LIMIT + 3):  # a service manager starts it again each time
        process = await bench.process(FAULTS_DIE="claim:before:1", FAULTS_AT_ONCE="50")
        assert await asyncio.wait_for(process.wait(), 30) == -signal.SIGKILL
        given_up = max(given_up, (await bench.ready()).get(bench.topology.dead, 0))
    assert given_up > 0
    assert not bench.effects()
    await bench.worker(at_once=50)
    await bench.judge(90, most_attempts=1)
    assert {(await bench.client.runs.get(run_id)).state for run_id in runs} == {aj.RunState.SUCCEEDED}


@pytest.mark.faults
async def test_a_stopped_worker_is_a_zombie_when_it_comes_back(bench: Bench) -> None:
    """F3."""
    first = await bench.process()
    runs = [await bench.dispatch(Work(seconds=8)) for _ in range(5)]
    await bench.started(runs)
    await bench.worker()
    await asyncio.sleep(16)  # until it has lived long enough to judge others
    again = [await bench.dispatch(Work(seconds=30)) for _ in range(3)]
    await bench.started(again)
    mine = {run_id for run_id in again if first.pid in bench.effects()[run_id][1].pids}
    while not mine:
        run_id = await bench.dispatch(Work(seconds=30))
        await bench.started([run_id])
        mine = {one for one in bench.told if first.pid in bench.effects()[one][1].pids} - set(runs)
    first.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    await until(lambda: all(2 in bench.effects()[run_id] for run_id in mine), within=25)
    print(f"\nrescued after {time.monotonic() - began:.1f} s")
    await asyncio.sleep(max(0.0, 20 - (time.monotonic() - began)))
    first.send_signal(signal.SIGCONT)
    await until(lambda: all(bench.effects()[run_id][1].canceled for run_id in mine), within=10)
    await bench.all_over(90)
    for run_id in mine:
        outcomes = [attempt.outcome for attempt in await bench.client.runs.attempts(run_id)]
        assert outcomes == [aj.Outcome.LOST, aj.Outcome.SUCCEEDED]
    # It is a worker again, under another name.
    await bench.dispatch_many(50, Work(seconds=0.3))
    await bench.all_over(60)
    assert first.returncode is None


@pytest.mark.parametrize("off", ["3600", pytest.param("-3600", marks=pytest.mark.faults)])
async def test_a_wrong_clock_starts_nothing_early(bench: Bench, off: str) -> None:
    """F16."""
    await bench.process(FAULTS_CLOCK=off)
    runs = [await bench.dispatch(delay=delay) for delay in (0.0, 0.5, 2.0)]
    runs.append(await bench.dispatch(Work(failures=1)))
    await bench.judge()
    for run_id in runs:
        run = await bench.client.runs.get(run_id)
        assert run.claimed_at is not None
        assert run.claimed_at >= run.available_at


@pytest.mark.parametrize("signals", [pytest.param(1, marks=pytest.mark.faults), 2])
async def test_a_worker_that_leaves_under_load_loses_nothing(bench: Bench, signals: int) -> None:
    """F19: no failure is counted, also when it leaves at once for a second signal."""
    first = await bench.process()
    await bench.dispatch_many(300, Work(seconds=0.2))
    await until(lambda: len(bench.effects()) > 30)
    first.terminate()
    if signals == 2:
        await asyncio.sleep(0.1)
        first.terminate()
    status = await asyncio.wait_for(first.wait(), 20)
    assert status == (0 if signals == 1 else 3)
    counts = await bench.client.runs.count_by_state()
    assert counts[aj.RunState.RUNNING] == 0 or signals == 2
    await bench.worker(at_once=50)
    await bench.judge()
    runs = [await bench.client.runs.get(run_id) for run_id in bench.told]
    assert {run.failures for run in runs} == {0}
