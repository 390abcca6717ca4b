"""The program of a child process: told where the application is, it performs one attempt after another.

The worker starts it and holds the other end of the line. It never outlives the worker: at the line's end a thread of
its own kills it and all it has started; on Linux the kernel kills it a second later should even that thread be held up.
"""

from __future__ import annotations

import asyncio
import contextvars
import ctypes
import logging
import math
import os
import resource
import signal
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Any, Final, cast

from anyio import CapacityLimiter

from actorjobs import codec
from actorjobs.errors import InvalidOption, PayloadInvalid
from actorjobs.jobs import Definition, JobContext, definition_of
from actorjobs.lifecycle import Ending
from actorjobs.model import Outcome
from actorjobs.ports import Tracer
from actorjobs.worker.handling import handle
from actorjobs.worker.isolation import inside
from actorjobs.worker.isolation.line import Line, LineDispatcher, LineLink, Voice, end_at_once
from actorjobs.worker.isolation.logs import Forwarding, set_levels
from actorjobs.worker.isolation.messages import Message
from actorjobs.worker.isolation.orders import context_of, message_of, retry_of
from actorjobs.worker.isolation.places import find, load_main
from actorjobs.worker.outcome import Budget, Ended, Verdict, judge

if TYPE_CHECKING:
    import io

logger = logging.getLogger("actorjobs.worker")

PR_SET_PDEATHSIG: Final = 1
FLUSH_SECONDS: Final = 1.5
"""For the last spans to be taken: the worker kills a child that it told to leave two seconds later."""
OOM_SCORE_MORE: Final = 300
"""Added to what the kernel goes by when memory is out: let it choose a child before its worker."""


def main(fd: int, parent: int) -> None:
    """Serve the worker of that process id, on the socket of that descriptor, until it says leave."""
    _die_with(parent)
    _volunteer()
    inside.enter_child()
    cast("io.TextIOWrapper", sys.stdout).reconfigure(line_buffering=True)  # a killed process writes out no buffers
    line = Line(fd)
    setup = line.receive()
    _forward_logs(line, setup["levels"])
    line.listen()
    sys.argv[:] = setup["argv"]
    child = None
    try:
        child = Child(line, setup, _import_application(setup))
        asyncio.run(child.serve())
    except BaseException as error:
        if child is None or not child.is_ready:
            info = codec.truncate_error(error)
            line.send({"say": "unready", "name": info.name, "message": info.message, "stack": info.stack})
        else:
            logger.exception("a child process failed")
        sys.exit(1)


class Child:
    """What it was told, and the application's context."""

    def __init__(self, line: Line, setup: Message, context: Any) -> None:
        self.is_ready = False
        self._line = line
        self._factory = context
        self._app: Any = None
        self._limits: dict[str, Any] = setup["limits"]
        self._jobs = frozenset[str](setup["jobs"])
        self._threads = CapacityLimiter(math.inf)
        self._tracer: Tracer | None = None
        self._service_name: str | None = setup["telemetry"]

    async def serve(self) -> None:
        """Perform runs in the application's context until there are no more."""
        self._line.attach()
        try:
            with self._telemetry():
                await self._serve()
        finally:
            self._line.detach()

    @contextmanager
    def _telemetry(self) -> Generator[None]:
        """The SDK, where the command line has set it up in the worker too."""
        if self._service_name is None:
            yield
            return
        from actorjobs.telemetry.setup import configure_child

        telemetry = configure_child(self._service_name)
        try:
            yield
        finally:
            telemetry.close(FLUSH_SECONDS)

    async def _serve(self) -> None:
        entering = nullcontext() if self._factory is None else self._factory()
        async with entering as self._app:
            _limit(self._limits)
            self._variables = contextvars.copy_context()
            self.is_ready = True
            self._line.send({"say": "ready"})
            while (order := await self._line.next_order())["say"] == "run":
                await self._perform(order)

    async def _perform(self, order: Message) -> None:
        _limit_cpu(self._limits["cpu"])
        self._line.send({"say": "taken", "run": order["run"]})
        try:
            verdict = await self._attempt(order)
        except Exception as error:
            logger.exception("run %s cannot be performed", order["context"]["run_id"])
            failed = Ending(outcome=Outcome.FAILED, permanent=True)
            verdict = Verdict(ending=failed, error=codec.truncate_error(error))
        self._line.send({**message_of(verdict), "run": order["run"]})

    async def _attempt(self, order: Message) -> Verdict:
        began = time.monotonic()
        voice = Voice(self._line, order["run"])
        ctx = context_of(order, app=self._app, link=LineLink(voice))
        definition = definition_of(find(order["script"]))
        variables, tracer = self._variables.copy(), self._tracer_for(order)
        if tracer is not None:
            variables.run(tracer.carry_on, order["trace"])
        work = self._handle(definition, order, ctx, LineDispatcher(voice, self._jobs, tracer))
        task = asyncio.get_running_loop().create_task(work, name=ctx.run_id, context=variables)
        await asyncio.wait({task})
        ended = Ended(error=asyncio.CancelledError()) if task.cancelled() else task.result()

        def own_delay(failures: int, error: BaseException) -> float | None:
            return definition.backoff_override(failures, error, order["constructor_args"])

        budget = Budget(
            retry=retry_of(order, definition),
            own_delay=own_delay,
            random=lambda: float(order["dice"]),
            failures=ctx.failures,
            elapsed=order["waited"] + time.monotonic() - began,
        )
        return judge(ended, None, budget)

    def _tracer_for(self, order: Message) -> Tracer | None:
        """For a worker that traces: what the handler does is to be seen below its attempt."""
        if order["trace"] is None:
            return None
        if self._tracer is None:
            from actorjobs.telemetry.tracing import open_carrier

            self._tracer = open_carrier()
        return self._tracer

    async def _handle(
        self, definition: Definition, order: Message, ctx: JobContext[Any], dispatcher: LineDispatcher
    ) -> Ended:
        constructor_args = order["constructor_args"]
        try:
            bound = definition.decode_payload(order["payload"], constructor_args, version=order["version"])
        except PayloadInvalid as error:
            return Ended(error=error)
        return await handle(definition, bound, constructor_args, ctx, dispatcher=dispatcher, threads=self._threads)


