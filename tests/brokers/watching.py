"""Waiting for what comes to be by itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from actorjobs.clock import SystemClock


async def until(is_so: Callable[[], bool], within: float = 15.0) -> float:
    """Wait for it; how many seconds that took."""
    began = time.monotonic()
    while not is_so():
        assert time.monotonic() - began < within, "it did not come to that"
        await asyncio.sleep(0.01)
    return time.monotonic() - began


class SkippingClock(SystemClock):
    """The machine's clock, of which a test may skip some seconds."""

    def __init__(self) -> None:
        self.skipped = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.skipped
