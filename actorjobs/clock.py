"""Time through one port, so that a test can own it.

`SystemClock` is the machine's time; statements that it accompanies use the database's own `now`. `VirtualClock` only
moves when told to, binds its own `now` into every statement, and lets hours of retries pass in milliseconds.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Protocol

from actorjobs.errors import InvalidOption


class Clock(Protocol):
    """What the runtime knows of time. Seconds are floats, instants are aware datetimes in UTC."""

    @property
    def is_virtual(self) -> bool:
        """True when statements must bind `now()` instead of asking the database."""
        ...

    def now(self) -> datetime: ...

    def monotonic(self) -> float: ...

    async def sleep(self, seconds: float) -> None: ...

    def call_later(self, seconds: float, callback: Callable[[], object]) -> Timer:
        """Call `callback` on the loop after so many seconds, unless the timer is canceled."""
        ...


class Timer(Protocol):
    """A call that is yet to come."""

    def cancel(self) -> None: ...


class SystemClock:
    """The machine's clock and the event loop's timers."""

    is_virtual = False

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def call_later(self, seconds: float, callback: Callable[[], object]) -> Timer:
        return asyncio.get_running_loop().call_later(seconds, callback)

    def __repr__(self) -> str:
        return "SystemClock()"


LONGEST_SPAN_SECONDS = 10 * 365 * 86400.0


class _VirtualTimer:
    def __init__(self, callback: Callable[[], object]) -> None:
        self.callback: Callable[[], object] | None = callback

    def cancel(self) -> None:
        self.callback = None


Settle = Callable[[], Awaitable[None]]


class VirtualClock:
    """Time that passes only in `advance()`.

    Sleepers wake in the order of their deadlines. After each wake-up `advance` waits until everything that registered
    with `settles_by` has come to rest, so that the work of one instant is done before the next begins.
    """

    is_virtual = True

    def __init__(self, start: datetime | None = None) -> None:
        self._start = start or datetime(2030, 1, 1, tzinfo=UTC)
        self._elapsed = 0.0
        self._order = itertools.count()
        self._timers: list[tuple[float, int, _VirtualTimer]] = []
        self._settles: list[Settle] = []

    def now(self) -> datetime:
        return self._start + timedelta(seconds=self._elapsed)

    def monotonic(self) -> float:
        return self._elapsed

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        timer = self.call_later(seconds, lambda: None if waiter.done() else waiter.set_result(None))
        try:
            await waiter
        finally:
            timer.cancel()

    def call_later(self, seconds: float, callback: Callable[[], object]) -> Timer:
        timer = _VirtualTimer(callback)
        heapq.heappush(self._timers, (self._elapsed + max(0.0, seconds), next(self._order), timer))
        return timer

    def settles_by(self, settle: Settle) -> Callable[[], None]:
        """Have `advance` await `settle()` at every instant; returns the function that takes this back."""
        self._settles.append(settle)
        return lambda: self._settles.remove(settle)

    async def advance(self, seconds: float = 0.0, *, minutes: float = 0.0, hours: float = 0.0) -> None:
        """Let time pass, waking each sleeper at its own instant."""
        span = seconds + 60 * minutes + 3600 * hours
        if not 0 <= span <= LONGEST_SPAN_SECONDS:
            raise InvalidOption(f"a clock advances by 0 seconds to ten years, not by {span!r}")
        target = self._elapsed + span
        await self.settle()
        while (due := self._next_due()) is not None and due <= target:
            self._elapsed = due
            self._fire()
            await self.settle()
        self._elapsed = target
        await self.settle()

    async def settle(self) -> None:
        """Wait until the work of this instant is done, without letting time pass."""
        await asyncio.sleep(0)
        for settle in list(self._settles):
            await settle()

    def _next_due(self) -> float | None:
        while self._timers and self._timers[0][2].callback is None:
            heapq.heappop(self._timers)
        return self._timers[0][0] if self._timers else None

    def _fire(self) -> None:
        """Run everything due at this instant."""
        while (due := self._next_due()) is not None and due <= self._elapsed:
            _, _, timer = heapq.heappop(self._timers)
            callback, timer.callback = timer.callback, None
            if callback is not None:
                callback()

    def __repr__(self) -> str:
        return f"VirtualClock({self.now().isoformat()})"
