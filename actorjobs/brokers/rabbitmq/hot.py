"""The frames that every run pays for, read and written as bytes: deliveries and acknowledgements, hints and confirms.

The driver takes a dozen awaits and a task for each of them, which is most of what a hint costs. Everything else, from
the login to the end, it does itself: what is not taken here reaches it byte for byte as the broker sent it. It asks for
its streams at `Transport`, a public seam of aiormq.

Frames: AMQP 0-9-1, section 4.2.3; methods and properties: its section 1 of the XML specification.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import lru_cache
from struct import Struct
from typing import Any, Final

from aiormq.connection import TransportFactory
from aiormq.exceptions import AMQPConnectionError
from pamqp.commands import Basic
from pamqp.header import ContentHeader

_FRAME: Final = Struct(">BHI")  # kind, channel, size
_CONTENT: Final = Struct(">HHQH")  # class, weight, size of the body, which properties there are
_TAGGED: Final = Struct(">QB")  # delivery tag, bits
_SETTLED: Final = Struct(">BHIIQBB")  # a whole frame: method, delivery tag, bits
_METHOD, _HEADER, _BODY = 1, 2, 3
_END: Final = b"\xce"
_KINDS: Final = frozenset((_METHOD, _HEADER, _BODY, 8))
_HEARTBEAT: Final = b"\x08\x00\x00\x00\x00\x00\x00\xce"
_DELIVER, _RETURN = b"\x00\x3c\x00\x3c", b"\x00\x3c\x00\x32"
_ACK, _NACK = b"\x00\x3c\x00\x50", b"\x00\x3c\x00\x78"
_CLOSES: Final = (b"\x00\x14\x00\x28", b"\x00\x14\x00\x29")
_REQUEUE: Final = 2
LARGEST_KEPT: Final = 1 << 20
"""Bytes of a message that is no hint. (A database server takes so much in one statement, however it is set up.)"""
STREAM_LIMIT: Final = 2**16
ALIVE_SECONDS: Final = 1.0


class Delivered:
    """A message as it came: `tag` and `body`; the rest is decoded for whoever asks."""

    __slots__ = ("_header", "_method", "body", "size", "tag")

    def __init__(self, method: bytes, header: bytes, body: bytes, size: int) -> None:
        self._method = method
        self._header = header
        self.body = body
        """Its beginning only, where it is larger than `LARGEST_KEPT`; `size` is how many bytes it has."""
        self.size = size
        after = 5 + method[4]  # what comes first is the consumer's tag
        self.tag: int = int.from_bytes(method[after : after + 8], "big")

    @property
    def origin(self) -> tuple[str, str]:
        """The exchange and the routing key that it was published with."""
        deliver = Basic.Deliver()
        deliver.unmarshal(self._method[4:])
        return str(deliver.exchange), str(deliver.routing_key)

    @property
    def properties(self) -> Basic.Properties:
        return _properties(self._header)


def _properties(header: bytes) -> Basic.Properties:
    content = ContentHeader()
    content.unmarshal(header)
    return content.properties


class _Channel:
    """What is taken of one channel's frames, and the message that is just arriving on it."""

    __slots__ = ("_header", "_left", "_method", "_parts", "_size", "answered", "delivered", "returned")

    def __init__(
        self,
        delivered: Callable[[Delivered], None] | None = None,
        answered: Callable[[int, bool, bool], None] | None = None,
        returned: Callable[[str], None] | None = None,
    ) -> None:
        self.delivered = delivered
        self.answered = answered
        self.returned = returned
        self._method: bytes | None = None
        self._header = b""
        self._parts: list[bytes] = []
        self._size = self._left = 0

    def takes(self, kind: int, frame: bytes) -> bool:
        """Whether this frame, without its head and end, is none of the driver's business; if so, it is dealt with."""
        if self._method is None:
            return kind == _METHOD and self._takes_method(frame)
        if kind == _HEADER:
            self._header, self._parts = frame, []
            self._size = self._left = int.from_bytes(frame[4:12], "big")
        else:
            if self._size - self._left < LARGEST_KEPT:
                self._parts.append(frame)
            self._left -= len(frame)
        if self._left <= 0:
            method, self._method = self._method, None
            self._arrived(method)
        return True

    def _takes_method(self, frame: bytes) -> bool:
        name = frame[:4]
        if self.delivered is not None:
            if name == _DELIVER:
                self._method = frame
                return True
        elif self.answered is not None:
            if name in (_ACK, _NACK):
                tag, bits = _TAGGED.unpack_from(frame, 4)
                self.answered(tag, bool(bits & 1), name == _ACK)
                return True
            if name == _RETURN:
                self._method = frame
                return True
        return False

    def _arrived(self, method: bytes) -> None:
        if self.delivered is not None:
            body = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
            self.delivered(Delivered(method, self._header, body, self._size))
        elif self.returned is not None:
            self.returned(str(_properties(self._header).message_id))


