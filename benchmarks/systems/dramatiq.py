"""Dramatiq on RabbitMQ, with confirms on (its own default is off). Its client blocks: one dispatch at a time."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from importlib import import_module
from typing import Any

from benchmarks import bodies
from benchmarks.plan import Message, Plan

dramatiq: Any = import_module("dramatiq")
plan = Plan.current()
broker: Any = import_module("dramatiq.brokers.rabbitmq").RabbitmqBroker(url=plan.server, confirm_delivery=True)
dramatiq.set_broker(broker)


def _retry(index: int, email: str, title: str) -> None:
    try:
        bodies.retry_blocking(index, email, title)
    except bodies.Failing as failure:
        # Its own backoff has jitter; this is the exact delay.
        raise dramatiq.errors.Retry(str(failure), delay=int(bodies.RETRY_SECONDS * 1000)) from failure


BODIES = bodies.BLOCKING | {"retry": _retry}
ACTORS: dict[str, Any] = {
    name: dramatiq.actor(body, actor_name=name, queue_name=plan.name, max_retries=3) for name, body in BODIES.items()
}


async def prepare() -> None:
    broker.declare_queue(plan.name, ensure=True)
    broker.close()


class _Sender:
    async def send(self, message: Message) -> None:
        delay = None if message.delay is None else int(message.delay * 1000)
        ACTORS[message.job].send_with_options(kwargs=message.arguments, delay=delay)

    async def send_many(self, messages: Sequence[Message]) -> None:
        raise NotImplementedError("Dramatiq has no bulk call")


@asynccontextmanager
async def sending() -> AsyncGenerator[_Sender]:
    broker.declare_queue(plan.name, ensure=True)
    yield _Sender()
    broker.close()


async def work() -> None:
    raise NotImplementedError("Dramatiq has a worker command")
