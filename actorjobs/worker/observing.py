"""Telling observers what happens: after it happened, in order, from a task of its own that holds nobody up."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections import deque
from collections.abc import Callable, Sequence
from contextvars import Context
from dataclasses import replace
from typing import Final

from actorjobs.errors import ActorJobsError
from actorjobs.jobs.hooks import Observer
from actorjobs.model import Observation, Run
from actorjobs.ports import Store

logger = logging.getLogger("actorjobs.observers")

MOST_WAITING: Final = 10_000
"""Observations that wait for slow observers; the oldest are dropped beyond that, and counted."""

ANSWER_SECONDS: Final = 5.0
CLOSE_SECONDS: Final = 2.0


class Observers:
    """The application's observers, each told of everything."""

    def __init__(self, observers: Sequence[Observer], *, store: Store) -> None:
        self._observers = tuple(observers)
        self._store = store
        self._waiting: deque[Observation] = deque(maxlen=MOST_WAITING)
        self._task: asyncio.Task[None] | None = None
        self.dropped = 0

    def __bool__(self) -> bool:
        return bool(self._observers)

    def tell(self, make: Callable[[], Observation]) -> None:
        """Have all observers told soon. `make` is called only where somebody listens."""
        if not self._observers:
            return
        self.dropped += len(self._waiting) == MOST_WAITING
        self._waiting.append(make())
        if self._task is None:
            # A context of its own: no observer is to inherit the tenant of whoever happened to be first.
            self._task = asyncio.get_running_loop().create_task(self._run(), name="observers", context=Context())

    async def close(self) -> None:
        """Tell what is left, for a moment."""
        task = self._task
        if task is not None and (await asyncio.wait({task}, timeout=CLOSE_SECONDS))[1]:
            task.cancel()
            await asyncio.wait({task})

    async def _run(self) -> None:
        try:
            while self._waiting:
                observation = await self._completed(self._waiting.popleft())
                for observer in self._observers:
                    await self._call(observer, observation)
        finally:
            self._task = None

    async def _completed(self, observation: Observation) -> Observation:
        """With the facts of its run where whoever noticed it had only the id."""
        if observation.run_id is None or observation.job is not None:
            return observation
        try:
            run: Run = await self._store.get(observation.run_id)
        except ActorJobsError:
            return observation
        return replace(observation, job=run.job, queue=run.queue, tenant=run.tenant, attempt=run.attempt)

    async def _call(self, observer: Observer, observation: Observation) -> None:
        try:
            answer = observer(observation)
            if inspect.isawaitable(answer):
                await asyncio.wait_for(answer, ANSWER_SECONDS)
        except Exception:
            logger.exception("an observer failed on %r", observation.event)
