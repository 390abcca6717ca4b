"""What the pipeline uses of the driver's own works as it believes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import count
from typing import Any
from uuid import uuid4

import pytest
from aiormq.abc import AbstractChannel
from aiormq.exceptions import DeliveryError, PublishError
from pamqp import commands

from actorjobs.brokers.rabbitmq.link import Link
from actorjobs.brokers.rabbitmq.pipeline import Message, acknowledge, has_ended, publish

_numbers = count()


@pytest.fixture
async def channel(link: Link) -> AbstractChannel:
    return await link.channel(confirms=True)


@pytest.fixture
async def queue(channel: AbstractChannel) -> str:
    return await declared(channel)


async def declared(channel: AbstractChannel, **arguments: Any) -> str:
    name = f"pipeline-{uuid4().hex[:12]}"
    await channel.queue_declare(name, exclusive=True, arguments=arguments)
    return name


def to(queue: str, body: bytes = b"body", exchange: str = "", **more: Any) -> Message:
    return Message(exchange=exchange, key=queue, body=body, id=f"id.{next(_numbers)}", **more)


async def answers(confirms: Sequence[asyncio.Future[Any]]) -> list[type]:
    async with asyncio.timeout(5):
        return [type(answer) for answer in await asyncio.gather(*confirms, return_exceptions=True)]


async def bodies(channel: AbstractChannel, queue: str) -> list[bytes]:
    found: list[bytes] = []
    while isinstance((got := await channel.basic_get(queue, no_ack=True)).delivery, commands.Basic.GetOk):
        found.append(got.body)
    return found


async def test_each_of_many_in_one_write_is_confirmed_and_they_keep_their_order(
    channel: AbstractChannel, queue: str
) -> None:
    confirms = await publish(channel, [to(queue, str(number).encode()) for number in range(500)])
    assert await answers(confirms) == [commands.Basic.Ack] * 500
    assert await bodies(channel, queue) == [str(number).encode() for number in range(500)]


async def test_confirms_are_counted_right_beside_the_drivers_own_publishing(
    channel: AbstractChannel, queue: str
) -> None:
    for _ in range(20):
        own = [asyncio.ensure_future(channel.basic_publish(b"own", routing_key=queue, mandatory=True)) for _ in "12"]
        confirms = await publish(channel, [to(queue), to("nowhere"), to(queue)])
        assert await answers(confirms) == [commands.Basic.Ack, PublishError, commands.Basic.Ack]
        assert await answers(own) == [commands.Basic.Ack] * 2
    lone = asyncio.ensure_future(channel.basic_publish(b"own", routing_key="nowhere", mandatory=True))
    assert await answers([lone]) == [PublishError]


async def test_a_returned_message_fails_its_own_future_alone(channel: AbstractChannel, queue: str) -> None:
    confirms = await publish(channel, [to("nowhere" if number % 7 == 3 else queue) for number in range(100)])
    found = await answers(confirms)
    assert [number for number, answer in enumerate(found) if answer is PublishError] == list(range(3, 100, 7))
    assert found.count(commands.Basic.Ack) == 100 - found.count(PublishError)


async def test_what_may_get_lost_is_confirmed_all_the_same(channel: AbstractChannel) -> None:
    confirms = await publish(channel, [to("nowhere", is_mandatory=False)])
    assert await answers(confirms) == [commands.Basic.Ack]


async def test_a_refused_message_fails_its_own_future_alone(channel: AbstractChannel, queue: str) -> None:
    full = await declared(channel, **{"x-max-length": 1, "x-overflow": "reject-publish"})
    await answers(await publish(channel, [to(full)]))
    confirms = await publish(channel, [to(queue), to(full), to(queue), to(full)])
    assert await answers(confirms) == [commands.Basic.Ack, DeliveryError, commands.Basic.Ack, DeliveryError]


async def test_a_channel_that_the_broker_closes_leaves_nobody_waiting(channel: AbstractChannel, queue: str) -> None:
    confirms = await publish(channel, [to(queue, exchange="there-is-none"), *(to(queue) for _ in range(50))])
    found = await answers(confirms)
    assert not {commands.Basic.Ack, PublishError, DeliveryError} & set(found)
    assert has_ended(channel)
    await acknowledge(channel, [1], [2])  # nothing to write to, and nothing said


async def test_a_channel_that_was_closed_takes_nothing_and_its_connection_lives(link: Link) -> None:
    channel = await link.channel(confirms=True)
    await channel.close()
    with pytest.raises(RuntimeError):
        await publish(channel, [to("anywhere")])
    other = await link.channel(confirms=True)
    assert await answers(await publish(other, [to(await declared(other))])) == [commands.Basic.Ack]


async def test_nothing_is_remembered_of_what_has_its_answer(channel: AbstractChannel, queue: str) -> None:
    inner: Any = channel
    await answers(await publish(channel, [to(queue) for _ in range(50)] + [to("nowhere")]))
    await asyncio.sleep(0)
    assert not inner.message_id_delivery_tag
    assert not inner.confirmations


async def test_an_empty_body_and_a_large_one_arrive(channel: AbstractChannel, queue: str) -> None:
    large = b"x" * 100_000
    await answers(await publish(channel, [to(queue, b""), to(queue, large), to(queue, b"last")]))
    assert await bodies(channel, queue) == [b"", large, b"last"]


async def test_deliveries_are_settled_each_as_it_was_said(link: Link, channel: AbstractChannel, queue: str) -> None:
    await answers(await publish(channel, [to(queue, str(number).encode()) for number in range(6)]))
    tags = [(await channel.basic_get(queue)).delivery.delivery_tag for _ in range(6)]
    await acknowledge(channel, tags[:2], tags[2:4])
    await channel.basic_qos(prefetch_count=0)  # answered after what was written before
    assert sorted(await bodies(channel, queue)) == [b"2", b"3"]
    await acknowledge(channel, tags[4:], [])
    await channel.basic_qos(prefetch_count=0)
    await channel.basic_recover(requeue=True)
    assert await bodies(channel, queue) == []
