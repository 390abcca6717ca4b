"""One trial: a system on a fresh database, with a producer and a worker that are processes of their own."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import IO, Self

from benchmarks import machine, servers
from benchmarks.installing import interpreter_of
from benchmarks.machine import Cpu
from benchmarks.plan import CONCURRENCY, FOLDER, ROOT, Demand, Plan, Produced, bare_environment
from benchmarks.recording import Recording, Run
from benchmarks.systems import SQLITE, System
from benchmarks.systems.names import queues_of

STUCK_SECONDS = 60.0
"""Without a run's end for so long, a trial has failed."""
STOP_SECONDS = 4.0
PREPARE_SECONDS = 300.0
PRODUCE_SECONDS = 900.0
WARM_RUNS = 200
CALM_SECONDS = 0.5
_POLL_SECONDS = 0.005
_LAST_WORDS = 1500


class TrialFailed(Exception):
    """Says what went wrong, with the last words of the process that it went wrong in."""


def why_failed(error: Exception) -> str:
    """In a line, whether a trial found out itself or something else has failed in it."""
    return str(error) if isinstance(error, TrialFailed) else f"{type(error).__name__}: {error}"


class Trial:
    """Entering makes the database and the queues; leaving stops the worker and deletes all that was made."""

    def __init__(self, system: System, *, concurrency: int = CONCURRENCY, queues: int = 0, folder: Path | None = None):
        self.system = system
        self._concurrency = concurrency
        self._queues = queues
        self._parent = folder
        self._worker: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None
        self._store: str | None = None

    def __enter__(self) -> Self:
        parent = self._parent or FOLDER / "trials"
        parent.mkdir(parents=True, exist_ok=True)
        self._folder = Path(tempfile.mkdtemp(dir=parent))
        try:
            self.plan = self._make_plan()
            self.recording = Recording(self._folder)
            self._broker_pid = servers.process(self.system.broker)
            self._database_pid = servers.process(self.system.store)
            self._run("prepare", timeout=PREPARE_SECONDS)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _make_plan(self) -> Plan:
        name = f"bench-{uuid.uuid4().hex[:8]}"
        if self.system.store == SQLITE:
            self._store = f"sqlite:///{self._folder}/runs.db"
        elif self.system.store is not None:
            self._store = asyncio.run(servers.create_database(self.system.store))
        return Plan(
            folder=str(self._folder),
            name=name,
            store=self._store,
            broker=self.system.broker and servers.address(self.system.broker),
            concurrency=self._concurrency,
            queues=self._queues,
            is_traced=self.system.is_traced,
        )

    def close(self) -> None:
        """Stop and delete. Safe to be called again."""
        self.stop_worker()
        plan = getattr(self, "plan", None)
        if plan is not None and plan.broker is not None:
            asyncio.run(self._forget(plan))
        if self._store is not None and self.system.store != SQLITE:
            asyncio.run(servers.drop_database(self._store))
        self._store = None
        shutil.rmtree(self._folder, ignore_errors=True)

    async def _forget(self, plan: Plan) -> None:
        if self.system.is_ours:
            await servers.delete_namespace(plan.server, plan.name, queues_of(plan))
            return
        queues = [queue.format(name=plan.name) for queue in self.system.queues]
        exchanges = [exchange.format(name=plan.name) for exchange in self.system.exchanges]
        await servers.delete_from_broker(plan.server, queues, exchanges)

    # producing

    def produce(self, demand: Demand) -> Produced:
        """Have a producer dispatch this, and wait until all is accepted."""
        return Produced(**json.loads(self._run("produce", demand.to_json(), timeout=PRODUCE_SECONDS).splitlines()[-1]))

    def _run(self, command: str, *more: str, timeout: float) -> str:
        arguments = [self._python, "-m", "benchmarks.child", command, self.system.module, *more]
        try:
            done = subprocess.run(
                arguments, env=self._environment, cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False
            )
        except subprocess.TimeoutExpired:
            raise TrialFailed(f"{command} took longer than {timeout:g} s") from None
        if done.returncode or (command == "produce" and not done.stdout.strip()):
            raise TrialFailed(f"{command} failed: {(done.stderr or done.stdout).strip()[-_LAST_WORDS:]}")
        return done.stdout

    @property
    def _python(self) -> str:
        return sys.executable if self.system.environment is None else str(interpreter_of(self.system.environment))

    @property
    def _environment(self) -> dict[str, str]:
        return bare_environment() | self.plan.environment()

    # performing

    def start_worker(self, *more: str) -> None:
        """Start the system's worker, `more` being further arguments of its command."""
        words = {
            "python": self._python,
            "module": self.system.module,
            "processes": str(self.system.processes),
            "concurrency": str(self._concurrency),
            "name": self.plan.name,
        }
        command = [part.format(**words) for part in self.system.worker]
        self._log = (self._folder / "worker.log").open("wb")
        self._worker = subprocess.Popen(
            [*command, *more],
            env=self._environment,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )

    def stop_worker(self) -> None:
        """Ask it to stop, and end what is still there a little later."""
        if self._worker is None:
            return
        started = machine.tree(self._worker.pid, machine.processes())
        self._worker.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._worker.wait(STOP_SECONDS)
        for pid in started:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._worker.wait()
        self._worker = None
        if self._log is not None:
            self._log.close()

    def costs(self, before: Cpu, runs: int) -> dict[str, float]:
        """CPU microseconds a run since then, of the worker and of those servers that can be looked at."""
        spent, each = self.cpu().since(before), 1e6 / max(1, runs)
        figures = {"worker µs": spent.worker * each}
        if self._broker_pid is not None:
            figures["broker µs"] = spent.broker * each
        if self._database_pid is not None:
            figures["database µs"] = spent.database * each
        return figures

    @property
    def worker_pid(self) -> int:
        if self._worker is None:
            raise TrialFailed("no worker was started")
        return self._worker.pid

    def cpu(self) -> Cpu:
        """What the worker and the servers have spent so far."""
        worker = None if self._worker is None else self._worker.pid
        return machine.cpu(worker=worker, broker=self._broker_pid, database=self._database_pid)

    def warm_up(self, *more: str) -> None:
        """Start the worker and have it perform some runs, so that it is ready and connected."""
        before = self.recording.count()
        self.start_worker(*more)
        self.produce(Demand(job="noop", count=WARM_RUNS))
        self.until(before + WARM_RUNS)
        time.sleep(CALM_SECONDS)

    def until(self, count: int) -> None:
        """Wait until so many runs have finished."""
        last, progress = -1, time.monotonic()
        while (now := self.recording.count()) < count:
            if now != last:
                last, progress = now, time.monotonic()
            if time.monotonic() - progress > STUCK_SECONDS:
                raise TrialFailed(f"{now} of {count} runs, then none for {STUCK_SECONDS:g} s: {self._last_words}")
            if self._worker is None or self._worker.poll() is not None:
                raise TrialFailed(f"the worker ended after {now} of {count} runs: {self._last_words}")
            time.sleep(_POLL_SECONDS)

    @property
    def _last_words(self) -> str:
        if self._log is not None:
            self._log.flush()
        with suppress(OSError):
            return (self._folder / "worker.log").read_text(encoding="utf-8", errors="replace")[-_LAST_WORDS:].strip()
        return "it said nothing"

    def runs_since(self, moment: float) -> list[Run]:
        """Those that started after that moment of the monotonic clock, by when they did."""
        return [run for run in self.recording.runs() if run.started >= moment]
