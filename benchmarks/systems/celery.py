"""Celery on RabbitMQ: prefork, acknowledged late, without a result backend. Its client blocks: one at a time.

Confirms are on (its own default is off). Remote control is off and the exchange of events has a name of this
trial's, so that nothing is left in a broker shared by others.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from importlib import import_module
from typing import Any

from benchmarks import bodies
from benchmarks.plan import Message, Plan

plan = Plan.current()
app: Any = import_module("celery").Celery("bench", broker=plan.server)
app.conf.update(
    task_default_queue=plan.name,
    task_ignore_result=True,
    task_acks_late=True,
    broker_transport_options={"confirm_publish": True},
    worker_enable_remote_control=False,
    event_exchange=f"{plan.name}.events",
)


def _retry(self: Any, index: int, email: str, title: str) -> None:
    try:
        bodies.retry_blocking(index, email, title)
    except bodies.Failing as failure:
        raise self.retry(exc=failure, countdown=bodies.RETRY_SECONDS) from failure


TASKS: dict[str, Any] = {
    name: app.task(body, name=name) for name, body in bodies.BLOCKING.items() if name != "retry"
} | {"retry": app.task(_retry, name="retry", bind=True, max_retries=3)}


async def prepare() -> None:
    with app.connection_for_write() as connection:
        app.amqp.queues[plan.name].bind(connection.default_channel).declare()


class _Sender:
    def __init__(self, producer: Any) -> None:
        self._producer = producer

    async def send(self, message: Message) -> None:
        TASKS[message.job].apply_async(kwargs=message.arguments, countdown=message.delay, producer=self._producer)

    async def send_many(self, messages: Sequence[Message]) -> None:
        raise NotImplementedError("Celery has no bulk call")


@asynccontextmanager
async def sending() -> AsyncGenerator[_Sender]:
    with app.connection_for_write() as connection, app.amqp.Producer(connection.channel()) as producer:
        yield _Sender(producer)


async def work() -> None:
    raise NotImplementedError("Celery has a worker command")
