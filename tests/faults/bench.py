"""A namespace to break: runtimes in this process, worker processes, and the judge of what became of its runs."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

from aiormq.abc import AbstractChannel

import actorjobs as aj
from actorjobs.brokers.rabbitmq import RabbitBroker, Topology, connected, parse_address
from actorjobs.brokers.rabbitmq.consumer import RabbitConsumer
from actorjobs.brokers.rabbitmq.link import ChannelRefused
from tests.faults import app
from tests.faults.app import Work
from tests.system.checker import TERMINAL, Effects, Told, read_effects, violations

ROOT = Path(__file__).parents[2]
SOON = 20.0


class Bench:
    """`store` and `broker` are addresses; a runtime may be given others, which lead there through a proxy."""

    def __init__(self, *, store: str, broker: str, namespace: str, folder: Path, stack: AsyncExitStack) -> None:
        self.store = store
        self.broker = broker
        self.namespace = namespace
        self.topology = Topology(namespace)
        self.told: dict[str, Told] = {}
        self._folder = folder
        self._stack = stack
        self._numbers = count()
        self._client: aj.Runtime | None = None
        self.effects_folder = folder / "effects"
        self.effects_folder.mkdir()
        app.effects = self.effects_folder

    # who takes part

    @property
    def client(self) -> aj.Runtime:
        """A process that only dispatches and manages."""
        assert self._client is not None
        return self._client

    def runtime(self, at_once: int = 10, **options: Any) -> aj.Runtime:
        given = {"store": self.store, "broker": self.broker, "namespace": self.namespace, "queues": {"work": at_once}}
        return app.make_runtime(**given | options)

    async def open_client(self, **options: Any) -> aj.Runtime:
        self._client = await self._stack.enter_async_context(self.runtime(**options).client())
        return self._client

    async def worker(self, at_once: int = 10, *, only: Any = None, **options: Any) -> aj.Runtime:
        """A worker in this process; closed at the end."""
        runtime = self.runtime(at_once, **options)
        await runtime.open(only=only)
        self._stack.push_async_callback(runtime.close)
        return runtime

    def environment(self, **variables: str) -> dict[str, str]:
        ours = {"ACTORJOBS_STORE_URL": self.store, "ACTORJOBS_BROKER_URL": self.broker}
        ours |= {"ACTORJOBS_NAMESPACE": self.namespace, "FAULTS_EFFECTS": str(self.effects_folder)}
        return {**os.environ, **ours, "PYTHONPATH": str(ROOT), **variables}

    async def process(self, *prefix: str, **variables: str) -> asyncio.subprocess.Process:
        """A worker process, from the command line on; killed at the end. Its log is in the test's folder."""
        command = (*prefix, sys.executable, "-m", "actorjobs", "worker", "tests.faults.app:runtime")
        with self.log_of(next(self._numbers)).open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *command, env=self.environment(**variables), stdout=log, stderr=log, cwd=ROOT
            )
        self._stack.push_async_callback(end, process)
        return process

    def log_of(self, number: int) -> Path:
        return self._folder / f"worker-{number}.log"

    # what is asked for, and what comes of it

    async def dispatch(self, work: Work | None = None, /, *, via: aj.Runtime | None = None, **options: Any) -> str:
        handle = await (via or self.client).dispatch(app.work, work or Work(), **options)
        self.told[handle.id] = Told("plain")
        return handle.id

    async def dispatch_many(self, number: int, work: Work | None = None, **options: Any) -> list[str]:
        payload = (work or Work()).model_dump()
        envelopes = [self.client.envelope("faults:work", payload, **options) for _ in range(number)]
        handles = await self.client.dispatch_many(envelopes)
        self.told |= {handle.id: Told("plain") for handle in handles}
        return [handle.id for handle in handles]

    async def told_all(self) -> None:
        """Whoever dispatched it, and whether or not they were told: judge all there is."""
        cursor: str | None = ""
        while cursor is not None:
            page = await self.client.runs.list(limit=1000, cursor=cursor or None)
            self.told |= {run.id: self.told.get(run.id, Told("plain")) for run in page}
            cursor = page.cursor

    def effects(self) -> dict[str, dict[int, Effects]]:
        return read_effects(self.effects_folder)

    async def started(self, runs: Sequence[str], within: float = SOON) -> None:
        await until(lambda: set(runs) <= set(self.effects()), within)

    async def all_over(self, within: float = 60.0) -> None:
        """Wait until every run is at its end."""
        deadline = time.monotonic() + within
        while (
            left := {
                state: number for state, number in (await self.client.runs.count_by_state()).items() if number
            }.keys()
            - TERMINAL
        ):
            assert time.monotonic() < deadline, f"not over: {await self.client.runs.count_by_state()} ({left})"
            await asyncio.sleep(0.1)

    async def judge(self, within: float = 60.0, *, most_attempts: int | None = None, empties: bool = True) -> None:
        """Wait for the end; then no promise may be broken, and nothing left in the broker.

        Of the attempts, those that were handed back before an actor had begun them do not count.
        """
        await self.all_over(within)
        runs = {run_id: await self.client.runs.get(run_id) for run_id in self.told}
        attempts = {run_id: await self.client.runs.attempts(run_id) for run_id in self.told}
        broken = violations(self.told, runs, attempts, self.effects())
        if most_attempts is not None:
            for run_id, made in attempts.items():
                begun = [one for one in made if one.actor is not None or one.outcome is not aj.Outcome.INTERRUPTED]
                if len(begun) > most_attempts:
                    broken.append(f"{run_id}: took {len(begun)} attempts: {made}")
        assert not broken, f"{len(broken)} promises broken, among them:\n" + "\n".join(broken[:20])
        if empties:
            await self.empty()

    async def empty(self, within: float = SOON) -> None:
        """Wait until no message waits in any queue of the namespace."""
        deadline = time.monotonic() + within
        while any(ready := {name: number for name, number in (await self.ready()).items() if number}):
            assert time.monotonic() < deadline, f"left in the broker: {ready}"
            await asyncio.sleep(0.2)

    async def ready(self) -> dict[str, int]:
        """How many messages are ready in each queue; those that do not exist are left out."""
        parts = [self.topology.base(), self.topology.of_queue("work")]
        found: dict[str, int] = {}
        async with connected(parse_address(self.broker), name="test:count") as link:
            for queue in [queue for some in parts for queue in some.queues]:
                channel = await link.channel()
                try:
                    answer = await channel.queue_declare(queue.name, passive=True)
                except ChannelRefused:
                    continue
                found[queue.name] = answer.message_count or 0
                await channel.close()
        return found

    @asynccontextmanager
    async def channel(self) -> AsyncGenerator[AbstractChannel]:
        """A channel past the product: what an operator, or a foreigner, may do to the broker."""
        async with connected(parse_address(self.broker), name="test:meddle") as link:
            yield await link.channel(confirms=True)

    @property
    def work_queue(self) -> str:
        return self.topology.work_queue("work")


def broker_of(runtime: aj.Runtime) -> RabbitBroker:
    assert isinstance(runtime.broker, RabbitBroker)
    return runtime.broker


def consumer_of(runtime: aj.Runtime, queue: str = "work") -> RabbitConsumer:
    return broker_of(runtime)._consumers[queue]


async def end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.send_signal(signal.SIGCONT)
        process.kill()
    await process.wait()


async def until(is_so: Callable[[], bool], within: float = SOON, *, every: float = 0.02) -> None:
    deadline = time.monotonic() + within
    while not is_so():
        assert time.monotonic() < deadline, "it did not come to that"
        await asyncio.sleep(every)


async def becomes(question: Callable[[], Awaitable[bool]], within: float = SOON) -> None:
    deadline = time.monotonic() + within
    while not await question():
        assert time.monotonic() < deadline, "it did not come to that"
        await asyncio.sleep(0.1)


def canceled(effects: Mapping[str, Mapping[int, Effects]]) -> list[str]:
    return [run_id for run_id, attempts in effects.items() if any(one.canceled for one in attempts.values())]
