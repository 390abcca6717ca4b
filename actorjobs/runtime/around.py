"""Dispatch middleware around one dispatch, or around each of many that are accepted together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from actorjobs.jobs.hooks import DispatchMiddleware, DispatchNext
from actorjobs.model import Envelope
from actorjobs.ports import Accepted

AcceptAll = Callable[[list[Envelope]], Awaitable[Sequence[Accepted]]]


def around(accept: DispatchNext, middleware: Sequence[DispatchMiddleware]) -> DispatchNext:
    """`accept` with all middleware around it, the first one outermost."""
    for one in reversed(middleware):
        accept = _link(one, accept)
    return accept


def _link(one: DispatchMiddleware, call_next: DispatchNext) -> DispatchNext:
    async def accept(envelope: Envelope) -> Accepted:
        return await one(envelope, call_next)

    return accept


class Together:
    """Takes many envelopes through the middleware at once: each is parked where it would be accepted, until all are
    there or have come to another end; then they are accepted in one transaction, and each goes on with its answer."""

    def __init__(self, middleware: Sequence[DispatchMiddleware]) -> None:
        self._middleware = middleware
        self._parked: dict[int, tuple[Envelope, asyncio.Future[Accepted]]] = {}
        self._under_way: set[int] = set()
        self._all_there = asyncio.Event()

    async def accept(self, envelopes: Sequence[Envelope], accept_all: AcceptAll) -> list[Accepted]:
        """Their answers in order. The first error of a middleware or of `accept_all` is raised: none is accepted."""
        self._under_way.update(range(len(envelopes)))
        tasks = [asyncio.create_task(self._one(index, envelope)) for index, envelope in enumerate(envelopes)]
        try:
            await self._all_there.wait()
            for task in tasks:
                if task.done():
                    task.result()
            indices = sorted(self._parked)
            answers = await accept_all([self._parked[index][0] for index in indices])
            for index, answer in zip(indices, answers, strict=True):
                self._parked[index][1].set_result(answer)
            return list(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def _one(self, index: int, envelope: Envelope) -> Accepted:
        def park(envelope: Envelope) -> Awaitable[Accepted]:
            if index not in self._parked:
                self._parked[index] = (envelope, asyncio.get_running_loop().create_future())
                self._arrive(index)
            return self._parked[index][1]

        try:
            return await around(park, self._middleware)(envelope)
        finally:
            self._arrive(index)

    def _arrive(self, index: int) -> None:
        self._under_way.discard(index)
        if not self._under_way:
            self._all_there.set()
