"""A lane: items travel to the store in groups, paced by the commit in flight.

While one group is being committed the next one gathers; there is no timer. A lone item goes at once, a crowd shares one
commit, and nobody is answered before it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from typing import Generic, TypeVar

from actorjobs.errors import StoreUnavailable

I = TypeVar("I")  # noqa: E741
O = TypeVar("O")  # noqa: E741

Commit = Callable[[Sequence[I]], Awaitable[Sequence[O | Exception]]]


class Lane(Generic[I, O]):
    """Groups of at most `limit` items, one group in flight at a time."""

    def __init__(self, *, name: str, commit: Commit[I, O], limit: int) -> None:
        self.name = name
        self._commit = commit
        self._limit = limit
        self._waiting: deque[tuple[I, asyncio.Future[O]]] = deque()
        self._in_flight = 0
        self._task: asyncio.Task[None] | None = None
        self.groups = 0
        self.items = 0

    def __len__(self) -> int:
        """Items that have no answer yet."""
        return len(self._waiting) + self._in_flight

    def put(self, item: I) -> asyncio.Future[O]:
        """Send `item` with the next group; the future is its answer."""
        answer: asyncio.Future[O] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, answer))
        if self._task is None:
            # A context of its own: the lane outlives the dispatch or attempt that happens to start it.
            self._task = asyncio.get_running_loop().create_task(self._run(), name=self.name, context=Context())
        return answer

    async def drained(self) -> None:
        """Return once everything sent so far is answered."""
        while self._task is not None:
            await asyncio.wait({self._task})

    async def _run(self) -> None:
        try:
            while self._waiting:
                size = min(self._limit, len(self._waiting))
                group = [self._waiting.popleft() for _ in range(size)]
                self._in_flight = size
                self._answer(group, await self._committed([item for item, _ in group]))
                self._in_flight = 0
        finally:
            self._task, self._in_flight = None, 0

    def _answer(self, group: Sequence[tuple[I, asyncio.Future[O]]], answers: Sequence[O | Exception]) -> None:
        self.groups += 1
        self.items += len(group)
        for (_, future), answer in zip(group, answers, strict=True):
            if future.done():
                continue
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)

    async def _committed(self, items: Sequence[I]) -> Sequence[O | Exception]:
        """The group's answers. A group that one bad item poisons is split, so that its neighbours do not suffer."""
        try:
            return await self._commit(items)
        except StoreUnavailable as error:
            return [error] * len(items)
        except Exception as error:
            if len(items) == 1:
                return [error]
            half = len(items) // 2
            return [*await self._committed(items[:half]), *await self._committed(items[half:])]

    def __repr__(self) -> str:
        return f"Lane({self.name!r}, waiting={len(self)}, groups={self.groups}, items={self.items})"
