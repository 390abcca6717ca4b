"""Many messages in one write, each with a confirm of its own; and many acknowledgements in one write.

The driver's own `basic_publish` takes the channel's lock, a write and a dozen callbacks per message, at five times the
cost. Used here besides its public names: the channel's counters of confirms, as of aiormq 7.2. Tests hold them still.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from aiormq.abc import AbstractChannel, ChannelFrame
from pamqp import commands
from pamqp.body import ContentBody
from pamqp.header import ContentHeader

PERSISTENT = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """What is published. `id` must be unique: the broker returns a message by that name alone."""

    exchange: str
    key: str
    body: bytes
    id: str
    correlation_id: str | None = None
    priority: int | None = None
    headers: dict[str, Any] = field(default_factory=dict[str, Any])
    is_mandatory: bool = True
    """Whether it comes back when no queue is there to take it."""


async def publish(channel: AbstractChannel, messages: Sequence[Message]) -> list[asyncio.Future[Any]]:
    """Write them all. Each future ends with the broker's confirm, or fails: returned as unroutable, refused, or lost
    with the channel. `RuntimeError` when the channel is closed already."""
    confirms: list[asyncio.Future[Any]] = []
    frames: list[Any] = []
    inner: Any = channel
    async with inner.lock:
        for message in messages:
            inner.delivery_tag += 1
            confirm = inner.create_future()
            inner.confirmations[inner.delivery_tag] = confirm
            inner.message_id_delivery_tag[message.id] = inner.delivery_tag
            confirm.add_done_callback(partial(_forget, inner, message.id))
            confirms.append(confirm)
            frames += _frames(message)
        await _write(channel, frames)
    return confirms


def _forget(inner: Any, message_id: str, _confirm: object) -> None:
    inner.message_id_delivery_tag.pop(message_id, None)


def _frames(message: Message) -> tuple[Any, ...]:
    properties = commands.Basic.Properties(
        content_type="application/json",
        delivery_mode=PERSISTENT,
        priority=message.priority,
        message_id=message.id,
        correlation_id=message.correlation_id,
        message_type="hint",
        app_id="actorjobs",
        headers=message.headers or None,
    )
    return (
        commands.Basic.Publish(exchange=message.exchange, routing_key=message.key, mandatory=message.is_mandatory),
        ContentHeader(body_size=len(message.body), properties=properties),
        *([ContentBody(message.body)] if message.body else []),
    )


async def acknowledge(channel: AbstractChannel, acks: Sequence[int], nacks: Sequence[int]) -> None:
    """Settle these deliveries of the channel: done with, or to be delivered again."""
    frames: list[Any] = [commands.Basic.Ack(delivery_tag=tag) for tag in acks]
    frames += [commands.Basic.Nack(delivery_tag=tag, requeue=True) for tag in nacks]
    if not has_ended(channel):
        await _write(channel, frames)


async def _write(channel: AbstractChannel, frames: Sequence[Any]) -> None:
    inner: Any = channel
    frame: Any = ChannelFrame
    await inner.write_queue.put(frame.marshall(channel_number=inner.number, frames=frames))


def has_ended(channel: AbstractChannel) -> bool:
    """Whether the broker has closed the channel: a frame on it now would take the whole connection along."""
    inner: Any = channel
    return inner.is_closed or inner._close_exception is not None  # told before the channel counts as closed
