"""One attempt in progress, as seen by those who may want to end it."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Any

from actorjobs.clock import Clock, Timer
from actorjobs.jobs import Actor, JobContext
from actorjobs.model import CancelReason
from actorjobs.ports import Claim
from actorjobs.worker.outcome import Ended

logger = logging.getLogger("actorjobs.worker")

CANCEL_GRACE_SECONDS = 5.0
"""How long a canceled handler may clean up before its slot is given to the next run."""


@dataclass(slots=True)
class Seat:
    """The actor that performs a run: its name, what the application keeps in it, and whether a handler wants it to be
    renewed."""

    name: str
    own: Actor | None = None
    is_to_renew: bool = False


class Performance:
    """A handler at work. Canceling asks it to end; if it does not within the grace, nobody waits for it any longer."""

    __slots__ = (
        "_clock",
        "_end",
        "_grace",
        "_survives_lease",
        "_task",
        "claim",
        "ctx",
        "is_cancelable",
        "is_on_loop",
    )

    def __init__(
        self,
        *,
        claim: Claim,
        ctx: JobContext[Any],
        is_cancelable: bool,
        is_on_loop: bool,
        survives_lease: bool,
        clock: Clock,
    ) -> None:
        """A handler beside the loop, in a thread or a child process, is surely busy as long as it has not ended."""
        self.claim = claim
        self.ctx = ctx
        self.is_cancelable = is_cancelable
        self.is_on_loop = is_on_loop
        self._survives_lease = survives_lease
        self._clock = clock
        self._task: asyncio.Task[Ended] | None = None
        self._end: asyncio.Future[Ended] = asyncio.get_running_loop().create_future()
        self._grace: Timer | None = None

    @property
    def task(self) -> asyncio.Task[Ended] | None:
        return self._task

    async def run(self, task: asyncio.Task[Ended]) -> Ended:
        """Wait for the handler's end, or for the moment when it is given up."""
        self._task = task
        task.add_done_callback(self._handler_ended)
        try:
            return await self._end
        finally:
            if self._grace is not None:
                self._grace.cancel()

    def cancel(self, reason: CancelReason) -> None:
        """Ask the handler to end; the first reason stands. One that runs in a thread can only be told."""
        if reason is CancelReason.LOST and self._survives_lease:
            return
        if self.ctx.cancel_reason is not None or self._end.done() or self._task is None:
            return
        self.ctx.cancel_reason = reason
        if self.is_cancelable:
            self._task.cancel()
        self._grace = self._clock.call_later(CANCEL_GRACE_SECONDS, self.abandon)

    def abandon(self) -> None:
        """Give the handler up. It may go on, but its run and its slot are no longer its own."""
        if not self._end.done():
            logger.error(
                "run %s (%s) ignores that it was canceled (%s): its slot goes to the next run",
                self.claim.run_id,
                self.claim.job,
                self.ctx.cancel_reason,
            )
            self._end.set_result(Ended(is_abandoned=True))

    def _handler_ended(self, task: asyncio.Task[Ended]) -> None:
        if not self._end.done():
            self._end.set_result(Ended(error=asyncio.CancelledError()) if task.cancelled() else task.result())
