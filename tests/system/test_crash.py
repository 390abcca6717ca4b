"""Four worker processes, killed at random moments under load: nothing is lost, doubled or blamed on the innocent."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import time
from pathlib import Path
from uuid import uuid4

import pytest

import actorjobs as aj
from actorjobs.config import EMBEDDED
from tests.brokers.topologies import forget
from tests.system import crash_app
from tests.system.checker import TERMINAL, Told, read_effects, summary, violations

WORKERS = 4
KILL_EVERY_SECONDS = 1.5
DISPATCHES_PER_SECOND = 60
SECONDS = float(os.environ.get("ACTORJOBS_CRASH_SECONDS", "15"))
QUIET_SECONDS = float(os.environ.get("ACTORJOBS_CRASH_QUIET", "120"))


class Fleet:
    """Worker processes that are replaced as soon as they die."""

    def __init__(self, environment: dict[str, str], logs: Path) -> None:
        self._environment = os.environ | environment
        self._logs = logs
        self.processes: list[asyncio.subprocess.Process] = []

    async def start(self) -> None:
        log = (self._logs / f"worker-{time.monotonic_ns()}.log").open("wb")
        command = (sys.executable, "-m", "actorjobs", "worker", "tests.system.crash_app:runtime")
        process = await asyncio.create_subprocess_exec(*command, env=self._environment, stdout=log, stderr=log)
        log.close()
        self.processes.append(process)

    async def replace_dead(self) -> int:
        dead = [process for process in self.processes if process.returncode is not None]
        for process in dead:
            self.processes.remove(process)
            await self.start()
        return len(dead)

    async def stop(self) -> list[int]:
        for process in self.processes:
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
        return [await asyncio.wait_for(process.wait(), 30) for process in self.processes]


async def produce(told: dict[str, Told], dice: random.Random, until: float) -> None:
    """Dispatch a mix of work; now and then cancel what was just asked for."""
    killers = 2
    while time.monotonic() < until:
        kind, options, payload = "plain", {}, crash_app.Work(kind="plain")
        roll = dice.random()
        if killers and roll < 0.01:
            kind, payload, killers = "killer", crash_app.Work(kind="killer"), killers - 1
        elif roll < 0.2:
            payload = crash_app.Work(kind="plain", seconds=dice.uniform(0.1, 0.8))
        elif roll < 0.3:
            payload = crash_app.Work(kind="plain", failures=dice.choice((1, 2)))
        elif roll < 0.36:
            options = {"delay": dice.uniform(0.5, 5)}
        elif roll < 0.42:
            kind, options = "canceled", {"delay": dice.uniform(0.0, 1.0)}
        handle = await crash_app.work.dispatch(payload, **options)
        told[handle.id] = Told(kind)
        if kind == "canceled":
            await asyncio.sleep(dice.uniform(0, 0.2))
            run = await handle.cancel()
            told[handle.id] = Told(kind, canceled_waiting=run.state is aj.RunState.CANCELED and run.attempt == 0)
        await asyncio.sleep(dice.expovariate(DISPATCHES_PER_SECOND))


async def kill(fleet: Fleet, dice: random.Random, until: float) -> int:
    kills = 0
    while time.monotonic() < until:
        await asyncio.sleep(dice.uniform(0.5, 1.5) * KILL_EVERY_SECONDS)
        await fleet.replace_dead()
        victim = dice.choice(fleet.processes)
        if victim.returncode is None:
            victim.kill()
            await victim.wait()
            kills += 1
        await fleet.replace_dead()
    return kills


async def until_all_over(runtime: aj.Runtime, fleet: Fleet, told: dict[str, Told]) -> None:
    deadline = time.monotonic() + QUIET_SECONDS
    while time.monotonic() < deadline:
        await fleet.replace_dead()
        counts = await runtime.runs.count_by_state()
        if sum(counts[state] for state in aj.RunState if state not in TERMINAL) == 0:
            return
        await asyncio.sleep(0.3)


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_nothing_is_lost_when_workers_are_killed(system_store_url: str, tmp_path: Path) -> None:
    await crash(system_store_url, EMBEDDED, "default", tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_nothing_is_lost_on_rabbitmq(postgres_url: str, rabbitmq_server: str, tmp_path: Path) -> None:
    namespace = f"crash-{uuid4().hex[:12]}"
    try:
        await crash(postgres_url, rabbitmq_server, namespace, tmp_path)
    finally:
        await forget(rabbitmq_server, namespace)


async def crash(store: str, broker: str, namespace: str, folder: Path) -> None:
    seed = int(os.environ.get("ACTORJOBS_CRASH_SEED", time.time_ns() % 1_000_000))
    dice = random.Random(seed)
    effects = folder / "effects"
    effects.mkdir()
    settings = {"STORE_URL": store, "BROKER_URL": broker, "NAMESPACE": namespace}
    environment = {f"ACTORJOBS_{name}": value for name, value in settings.items()}
    fleet = Fleet(environment | {"CRASH_EFFECTS": str(effects)}, folder)
    told: dict[str, Told] = {}
    runtime = aj.Runtime(store=store, broker=broker, namespace=namespace, jobs=[crash_app.work])
    async with runtime.client():
        for _ in range(WORKERS):
            await fleet.start()
        until = time.monotonic() + SECONDS
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(produce(told, dice, until))
            kills = tasks.create_task(kill(fleet, dice, until))
        try:
            await until_all_over(runtime, fleet, told)
        finally:
            statuses = await fleet.stop()
        runs = {run_id: await runtime.runs.get(run_id) for run_id in told}
        attempts = {run_id: await runtime.runs.attempts(run_id) for run_id in told}
    broken = violations(told, runs, attempts, read_effects(effects))
    print(f"\nseed {seed}: {kills.result()} kills, {summary(runs, attempts)}")
    assert not broken, f"seed {seed}: {len(broken)} promises broken, among them:\n" + "\n".join(broken[:20])
    assert kills.result() > SECONDS / KILL_EVERY_SECONDS / 3
    # A process that is still importing when the signal comes has nothing to drain.
    assert set(statuses) <= {0, -signal.SIGTERM}, statuses
