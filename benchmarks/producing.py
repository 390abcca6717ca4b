"""The producer's side: dispatches what is demanded, in the same way through every system's own client."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from itertools import islice
from typing import Protocol

from benchmarks.plan import Demand, Message, Produced


class Sender(Protocol):
    """A system's connected client."""

    async def send(self, message: Message) -> None:
        """Return once the run is accepted: confirmed by the broker, or committed by the database."""
        ...

    async def send_many(self, messages: Sequence[Message]) -> None:
        """The same for several of one job, by the system's bulk call; only asked of systems that have one."""
        ...


class Adapter(Protocol):
    """What a module of `benchmarks.systems` has. `work` only where the system has no worker command of its own."""

    async def prepare(self) -> None:
        """Make tables and queues, so that what is dispatched before a worker runs is kept."""
        ...

    def sending(self) -> AbstractAsyncContextManager[Sender]: ...

    async def work(self) -> None:
        """Perform runs until a signal ends it."""
        ...


async def produce(sender: Sender, demand: Demand) -> Produced:
    """Connecting is not counted."""
    cpu, began = time.process_time(), time.monotonic()
    if demand.per_second:
        await _paced(sender, demand)
    elif demand.bulk:
        await _in_bulk(sender, demand)
    else:
        await _in_flight(sender, demand)
    return Produced(began, time.monotonic(), time.process_time() - cpu)


async def _in_flight(sender: Sender, demand: Demand) -> None:
    messages = demand.messages()

    async def one_after_the_other() -> None:
        for message in messages:
            await sender.send(message)

    async with asyncio.TaskGroup() as group:
        for _ in range(demand.in_flight):
            group.create_task(one_after_the_other())


async def _in_bulk(sender: Sender, demand: Demand) -> None:
    messages = demand.messages()
    while some := list(islice(messages, demand.bulk)):
        await sender.send_many(some)


async def _paced(sender: Sender, demand: Demand) -> None:
    messages, began = demand.messages(), time.monotonic()
    for index in range(demand.count):
        await asyncio.sleep(began + index / demand.per_second - time.monotonic())
        await sender.send(next(messages))
