"""One connection to the broker, with what its driver leaves open closed: no await of the driver's can hang for ever or
end in a cancellation that nobody asked for."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

import aio_pika
from aio_pika.connection import make_url
from aiormq.abc import AbstractChannel, AbstractConnection
from aiormq.exceptions import (
    AMQPChannelError,
    AuthenticationError,
    ConnectionNotAllowed,
    InvalidFrameError,
    ProbableAuthenticationError,
)

from actorjobs.brokers.rabbitmq.address import Address
from actorjobs.brokers.rabbitmq.hot import Delivered, HotFrames, Transport
from actorjobs.errors import BrokerUnavailable

T = TypeVar("T")

TIMEOUT_SECONDS = 10.0
CLOSE_SECONDS = 2.0

for _driver in ("aiormq", "aio_pika"):
    # They tell of each lost connection several times, with tracebacks; our own log says it once. Who sets up logging
    # hears them all the same.
    logging.getLogger(_driver).addHandler(logging.NullHandler())

ChannelRefused = AMQPChannelError
"""The broker's answer to a request that it will not fulfil (403 to 406): the channel is gone, the link lives."""


class BrokerRefused(BrokerUnavailable):
    """The broker is there and will not have us, or we not it: a wrong password, a virtual host that does not exist, a
    certificate that is not to be trusted."""


async def guarded(work: Awaitable[T], *, timeout: float | None = TIMEOUT_SECONDS) -> T:
    """What the driver's call gives. `BrokerUnavailable` when the connection dies meanwhile or the broker is silent;
    `ChannelRefused` when it says no.

    The call has a task of its own. A connection that dies cancels whoever waits for it, which inside a task group would
    end the group without a word; and a request that is canceled half-way takes its channel along, or worse.
    """
    task = asyncio.ensure_future(work)
    task.add_done_callback(_retrieve)
    await asyncio.wait({task}, timeout=timeout)
    if not task.done():
        raise BrokerUnavailable(f"the broker did not answer within {timeout:g} s")
    if task.cancelled():
        raise BrokerUnavailable("the connection to the broker was lost")
    error = task.exception()
    if error is None:
        return task.result()
    if isinstance(error, ChannelRefused):
        raise error
    raise BrokerUnavailable(f"the connection to the broker was lost: {_said(error)}") from error


def _retrieve(task: asyncio.Future[Any]) -> None:
    if not task.cancelled():
        task.exception()


class Link:
    """A connection that is open, or was."""

    def __init__(self, outer: aio_pika.abc.AbstractConnection, frames: HotFrames, host: str) -> None:
        assert outer.transport is not None
        self._outer = outer
        self._connection: AbstractConnection = outer.transport.connection
        self.frames = frames
        self.host = host
        self.lost = _observed(self._connection)

    @classmethod
    async def connect(cls, address: Address, host: str, port: int, *, name: str) -> Link:
        """Connect to one host. `BrokerUnavailable`."""
        if address.missing_files:
            raise BrokerRefused(f"the broker's address names {' and '.join(address.missing_files)}: not there")
        url = address.url(host, port)
        properties: Any = {"connection_name": name}
        outer = aio_pika.Connection(make_url(url), client_properties=properties)
        outer.kwargs["transport_factory"] = transport = Transport()
        opening = asyncio.ensure_future(outer.connect(timeout=TIMEOUT_SECONDS))
        try:
            await guarded(opening, timeout=TIMEOUT_SECONDS + 1)
        except asyncio.CancelledError:
            await _undo(opening, outer)
            raise
        except BrokerUnavailable as error:
            await _undo(opening, outer)
            raise _failure(error, address, f"{host}:{port}") from None
        return cls(outer, transport.frames, f"{host}:{port}")

    @classmethod
    async def to_first(cls, address: Address, hosts: Sequence[tuple[str, int]], *, name: str) -> Link:
        """Connect to the first of these hosts that answers. `BrokerUnavailable` naming them all, `BrokerRefused` if
        each of them refuses."""
        problems: list[BrokerUnavailable] = []
        for host, port in hosts:
            try:
                return await cls.connect(address, host, port, name=name)
            except BrokerUnavailable as error:
                problems.append(error)
        kind = BrokerRefused if all(isinstance(one, BrokerRefused) for one in problems) else BrokerUnavailable
        raise kind("; ".join(map(str, problems)))

    @property
    def connection(self) -> aio_pika.abc.AbstractConnection:
        """The driver's own."""
        return self._outer

    @property
    def version(self) -> str:
        """The broker's version."""
        properties: Any = self._connection.server_properties
        return str(properties.get("version", "unknown"))

    @property
    def is_lost(self) -> bool:
        return self.lost.done()

    @property
    def why_lost(self) -> str:
        """Why the connection ended."""
        if self.lost.cancelled():
            return "the broker has missed its heartbeats"
        if not self.lost.done() or (error := self.lost.exception()) is None:
            return "the connection was closed"
        return _said(error)

    async def is_blocked(self) -> bool:
        """Whether the broker has stopped reading from this connection, for want of memory or disk."""
        ready = asyncio.ensure_future(self._connection.ready())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        try:
            return not ready.done() and not self.is_lost
        finally:
            ready.cancel()

    async def channel(self, *, confirms: bool = False) -> AbstractChannel:
        """A new channel. `BrokerUnavailable`."""
        return await guarded(self._connection.channel(publisher_confirms=confirms, on_return_raises=True))

    def deliver(self, channel: AbstractChannel, delivered: Callable[[Delivered], None]) -> None:
        """Give what is delivered on this channel to `delivered`, in the turn in which it arrives; see `consume`."""
        inner: Any = channel
        self.frames.deliver(inner.number, delivered)

    async def close(self) -> None:
        """End the connection, however that goes. A cancel meanwhile is not lost, and waits until it has ended: what
        the driver is left with half-way it may never end."""
        closing = asyncio.ensure_future(guarded(self._outer.close(), timeout=CLOSE_SECONDS))
        try:
            with suppress(BrokerUnavailable, ChannelRefused):
                await asyncio.shield(closing)
        except asyncio.CancelledError:
            await asyncio.wait({closing})
            with suppress(BrokerUnavailable, ChannelRefused):
                closing.result()
            raise


