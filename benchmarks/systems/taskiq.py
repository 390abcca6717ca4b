"""taskiq with taskiq-aio-pika, its queues classic and durable, without a result backend."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from importlib import import_module
from typing import Any

from benchmarks import bodies
from benchmarks.plan import Message, Plan

taskiq_aio_pika: Any = import_module("taskiq_aio_pika")
CLASSIC: Any = import_module("taskiq_aio_pika.queue").QueueType.CLASSIC
plan = Plan.current()


def _queue(name: str) -> Any:
    return taskiq_aio_pika.Queue(name=name, type=CLASSIC, durable=True)


# Prefetch: as many as may run at once, and as many again that wait for a place.
broker: Any = taskiq_aio_pika.AioPikaBroker(
    plan.server,
    qos=2 * plan.concurrency,
    exchange=taskiq_aio_pika.Exchange(name=plan.name),
    task_queues=[_queue(plan.name)],
    dead_letter_queue=_queue(f"{plan.name}.dead"),
    delay_queue=_queue(f"{plan.name}.delay"),
)
broker.add_middlewares(
    import_module("taskiq.middlewares").SmartRetryMiddleware(
        default_retry_count=3, default_delay=bodies.RETRY_SECONDS, use_jitter=False, use_delay_exponent=False
    )
)
TASKS: dict[str, Any] = {
    name: broker.register_task(body, task_name=name, retry_on_error=name == "retry")
    for name, body in bodies.ASYNC.items()
}


async def prepare() -> None:
    await broker.startup()
    await broker.shutdown()


class _Sender:
    async def send(self, message: Message) -> None:
        task = TASKS[message.job]
        if message.delay is None:
            await task.kiq(**message.arguments)
        else:
            await task.kicker().with_labels(delay=message.delay).kiq(**message.arguments)

    async def send_many(self, messages: Sequence[Message]) -> None:
        raise NotImplementedError("taskiq has no bulk call")


@asynccontextmanager
async def sending() -> AsyncGenerator[_Sender]:
    await broker.startup()
    yield _Sender()
    await broker.shutdown()


async def work() -> None:
    raise NotImplementedError("taskiq has a worker command")
