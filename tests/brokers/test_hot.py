"""The bytes of the hot frames: read as the driver reads them, however they are cut; the rest untouched."""

from __future__ import annotations

import asyncio
from typing import Any
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pamqp import commands, frame
from pamqp.body import ContentBody
from pamqp.header import ContentHeader
from pamqp.heartbeat import Heartbeat

from actorjobs.brokers.rabbitmq import hot
from actorjobs.brokers.rabbitmq.hot import Delivered, HotFrames, publish_frames, settle_frame

CONSUMING, CONFIRMING, OTHER = 1, 2, 3


class Reader:
    """Where the driver's stream would be."""

    def __init__(self) -> None:
        self.fed = b""

    def feed_data(self, data: bytes) -> None:
        self.fed += data

    def feed_eof(self) -> None: ...


class Wire:
    """Frames with one consuming and one confirming channel, and what has become of what was sent through them."""

    def __init__(self) -> None:
        self.delivered: list[Delivered] = []
        self.answered: list[tuple[int, bool, bool]] = []
        self.returned: list[str] = []
        loop = mock.Mock(spec=asyncio.AbstractEventLoop)
        loop.time.return_value = 0.0
        self.loop = loop
        self.reader = Reader()
        self.frames = HotFrames(asyncio.StreamReader(loop=loop), loop)
        self.frames._stream_reader_wr = lambda: self.reader  # type: ignore[attr-defined]
        self.frames.deliver(CONSUMING, self.delivered.append)
        self.frames.confirm(CONFIRMING, lambda *answer: self.answered.append(answer), self.returned.append)


def message(channel: int, method: Any, *bodies: bytes, message_id: str = "m") -> bytes:
    header = ContentHeader(body_size=sum(map(len, bodies)), properties=commands.Basic.Properties(message_id=message_id))
    parts = [method, header, *(ContentBody(body) for body in bodies)]
    return b"".join(frame.marshal(part, channel) for part in parts)


def deliver(tag: int, *bodies: bytes) -> bytes:
    method = commands.Basic.Deliver("a consumer", tag, False, "an exchange", "a key")
    return message(CONSUMING, method, *bodies)


HOT = [
    deliver(1, b"one"),
    deliver(2, b"tw", b"o!"),
    deliver(2**40),
    frame.marshal(commands.Basic.Ack(7, True), CONFIRMING),
    frame.marshal(commands.Basic.Nack(8, False), CONFIRMING),
    message(CONFIRMING, commands.Basic.Return(312, "NO_ROUTE", "", "q"), b"body", message_id="the id"),
]
COLD = [
    frame.marshal(Heartbeat(), 0),
    frame.marshal(commands.Basic.QosOk(), CONSUMING),
    frame.marshal(commands.Basic.Cancel("a consumer", True), CONSUMING),
    message(CONSUMING, commands.Basic.GetOk(5, False, "", "q", 0), b"got"),
    frame.marshal(commands.Basic.Ack(9), OTHER),
    message(OTHER, commands.Basic.Deliver("another", 1, False, "", "q"), b"theirs"),
    frame.marshal(commands.Connection.Blocked("memory"), 0),
]


@given(
    order=st.permutations([*HOT, *COLD]),
    cuts=st.lists(st.integers(0, sum(map(len, [*HOT, *COLD]))), max_size=20).map(sorted),
)
def test_frames_are_taken_and_passed_on_however_they_are_cut(order: list[bytes], cuts: list[int]) -> None:
    wire, sent = Wire(), b"".join(order)
    for start, end in zip([0, *cuts], [*cuts, len(sent)], strict=True):
        if sent[start:end]:
            wire.frames.data_received(sent[start:end])
    assert wire.reader.fed == b"".join(one for one in order if one in COLD)
    assert {one.tag: one.body for one in wire.delivered} == {1: b"one", 2: b"two!", 2**40: b""}
    assert [one.tag for one in wire.delivered] == [(1, 2, 2**40)[HOT.index(one)] for one in order if one in HOT[:3]]
    assert sorted(wire.answered) == [(7, True, True), (8, False, False)]
    assert wire.returned == ["the id"]
    assert wire.delivered[0].origin == ("an exchange", "a key")
    assert wire.delivered[0].properties.message_id == "m"


