"""FastStream's RabbitMQ broker: a queue for each job; it has neither delays nor retries nor a record of its own."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from importlib import import_module
from typing import Any

from benchmarks import bodies
from benchmarks.plan import Message, Plan

rabbit: Any = import_module("faststream.rabbit")
plan = Plan.current()
broker: Any = rabbit.RabbitBroker(
    plan.server, default_channel=rabbit.Channel(prefetch_count=plan.concurrency), logger=None
)
QUEUES: dict[str, Any] = {
    name: rabbit.RabbitQueue(f"{plan.name}.{name}", durable=True) for name in ("noop", "io", "latency")
}
for _name, _queue in QUEUES.items():
    broker.subscriber(_queue)(bodies.ASYNC[_name])


async def prepare() -> None:
    await broker.connect()
    for queue in QUEUES.values():
        await broker.declare_queue(queue)
    await broker.stop()


class _Sender:
    async def send(self, message: Message) -> None:
        await broker.publish(message.arguments, queue=QUEUES[message.job], persist=True)

    async def send_many(self, messages: Sequence[Message]) -> None:
        raise NotImplementedError("FastStream's bulk call makes one message of many")


@asynccontextmanager
async def sending() -> AsyncGenerator[_Sender]:
    await broker.connect()
    yield _Sender()
    await broker.stop()


async def work() -> None:
    await import_module("faststream").FastStream(broker).run()