def _die_with(parent: int) -> None:
    if sys.platform == "linux":
        # The kernel's word that the worker is dead is to leave the line's thread a second, since a SIGKILL would spare
        # what this process has started: it is SIGHUP, number 1, and its handler is the C function alarm(1).
        libc = ctypes.CDLL(None)
        libc.signal.argtypes = (ctypes.c_int, ctypes.c_void_p)
        libc.signal.restype = ctypes.c_void_p
        libc.signal(signal.SIGHUP, ctypes.cast(libc.alarm, ctypes.c_void_p))
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGHUP, signal.SIGALRM))
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGHUP, 0, 0, 0)
    if os.getppid() != parent:
        end_at_once()  # it died before the kernel knew


def _volunteer() -> None:
    with suppress(OSError, ValueError), open("/proc/self/oom_score_adj", "r+") as file:
        score = min(int(file.read()) + OOM_SCORE_MORE, 1000)
        file.seek(0)
        file.write(str(score))


def _forward_logs(line: Line, levels: dict[str, int]) -> None:
    logging.root.handlers[:] = [Forwarding(lambda record: line.send({"say": "log", "record": record}))]
    set_levels(levels)


def _import_application(setup: Message) -> Any:
    """Import what will be needed, now that a failure is the start's and not a run's; the factory of the context."""
    if setup["main"] is not None:
        load_main(setup["main"])
    for place in setup["handlers"]:
        find(place)
    factory = None if setup["context"] is None else find(setup["context"])
    inside.has_imported()
    return factory


def _limit(limits: dict[str, Any]) -> None:
    """Limits hold from here on: importing the application is not what they are for."""
    memory = limits["memory"]
    if memory is not None:
        if _address_space() >= memory:
            raise InvalidOption(
                f"memory={memory:,} bytes is less than the {_address_space():,} that the child process takes up "
                "before its first run"
            )
        _lower(resource.RLIMIT_AS, memory)
    if limits["files"] is not None:
        _lower(resource.RLIMIT_NOFILE, limits["files"])


def _lower(kind: int, value: int) -> None:
    """Both limits, so that the handler cannot take it back; a tighter one from outside stands."""
    hard = resource.getrlimit(kind)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (value, value))


def _limit_cpu(seconds: float | None) -> None:
    """So many seconds more than were used so far, rounded up as the system counts whole ones."""
    if seconds is not None:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        soft, hard = math.ceil(usage.ru_utime + usage.ru_stime + seconds), resource.getrlimit(resource.RLIMIT_CPU)[1]
        resource.setrlimit(resource.RLIMIT_CPU, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


def _address_space() -> int:
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[0]) * resource.getpagesize()
    except OSError:
        return 0
