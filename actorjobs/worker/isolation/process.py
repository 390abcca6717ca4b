"""One child process as its worker sees it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context
from typing import Any, Final

from actorjobs.errors import ContextMissing, ProcessDied
from actorjobs.jobs import Process
from actorjobs.worker.isolation import messages
from actorjobs.worker.isolation.desk import Desk
from actorjobs.worker.isolation.line import CUT_OFF
from actorjobs.worker.isolation.logs import write_again
from actorjobs.worker.isolation.messages import Garbled, Message, failure_of
from actorjobs.worker.isolation.orders import verdict_of
from actorjobs.worker.outcome import Verdict

START_SECONDS: Final = 60.0
EXIT_SECONDS: Final = 0.5
"""How long a child that has closed its line may take to end by itself, so that its status can be told."""
DRAIN_SECONDS: Final = 0.5
"""How long is read of what a child said before its end, if processes forked from it keep the line open."""

_PROGRAM: Final = (
    "import sys; sys.path[:] = sys.argv[3:]; from actorjobs.worker.isolation.child import main; "
    "main(int(sys.argv[1]), int(sys.argv[2]))"
)
_HINTS: Final = {signal.SIGKILL: ": probably out of memory", signal.SIGXCPU: ": its cpu= seconds are used up"}


class Child:
    """Starts, performs one run at a time, and ends. Whatever ends it, `gone` is done once nothing of it is left."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        limits: Process,
    ) -> None:
        self.limits = limits
        self.pid = process.pid
        self._process = process
        self._reader = reader
        self._writer = writer
        self._loop = asyncio.get_running_loop()
        self._started: asyncio.Future[ProcessDied | None] = self._loop.create_future()
        self._verdict: asyncio.Future[Verdict | None] = self._loop.create_future()
        self._desk: Desk | None = None
        self._asks: set[asyncio.Task[None]] = set()
        self._fault: str | None = None
        self._runs = 0
        self._was_taken = False
        self._is_killed = False
        self._is_over = False
        # Context(): what a child says belongs to no run's context variables.
        self.gone = self._loop.create_task(self._attend(), name=f"child {self.pid}", context=Context())

    @classmethod
    async def spawn(cls, setup: Message, limits: Process) -> Child:
        """Start the interpreter. `OSError` when the system has no room for another process."""
        limited = {"memory": limits.memory, "cpu": limits.cpu, "files": limits.files}
        first_words = messages.pack({**setup, "limits": limited})
        ours, theirs = socket.socketpair()
        with theirs:
            reader, writer = await asyncio.open_unix_connection(sock=ours)
            try:
                # By the thread of the loop: a child's parent-death signal comes when the thread ends that spawned it.
                process = await asyncio.create_subprocess_exec(
                    *_command(theirs.fileno()),
                    pass_fds=(theirs.fileno(),),
                    stdin=subprocess.DEVNULL,
                    start_new_session=True,
                )
            except BaseException:
                writer.close()
                raise
        writer.write(first_words)
        return cls(process, reader, writer, limits)

    @property
    def is_fit(self) -> bool:
        """Whether it may be given another run."""
        started = self._started.done() and self._started.result() is None
        return started and self._desk is None and not self._is_killed and not self.gone.done()

    async def started(self) -> None:
        """Return once it can take runs; `ProcessDied` if it never will."""
        await asyncio.wait({self._started}, timeout=START_SECONDS)
        if not self._started.done():
            self.kill()
            raise ProcessDied(f"the child process did not start within {START_SECONDS:g} s")
        failure = self._started.result()
        if failure is not None:
            raise failure

    def when_started(self, call: Callable[[], None]) -> None:
        self._started.add_done_callback(lambda _future: call())

    async def perform(self, order: Message, desk: Desk) -> Verdict | None:
        """The verdict on an attempt; None if the child ended before it had taken it. `ProcessDied` if it ended later.

        Canceled, it kills the child; a verdict that was sent before that is returned all the same.
        """
        self._runs += 1
        self._was_taken = False
        self._desk, self._verdict = desk, self._loop.create_future()
        try:
            self._send({**order, "run": self._runs})
            return await self._await_verdict()
        finally:
            self._desk = None
            for ask in self._asks:
                ask.cancel()

    async def _await_verdict(self) -> Verdict | None:
        ends: tuple[asyncio.Future[Any], ...] = (self._verdict, self.gone)
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            self.kill()
            await asyncio.shield(self.gone)
            if not self._verdict.done():
                raise
        if self._verdict.done():
            return self._verdict.result()
        if not self._was_taken:
            return None
        raise ProcessDied(self._how_it_ended())

    def leave(self) -> None:
        """Ask an idle child to leave the application's context and end."""
        self._send({"say": "leave"})

    def kill(self) -> None:
        """End it now, with every process it has started in its session."""
        self._is_killed = True
        if not self._is_over:  # later the number may be another's
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)

    def _send(self, message: Message) -> None:
        if not self.gone.done() and not self._writer.is_closing():
            self._writer.write(messages.pack(message))

    # its life, watched

    async def _attend(self) -> None:
        reading = self._loop.create_task(self._listen())
        exiting = self._loop.create_task(self._process.wait())
        try:
            await asyncio.wait({reading, exiting}, return_when=asyncio.FIRST_COMPLETED)
            if self._fault is None:
                await asyncio.wait({exiting}, timeout=EXIT_SECONDS)
                if not exiting.done():
                    self._fault = "it closed its line to the worker"
            self.kill()  # even if it has ended, what it started may have not
            await exiting
            self._is_over = True
            await asyncio.wait({reading}, timeout=DRAIN_SECONDS)
        finally:
            self.kill()
            reading.cancel()
            self._writer.close()
            await asyncio.wait({reading})
            with suppress(OSError):
                await self._writer.wait_closed()
            self._start(ProcessDied(f"the child process did not start: {self._how_it_ended()}"))

    async def _listen(self) -> None:
        try:
            while True:
                self._hear(await messages.read(self._reader))
        except (asyncio.IncompleteReadError, OSError):
            pass
        except Garbled as garbled:
            self._fault = str(garbled)

    def _hear(self, message: Message) -> None:
        try:
            match message["say"]:
                case "ready":
                    self._start(None)
                case "unready":
                    self._start(_failed_start(message))
                case "taken" if message["run"] == self._runs and self._desk is not None:
                    self._was_taken = True
                    self._desk.on_start()
                case "ended" if message["run"] == self._runs and not self._verdict.done():
                    self._verdict.set_result(verdict_of(message))
                case "ask":
                    self._begin(message, self._desk if message["run"] == self._runs else None)
                case "log":
                    variables = Context() if self._desk is None else self._desk.variables.copy()
                    variables.run(write_again, message["record"])  # the log's filters are to see whose record it is
                case _:
                    raise Garbled("it wrote what is no message")
        except Exception:  # of whatever kind nonsense may cause
            raise Garbled("it wrote what is no message") from None

    def _start(self, failure: ProcessDied | None) -> None:
        if not self._started.done():
            self._started.set_result(failure)

    def _begin(self, ask: Message, desk: Desk | None) -> None:
        context = None if desk is None else desk.variables.copy()
        task = self._loop.create_task(self._answer(ask, desk), context=context)
        self._asks.add(task)
        task.add_done_callback(self._asks.discard)

    async def _answer(self, ask: Message, desk: Desk | None) -> None:
        answer: Message = {"say": "answer", "number": ask.get("number")}
        try:
            if desk is None:
                raise _over()
            answer["value"] = await desk.answer(ask)
        except asyncio.CancelledError:
            answer["failure"] = failure_of(_over())
        except Exception as error:
            answer["failure"] = failure_of(error)
        self._send(answer)

    def _how_it_ended(self) -> str:
        if self._fault is not None:
            return f"the child process was killed: {self._fault}"
        status = self._process.returncode or 0
        if status >= 0:
            hint = ": probably it closed descriptors that were not its own" if status == CUT_OFF else ""
            return f"the child process ended with exit status {status} in the middle of its run{hint}"
        try:
            number = signal.Signals(-status)
        except ValueError:
            return f"the child process was killed by signal {-status}"
        return f"the child process was killed by {number.name}{_HINTS.get(number, '')}"

    def __repr__(self) -> str:
        state = "gone" if self.gone.done() else "at work" if self._desk else "idle"
        return f"<child process {self.pid}, {state}, {self._runs} runs>"


def _over() -> ContextMissing:
    return ContextMissing("the attempt has ended: nothing can be done on its behalf any more")


def _command(fd: int) -> list[str]:
    # The path comes with the command: the child is to find this very library, and nothing in its directory first.
    return [sys.executable, *_flags(), "-c", _PROGRAM, str(fd), str(os.getpid()), *map(str, sys.path)]


def _flags() -> list[str]:
    """The interpreter's own options, as `multiprocessing` passes them on; no public function tells them."""
    tell: Callable[[], list[str]] | None = getattr(subprocess, "_args_from_interpreter_flags", None)
    return [] if tell is None else tell()


def _failed_start(message: Message) -> ProcessDied:
    failure = ProcessDied(f"the child process did not start: {message['name']}: {message['message']}")
    failure.add_note(str(message["stack"])[-1000:])
    return failure
