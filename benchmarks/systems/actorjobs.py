"""actorjobs itself, through its public interface and its own worker command."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from pydantic import BaseModel

import actorjobs as aj
from actorjobs.clock import SystemClock
from actorjobs.runtime.brokering import open_topology
from actorjobs.stores import open_store
from benchmarks import bodies
from benchmarks.plan import Message, Plan
from benchmarks.sampling import Sampler
from benchmarks.systems.names import QUEUE, SERVED, numbered, queues_of

CONNECT_SECONDS = 30.0

plan = Plan.current()
sampler = Sampler()
if plan.is_traced:  # what is measured without spans has no SDK loaded
    from benchmarks import spans

    spans.record()


class Welcome(BaseModel):
    email: str
    title: str


class Timed(Welcome):
    promised: float


class Numbered(Welcome):
    index: int


@aj.job("bench:noop", queue=QUEUE)
async def noop(payload: Welcome) -> None:
    if sampler.is_wanted:  # from the first run on: what starting costs is not a run's
        sampler.start()
    await bodies.noop(payload.email, payload.title)


@aj.job("bench:io", queue=QUEUE)
async def io(payload: Welcome) -> None:
    await bodies.io(payload.email, payload.title)


@aj.job("bench:latency", queue=QUEUE)
async def latency(payload: Timed) -> None:
    await bodies.latency(payload.promised, payload.email, payload.title)


@aj.job("bench:retry", queue=QUEUE, retry=aj.Retry(attempts=3, backoff=aj.Fixed(bodies.RETRY_SECONDS)))
async def retry(payload: Numbered) -> None:
    await bodies.retry(payload.index, payload.email, payload.title)


@aj.job("bench:hold", queue=QUEUE)
async def hold(payload: Welcome) -> None:
    await bodies.hold(payload.email, payload.title)


JOBS: dict[str, tuple[Any, type[Welcome]]] = {
    "noop": (noop, Welcome),
    "io": (io, Welcome),
    "latency": (latency, Timed),
    "retry": (retry, Numbered),
    "hold": (hold, Welcome),
}

runtime = aj.Runtime(
    store=plan.database,
    broker=plan.broker,
    namespace=plan.name,
    jobs=[job for job, _ in JOBS.values()],
    queues=dict.fromkeys(queues_of(plan), plan.concurrency),
)


async def prepare() -> None:
    store = await open_store(plan.database, namespace=plan.name, clock=SystemClock())
    await store.migrate()
    await store.close()
    if plan.broker is not None:
        await open_topology(runtime.settings, sorted(runtime.declared_queues)).apply()


class _Sender:
    async def send(self, message: Message) -> None:
        job, payload = JOBS[message.job]
        made = payload(**message.arguments)
        if plan.queues:
            await job.dispatch_to(numbered(message.index % SERVED), made)
        elif message.delay is None:
            await job.dispatch(made)
        else:
            await job.dispatch(made, delay=message.delay)

    async def send_many(self, messages: Sequence[Message]) -> None:
        job, payload = JOBS[messages[0].job]
        await runtime.dispatch_many([job.envelope(payload(**message.arguments)) for message in messages])


@asynccontextmanager
async def sending() -> AsyncGenerator[_Sender]:
    async with runtime.client():
        async with asyncio.timeout(CONNECT_SECONDS):
            while runtime.health:  # a client waits for no broker, but connecting is counted for none of the others
                await asyncio.sleep(0.005)
        yield _Sender()
