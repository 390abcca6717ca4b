"""A task that goes on beside whoever started it, until that one stops it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from contextvars import Context
from typing import Any


class Background:
    """One task of that name. Starting what runs and stopping what does not are no errors."""

    def __init__(self, *, name: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._name = name
        self._work = work
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        if self._task is None:
            # A context of its own: it outlives whoever happens to start it.
            self._task = asyncio.get_running_loop().create_task(self._work(), name=self._name, context=Context())

    async def stop(self) -> None:
        """Cancel it and wait for its end."""
        if self._task is not None:
            task, self._task = self._task, None
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