class HotFrames(asyncio.StreamReaderProtocol):
    """Between the socket and the driver's stream."""

    def __init__(self, reader: asyncio.StreamReader, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(reader, loop=loop)
        self._clock = loop.time
        self._channels: dict[int, _Channel] = {}
        self._rest = b""
        self._is_foreign = False
        self._fed_at = 0.0

    def deliver(self, channel: int, delivered: Callable[[Delivered], None]) -> None:
        """Give every message that the broker delivers on this channel to `delivered`, until the channel ends."""
        self._channels[channel] = _Channel(delivered=delivered)

    def confirm(
        self, channel: int, answered: Callable[[int, bool, bool], None], returned: Callable[[str], None]
    ) -> None:
        """Tell `answered(tag, and all before it, is taken)` what becomes of messages published on this channel, and
        `returned(message id)`, before that, which of them no queue was there for, until the channel ends."""
        self._channels[channel] = _Channel(answered=answered, returned=returned)

    def data_received(self, data: bytes) -> None:
        buffer = self._rest + data if self._rest else data
        at, cold, end = 0, 0, len(buffer)
        while end - at >= 8 and not self._is_foreign:
            kind, number, size = _FRAME.unpack_from(buffer, at)
            after = at + size + 8
            if kind not in _KINDS:
                self._is_foreign = True  # another protocol's: the driver has words for that
                break
            if after > end:
                break
            channel = self._channels.get(number)
            if channel is not None:
                frame = buffer[at + 7 : after - 1]
                if channel.takes(kind, frame):
                    if cold < at:
                        self._feed(buffer[cold:at])
                    cold = after
                elif kind == _METHOD and frame[:4] in _CLOSES:
                    del self._channels[number]  # its number may be another channel's soon
            at = after
        if self._is_foreign:
            at = end
        if cold < at:
            self._feed(buffer[cold:at])
        elif self._clock() - self._fed_at > ALIVE_SECONDS:
            self._feed(_HEARTBEAT)  # the driver takes silence for the end of the connection
        self._rest = buffer[at:]

    def eof_received(self) -> bool | None:
        self._feed_rest()
        return super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._feed_rest()
        super().connection_lost(exc)

    def _feed_rest(self) -> None:
        rest, self._rest = self._rest, b""
        if rest:
            self._feed(rest)

    def _feed(self, data: bytes) -> None:
        self._fed_at = self._clock()
        super().data_received(data)


class Transport(TransportFactory):
    """Makes the driver's streams, with `frames` between them and the socket."""

    frames: HotFrames

    async def create(self, url: Any, **options: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        provider = options.pop("ssl_context_provider")
        context = await provider.get_context() if url.scheme == "amqps" else None
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=STREAM_LIMIT, loop=loop)
        self.frames = HotFrames(reader, loop)
        try:
            transport, _ = await loop.create_connection(lambda: self.frames, url.host, url.port, ssl=context, **options)
        except OSError as error:
            raise AMQPConnectionError(*error.args) from error
        return reader, asyncio.StreamWriter(transport, self.frames, reader, loop)


# what is written


def publish_frames(
    channel: int,
    *,
    exchange: str,
    key: str,
    is_mandatory: bool,
    body: bytes,
    priority: int | None,
    message_id: str,
    correlation_id: str | None,
    headers: Mapping[str, str],
) -> bytes:
    """A persistent message of ours as the three frames that it is published with."""
    flags, values = 0x9080 | 0x0020 | 0x0008, [_CONTENT_TYPE]
    if headers:
        flags |= 0x2000
        values.append(_table(headers))
    values.append(b"\x02")  # persistent
    if priority is not None:
        flags |= 0x0800
        values.append(priority.to_bytes(1, "big"))
    if correlation_id is not None:
        flags |= 0x0400
        values.append(_short(correlation_id))
    values.append(_short(message_id))
    values.append(_TYPE_AND_APP)
    header = _CONTENT.pack(60, 0, len(body), flags) + b"".join(values)
    method = _publish_method(exchange, key, is_mandatory)
    parts = [_FRAME.pack(_METHOD, channel, len(method)), method, _END]
    parts += [_FRAME.pack(_HEADER, channel, len(header)), header, _END]
    if body:
        parts += [_FRAME.pack(_BODY, channel, len(body)), body, _END]
    return b"".join(parts)


def settle_frame(channel: int, tag: int, *, is_done: bool, is_multiple: bool = False) -> bytes:
    """Acknowledge a delivery, with all before it if `is_multiple`; or have it delivered again."""
    if is_done:
        return _SETTLED.pack(_METHOD, channel, 13, 0x003C0050, tag, is_multiple, 0xCE)
    return _SETTLED.pack(_METHOD, channel, 13, 0x003C0078, tag, _REQUEUE | is_multiple, 0xCE)


@lru_cache(maxsize=4096)
def _publish_method(exchange: str, key: str, is_mandatory: bool) -> bytes:
    return b"\x00\x3c\x00\x28\x00\x00" + _short(exchange) + _short(key) + bytes((is_mandatory,))


def _short(text: str) -> bytes:
    """At most 255 bytes, which the caller sees to."""
    encoded = text.encode()
    return len(encoded).to_bytes(1, "big") + encoded


def _table(headers: Mapping[str, str]) -> bytes:
    fields: list[bytes] = []
    for name, value in headers.items():
        encoded = value.encode()
        fields += [_short(name), b"S", len(encoded).to_bytes(4, "big"), encoded]
    table = b"".join(fields)
    return len(table).to_bytes(4, "big") + table


_CONTENT_TYPE: Final = _short("application/json")
_TYPE_AND_APP: Final = _short("hint") + _short("actorjobs")
