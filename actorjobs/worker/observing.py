"""Telling observers what happens: after it happened, in order, each from a task of its own, so that none holds up
anybody else."""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from dataclasses import replace
from functools import partial
from typing import Final

from actorjobs.errors import ActorJobsError
from actorjobs.jobs.hooks import Observer
from actorjobs.model import Observation, Run
from actorjobs.ports import Store

logger = logging.getLogger("actorjobs.observers")

MOST_WAITING: Final = 10_000
"""Observations that wait for a slow observer; the oldest are dropped beyond that, and counted."""

ANSWER_SECONDS: Final = 5.0
CANCEL_SECONDS: Final = 2.0
"""How long a call that was canceled may take to end; one that takes longer is left behind."""
CLOSE_SECONDS: Final = 2.0

QUICK_SECONDS: Final = 0.1
"""How long a plain function may hold up the event loop without a word in the log."""
TURN_SECONDS: Final = 0.01
"""How long plain functions are called in a row before the event loop gets to other things."""


class Observers:
    """The application's observers, each told of everything."""

    def __init__(self, observers: Sequence[Observer], *, store: Store) -> None:
        self._listeners = tuple(_Listener(observer) for observer in observers)
        self._store = store

    def __bool__(self) -> bool:
        return bool(self._listeners)

    @property
    def dropped(self) -> int:
        """How many times an observer was not told of something."""
        return sum(listener.dropped for listener in self._listeners)

    def tell(self, make: Callable[[], Observation]) -> None:
        """Have all observers told soon. `make` is called only where somebody listens."""
        if not self._listeners:
            return
        news = _News(make(), self._store)
        for listener in self._listeners:
            listener.tell(news)

    async def close(self) -> None:
        """Tell what is left, for a moment."""
        await asyncio.gather(*(listener.close() for listener in self._listeners))


class _News:
    """What all are told of. The facts of its run are read once, by whoever gets to it first."""

    __slots__ = ("_observation", "_reading", "_store")

    def __init__(self, observation: Observation, store: Store) -> None:
        self._observation = observation
        self._store = store
        self._reading: asyncio.Task[Observation] | None = None

    async def completed(self) -> Observation:
        """With the facts of its run where whoever noticed it had only the id."""
        run_id = self._observation.run_id
        if run_id is None or self._observation.job is not None:
            return self._observation
        if self._reading is None:
            self._reading = asyncio.create_task(self._read(run_id), name="observed run")
        return await self._reading

    async def _read(self, run_id: str) -> Observation:
        try:
            run: Run = await self._store.get(run_id)
        except ActorJobsError:
            return self._observation
        return replace(self._observation, job=run.job, queue=run.queue, tenant=run.tenant, attempt=run.attempt)


class _Listener:
    """One observer with its queue and its task: whatever it does, it does to itself."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._name = _name_of(observer)
        self._waiting: deque[_News] = deque(maxlen=MOST_WAITING)
        self._task: asyncio.Task[None] | None = None
        self._left: asyncio.Task[BaseException | None] | None = None
        self._was_slow = False
        self.dropped = 0

    def tell(self, news: _News) -> None:
        if self._left is not None and not self._left.done():
            self.dropped += 1
            return
        self.dropped += len(self._waiting) == MOST_WAITING
        self._waiting.append(news)
        if self._task is None:
            # A context of its own: no observer is to inherit the tenant of whoever happened to be first.
            self._task = asyncio.get_running_loop().create_task(self._run(), name="observer", context=Context())

    async def close(self) -> None:
        task = self._task
        if task is not None and (await asyncio.wait({task}, timeout=CLOSE_SECONDS))[1]:
            task.cancel()
            await asyncio.wait({task})  # no longer than CANCEL_SECONDS

    async def _run(self) -> None:
        try:
            turn_ends = time.monotonic() + TURN_SECONDS
            while self._waiting:
                await self._call(await self._waiting.popleft().completed())
                if time.monotonic() > turn_ends:
                    await asyncio.sleep(0)
                    turn_ends = time.monotonic() + TURN_SECONDS
        finally:
            self._task = None

    async def _call(self, observation: Observation) -> None:
        began = time.monotonic()
        try:
            answer = self._observer(observation)
        except BaseException as error:  # also what would end a task, or the event loop
            self._log_failure(observation, error)
            return
        finally:
            self._check_quick(time.monotonic() - began)
        if inspect.isawaitable(answer):
            await self._wait_for(answer, observation)

    async def _wait_for(self, answer: Awaitable[None], observation: Observation) -> None:
        call = asyncio.create_task(_outcome(answer), name=f"observer {self._name}")
        try:
            is_late = bool((await asyncio.wait({call}, timeout=ANSWER_SECONDS))[1])
        finally:  # also when this is closed meanwhile
            if not call.done():
                await self._cancel(call)
        if call is self._left:
            return
        error = call.result()
        if is_late:
            where, error = error, TimeoutError(f"took longer than {ANSWER_SECONDS:g} s")
            error.__cause__ = where
        if error is not None:
            self._log_failure(observation, error)

    async def _cancel(self, call: asyncio.Task[BaseException | None]) -> None:
        """End the call, or leave it behind."""
        call.cancel()
        try:
            await asyncio.wait({call}, timeout=CANCEL_SECONDS)
        finally:
            if not call.done():
                self._left = call
                self.dropped += len(self._waiting)
                self._waiting.clear()
                logger.error(
                    "the observer %s was canceled and went on regardless: it is told nothing until it has ended",
                    self._name,
                )

    def _log_failure(self, observation: Observation, error: BaseException) -> None:
        logger.error("an observer failed on %r: %s", observation.event, self._name, exc_info=error)

    def _check_quick(self, taken: float) -> None:
        if taken > QUICK_SECONDS and not self._was_slow:
            self._was_slow = True
            logger.warning(
                "the observer %s held up the event loop for %.1f s, and may do so again: make it an async function, "
                "or have it hand on what takes long",
                self._name,
                taken,
            )


def _name_of(observer: Observer) -> str:
    function = observer.func if isinstance(observer, partial) else observer
    return str(getattr(function, "__qualname__", type(function).__qualname__))


async def _outcome(answer: Awaitable[None]) -> BaseException | None:
    """The error, if there was one: a SystemExit that came out of a task would end the event loop."""
    try:
        await answer
    except BaseException as error:
        return error
    return None
