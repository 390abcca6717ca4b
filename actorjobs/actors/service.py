"""Service: what can be started and stopped, in any order, from any task, by any number of callers.

    start() ──► on_start ──► _run ──► _wind_down ──► on_stop ──► watchers(service, error | None)
                   │           │      only when asked   │
                   │           │      to end gracefully  └ exactly once per on_start that succeeded,
                   │           └ ends by itself,           however _run ended
                   │             crashes, or is asked to
                   └ fails: start() raises what it raised, nothing else follows

One start and its end are a `Life`: a task of its own in a context of its own. `stop()` only *asks* the life to end and
then waits; the life ends itself. So a caller that is cancelled while it waits leaves nothing half-stopped.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NoReturn, Protocol

from actorjobs.actors.life import Ask, Life
from actorjobs.errors import ActorJobsError

logger = logging.getLogger("actorjobs.actors")


class StartInterrupted(ActorJobsError):
    """The service was asked to stop before it had started."""


class Cancelled(ActorJobsError):
    """The task of a service was cancelled, and not by the service: a bug, or the end of the event loop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """What every service tells about itself; each kind adds its own fields."""

    name: str
    is_running: bool
    starts: int
    """How often it has started successfully."""


class Service(Protocol):
    """The seam: whatever has these can stand in a tree. `start` and `stop` are idempotent in any order."""

    @property
    def name(self) -> str: ...

    @property
    def is_running(self) -> bool:
        """From the success of `on_start` until it begins to stop."""
        ...

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    def statistics(self) -> Statistics: ...


Watcher = Callable[["TaskService", BaseException | None], None]


