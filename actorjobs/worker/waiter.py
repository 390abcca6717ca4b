"""Waiting for runs to end, in this process or another: one query for all who wait, and none for what ends here."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from contextvars import Context

from actorjobs.clock import Clock
from actorjobs.errors import StoreUnavailable
from actorjobs.lifecycle import TERMINAL
from actorjobs.model import RunState
from actorjobs.ports import Store

FIRST_POLL_SECONDS = 0.02
LAST_POLL_SECONDS = 0.25


class Waiter:
    """Who waits for which run."""

    def __init__(self, *, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._waiting: dict[str, set[asyncio.Future[None]]] = {}
        self._polling: asyncio.Task[None] | None = None

    def note(self, run_id: str, state: RunState | None) -> None:
        """This run has just come to that state here."""
        if run_id in self._waiting and state in TERMINAL:
            for future in self._waiting.pop(run_id):
                if not future.done():
                    future.set_result(None)

    async def until_over(self, run_id: str, timeout: float | None) -> bool:
        """Wait until the run is terminal; False when `timeout` seconds of the clock passed first."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(run_id, set()).add(future)
        self._poll_if_idle()
        timer = None if timeout is None else self._clock.call_later(timeout, future.cancel)
        try:
            await asyncio.wait({future})
            return not future.cancelled()
        finally:
            if timer is not None:
                timer.cancel()
            self._forget(run_id, future)

    async def close(self) -> None:
        if self._polling is not None:
            self._polling.cancel()
            with suppress(asyncio.CancelledError):
                await self._polling

    def _forget(self, run_id: str, future: asyncio.Future[None]) -> None:
        waiting = self._waiting.get(run_id, set())
        waiting.discard(future)
        if not waiting:
            self._waiting.pop(run_id, None)

    def _poll_if_idle(self) -> None:
        if self._polling is None or self._polling.done():
            self._polling = asyncio.get_running_loop().create_task(
                self._poll(), name="actorjobs-waiter", context=Context()
            )

    async def _poll(self) -> None:
        pause = FIRST_POLL_SECONDS
        while self._waiting:
            with suppress(StoreUnavailable):
                asked = list(self._waiting)
                states = await self._store.states(asked)
                for run_id in asked:
                    # A run that is gone ends the waiting too: reading it then says so.
                    self.note(run_id, states.get(run_id, RunState.EXPIRED))
            # Real time even under a virtual clock: what is polled for is the outside world.
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, LAST_POLL_SECONDS)
