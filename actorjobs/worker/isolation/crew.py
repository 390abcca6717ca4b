"""The child processes of a runtime: hired when a run needs one, kept for the next, dismissed when idle for long."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import Context
from functools import partial
from random import Random
from typing import Any, Final

from actorjobs.errors import ProcessDied
from actorjobs.jobs import Definition, JobContext, Process
from actorjobs.ports import Claim, Dispatcher, Tracer
from actorjobs.worker.isolation.desk import Desk
from actorjobs.worker.isolation.messages import Message
from actorjobs.worker.isolation.orders import order_for
from actorjobs.worker.isolation.plan import Plan
from actorjobs.worker.isolation.process import Child
from actorjobs.worker.outcome import Ended

IDLE_SECONDS: Final = 60.0
LEAVE_SECONDS: Final = 2.0


class Crew:
    """Performs attempts in children, each in one of its own. Children with different limits are not exchanged.

    There are never more than there were runs at work at once. They live by real time, whatever the runtime's clock.
    """

    def __init__(self, *, plan: Plan, dispatcher: Dispatcher, random: Random, tracer: Tracer | None = None) -> None:
        self._plan = plan
        self._dispatcher = dispatcher
        self._random = random
        self._tracer = tracer if tracer is not None and tracer.is_on else None
        self._loop = asyncio.get_running_loop()
        self._spawning: set[asyncio.Task[Child]] = set()
        self._children: set[Child] = set()
        self._orphans: set[Child] = set()
        """Those that are starting though the run that needed them has ended."""
        self._idle: dict[Child, asyncio.TimerHandle] = {}
        self._is_closed = False

    async def perform(
        self, definition: Definition, claim: Claim, ctx: JobContext[Any], on_start: Callable[[], None]
    ) -> Ended:
        """What an attempt came to, judged in the child where its exceptions are known; `on_start` is called when the
        child has taken it. It raises nothing but `CancelledError`, once the child has been killed."""
        try:
            trace = None if self._tracer is None else self._tracer.carried()
            order = order_for(definition, claim, ctx, dice=self._random.random(), trace=trace)
            desk = Desk(ctx, self._dispatcher, on_start, self._tracer)
            return await self._perform(definition.isolation or Process(), order, desk)
        except ProcessDied as death:
            return Ended(error=death.with_traceback(None))  # where this process noticed it says nothing
        except Exception as error:
            return Ended(error=error)

    async def _perform(self, limits: Process, order: Message, desk: Desk) -> Ended:
        while True:
            child = self._next_idle(limits)
            is_new = child is None
            if child is None:
                child = await self._hire(limits)
            try:
                verdict = await child.perform(order, desk)
            finally:
                self._keep(child)
            if verdict is not None:
                return Ended(verdict=verdict)
            if is_new:
                raise ProcessDied("the child process ended before it could begin")

    def _next_idle(self, limits: Process) -> Child | None:
        """The one that worked last, so that those nobody needs become idle for long."""
        for child in reversed(self._idle):
            if child.limits == limits and child.is_fit:
                self._idle.pop(child).cancel()
                return child
        return None

    async def _hire(self, limits: Process) -> Child:
        """A new child, ready. Canceled meanwhile, the child is kept for the next run: its start was paid for."""
        child = next((orphan for orphan in self._orphans if orphan.limits == limits), None)
        if child is None:
            child = await self._spawn(limits)
        else:
            self._orphans.discard(child)
        try:
            await child.started()
        except asyncio.CancelledError:
            self._orphan(child)
            raise
        except ProcessDied:
            child.kill()
            raise
        return child

    async def _spawn(self, limits: Process) -> Child:
        spawning = self._loop.create_task(Child.spawn(self._plan.message(), limits), context=Context())
        self._spawning.add(spawning)
        spawning.add_done_callback(self._spawned)
        try:
            return await asyncio.shield(spawning)
        except OSError as error:
            raise ProcessDied(f"no child process can be started: {error}") from error
        except asyncio.CancelledError:
            spawning.add_done_callback(lambda task: None if _failed(task) else self._orphan(task.result()))
            raise

    def _spawned(self, spawning: asyncio.Task[Child]) -> None:
        self._spawning.discard(spawning)
        if not _failed(spawning):
            child = spawning.result()
            self._children.add(child)
            child.gone.add_done_callback(lambda _task: self._forget(child))

    def _orphan(self, child: Child) -> None:
        self._orphans.add(child)
        child.when_started(partial(self._keep_orphan, child))

    def _keep_orphan(self, child: Child) -> None:
        if child in self._orphans:
            self._orphans.discard(child)
            self._keep(child)

    def _keep(self, child: Child) -> None:
        """Let it wait for another run; one that is not fit for that is dying already, or dies now."""
        if child.is_fit and not self._is_closed:
            self._idle[child] = self._loop.call_later(IDLE_SECONDS, self._dismiss, child)
        elif not child.gone.done():
            child.kill()

    def _dismiss(self, child: Child) -> None:
        timer = self._idle.pop(child, None)
        if timer is not None:
            timer.cancel()
        child.leave()
        last = self._loop.call_later(LEAVE_SECONDS, child.kill)
        child.gone.add_done_callback(lambda _task: last.cancel())

    def _forget(self, child: Child) -> None:
        self._children.discard(child)
        self._orphans.discard(child)
        timer = self._idle.pop(child, None)
        if timer is not None:
            timer.cancel()

    async def close(self) -> None:
        """End all children: idle ones leave the application's context first, for two seconds at most."""
        self._is_closed = True
        await asyncio.gather(*self._spawning, return_exceptions=True)
        for child in list(self._children):
            if child in self._idle:
                self._dismiss(child)
            else:
                child.kill()
        while self._children:
            await asyncio.wait({child.gone for child in self._children})

    def __repr__(self) -> str:
        return f"<crew of {len(self._children)} child processes, {len(self._idle)} idle>"


def _failed(task: asyncio.Task[Child]) -> bool:
    return task.cancelled() or task.exception() is not None
