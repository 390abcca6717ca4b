"""`actorjobs worker`: one process that performs runs, or a parent that keeps several of them."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from actorjobs.cli.health import HealthServer
from actorjobs.cli.notifying import Notifier
from actorjobs.errors import InvalidOption
from actorjobs.runtime import PoolsFailing, Runtime
from actorjobs.telemetry.metrics_prometheus import MetricsServer
from actorjobs.telemetry.setup import Telemetry, configure, is_disabled

logger = logging.getLogger("actorjobs.worker")

T = TypeVar("T")

EXIT_FAILING = 1
EXIT_HURRIED = 3
"""Left at a second signal, before running work had ended."""

HURRY_SECONDS = 8.0
THREAD_END_SECONDS = 0.5
YOUNG_OBJECTS = 10_000
"""So many more of them than have gone, and the collector looks at them."""
CHECK_SECONDS = 0.05
CHILD_VARIABLE = "ACTORJOBS_PARENT_PIPE"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions:
    """What the command line says."""

    queues: Mapping[str, int | None] | None = None
    is_burst: bool = False
    health_port: int | None = None
    metrics_port: int | None = None
    service_name: str = "actorjobs"


def parse_queues(given: list[str]) -> dict[str, int | None] | None:
    """`emails:10,reports` as a mapping; None when nothing was said."""
    queues: dict[str, int | None] = {}
    for item in (part.strip() for text in given for part in text.split(",")):
        name, colon, number = item.partition(":")
        if not name or (colon and not (number.isascii() and number.isdigit() and 1 <= int(number) <= 10_000)):
            raise InvalidOption(f"-Q takes queues like emails:10,reports, not {item!r}; concurrency is 1 to 10000")
        if name in queues:
            raise InvalidOption(f"-Q names the queue {name!r} twice")
        queues[name] = int(number) if colon else None
    return queues or None


def run_worker(runtime: Runtime, options: WorkerOptions) -> int:
    """Perform runs until a signal says stop; the exit status. A second signal leaves at once."""
    # Before the runtime is opened, which decides then whether anything is measured.
    server = None if options.metrics_port is None else MetricsServer(port=options.metrics_port)
    if server is not None and is_disabled():
        logger.warning("OTEL_SDK_DISABLED=true: --metrics-port has nothing to show")
    telemetry = configure(service_name=options.service_name, readers=[] if server is None else [server.start()])
    try:
        status = run_on_uvloop(_Process(runtime, options, telemetry).run())
    finally:
        if server is not None:
            server.stop()
    if not _threads_end():
        # A handler that ignores its cancellation still holds a thread: its run is handed back, nobody waits for it.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


async def _leave_if_stuck(status: int) -> None:
    """Exit here and now if a handler goes on regardless: the loop would wait for its task for ever."""
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    if left and (await asyncio.wait(left, timeout=THREAD_END_SECONDS))[1]:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _threads_end() -> bool:
    """Whether every thread that the interpreter would wait for at its exit ends by itself now."""
    deadline = time.monotonic() + THREAD_END_SECONDS
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                return False
    return True


def spare_the_collector() -> None:
    """What is loaded by now stays for as long as the process: gone through time and again, all those modules cost a
    fifth of what a short run takes. What comes later is looked at as ever, the young less often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, *gc.get_threshold()[1:])


def run_on_uvloop(work: Coroutine[Any, Any, T]) -> T:
    """Run it on uvloop where that is installed."""
    run: Callable[[Coroutine[Any, Any, T]], T] = asyncio.run
    with suppress(ImportError):
        import uvloop

        run = uvloop.run
    # Not inside the handling of that error: it would be the context of every error that a handler raises.
    return run(work)


class _Process:
    """One worker process."""

    def __init__(self, runtime: Runtime, options: WorkerOptions, telemetry: Telemetry) -> None:
        self._runtime = runtime
        self._options = options
        self._telemetry = telemetry
        self._signals = 0
        self._is_draining = False
        self._notifier = Notifier()

    async def run(self) -> int:
        async with self._notifier:
            return await self._perform()

    async def _perform(self) -> int:
        self._stop = asyncio.Event()
        self._watch_signals()
        health = await self._serve_health()
        try:
            await self._runtime.open(only=self._options.queues, is_worker_process=True)
            spare_the_collector()
            performing = f"performing runs of {', '.join(self._runtime.statistics())}"
            logger.info("%s", performing)
            self._notifier.ready(performing)
            await self._until_done()
            async with self._telemetry:
                status = await self._drain()
            await _leave_if_stuck(status)
            return status
        finally:
            if health is not None:
                await health.stop()

    async def _serve_health(self) -> HealthServer | None:
        if self._options.health_port is None:
            return None
        health = HealthServer(port=self._options.health_port, is_ready=self._is_ready)
        await health.start()
        return health

    def _is_ready(self) -> bool:
        return self._runtime.is_open and not self._is_draining and not self._runtime.health

    def _watch_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signaled)
        if os.environ.get(CHILD_VARIABLE):
            watch = threading.Thread(target=self._watch_parent, args=(loop,), daemon=True, name="parent-watch")
            watch.start()

    def _watch_parent(self, loop: asyncio.AbstractEventLoop) -> None:
        """The parent holds the other end of our standard input: its end is the parent's."""
        while os.read(sys.stdin.fileno(), 1024):
            pass  # nobody writes to it; not through the buffered reader, whose lock the interpreter wants at its exit
        loop.call_soon_threadsafe(self._stop.set)

    def _signaled(self) -> None:
        self._signals += 1
        self._stop.set()
        if self._signals == 1:
            logger.info("stopping: running work has %g s to end; a second signal leaves at once", self._grace)
            return
        self._runtime.hurry()
        # Handing back takes milliseconds; should even that hang, the runs are rescued.
        last_resort = threading.Timer(HURRY_SECONDS, os._exit, (EXIT_HURRIED,))
        last_resort.daemon = True
        last_resort.start()

    @property
    def _grace(self) -> float:
        return self._runtime.settings.grace

    async def _until_done(self) -> None:
        calm = 0
        while not self._stop.is_set():
            if not self._options.is_burst:
                await self._stop.wait()
                return
            await asyncio.sleep(CHECK_SECONDS)
            calm = calm + 1 if self._runtime.is_at_rest else 0
            if calm == 3:
                return

    async def _drain(self) -> int:
        self._is_draining = True
        self._notifier.stopping(f"stopping: running work has {self._grace:g} s to end")
        try:
            await self._runtime.close()
        except PoolsFailing as error:
            logger.error("%s", error)
            return EXIT_FAILING
        return EXIT_HURRIED if self._signals > 1 else 0