class TaskService:
    """A service that lives in one task. Subclasses say what happens in `on_start`, `_run`, `_wind_down`, `on_stop`."""

    def __init__(
        self, *, name: str, on_exit: Watcher | None = None, context: contextvars.Context | None = None
    ) -> None:
        self._name = name
        self._task_context = contextvars.Context() if context is None else context
        self._watchers = [] if on_exit is None else [on_exit]
        self._life: Life | None = None
        self._starts = 0
        self._ends_asked = 0

    @property
    def name(self) -> str:
        return self._name

    @property
    def is_running(self) -> bool:
        life = self._life
        return life is not None and life.is_started and not life.is_closing

    @property
    def is_alive(self) -> bool:
        """From the call of `start` until the end, when its task is gone."""
        return self._life is not None

    @property
    def holds_current_task(self) -> bool:
        """True for a caller that runs inside this service: it cannot wait for the service's end."""
        return self._life is not None and self._life.is_current

    def watch(self, watcher: Watcher) -> None:
        """Have `watcher(service, error)` called at the end of each life that had started; None when nothing was wrong.

        With no watcher an error is logged. It is called from the event loop, after `on_stop`, and must not block.
        """
        self._watchers.append(watcher)

    def statistics(self) -> Statistics:
        return Statistics(name=self._name, is_running=self.is_running, starts=self._starts)

    async def start(self) -> None:
        """Return once `on_start` has succeeded; at once if it is running already.

        While it is stopping, wait for that end and start afresh. Raises what `on_start` raised, and StartInterrupted
        when `stop` was called meanwhile. When the last caller is cancelled, the start is undone before this raises.
        """
        life = await self._join()
        life.starters += 1
        try:
            await life.settled.wait()
        except asyncio.CancelledError:
            await self._withdraw(life)
            raise
        if not life.is_started:
            self._refuse(life.error)

    async def stop(self) -> None:
        """Cancel what is in hand and wait for the end. Raises what went wrong in ending, to all who wait for it.

        From within the service itself it only asks and returns: the service ends after what it is doing now.
        """
        await self._end(Ask.STOP)

    async def retire(self) -> None:
        """Finish what is in hand, take nothing new, and wait for the end. A `stop` meanwhile cuts it short."""
        await self._end(Ask.RETIRE)

    async def on_start(self) -> None:
        """Prepare; what it raises fails the start. It cleans up after itself when it fails."""

    async def on_stop(self) -> None:
        """Undo `on_start`."""

    async def _undo_start(self) -> None:
        """Undo an `on_start` that failed or was interrupted; nothing that is asked meanwhile interrupts this."""

    async def _run(self, life: Life) -> None:
        """The life itself, until `life.ask` says otherwise; by default it rests.

        `stop` cancels it, and so does every ask while `life.is_resting`. What it raises is a crash.
        """
        life.is_resting = True
        await asyncio.Event().wait()

    async def _wind_down(self, life: Life) -> None:
        """What is left to do for an end that was asked for gracefully; `stop` cancels it."""

    async def _join(self) -> Life:
        """The life to wait for: the present one, or a new one after the end of one that is ending."""
        asked, life = self._ends_asked, self._life
        if life is not None and self.holds_current_task and (life.is_ending or not life.is_started):
            raise StartInterrupted(f"{self._name} cannot wait for its own start from within")
        while life is not None and life.is_ending:
            await life.ended.wait()
            if asked != self._ends_asked:
                self._refuse(None)
            life = self._life
        return life or self._begin()

    def _begin(self) -> Life:
        life, context = Life(), self._task_context.copy()
        self._life = life
        task = asyncio.create_task(self._live(life), name=self._name, context=context)
        life.task = task  # an eager task factory has run `_live` by now, which set it for itself
        task.add_done_callback(partial(self._ended, life), context=context)
        return life

    async def _withdraw(self, life: Life) -> None:
        life.starters -= 1
        if not life.starters:
            life.ask_for(Ask.STOP, from_within=self.holds_current_task)
            await life.ended.wait()

    def _refuse(self, error: BaseException | None) -> NoReturn:
        if isinstance(error, Exception):
            raise error
        raise StartInterrupted(f"{self._name} was asked to stop before it had started") from error

    async def _end(self, ask: Ask) -> None:
        self._ends_asked += 1
        life, from_within = self._life, self.holds_current_task
        if life is None:
            return
        life.ask_for(ask, from_within=from_within)
        if from_within:
            return
        await life.ended.wait()
        if life.stop_error is not None:
            raise life.stop_error

    async def _live(self, life: Life) -> None:
        life.task = asyncio.current_task()
        if not await self._has_started(life):
            return
        try:
            await self._work(life)
        except asyncio.CancelledError:
            if not life.takes_back_cancel():
                raise
        finally:
            await self._close(life)

    async def _has_started(self, life: Life) -> bool:
        try:
            await self.on_start()
        except BaseException as error:
            life.is_closing = True
            is_asked = life.takes_back_cancel() and isinstance(error, asyncio.CancelledError)
            await self._undo_start()
            if is_asked:
                return False
            raise
        life.takes_back_cancel()  # one that on_start swallowed
        self._starts += 1
        life.is_started = True
        life.settled.set()
        return True

    async def _work(self, life: Life) -> None:
        try:
            if not life.ask:
                await self._run(life)
        except asyncio.CancelledError:
            if not life.takes_back_cancel():
                raise
        life.is_resting = False
        if life.ask in (Ask.DRAIN, Ask.RETIRE):
            with life.keeping_stop_error():
                await self._wind_down(life)

    async def _close(self, life: Life) -> None:
        life.is_closing = True
        life.takes_back_cancel()  # one that _run swallowed
        with life.keeping_stop_error():
            await self.on_stop()

    def _ended(self, life: Life, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            life.error = task.exception()
        elif not life.takes_back_cancel():  # else it was cancelled before its first step
            life.error = Cancelled(f"the task of {self._name} was cancelled, and not by its stop()")
        self._life = None
        life.settled.set()
        life.ended.set()
        if life.is_started:
            self._report(life.error)
        elif life.error is not None and not life.starters:
            logger.error("%s failed to start when nobody waited for it any more", self._name, exc_info=life.error)

    def _report(self, error: BaseException | None) -> None:
        for watcher in self._watchers:
            try:
                watcher(self, error)
            except Exception:
                logger.exception("a watcher of %s failed", self._name)
        if error is not None and not self._watchers:
            logger.error("%s crashed, and nobody watches it", self._name, exc_info=error)

    def __repr__(self) -> str:
        facts = self._facts()
        state = "running" if self.is_running else "not running"
        return f"{type(self).__name__}({self._name!r}, {state}{', ' if facts else ''}{facts})"

    def _facts(self) -> str:
        """What `repr` says besides the name."""
        return ""
