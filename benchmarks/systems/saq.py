"""SAQ on PostgreSQL. It schedules in whole seconds: a delay is rounded by the database, so that some runs are early."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from importlib import import_module
from typing import Any

from benchmarks import bodies
from benchmarks.plan import Message, Plan

saq: Any = import_module("saq")
plan = Plan.current()
queue: Any = saq.Queue.from_url(plan.database)


def _function(body: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    async def perform(ctx: Any, **arguments: Any) -> None:
        await body(**arguments)

    return perform


FUNCTIONS = [(name, _function(body)) for name, body in bodies.ASYNC.items()]


async def prepare() -> None:
    await queue.connect()
    await queue.disconnect()


class _Sender:
    async def send(self, message: Message) -> None:
        options: dict[str, Any] = {} if message.delay is None else {"scheduled": time.time() + message.delay}
        if message.job == "retry":
            options |= {"retries": 3, "retry_delay": bodies.RETRY_SECONDS}
        await queue.enqueue(message.job, **options, **message.arguments)

    async def send_many(self, messages: Sequence[Message]) -> None:
        raise NotImplementedError("SAQ has no bulk call")


@asynccontextmanager
async def sending() -> AsyncGenerator[_Sender]:
    await queue.connect()
    yield _Sender()
    await queue.disconnect()


async def work() -> None:
    await queue.connect()
    await saq.Worker(queue, functions=FUNCTIONS, concurrency=plan.concurrency).start()
