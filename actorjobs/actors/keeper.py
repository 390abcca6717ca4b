"""Keeper: keeps one child alive. A straight line: make an instance, start it, wait for its end, wait a while, again."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from random import Random

from actorjobs.actors.actor import RestartActor
from actorjobs.actors.life import Life
from actorjobs.actors.service import StartInterrupted, Statistics, TaskService
from actorjobs.actors.timing import Backoff, text_of, within
from actorjobs.clock import Clock, SystemClock
from actorjobs.errors import InvalidOption

logger = logging.getLogger("actorjobs.actors")


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildSpec:
    """A child as data: `factory` makes a new instance for every start."""

    name: str
    factory: Callable[[], TaskService]


@dataclass(frozen=True, slots=True, kw_only=True)
class Restarts:
    """How crashed children are replaced. Times in seconds."""

    backoff: Backoff = field(default_factory=Backoff)
    healthy_after: float = 30.0
    """After that long without a crash the backoff begins anew, and a failing child has recovered."""
    max_restarts: int = 5
    window: float = 60.0
    """More crashes than `max_restarts` within `window`: the child is failing, and retried at the backoff's cap only."""

    def __post_init__(self) -> None:
        if not (self.healthy_after > 0 and self.max_restarts >= 0 and self.window > 0):
            raise InvalidOption(f"restarts need healthy_after > 0, max_restarts >= 0 and window > 0, not {self}")


class ChildState(StrEnum):
    STOPPED = "stopped"
    """Not started, or ended without an error: such a child is not replaced."""
    RUNNING = "running"
    RESTARTING = "restarting"
    """Crashed; waits for its next instance."""
    FAILING = "failing"
    """Given up, retried seldom, until an instance stays healthy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeeperStatistics(Statistics):
    """What is known of one supervised child, over all its instances."""

    state: ChildState
    restarts: int
    crashes: int
    last_error: str | None


OnFailing = Callable[[str, BaseException], None]
OnRecovered = Callable[[str], None]


class Keeper(TaskService):
    """Keeps the child of `spec` alive. A failed start of the child is a crash like another, and never the keeper's own.

    `on_failing(name, error)` and `on_recovered(name)` are called from the event loop and must not block.
    """

    def __init__(
        self,
        *,
        spec: ChildSpec,
        restarts: Restarts | None = None,
        on_failing: OnFailing | None = None,
        on_recovered: OnRecovered | None = None,
        clock: Clock | None = None,
        random: Random | None = None,
        context: contextvars.Context | None = None,
    ) -> None:
        super().__init__(name=spec.name, context=context)
        self._spec, self._policy = spec, restarts or Restarts()
        self._on_failing, self._on_recovered = on_failing, on_recovered
        self._clock, self._random = clock or SystemClock(), random or Random()
        self._child: TaskService | None = None
        self._exited = asyncio.Event()
        self._error: BaseException | None = None
        self._is_replacement_asked = False
        self._is_failing = False
        self._streak = self._crashes = self._restarts = 0
        self._crash_times: deque[float] = deque()
        self._last_error: str | None = None

    @property
    def child(self) -> TaskService | None:
        """The present instance, or the last; None before the first."""
        return self._child

    @property
    def state(self) -> ChildState:
        if not self.is_running:
            return ChildState.STOPPED
        if self._is_failing:
            return ChildState.FAILING
        return ChildState.RESTARTING if self._exited.is_set() else ChildState.RUNNING

    @property
    def holds_current_task(self) -> bool:
        """True also for a caller that runs inside the child."""
        return super().holds_current_task or (self._child is not None and self._child.holds_current_task)

    def statistics(self) -> KeeperStatistics:
        return KeeperStatistics(
            name=self.name,
            is_running=self.is_running,
            starts=self._starts,
            state=self.state,
            restarts=self._restarts,
            crashes=self._crashes,
            last_error=self._last_error,
        )

    async def on_start(self) -> None:
        self._is_failing, self._streak = False, 0
        self._crash_times.clear()
        await self._try_instance()

    async def _run(self, life: Life) -> None:
        life.is_resting = True
        while (error := await self._outcome()) is not None:
            if not self._is_replacement_asked:
                await self._clock.sleep(self._note_crash(error))
            self._restarts += 1
            await self._try_instance()

    async def _wind_down(self, life: Life) -> None:
        if self._child is not None:
            await self._child.retire()

    async def on_stop(self) -> None:
        if self._child is not None:
            await self._child.stop()

    async def _try_instance(self) -> None:
        self._exited = asyncio.Event()
        try:
            self._child = self._spec.factory()
            self._child.watch(self._note_exit)
            await self._child.start()
        except StartInterrupted:  # somebody stopped it: an end without an error
            self._note_end(None)
        except Exception as error:
            self._note_end(error)

    def _note_exit(self, child: TaskService, error: BaseException | None) -> None:
        self._note_end(error, is_replacement_asked=isinstance(error, RestartActor))

    def _note_end(self, error: BaseException | None, *, is_replacement_asked: bool = False) -> None:
        self._error, self._is_replacement_asked = error, is_replacement_asked
        self._exited.set()

    def _facts(self) -> str:
        return f"{self.state}, restarts={self._restarts}"

    async def _outcome(self) -> BaseException | None:
        """What the present instance ends with; notes on the way that it has become healthy."""
        if self._streak and not self._exited.is_set():
            try:
                await within(self._policy.healthy_after, self._exited.wait(), clock=self._clock)
            except TimeoutError:
                self._note_health()
        await self._exited.wait()
        return self._error

    def _note_crash(self, error: BaseException) -> float:
        """Count it, and say how many seconds to wait before the next instance."""
        self._crashes += 1
        self._streak += 1
        self._last_error = text_of(error)
        if self._is_too_often() and not self._is_failing:
            self._give_up(error)
        backoff = self._policy.backoff
        delay = backoff.longest(self._random) if self._is_failing else backoff.delay(self._streak, self._random)
        logger.warning("%s crashed; next instance in %.1f s", self.name, delay, exc_info=error)
        return delay

    def _is_too_often(self) -> bool:
        now, times = self._clock.monotonic(), self._crash_times
        times.append(now)
        while times[0] < now - self._policy.window:
            times.popleft()
        return len(times) > self._policy.max_restarts

    def _give_up(self, error: BaseException) -> None:
        self._is_failing = True
        logger.error("%s keeps crashing: given up for now, retried seldom", self.name)
        _tell(self._on_failing, self.name, error)

    def _note_health(self) -> None:
        self._streak = 0
        if self._is_failing:
            self._is_failing = False
            self._crash_times.clear()
            logger.info("%s has recovered", self.name)
            _tell(self._on_recovered, self.name)


def _tell(callback: Callable[..., None] | None, *arguments: object) -> None:
    """Call it; what it raises is logged and ends nothing."""
    try:
        if callback is not None:
            callback(*arguments)
    except Exception:
        logger.exception("%r failed", callback)
