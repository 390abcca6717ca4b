"""Oban for Python on PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from importlib import import_module
from typing import Any

from benchmarks import bodies
from benchmarks.plan import Message, Plan

oban: Any = import_module("oban")
plan = Plan.current()
QUEUE = "bench"
POOL = 10


class Noop:
    async def process(self, job: Any) -> None:
        await bodies.noop(**job.args)


class Io:
    async def process(self, job: Any) -> None:
        await bodies.io(**job.args)


class Latency:
    async def process(self, job: Any) -> None:
        await bodies.latency(**job.args)


class Retry:
    async def process(self, job: Any) -> None:
        await bodies.retry(**job.args)

    def backoff(self, job: Any) -> int:
        return int(bodies.RETRY_SECONDS)


_register: Any = oban.worker(queue=QUEUE, max_attempts=3)
WORKERS: dict[str, Any] = {
    "noop": _register(Noop),
    "io": _register(Io),
    "latency": _register(Latency),
    "retry": _register(Retry),
}


async def prepare() -> None:
    pool = await oban.Oban.create_pool(plan.database)
    await import_module("oban.schema").install(pool)
    await pool.close()


class _Sender:
    def __init__(self, client: Any) -> None:
        self._client = client

    async def send(self, message: Message) -> None:
        options = {} if message.delay is None else {"schedule_in": timedelta(seconds=message.delay)}
        await WORKERS[message.job].enqueue(message.arguments, **options)

    async def send_many(self, messages: Sequence[Message]) -> None:
        await self._client.enqueue_many(*(WORKERS[message.job].new(message.arguments) for message in messages))


@asynccontextmanager
async def sending() -> AsyncGenerator[_Sender]:
    pool = await oban.Oban.create_pool(plan.database, min_size=1, max_size=POOL)
    client = oban.Oban(pool=pool)
    await client.start()
    yield _Sender(client)
    await client.stop()
    await pool.close()


async def work() -> None:
    pool = await oban.Oban.create_pool(plan.database, min_size=1, max_size=POOL)
    async with oban.Oban(pool=pool, queues={QUEUE: plan.concurrency}):
        await asyncio.Event().wait()
