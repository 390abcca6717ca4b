"""Tree: services that start in order and stop in reverse, in one task of their own. It restarts nothing."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from actorjobs.actors.life import Life
from actorjobs.actors.service import Cancelled, Service, StartInterrupted, Statistics, TaskService, Watcher
from actorjobs.actors.timing import is_being_cancelled
from actorjobs.errors import InvalidOption

logger = logging.getLogger("actorjobs.actors")

S = TypeVar("S", bound=Service)


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeStatistics(Statistics):
    """What a tree tells about itself and everything below it."""

    children: tuple[Statistics, ...]
    """In start order."""


class Tree(TaskService, Generic[S]):
    """Starts `children` in order and stops them in reverse order, whoever calls, from whichever task.

    If one fails to start, those before it are stopped again and the error goes to the caller of `start`. One that fails
    to stop does not keep the others from stopping: errors are logged, and raised together as an ExceptionGroup.
    A child that ends by itself is left alone. `retire` retires the children in reverse order.
    """

    def __init__(
        self,
        *,
        name: str,
        children: Sequence[S] = (),
        on_exit: Watcher | None = None,
        context: contextvars.Context | None = None,
    ) -> None:
        super().__init__(name=name, on_exit=on_exit, context=context)
        self._children: list[S] = []
        self._tried: dict[int, S] = {}
        for child in children:
            self._adopt(child)

    @property
    def children(self) -> tuple[S, ...]:
        """In start order."""
        return tuple(self._children)

    @property
    def holds_current_task(self) -> bool:
        """True also for a caller that runs inside a child."""
        return super().holds_current_task or any(map(_holds_current_task, self._standing()))

    def statistics(self) -> TreeStatistics:
        return TreeStatistics(
            name=self.name,
            is_running=self.is_running,
            starts=self._starts,
            children=tuple(child.statistics() for child in self._children),
        )

    async def on_start(self) -> None:
        self._tried = {}
        while (child := self._next_to_try()) is not None:
            self._tried[id(child)] = child
            await self._start(child)
        self._tried = {}

    async def _undo_start(self) -> None:
        await self._end_each(reversed(self._tried.values()), _stop)

    async def _wind_down(self, life: Life) -> None:
        self._raise(await self._end_each(reversed(self._standing()), _retire))

    async def on_stop(self) -> None:
        self._raise(await self._end_each(reversed(self._standing()), _stop))

    def _standing(self) -> list[S]:
        """Everything that may have to be stopped, in start order."""
        return list(self._children)

    def _adopt(self, child: S) -> None:
        if any(child.name == sibling.name for sibling in self._children):
            raise InvalidOption(f"{self.name} has a child named {child.name!r} already")
        self._children.append(child)

    def _next_to_try(self) -> S | None:
        """Children may come and go while the others start."""
        return next((child for child in self._children if id(child) not in self._tried), None)

    async def _start(self, child: S) -> None:
        try:
            await child.start()
        except StartInterrupted:
            if child in self._children:  # else it was removed meanwhile
                raise

    async def _end_each(self, children: Iterable[S], end: Callable[[S], Awaitable[None]]) -> list[Exception]:
        errors = [await self._end_one(child, end) for child in list(children)]
        return [error for error in errors if error is not None]

    async def _end_one(self, child: S, end: Callable[[S], Awaitable[None]]) -> Exception | None:
        """What went wrong; that never keeps the others from ending. A leaked CancelledError is the child's fault."""
        try:
            await end(child)
        except Exception as error:
            logger.error("%s failed to stop", child.name, exc_info=error)
            return error
        except asyncio.CancelledError as error:
            if is_being_cancelled():
                raise
            logger.error("%s leaked a cancellation from its stop", child.name, exc_info=error)
            return Cancelled(f"{child.name} leaked a cancellation from its stop")
        return None

    def _raise(self, errors: Sequence[Exception]) -> None:
        if errors:
            raise ExceptionGroup(f"{self.name} did not stop cleanly", errors)

    def _facts(self) -> str:
        return f"children={len(self._children)}"


async def _stop(child: Service) -> None:
    await child.stop()


async def _retire(child: Service) -> None:
    await (child.retire() if isinstance(child, TaskService) else child.stop())


def _holds_current_task(child: Service) -> bool:
    return isinstance(child, TaskService) and child.holds_current_task