@pytest.mark.parametrize("close", [commands.Channel.Close(404, "gone", 0, 0), commands.Channel.CloseOk()])
def test_the_end_of_a_channel_ends_what_is_taken_of_it(close: Any) -> None:
    wire = Wire()
    ends, late = frame.marshal(close, CONSUMING), deliver(3, b"another channel's")
    wire.frames.data_received(deliver(1, b"one") + ends + late)
    assert [one.tag for one in wire.delivered] == [1]
    assert wire.reader.fed == ends + late


def test_the_driver_is_told_that_the_connection_lives_while_it_sees_nothing() -> None:
    wire = Wire()
    for second in range(10):
        wire.loop.time.return_value = second / 2
        wire.frames.data_received(HOT[0])
    assert {wire.reader.fed[n : n + 8] for n in range(0, len(wire.reader.fed), 8)} == {COLD[0]}
    assert 3 <= len(wire.reader.fed) // 8 <= 5


def test_of_a_huge_message_the_beginning_is_kept() -> None:
    wire, part = Wire(), b"x" * 100_000
    header = ContentHeader(body_size=30 * len(part), properties=commands.Basic.Properties())
    method = commands.Basic.Deliver("a consumer", 1, False, "", "q")
    for one in (method, header, *[ContentBody(part)] * 30):
        wire.frames.data_received(frame.marshal(one, CONSUMING))
    wire.frames.data_received(deliver(2, b"next"))
    huge, after = wire.delivered
    assert huge.size == 3_000_000
    assert hot.LARGEST_KEPT <= len(huge.body) < hot.LARGEST_KEPT + len(part)
    assert (after.tag, after.body) == (2, b"next")


def test_what_is_no_frame_is_the_drivers_affair() -> None:
    wire = Wire()
    wire.frames.data_received(b"AMQP\x00\x00\x09\x01 and")
    wire.frames.data_received(b" more")
    assert wire.reader.fed == b"AMQP\x00\x00\x09\x01 and more"


def test_half_a_frame_at_the_end_is_handed_on() -> None:
    wire = Wire()
    wire.frames.data_received(HOT[0][:20])
    wire.frames.eof_received()
    assert wire.reader.fed == HOT[0][:20]


TEXT = st.text(max_size=60)


@given(
    body=st.binary(max_size=300),
    priority=st.none() | st.integers(0, 9),
    correlation=st.none() | TEXT,
    headers=st.dictionaries(TEXT, TEXT, max_size=3),
    exchange=TEXT,
    is_mandatory=st.booleans(),
)
def test_what_is_published_reads_as_it_should(
    body: bytes,
    priority: int | None,
    correlation: str | None,
    headers: dict[str, str],
    exchange: str,
    is_mandatory: bool,
) -> None:
    sent = publish_frames(
        5,
        exchange=exchange,
        key="a.key",
        is_mandatory=is_mandatory,
        body=body,
        priority=priority,
        message_id="id",
        correlation_id=correlation,
        headers=headers,
    )
    read: list[Any] = []
    while sent:
        length, channel, one = frame.unmarshal(sent)
        assert channel == 5
        read.append(one)
        sent = sent[length:]
    method, header, *bodies = read
    assert (method.name, method.exchange, method.routing_key) == ("Basic.Publish", exchange, "a.key")
    assert method.mandatory is is_mandatory
    assert header.body_size == len(body)
    assert b"".join(one.value for one in bodies) == body
    said = header.properties
    assert (said.priority, said.correlation_id, said.headers or {}) == (priority, correlation, headers)
    assert (said.message_id, said.delivery_mode, said.content_type) == ("id", 2, "application/json")
    assert (said.message_type, said.app_id, said.expiration) == ("hint", "actorjobs", None)


@pytest.mark.parametrize("is_multiple", [False, True])
def test_what_is_settled_reads_as_it_should(is_multiple: bool) -> None:
    _, channel, ack = frame.unmarshal(settle_frame(9, 2**33, is_done=True, is_multiple=is_multiple))
    assert (channel, ack.name, ack.delivery_tag, ack.multiple) == (9, "Basic.Ack", 2**33, is_multiple)
    _, channel, nack = frame.unmarshal(settle_frame(9, 4, is_done=False, is_multiple=is_multiple))
    assert (nack.name, nack.delivery_tag, nack.multiple, nack.requeue) == ("Basic.Nack", 4, is_multiple, True)


def test_the_heartbeat_is_one() -> None:
    assert frame.marshal(Heartbeat(), 0) == hot._HEARTBEAT
