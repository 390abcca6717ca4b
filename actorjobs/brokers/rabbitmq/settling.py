"""Settling deliveries: each once, many in one write, and never on another channel than the one they came by."""

from __future__ import annotations

import asyncio
from itertools import takewhile
from typing import Any

from aiormq.abc import AbstractChannel

from actorjobs.brokers.rabbitmq.hot import LARGEST_KEPT, Delivered
from actorjobs.brokers.rabbitmq.pipeline import acknowledge
from actorjobs.ports import Hint, Quarantined


class Settler:
    """Settles the deliveries of one channel, each once, many in one write; void once the channel is gone."""

    def __init__(self, channel: AbstractChannel) -> None:
        self.channel = channel
        self._open: dict[int, None] = {}
        """In the order in which they came, which is that of their tags."""
        self._acks: list[int] = []
        self._nacks: list[int] = []
        self._pending = asyncio.Event()
        self.is_void = False

    def __len__(self) -> int:
        """Deliveries that the broker still counts as ours."""
        return len(self._open)

    def received(self, tag: int) -> None:
        self._open[tag] = None

    @property
    def newest(self) -> int:
        """The tag of the latest delivery that is still to be settled; 0 without one."""
        return next(reversed(self._open), 0)

    def open_after(self, tag: int) -> int:
        """How many deliveries that came after this one are still to be settled."""
        return sum(1 for _ in takewhile(lambda one: one > tag, reversed(self._open)))

    def has(self, tag: int) -> bool:
        """Whether the delivery is still to be settled."""
        return tag in self._open

    def void(self) -> None:
        """The channel is gone: the broker has taken everything back."""
        self.is_void = True
        self._open.clear()

    def settle(self, tag: int, *, is_done: bool) -> None:
        """Acknowledge it, or have it delivered again. A second call does nothing."""
        if tag in self._open:
            del self._open[tag]
            (self._acks if is_done else self._nacks).append(tag)
            self._pending.set()

    async def work(self) -> None:
        """Write what is to be settled, as long as the channel lasts."""
        while True:
            await self._pending.wait()
            self._pending.clear()
            await self.flush()

    async def flush(self) -> None:
        acks, self._acks = self._acks, []
        nacks, self._nacks = self._nacks, []
        if nacks:
            await acknowledge(self.channel, acks, nacks)
        elif acks:
            # All that came before the oldest one which is still open.
            oldest = next(iter(self._open), None)
            settled = [tag for tag in acks if oldest is None or tag < oldest]
            left = acks if len(settled) < 2 else [tag for tag in acks if oldest is not None and tag > oldest]
            await acknowledge(self.channel, left, nacks, all_until=max(settled) if len(settled) > 1 else None)


class Held:
    """A hint that has arrived and is not decided on yet."""

    __slots__ = ("hint", "is_early", "settler", "since", "tag", "takes_suspect", "tries")

    def __init__(self, hint: Hint, tag: int, settler: Settler, since: float) -> None:
        self.hint = hint
        self.tag = tag
        self.settler = settler
        self.since = since
        self.tries = 0
        self.takes_suspect = False
        self.is_early = False
        """Whether it waits for the moment at which its run is due."""

    @property
    def is_void(self) -> bool:
        """Whether the broker has taken it back, with the channel it came by."""
        return not self.settler.has(self.tag)

    def ack(self) -> None:
        self.settler.settle(self.tag, is_done=True)

    def nack(self) -> None:
        self.settler.settle(self.tag, is_done=False)


def quarantined(delivered: Delivered, queue: str, reason: str) -> Quarantined:
    """A message as it is kept: its bytes, and what it said of itself."""
    properties: Any = delivered.properties
    exchange, key = delivered.origin
    if delivered.size > LARGEST_KEPT:
        reason = f"{reason}; of its {delivered.size} bytes the first {LARGEST_KEPT} are kept"
    names = ("content_type", "message_id", "correlation_id", "app_id", "message_type", "headers", "timestamp")
    said = {name: getattr(properties, name, None) for name in names}
    said |= {"exchange": exchange, "routing_key": key}
    kept = {name: value for name, value in said.items() if value is not None}
    return Quarantined(queue=queue, reason=reason, body=delivered.body[:LARGEST_KEPT], properties=kept)
