"""PgQueuer on PostgreSQL with asyncpg. Its batch is as large as the others' concurrency; what runs is not capped."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from importlib import import_module
from typing import Any

from benchmarks import bodies
from benchmarks.plan import Message, Plan

pgqueuer: Any = import_module("pgqueuer")
asyncpg: Any = import_module("asyncpg")
database: Any = import_module("pgqueuer.db")
plan = Plan.current()


def _queries(driver: Any) -> Any:
    return import_module("pgqueuer.queries").Queries(driver)


async def prepare() -> None:
    connection = await asyncpg.connect(plan.database)
    await _queries(database.AsyncpgDriver(connection)).install()
    await connection.close()


def _encoded(message: Message) -> bytes:
    return json.dumps(message.arguments).encode()


class _Sender:
    def __init__(self, queries: Any) -> None:
        self._queries = queries

    async def send(self, message: Message) -> None:
        after = None if message.delay is None else timedelta(seconds=message.delay)
        await self._queries.enqueue(message.job, _encoded(message), execute_after=after)

    async def send_many(self, messages: Sequence[Message]) -> None:
        jobs, payloads = [message.job for message in messages], [_encoded(message) for message in messages]
        await self._queries.enqueue(jobs, payloads, [0] * len(messages))


@asynccontextmanager
async def sending() -> AsyncGenerator[_Sender]:
    async with asyncpg.create_pool(plan.database) as pool:
        yield _Sender(_queries(database.AsyncpgPoolDriver(pool)))


def _entry(body: Callable[..., Awaitable[None]]) -> Callable[[Any], Awaitable[None]]:
    async def perform(job: Any) -> None:
        await body(**json.loads(job.payload))

    return perform


async def _retry(index: int, email: str, title: str) -> None:
    try:
        await bodies.retry(index, email, title)
    except bodies.Failing as failure:
        asked: Any = import_module("pgqueuer.domain.errors").RetryRequested
        raise asked(delay=timedelta(seconds=bodies.RETRY_SECONDS)) from failure


async def work() -> None:
    connection = await asyncpg.connect(plan.database)
    queuer = pgqueuer.PgQueuer(database.AsyncpgDriver(connection))
    for name, body in (bodies.ASYNC | {"retry": _retry}).items():
        queuer.entrypoint(name)(_entry(body))
    await queuer.qm.run(batch_size=plan.concurrency)
