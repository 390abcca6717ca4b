"""Periodic: one function, called again and again. A periodic duty is a function; this is the only loop there is."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from random import Random
from typing import Any

from actorjobs.actors.life import Life
from actorjobs.actors.service import Cancelled, Statistics, TaskService, Watcher
from actorjobs.actors.timing import Backoff, is_being_cancelled, lengthened, text_of, within
from actorjobs.clock import Clock, SystemClock
from actorjobs.errors import ActorJobsError, InvalidOption

logger = logging.getLogger("actorjobs.actors")

_MAX_REMEMBERED_ERRORS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class PeriodicStatistics(Statistics):
    """What a periodic tells about itself, over all its lives."""

    runs: int
    """Calls that ended, well or not."""
    failures: int
    failures_in_a_row: int
    last_error: str | None
    last_duration: float | None
    """Seconds the latest call took."""


class Periodic(TaskService):
    """Calls `fn()` every `interval` seconds, counted from the end of one call to the beginning of the next.

    `fn` returns True when there is more to do: then it is called again at once. A call that takes longer than `timeout`
    seconds is cancelled and has failed. A failure never ends it: it is counted, logged with its traceback the first
    time it is seen since the last success, and doubles the interval up to `max_interval` seconds until a call succeeds.
    `jitter` is the fraction by which an interval may be longer. `interval` may be a callable, asked each time. `stop`
    cancels the present call, `retire` waits for it.
    """

    def __init__(
        self,
        *,
        name: str,
        fn: Callable[[], Coroutine[Any, Any, bool | None]],
        interval: float | Callable[[], float],
        timeout: float = 30.0,
        jitter: float = 0.1,
        is_immediate: bool = True,
        max_interval: float = 300.0,
        clock: Clock | None = None,
        random: Random | None = None,
        on_exit: Watcher | None = None,
        context: contextvars.Context | None = None,
    ) -> None:
        """`is_immediate`: the first call comes at the start, not one interval later. Raises InvalidOption."""
        super().__init__(name=name, on_exit=on_exit, context=context)
        if not (timeout > 0 and jitter >= 0 and max_interval > 0 and (callable(interval) or interval > 0)):
            raise InvalidOption(f"{name}: interval, timeout and max_interval are seconds > 0, jitter a fraction >= 0")
        self._fn, self._interval = fn, interval
        self._timeout, self._jitter, self._max_interval = timeout, jitter, max_interval
        self._is_immediate = is_immediate
        self._clock, self._random = clock or SystemClock(), random or Random()
        self._kicked = asyncio.Event()
        self._calling: asyncio.Task[bool | None] | None = None
        self._runs = self._failures = self._streak = 0
        self._last_error: str | None = None
        self._last_duration: float | None = None
        self._logged: set[str] = set()

    def kick(self) -> None:
        """Call again now instead of after the interval; several kicks before that call are one. Not from a thread."""
        self._kicked.set()

    @property
    def is_calling(self) -> bool:
        """True while a call of `fn` is under way."""
        return self._calling is not None

    @property
    def holds_current_task(self) -> bool:
        """True also for a caller that runs inside `fn`."""
        return super().holds_current_task or (self._calling is not None and asyncio.current_task() is self._calling)

    def statistics(self) -> PeriodicStatistics:
        return PeriodicStatistics(
            name=self.name,
            is_running=self.is_running,
            starts=self._starts,
            runs=self._runs,
            failures=self._failures,
            failures_in_a_row=self._streak,
            last_error=self._last_error,
            last_duration=self._last_duration,
        )

    async def on_start(self) -> None:
        self._kicked = asyncio.Event()

    async def _run(self, life: Life) -> None:
        is_due = self._is_immediate
        while not life.ask:
            if not is_due:
                await self._rest(life)
            is_due = await self._call()

    async def _rest(self, life: Life) -> None:
        life.is_resting = True
        with suppress(TimeoutError):
            await within(self._seconds_to_rest(), self._kicked.wait(), clock=self._clock)
        life.is_resting = False

    def _seconds_to_rest(self) -> float:
        try:
            interval = self._interval() if callable(self._interval) else self._interval
            backoff = Backoff(base=interval, cap=max(interval, self._max_interval), jitter=self._jitter)
            return backoff.delay(self._streak + 1, self._random)
        except Exception as error:
            self._note_failure(error)
            return lengthened(self._max_interval, self._jitter, self._random)

    async def _call(self) -> bool:
        """True when there is more to do."""
        self._kicked.clear()
        began = self._clock.monotonic()
        try:
            has_more = await self._call_in_time()
        except Exception as error:
            self._note_failure(error)
            return False
        finally:
            self._runs += 1
            self._last_duration = self._clock.monotonic() - began
        self._note_success()
        return has_more is True

    async def _call_in_time(self) -> bool | None:
        self._calling = calling = asyncio.create_task(self._fn(), name=self.name)
        try:
            return await within(self._timeout, calling, clock=self._clock)
        except asyncio.CancelledError as error:
            if is_being_cancelled():
                raise
            raise Cancelled(f"{self.name}: the call was cancelled, and not by stop()") from error
        finally:
            self._calling = None

    def _note_failure(self, error: Exception) -> None:
        self._failures += 1
        self._streak += 1
        self._last_error = text_of(error)
        if self._last_error not in self._logged:
            # A known condition, such as a store that does not answer, is a line; only a surprise needs its traceback.
            logger.error("%s failed: %s", self.name, self._last_error, exc_info=_unless_known(error))
            self._logged = {self._last_error, *list(self._logged)[: _MAX_REMEMBERED_ERRORS - 1]}

    def _note_success(self) -> None:
        if self._streak:
            logger.info("%s succeeded again after %d failures", self.name, self._streak)
        self._streak = 0
        self._logged.clear()

    def _facts(self) -> str:
        return f"runs={self._runs}, failures={self._failures}"


def _unless_known(error: Exception) -> Exception | None:
    return None if isinstance(error, ActorJobsError) else error
