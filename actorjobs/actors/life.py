"""Life: one start of a service and its end.

A life is never ended from outside. It is *asked* to end, interrupted where that is needed, and ends itself; whoever
asked may wait. What interrupts is `Task.cancel()`, taken back by `Task.uncancel()` as `asyncio.timeout` does it, so
that a cancellation by somebody else is told apart.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextlib import contextmanager
from enum import IntEnum
from typing import Any


class Ask(IntEnum):
    """How a life is asked to end. It only grows: who asks for more gets more."""

    NOTHING = 0
    DRAIN = 1
    RETIRE = 2
    STOP = 3


class Life:
    """One start and its end: what was asked of it, and what its callers wait for."""

    def __init__(self) -> None:
        self.task: asyncio.Task[Any] | None = None
        self.settled = asyncio.Event()
        """Set once it has started, or has ended without."""
        self.ended = asyncio.Event()
        self.ask = Ask.NOTHING
        self.starters = 0
        """Callers that want it started; a cancelled one takes its wish back."""
        self.is_started = False
        self.is_closing = False
        self.is_resting = False
        """True while nothing is in hand: any ask may interrupt."""
        self.error: BaseException | None = None
        self.stop_error: Exception | None = None
        self._has_cancelled = False

    @property
    def is_current(self) -> bool:
        """True for a caller that runs in this life's own task."""
        return asyncio.current_task() is self.task

    @property
    def is_ending(self) -> bool:
        return bool(self.ask) or self.is_closing

    def ask_for(self, ask: Ask, *, from_within: bool) -> None:
        """Note what is asked, and interrupt what has to be interrupted for it (never the asker itself)."""
        self.ask = max(self.ask, ask)
        if self.is_closing or self.is_current:
            return
        if not self.is_started or self.is_resting or (ask is Ask.STOP and not from_within):
            self._cancel()

    def _cancel(self) -> None:
        if self.task is not None and not self._has_cancelled:
            self._has_cancelled = True
            self.task.cancel()

    def takes_back_cancel(self) -> bool:
        """Undo this life's own cancellation; True when there was one, and nobody else cancelled the task as well."""
        if self.task is None or not self._has_cancelled:
            return False
        self._has_cancelled = False
        return not self.task.uncancel()

    @contextmanager
    def keeping_stop_error(self) -> Generator[None, None, None]:
        try:
            yield
        except Exception as error:
            self.stop_error = error
            raise
