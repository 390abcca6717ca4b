"""The heartbeat: a thread of its own, with an event loop and a connection of its own, that renews the lease.

A job that blocks the main loop therefore keeps its lease. The same thread watches the main loop's ticks: it names the
run that blocks it, and when nothing has moved for minutes it gives the process up, so that the others can go on.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import Context
from types import FrameType
from typing import Any

from actorjobs.actors import Statistics
from actorjobs.clock import Clock
from actorjobs.errors import ActorJobsError, StoreUnavailable
from actorjobs.ports import Store
from actorjobs.worker.lease import BEAT_RETRY_SECONDS, BEAT_SECONDS, Lease, LockFile, new_owner_id, new_worker

logger = logging.getLogger("actorjobs.worker")

TICK_SECONDS = 0.25
WARN_AFTER_SECONDS = 1.0
GIVE_UP_AFTER_SECONDS = 300.0
EXIT_STUCK = 70
STACK_FRAMES = 8
"""The innermost ones: where the time goes."""
START_TIMEOUT_SECONDS = 30.0

OpenStore = Callable[[], Awaitable[Store]]


Blame = Callable[[Context | None, str | None], tuple[str, str] | None]
"""The run that these context variables, or the task of this name, belong to: its id and its job."""


async def beat_once(store: Store, lease: Lease, on_lost: Callable[[str], None]) -> bool:
    """Send one beat; False when it did not get through. A process that finds itself dead begins a new lease."""
    owner = lease.owner
    if owner is None:
        await begin_lease(store, lease)
        return True
    sent_at = lease.now()
    try:
        stamp = await store.beat(owner)
    except StoreUnavailable:
        if await _nobody_beats(store, lease):
            lease.excused(sent_at)
        return False
    if stamp is not None:
        lease.renewed(sent_at, stamp)
        return True
    lease.end()
    on_lost(owner)
    await begin_lease(store, lease)
    return True


async def begin_lease(store: Store, lease: Lease) -> None:
    """Register this process under a new owner id."""
    lock = LockFile(new_owner_id())
    worker = new_worker(lock.path)
    try:
        stamp = await store.join(worker)
    except BaseException:
        lock.release()
        raise
    lease.renew_as(worker, lock, stamp)


async def _nobody_beats(store: Store, lease: Lease) -> bool:
    """Whether the file can be read and shows no other beat since ours: then it is locked for all, not for us."""
    last = lease.last_stamp
    with suppress(ActorJobsError):
        others = [worker for worker in await store.workers() if worker.id != lease.owner]
        return last is not None and not any(w.beat_at is not None and w.beat_at > last for w in others)
    return False


class Heartbeat:
    """The thread. `start` returns once the lease is registered."""

    name = "heartbeat"

    def __init__(
        self,
        *,
        lease: Lease,
        open_store: OpenStore,
        clock: Clock,
        on_lost: Callable[[str], None],
        blame: Blame,
        exits_when_stuck: bool,
    ) -> None:
        self._lease = lease
        self._open_store = open_store
        self._clock = clock
        self._on_lost = on_lost
        self._blame = blame
        self._exits_when_stuck = exits_when_stuck
        self._thread: threading.Thread | None = None
        self._stop: Callable[[], object] = lambda: None
        self._called_off = threading.Event()
        self._ticks_at = 0.0
        self._ticking: asyncio.TimerHandle | None = None
        self._warned_at = 0.0
        self._is_stuck = False

    @property
    def is_running(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def statistics(self) -> Statistics:
        return Statistics(name=self.name, is_running=self.is_running, starts=1 if self._thread else 0)

    async def start(self) -> None:
        if self.is_running:
            return
        self._main_loop = asyncio.get_running_loop()
        self._main_thread = threading.get_ident()
        self._is_stuck = False
        started: asyncio.Future[None] = self._main_loop.create_future()
        self._called_off = called_off = threading.Event()
        self._tick()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._live(started, called_off)), name="actorjobs-heartbeat", daemon=True
        )
        self._thread.start()
        try:
            await asyncio.wait_for(started, START_TIMEOUT_SECONDS)
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """End the lease: runs still claimed under it are free for others."""
        if self._ticking is not None:
            self._ticking.cancel()
        thread, self._thread = self._thread, None
        if thread is not None:
            self._called_off.set()  # a thread that only begins finds it
            self._stop()
            await asyncio.to_thread(thread.join, 10.0)

    def _tick(self) -> None:
        self._ticks_at = time.monotonic()
        self._ticking = self._main_loop.call_later(TICK_SECONDS, self._tick)

    # everything below runs in the thread

    async def _live(self, started: asyncio.Future[None], called_off: threading.Event) -> None:
        loop, ending = asyncio.get_running_loop(), asyncio.Event()

        def stop() -> None:
            with suppress(RuntimeError):  # the thread has ended by itself
                loop.call_soon_threadsafe(ending.set)

        self._stop = stop
        if called_off.is_set():
            return
        try:
            store = await self._open_store()
        except BaseException as error:
            self._tell(started, error)
            return
        try:
            await self._beat(store, started, ending)
        finally:
            await self._leave(store)

    async def _beat(self, store: Store, started: asyncio.Future[None], ending: asyncio.Event) -> None:
        try:
            await begin_lease(store, self._lease)
        except BaseException as error:
            self._tell(started, error)
            return
        self._tell(started, None)
        next_beat = time.monotonic() + BEAT_SECONDS
        while not ending.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(ending.wait(), TICK_SECONDS)
            await self._look_at_loop(store)
            is_due = time.monotonic() >= next_beat or self._lease.owner is None
            if is_due and not self._is_stuck and not ending.is_set():
                next_beat = time.monotonic() + (BEAT_SECONDS if await self._beat_safely(store) else BEAT_RETRY_SECONDS)

    async def _beat_safely(self, store: Store) -> bool:
        try:
            return await beat_once(store, self._lease, self._lost)
        except Exception as error:
            logger.warning("the lease could not be renewed: %s", error)
            return False

    def _lost(self, owner: str) -> None:
        self._call_main(lambda: self._on_lost(owner))

    def _tell(self, started: asyncio.Future[None], error: BaseException | None) -> None:
        def answer() -> None:
            if started.done():
                return
            if error is None:
                started.set_result(None)
            else:
                started.set_exception(error if isinstance(error, Exception) else RuntimeError(repr(error)))

        self._call_main(answer)

    def _call_main(self, call: Callable[[], None]) -> None:
        with suppress(RuntimeError):  # the main loop is closed: nobody is left to be told
            self._main_loop.call_soon_threadsafe(call)

    async def _leave(self, store: Store) -> None:
        owner = self._lease.owner
        self._lease.end()
        with suppress(Exception):
            if owner is not None and not self._is_stuck:
                await store.leave(owner)
        with suppress(Exception):
            await store.close()

    async def _look_at_loop(self, store: Store) -> None:
        """Warn of a loop that does not move, each time it has stood still twice as long; give it up in the end."""
        still = time.monotonic() - self._ticks_at - TICK_SECONDS
        if still < WARN_AFTER_SECONDS:
            self._warned_at = 0.0
            return
        if still >= 2 * self._warned_at:
            self._warned_at = still
            self._warn(still)
        if still >= GIVE_UP_AFTER_SECONDS and not self._is_stuck:
            await self._give_up(store)

    def _warn(self, still: float) -> None:
        frame = self._main_frame()
        culprit = self._culprit(frame)
        what = f"run {culprit[0]} ({culprit[1]})" if culprit else "something"
        stack = "".join(traceback.format_stack(frame, STACK_FRAMES)) if frame is not None else "(no stack)"
        logger.warning(
            "%s has blocked the event loop for %.1f s; its lease is kept, but nothing else moves. Stack:\n%s",
            what,
            still,
            stack,
        )

    def _main_frame(self) -> FrameType | None:
        """Where the main thread is. The function is documented, in spite of its name."""
        return sys._current_frames().get(self._main_thread)  # pyright: ignore[reportPrivateUsage]

    def _culprit(self, frame: FrameType | None) -> tuple[str, str] | None:
        return self._blame(*_running(self._main_loop, frame))

    async def _give_up(self, store: Store) -> None:
        self._is_stuck = True
        owner, culprit = self._lease.owner, self._culprit(self._main_frame())
        logger.critical("the event loop has stood still for %.0f s: its runs are given up", GIVE_UP_AFTER_SECONDS)
        with suppress(Exception):
            if owner is not None and culprit is not None:
                await store.blame(owner, culprit[0])
        if self._exits_when_stuck:
            os._exit(EXIT_STUCK)


def _running(loop: asyncio.AbstractEventLoop, frame: FrameType | None) -> tuple[Context | None, str | None]:
    """What the loop is executing, seen from another thread: context variables, and the name of the task.

    The callback is found in the frame of `Handle._run`; a loop written in C has no such frame, there the task tells.
    """
    while frame is not None:
        if frame.f_code.co_name == "_run" and isinstance(handle := frame.f_locals.get("self"), asyncio.Handle):
            return getattr(handle, "_context", None), None
        frame = frame.f_back
    with suppress(Exception):
        task: Any = asyncio.current_task(loop)
        # The context of a task can be asked for from Python 3.12 on.
        return getattr(task, "get_context", lambda: None)(), task.get_name()
    return None, None
