"""Confirms and acknowledgements, against a real broker."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import count
from typing import Any
from uuid import uuid4

import pytest
from aiormq.abc import AbstractChannel
from pamqp import commands

from actorjobs.brokers.rabbitmq.hot import Delivered
from actorjobs.brokers.rabbitmq.link import Link, consume
from actorjobs.brokers.rabbitmq.pipeline import Answer, Message, Pipeline, acknowledge, has_ended
from actorjobs.brokers.rabbitmq.settling import Settler

_numbers = count()


class Line:
    """A pipeline whose answers can be waited for."""

    def __init__(self, channel: AbstractChannel, link: Link) -> None:
        self.channel = channel
        self.answers: dict[int, Answer] = {}
        self._numbers = count()
        self._pipeline = Pipeline[int](channel, link.frames, self._answered)

    def _answered(self, number: int, answer: Answer) -> None:
        assert number not in self.answers
        self.answers[number] = answer

    async def publish(self, messages: Sequence[Message]) -> list[Answer]:
        numbered = [(message, next(self._numbers)) for message in messages]
        await self._pipeline.publish(numbered)
        async with asyncio.timeout(5):
            while not all(number in self.answers for _, number in numbered):
                await asyncio.sleep(0.001)
        assert not len(self._pipeline)
        return [self.answers[number] for _, number in numbered]


@pytest.fixture
async def line(link: Link) -> Line:
    return Line(await link.channel(confirms=True), link)


@pytest.fixture
async def channel(link: Link) -> AbstractChannel:
    return await link.channel()


@pytest.fixture
async def queue(channel: AbstractChannel) -> str:
    return await declared(channel)


async def declared(channel: AbstractChannel, **arguments: Any) -> str:
    name = f"pipeline-{uuid4().hex[:12]}"
    await channel.queue_declare(name, exclusive=True, arguments=arguments)
    return name


def to(queue: str, body: bytes = b"body", exchange: str = "", **more: Any) -> Message:
    return Message(exchange=exchange, key=queue, body=body, id=f"id.{next(_numbers)}", **more)


async def bodies(channel: AbstractChannel, queue: str) -> list[bytes]:
    found: list[bytes] = []
    while isinstance((got := await channel.basic_get(queue, no_ack=True)).delivery, commands.Basic.GetOk):
        found.append(got.body)
    return found


async def test_each_of_many_in_one_write_is_confirmed_and_they_keep_their_order(
    line: Line, channel: AbstractChannel, queue: str
) -> None:
    found = await line.publish([to(queue, str(number).encode()) for number in range(500)])
    assert found == [Answer.CONFIRMED] * 500
    assert await bodies(channel, queue) == [str(number).encode() for number in range(500)]


async def test_a_returned_message_is_told_apart_from_the_others(line: Line, queue: str) -> None:
    found = await line.publish([to("nowhere" if number % 7 == 3 else queue) for number in range(100)])
    assert [number for number, answer in enumerate(found) if answer is Answer.RETURNED] == list(range(3, 100, 7))
    assert found.count(Answer.CONFIRMED) == 100 - found.count(Answer.RETURNED)
    assert await line.publish([to(queue), to("nowhere", b""), to(queue)]) == [
        Answer.CONFIRMED,
        Answer.RETURNED,
        Answer.CONFIRMED,
    ]


async def test_what_may_get_lost_is_confirmed_all_the_same(line: Line) -> None:
    assert await line.publish([to("nowhere", is_mandatory=False)]) == [Answer.CONFIRMED]


async def test_a_refused_message_is_told_apart_from_the_others(
    line: Line, channel: AbstractChannel, queue: str
) -> None:
    full = await declared(channel, **{"x-max-length": 1, "x-overflow": "reject-publish"})
    await line.publish([to(full)])
    found = await line.publish([to(queue), to(full), to(queue), to(full)])
    assert found == [Answer.CONFIRMED, Answer.REFUSED, Answer.CONFIRMED, Answer.REFUSED]


async def test_a_channel_that_the_broker_closes_leaves_nobody_waiting(line: Line, queue: str) -> None:
    found = await line.publish([to(queue, exchange="there-is-none"), *(to(queue) for _ in range(50))])
    assert set(found) == {Answer.LOST}
    assert has_ended(line.channel)
    await acknowledge(line.channel, [1], [2])  # nothing to write to, and nothing said


async def test_a_channel_that_was_closed_takes_nothing_and_its_connection_lives(link: Link, line: Line) -> None:
    await line.channel.close()
    with pytest.raises(RuntimeError):
        await line.publish([to("anywhere")])
    other = Line(await link.channel(confirms=True), link)
    assert await other.publish([to(await declared(other.channel))]) == [Answer.CONFIRMED]


async def test_the_number_of_a_channel_that_is_gone_belongs_to_the_driver_again(link: Link, queue: str) -> None:
    channel = await link.channel()
    link.deliver(channel, lambda _delivered: pytest.fail("nobody consumes here any more"))
    number = channel.number  # type: ignore[attr-defined]
    await channel.close()
    again = await link.channel()
    while again.number != number:  # type: ignore[attr-defined]
        again = await link.channel()
    arrived: asyncio.Queue[Any] = asyncio.Queue()
    await again.basic_consume(queue, arrived.put, no_ack=True)
    await again.basic_publish(b"words", routing_key=queue)
    assert (await asyncio.wait_for(arrived.get(), 5)).body == b"words"


async def test_an_empty_body_and_a_large_one_arrive(line: Line, link: Link, queue: str) -> None:
    sent = [b"", b"x" * 100_000, b"last"]
    await line.publish([to(queue, body, priority=3, correlation_id="cé", headers={"a": "ü", "b": ""}) for body in sent])
    channel = await link.channel()
    arrived: list[Delivered] = []
    link.deliver(channel, arrived.append)
    assert await consume(channel, queue)
    async with asyncio.timeout(5):
        while len(arrived) < 3:
            await asyncio.sleep(0.01)
    assert [one.body for one in arrived] == sent
    assert [one.tag for one in arrived] == [1, 2, 3]
    assert arrived[0].origin == ("", queue)
    said: Any = arrived[1].properties
    assert (said.priority, said.correlation_id, said.headers) == (3, "cé", {"a": "ü", "b": ""})
    assert (said.delivery_mode, said.content_type, said.app_id, said.message_type) == (
        2,
        "application/json",
        "actorjobs",
        "hint",
    )


async def test_a_message_in_several_frames_arrives_whole(link: Link, queue: str) -> None:
    large = bytes(range(256)) * 2000
    publishing = await link.channel(confirms=True)
    await publishing.basic_publish(large, routing_key=queue)
    channel = await link.channel()
    arrived: list[Delivered] = []
    link.deliver(channel, arrived.append)
    await consume(channel, queue)
    async with asyncio.timeout(5):
        while not arrived:
            await asyncio.sleep(0.01)
    assert arrived[0].body == large


async def test_deliveries_are_settled_each_as_it_was_said(line: Line, channel: AbstractChannel, queue: str) -> None:
    await line.publish([to(queue, str(number).encode()) for number in range(6)])
    tags = [(await channel.basic_get(queue)).delivery.delivery_tag for _ in range(6)]
    await acknowledge(channel, tags[:2], tags[2:4])
    await channel.basic_qos(prefetch_count=0)  # answered after what was written before
    assert sorted(await bodies(channel, queue)) == [b"2", b"3"]
    await acknowledge(channel, tags[4:], [])
    await channel.basic_qos(prefetch_count=0)
    await channel.basic_recover(requeue=True)
    assert await bodies(channel, queue) == []


async def test_only_what_is_settled_is_acknowledged_whatever_the_order(
    line: Line, channel: AbstractChannel, queue: str
) -> None:
    await line.publish([to(queue, str(number).encode()) for number in range(20)])
    settler = Settler(channel)
    tags = [(await channel.basic_get(queue)).delivery.delivery_tag for _ in range(20)]
    for tag in tags:
        settler.received(tag)
    for some in ([0, 1, 2], [7, 3], [5], [4, 6, 9, 11], [15]):
        for index in some:
            settler.settle(tags[index], is_done=True)
        await settler.flush()
    settler.settle(tags[10], is_done=False)
    settler.settle(tags[8], is_done=True)
    await settler.flush()
    await channel.basic_qos(prefetch_count=0)
    assert await bodies(channel, queue) == [b"10"]
    await channel.basic_recover(requeue=True)
    assert sorted(map(int, await bodies(channel, queue))) == [12, 13, 14, 16, 17, 18, 19]
