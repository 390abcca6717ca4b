"""Many messages in one write, each with a confirm of its own; and many acknowledgements in one write."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import field
from enum import Enum, auto
from itertools import takewhile
from typing import Any, Generic, TypeVar

from aiormq.abc import AbstractChannel, ChannelFrame

from actorjobs.brokers.rabbitmq.hot import HotFrames, publish_frames, settle_frame
from actorjobs.records import record

T = TypeVar("T")


@record
class Message:
    """What is published. `id` must be unique: the broker returns a message by that name alone."""

    exchange: str
    key: str
    body: bytes
    id: str
    correlation_id: str | None = None
    priority: int | None = None
    headers: dict[str, str] = field(default_factory=dict[str, str])
    is_mandatory: bool = True
    """Whether it comes back when no queue is there to take it."""


class Answer(Enum):
    """What has become of a message."""

    CONFIRMED = auto()
    RETURNED = auto()
    """No queue was there to take it."""
    REFUSED = auto()
    """A queue was, and did not."""
    LOST = auto()
    """The channel ended before there was an answer."""


class Pipeline(Generic[T]):
    """Publishes on a channel with confirms; nothing else may publish on it. `answered(what, answer)` is called once for
    everything that was published, in the turn in which the broker's word arrives."""

    def __init__(self, channel: AbstractChannel, frames: HotFrames, answered: Callable[[T, Answer], None]) -> None:
        self.channel = channel
        inner: Any = channel
        self._answered = answered
        self._sent = 0
        self._waiting: dict[int, tuple[str, T]] = {}
        self._returned: set[str] = set()
        frames.confirm(inner.number, self._confirmed, self._returned.add)
        self._ended: asyncio.Future[Any] = inner.closing
        self._ended.add_done_callback(self._lost)

    def __len__(self) -> int:
        """Messages without an answer yet."""
        return len(self._waiting)

    async def publish(self, messages: Sequence[tuple[Message, T]]) -> None:
        """Write them all, each for something that `answered` is told of. `RuntimeError` when the channel is closed
        already."""
        inner: Any = self.channel
        if has_ended(inner):
            raise RuntimeError("the channel is closed")
        number = inner.number
        frames: list[bytes] = []
        for message, what in messages:
            self._sent += 1
            self._waiting[self._sent] = (message.id, what)
            frames.append(
                publish_frames(
                    number,
                    exchange=message.exchange,
                    key=message.key,
                    is_mandatory=message.is_mandatory,
                    body=message.body,
                    priority=message.priority,
                    message_id=message.id,
                    correlation_id=message.correlation_id,
                    headers=message.headers,
                )
            )
        await _write(inner, frames)

    def _confirmed(self, tag: int, is_multiple: bool, is_taken: bool) -> None:
        tags = list(takewhile(lambda one: one <= tag, self._waiting)) if is_multiple else [tag]
        for one in tags:
            if (waiting := self._waiting.pop(one, None)) is None:
                continue
            message_id, what = waiting
            if message_id in self._returned:
                self._returned.discard(message_id)
                answer = Answer.RETURNED
            else:
                answer = Answer.CONFIRMED if is_taken else Answer.REFUSED
            self._answered(what, answer)

    def _lost(self, _ended: object) -> None:
        waiting, self._waiting = self._waiting, {}
        for _, what in waiting.values():
            self._answered(what, Answer.LOST)


async def acknowledge(
    channel: AbstractChannel, acks: Sequence[int], nacks: Sequence[int], *, all_until: int | None = None
) -> None:
    """Settle these deliveries of the channel: done with, or to be delivered again; and all up to one of them, which is
    a tenth of the work for the broker."""
    inner: Any = channel
    frames = [] if all_until is None else [settle_frame(inner.number, all_until, is_done=True, is_multiple=True)]
    frames += [settle_frame(inner.number, tag, is_done=True) for tag in acks]
    frames += [settle_frame(inner.number, tag, is_done=False) for tag in nacks]
    if not has_ended(channel):
        await _write(channel, frames)


async def _write(channel: AbstractChannel, frames: Sequence[bytes]) -> None:
    inner: Any = channel
    await inner.write_queue.put(ChannelFrame(payload=b"".join(frames), should_close=False))


def has_ended(channel: AbstractChannel) -> bool:
    """Whether the broker has closed the channel: a frame on it now would take the whole connection along."""
    inner: Any = channel
    return inner.is_closed or inner._close_exception is not None  # told before the channel counts as closed
