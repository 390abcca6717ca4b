"""Waiting for what comes to be by itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from actorjobs.brokers.rabbitmq.link import Link
from actorjobs.clock import SystemClock


async def until(is_so: Callable[[], bool], within: float = 15.0) -> float:
    """Wait for it; how many seconds that took."""
    began = time.monotonic()
    while not is_so():
        assert time.monotonic() - began < within, "it did not come to that"
        await asyncio.sleep(0.01)
    return time.monotonic() - began


async def ready(link: Link, name: str) -> int:
    """How many messages wait in that queue."""
    channel = await link.channel()
    number = (await channel.queue_declare(name, passive=True)).message_count or 0
    await channel.close()
    return number


async def becomes_ready(link: Link, name: str, number: int, within: float = 10.0) -> None:
    """Wait until so many messages wait in that queue."""
    async with asyncio.timeout(within):
        while await ready(link, name) != number:
            await asyncio.sleep(0.02)


class SkippingClock(SystemClock):
    """The machine's clock, of which a test may skip some seconds."""

    def __init__(self) -> None:
        self.skipped = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.skipped
