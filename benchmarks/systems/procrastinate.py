"""Procrastinate on PostgreSQL with psycopg."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from importlib import import_module
from typing import Any

from benchmarks import bodies
from benchmarks.plan import Message, Plan

procrastinate: Any = import_module("procrastinate")
plan = Plan.current()
app: Any = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=plan.database))
RETRIES: Any = procrastinate.RetryStrategy(max_attempts=3, wait=int(bodies.RETRY_SECONDS))
TASKS: dict[str, Any] = {
    name: app.task(name=name, retry=RETRIES if name == "retry" else False)(body) for name, body in bodies.ASYNC.items()
}


async def prepare() -> None:
    async with app.open_async():
        await app.schema_manager.apply_schema_async()


class _Sender:
    async def send(self, message: Message) -> None:
        task = TASKS[message.job]
        if message.delay is not None:
            task = task.configure(schedule_in={"milliseconds": int(message.delay * 1000)})
        await task.defer_async(**message.arguments)

    async def send_many(self, messages: Sequence[Message]) -> None:
        await TASKS[messages[0].job].batch_defer_async(*(message.arguments for message in messages))


@asynccontextmanager
async def sending() -> AsyncGenerator[_Sender]:
    async with app.open_async():
        yield _Sender()


async def work() -> None:
    async with app.open_async():
        await app.run_worker_async(concurrency=plan.concurrency)