@asynccontextmanager
async def connected(address: Address, *, name: str) -> AsyncGenerator[Link]:
    """A connection to the first host that answers, for as long as the block lasts. `BrokerUnavailable`."""
    link = await Link.to_first(address, address.hosts, name=name)
    try:
        yield link
    finally:
        await link.close()


def _failure(error: BrokerUnavailable, address: Address, host: str) -> BrokerUnavailable:
    """Why there is no connection to that host, and whether somebody has to do something about it."""
    cause = error.__cause__
    if isinstance(cause, InvalidFrameError) and "Connection.OpenOk" in str(cause):
        # The driver has no words for a broker that closes the connection at this point.
        why = f"virtual host {address.vhost!r} is not there, or not open to user {address.user!r}"
        return BrokerRefused(f"{host}: {why}")
    if isinstance(cause, AuthenticationError | ProbableAuthenticationError):
        return BrokerRefused(f"{host}: the broker does not let user {address.user!r} in: the password may be wrong")
    kind = BrokerRefused if _needs_somebody(cause) else BrokerUnavailable
    return kind(f"{host}: {error if cause is None else _said(cause)}")


async def _undo(opening: asyncio.Task[None], outer: aio_pika.abc.AbstractConnection) -> None:
    """Nobody wants the connection any more that was just being made. (Left to itself, it would complain at the end.)"""
    opening.cancel()
    await asyncio.wait({opening}, timeout=CLOSE_SECONDS)
    with suppress(BrokerUnavailable, ChannelRefused):
        await guarded(outer.close(), timeout=CLOSE_SECONDS)


def on_end(channel: AbstractChannel, call: Callable[[], object]) -> asyncio.Future[Any]:
    """Have `call` called when the channel ends or the broker ends a consumer on it; canceling the future stops that."""
    channel.on_consumer_cancel_callbacks.add(lambda _frame: call())
    ended = _observed(channel)
    ended.add_done_callback(lambda done: None if done.cancelled() else call())
    return ended


def _observed(resource: Any) -> asyncio.Future[Any]:
    """An observer of the end of one of the driver's connections or channels."""
    observer: asyncio.Future[Any] = resource.closing
    return observer


async def consume(channel: AbstractChannel, queue: str) -> str | None:
    """Have the messages of a queue delivered on a channel that `Link.deliver` was called for; the consumer's tag.
    `BrokerUnavailable`, `ChannelRefused`."""
    return (await guarded(channel.basic_consume(queue, _nothing))).consumer_tag


async def _nothing(_delivered: object) -> None:
    """What the driver calls for messages; it sees none."""


async def close_channel(channel: AbstractChannel) -> None:
    """End a channel, whether or not it still lives."""
    with suppress(BrokerUnavailable, ChannelRefused):
        await guarded(channel.close(), timeout=CLOSE_SECONDS)


def _needs_somebody(error: BaseException | None) -> bool:
    """Whether trying again is in vain: a wrong password, or a certificate that is not to be trusted."""
    refusals = (AuthenticationError, ProbableAuthenticationError, ConnectionNotAllowed, ssl.SSLCertVerificationError)
    return error is not None and (isinstance(error, refusals) or _needs_somebody(error.__cause__))


def _said(error: BaseException) -> str:
    """The error in one line."""
    if isinstance(error, asyncio.CancelledError):
        return "the broker has missed its heartbeats"
    if isinstance(error, TimeoutError):
        return f"no answer within {TIMEOUT_SECONDS:g} s"
    words = " ".join(str(error).split())
    return f"{type(error).__name__}: {words}" if words else type(error).__name__
