"""A whole runtime for a test, in which time passes only when the test says so."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

from actorjobs.clock import VirtualClock
from actorjobs.runtime import Runtime


class JobHarness:
    """A runtime that performs the jobs it is given, on a virtual clock; `async with` opens and drains it."""

    def __init__(self, *jobs: Any, store: str, **options: Any) -> None:
        """`options` are those of `Runtime`."""
        self.clock = VirtualClock()
        self.runtime = Runtime(store=store, jobs=jobs, clock=self.clock, **options)

    async def __aenter__(self) -> Self:
        await self.runtime.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.runtime.close()

    async def drain(self) -> None:
        """Have everything performed that is due now, with all that comes of it at once; no time passes."""
        await self.clock.settle()

    async def advance(self, seconds: float = 0.0, *, minutes: float = 0.0, hours: float = 0.0) -> None:
        """Let time pass: what is due meanwhile, delays and retries, is performed at its own instant."""
        await self.clock.advance(seconds, minutes=minutes, hours=hours)
