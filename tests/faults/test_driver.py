"""F25: driver calls that end in a cancellation nobody asked for. F17: cancellations that somebody did ask for."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from typing import Any

import aio_pika
import aiormq
import pytest

from actorjobs.brokers.rabbitmq import settling
from actorjobs.brokers.rabbitmq.pipeline import Pipeline
from tests.faults.app import Work
from tests.faults.bench import Bench, consumer_of, until

CHANNEL_CALLS = [
    "exchange_declare",
    "queue_declare",
    "queue_bind",
    "exchange_bind",
    "basic_qos",
    "basic_cancel",
    "close",
]
OUR_CALLS = {"publish": Pipeline, "acknowledge": settling}


class Phantoms:
    """Have some of the next calls end in a bare CancelledError."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, *, after: bool) -> None:
        self.left = 0
        real = getattr(owner, name)

        async def call(*args: Any, **options: Any) -> Any:
            if self.left > 0 and not after:
                self.left -= 1
                raise asyncio.CancelledError
            answer = await real(*args, **options)
            if self.left > 0:
                self.left -= 1
                raise asyncio.CancelledError
            return answer

        monkeypatch.setattr(owner, name, call)


def place_of(call: str) -> tuple[Any, str]:
    if call == "connect":
        return aio_pika.Connection, "connect"
    if call == "channel":
        return aiormq.Connection, "channel"
    if call in OUR_CALLS:
        return OUR_CALLS[call], call
    return aiormq.Channel, call


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(
    "call",
    [
        *("basic_consume", "publish", "acknowledge"),
        *(pytest.param(call, marks=pytest.mark.faults) for call in ("connect", "channel", *CHANNEL_CALLS)),
    ],
)
async def test_a_phantom_cancellation_ends_nothing_but_a_connection(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, call: str, after: bool
) -> None:
    worker = await bench.worker(at_once=2)
    await bench.dispatch(via=worker)
    phantoms = Phantoms(monkeypatch, *place_of(call), after=after)
    phantoms.left = 1 if call == "basic_cancel" else 3
    for session in (worker.broker._publishing, worker.broker._consuming, worker.broker._controlling):
        if session.link is not None and call not in OUR_CALLS:
            await session.link._outer.close()
    for number in range(10):
        await bench.dispatch(Work(seconds=0.05), via=worker)
        await asyncio.sleep(0.1)
        await bench.client.queues.scale("work", 2 + number)
    await bench.dispatch(Work(failures=1), via=worker, delay=0.3)
    await until(lambda: phantoms.left == 0)
    await bench.judge(most_attempts=2)
    await until(lambda: not worker.health)
    assert consumer_of(worker).is_consuming


async def test_canceled_callers_break_no_channel(bench: Bench) -> None:
    """F17: a dispatch that is canceled may have been accepted; the connection is as it was."""
    dice = random.Random(17)
    worker = await bench.worker()
    await bench.dispatch(via=worker)
    connections = worker.broker._publishing.connections

    async def caller() -> None:
        for _ in range(10):
            task = asyncio.ensure_future(bench.dispatch(via=worker))
            await asyncio.sleep(dice.choice((0, 0, dice.uniform(0, 0.01))))
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    await asyncio.gather(*(caller() for _ in range(20)))
    await bench.told_all()
    await bench.judge(most_attempts=1)
    assert worker.broker._publishing.connections == connections


async def test_a_close_that_is_canceled_leaves_nothing_behind(bench: Bench) -> None:
    """F17: at random moments; what it was doing is done by others."""
    dice = random.Random(71)
    for _ in range(6):
        runtime = bench.runtime(at_once=5, grace=0.2)
        await runtime.open()
        await bench.dispatch_many(10, Work(seconds=0.1))
        closing = asyncio.ensure_future(runtime.close())
        await asyncio.sleep(dice.uniform(0, 0.4))
        closing.cancel()
        with suppress(asyncio.CancelledError):
            await closing
    await bench.worker(at_once=20)
    await bench.judge()
