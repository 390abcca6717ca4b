"""How the kernel waits: no longer than it should, and longer each time."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from random import Random
from typing import Any, TypeVar

from actorjobs.clock import Clock
from actorjobs.errors import InvalidOption

T = TypeVar("T")

_MAX_DOUBLINGS = 64
"""Beyond this a power only overflows; every cap is reached long before."""


async def within(seconds: float, work: Coroutine[Any, Any, T] | asyncio.Task[T], *, clock: Clock) -> T:
    """What `work` returns or raises. Raises TimeoutError if it had to be cancelled after `seconds` of `clock`.

    No task is left when this returns, raises or is cancelled; work that ignores cancellation is waited for.
    """
    task = work if isinstance(work, asyncio.Task) else asyncio.create_task(work)
    alarm = asyncio.create_task(clock.sleep(seconds))
    try:
        await asyncio.wait({task, alarm}, return_when=asyncio.FIRST_COMPLETED)
        is_late = not task.done()
    finally:
        await _end(task, alarm)
    if is_late and task.cancelled():
        raise TimeoutError(f"took longer than {seconds:g} s")
    return task.result()


async def _end(*tasks: asyncio.Task[Any]) -> None:
    """Cancel the tasks and wait for them, as a TaskGroup does: who is cancelled meanwhile waits all the same."""
    interruption: asyncio.CancelledError | None = None
    for task in tasks:
        task.add_done_callback(_retrieve)
        task.cancel()
    while not all(task.done() for task in tasks):
        try:
            await asyncio.wait(tasks)
        except asyncio.CancelledError as error:
            interruption = error
    if interruption is not None:
        raise interruption


def _retrieve(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        task.exception()


def is_being_cancelled() -> bool:
    """Whether somebody cancels the current task; if not, a CancelledError comes from something it awaits."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """Delays that grow by `factor` from `base` to `cap` (seconds), each lengthened by up to `jitter` (a fraction)."""

    base: float = 0.1
    factor: float = 2.0
    cap: float = 30.0
    jitter: float = 0.1

    def __post_init__(self) -> None:
        if not (self.base > 0 and self.factor >= 1 and self.cap >= self.base and self.jitter >= 0):
            raise InvalidOption(f"a backoff needs base > 0, factor >= 1, cap >= base and jitter >= 0, not {self}")

    def delay(self, failures: int, random: Random) -> float:
        """Seconds to wait after the `failures`-th failure in a row (from 1)."""
        grown = self.base * self.factor ** min(failures - 1, _MAX_DOUBLINGS)
        return lengthened(min(self.cap, grown), self.jitter, random)

    def longest(self, random: Random) -> float:
        """Seconds to wait where nothing is expected to help soon."""
        return lengthened(self.cap, self.jitter, random)


def lengthened(seconds: float, jitter: float, random: Random) -> float:
    """`seconds`, made longer by a random part of the fraction `jitter`; never shorter."""
    return seconds * (1 + jitter * random.random())


def text_of(error: BaseException) -> str:
    """Type and message of an error, also of one that cannot say what it is."""
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:
        return f"{type(error).__name__}: (its message cannot be shown)"
