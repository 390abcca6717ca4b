"""The child's end of the line: a thread that listens, and a handler's ways to ask."""

from __future__ import annotations

import asyncio
import itertools
import os
import select
import signal
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import Future
from typing import Any, Final

from actorjobs.errors import ContextMissing, InvalidOption
from actorjobs.model import Envelope, HistoryEntry, Run
from actorjobs.ports import Accepted, RunReader, Tracer, Transaction
from actorjobs.worker.isolation import desk
from actorjobs.worker.isolation.messages import HEADER, Message, error_of, pack, size_of, unpack

LOOK_SECONDS: Final = 1.0
"""How often a child looks whether its descriptors are still its own."""
CUT_OFF: Final = 74
"""The exit status of a child whose handler has closed them: `EX_IOERR`."""


class Line:
    """Messages to and from the worker. When the worker is gone, so is this process, whatever it is doing."""

    def __init__(self, fd: int) -> None:
        self._socket: socket.socket | None = socket.socket(fileno=fd)
        self._socket.set_inheritable(False)
        self._line_needs = {fd: _kind(fd)}
        self._needed = self._line_needs
        self._sending = threading.Lock()
        self._numbers = itertools.count(1)
        self._asked: dict[int, Future[Any]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._orders: asyncio.Queue[Message] = asyncio.Queue()
        os.register_at_fork(after_in_child=self._leave_to_parent)

    def _leave_to_parent(self) -> None:
        """A process that the handler forks must not speak here, nor keep the line open."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def send(self, message: Mapping[str, Any]) -> bool:
        """Say something, from any thread; False in a process that has no line."""
        if self._socket is None:
            return False
        data = pack(message)
        size_of(data[: HEADER.size])  # too large a message would pass for nonsense over there
        with self._sending:
            self._check_descriptors()
            try:
                self._socket.sendall(data)
            except OSError:
                end_at_once()
        return True

    def _check_descriptors(self) -> None:
        """End this process when a handler has closed what it needs to be heard: neither a send nor its loop would tell.
        Whatever else has got the number since is not to be written to."""
        if any(_kind(fd) != kind for fd, kind in self._needed.items()):
            os._exit(CUT_OFF)  # the worker, which is alive, ends what this process has started

    def receive(self) -> Message:
        return unpack(self._exactly(size_of(self._exactly(HEADER.size))))

    def _exactly(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            more = b"" if self._socket is None else self._socket.recv(size - len(data))
            if not more:
                raise EOFError
            data += more
        return bytes(data)

    def listen(self) -> None:
        """Listen from now on, in a thread of its own: handlers may block the loop."""
        threading.Thread(target=self._listen, daemon=True, name="worker-line").start()

    def _listen(self) -> None:
        try:
            while True:
                self._await_message()
                self._heard(self.receive())
        finally:
            end_at_once()

    def _await_message(self) -> None:
        poll = select.poll()
        poll.register(next(iter(self._line_needs)), select.POLLIN)
        while True:
            is_there = poll.poll(LOOK_SECONDS * 1000)
            self._check_descriptors()
            if is_there:
                return

    def _heard(self, message: Message) -> None:
        if message["say"] != "answer":
            assert self._loop is not None
            self._loop.call_soon_threadsafe(self._orders.put_nowait, message)
        elif (future := self._asked.pop(message["number"], None)) is not None:
            if "failure" in message:
                future.set_exception(error_of(message["failure"]))
            else:
                future.set_result(message["value"])

    def attach(self) -> None:
        """Have orders arrive on the running loop."""
        self._loop = asyncio.get_running_loop()
        self._needed = self._line_needs | {fd: _kind(fd) for fd in _descriptors_of(self._loop)}

    def detach(self) -> None:
        """The loop ends: what it needed may be closed."""
        self._needed = self._line_needs

    async def next_order(self) -> Message:
        return await self._orders.get()

    def ask(self, run: int, what: str, **facts: Any) -> Future[Any]:
        """Have the worker do something for that run, from any thread. The future holds its answer or its error."""
        self.check()
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()
        number = next(self._numbers)
        self._asked[number] = future
        self.send({"say": "ask", "what": what, "run": run, "number": number, **facts})
        return future

    def check(self) -> None:
        """`ContextMissing` in a process that has no line, nor the loop that would answer."""
        if self._socket is None:
            raise ContextMissing("a process forked by a handler cannot speak for it: let the handler say it")

    @property
    def is_loops_thread(self) -> bool:
        try:
            return asyncio.get_running_loop() is self._loop
        except RuntimeError:
            return False


class Voice:
    """One attempt's voice on the line: what it has left running speaks for no later one."""

    def __init__(self, line: Line, run: int) -> None:
        self.line = line
        self._run = run

    def ask(self, what: str, **facts: Any) -> Future[Any]:
        return self.line.ask(self._run, what, **facts)

    async def answer(self, what: str, **facts: Any) -> Any:
        return await asyncio.wrap_future(self.ask(what, **facts))


def _kind(fd: int) -> tuple[int, int] | None:
    """Which file it is; None for none."""
    try:
        facts = os.fstat(fd)
    except OSError:
        return None
    return facts.st_dev, facts.st_ino


def _descriptors_of(loop: asyncio.AbstractEventLoop) -> list[int]:
    """Without these a loop neither wakes up nor fails; no public function tells them."""
    parts: list[Any] = [getattr(loop, name, None) for name in ("_selector", "_ssock", "_csock")]
    return [part.fileno() for part in parts if hasattr(part, "fileno")]


def end_at_once() -> None:
    """End this process and all that it has started."""
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


class LineLink:
    """What the context of a handler writes to the record of its run, by way of the worker."""

    def __init__(self, voice: Voice) -> None:
        self._voice = voice
        self._loop = asyncio.get_running_loop()

    async def save_progress(self, fraction: float, message: str | None) -> None:
        await self._voice.answer("progress", fraction=fraction, message=message)

    async def save_checkpoint(self, state: Mapping[str, Any]) -> None:
        await self._voice.answer("checkpoint", state=dict(state))

    def run_on_loop(self, make: Callable[[], Awaitable[Any]]) -> Any:
        self._voice.line.check()

        async def work() -> Any:
            return await make()

        return asyncio.run_coroutine_threadsafe(work(), self._loop).result()


class LineDispatcher:
    """Has the worker's runtime accept what is dispatched in the child."""

    def __init__(self, voice: Voice, jobs: frozenset[str], tracer: Tracer | None = None) -> None:
        self._voice = voice
        self._jobs = jobs
        self._tracer = tracer
        self.runs: RunReader = LineReader(voice)

    def knows(self, job: str) -> bool:
        return job in self._jobs

    async def accept(self, envelope: Envelope, *, tx: Transaction | None = None) -> Accepted:
        written = _written(envelope, tx)
        return Accepted(**await self._voice.answer("accept", envelope=written, trace=self._trace))

    def accept_sync(self, envelope: Envelope, *, tx: Transaction | None = None) -> Accepted:
        written = _written(envelope, tx)
        if self._voice.line.is_loops_thread:
            raise InvalidOption("this would block the event loop: use await here")
        return Accepted(**self._voice.ask("accept", envelope=written, trace=self._trace).result())

    @property
    def _trace(self) -> Mapping[str, str] | None:
        """The span that is current here, for the worker's to be below it."""
        return None if self._tracer is None else self._tracer.carried()


def _written(envelope: Envelope, tx: Transaction | None) -> dict[str, Any]:
    if tx is not None:
        raise InvalidOption(
            "a transaction of a child process does not reach its worker: dispatch without tx=, or through a runtime "
            "of your own (async with runtime.client())"
        )
    # What was said, and no more: the runtime fills in its defaults for the rest.
    return {**envelope.model_dump(mode="json", exclude_unset=True), "id": envelope.id}


class LineReader:
    """Reads and manages runs through the worker's runtime."""

    def __init__(self, voice: Voice) -> None:
        self._voice = voice

    async def get(self, run_id: str) -> Run:
        return desk.read(await self._voice.answer("get", run_id=run_id))

    async def wait(self, run_id: str, timeout: float | None) -> Run:
        return desk.read(await self._voice.answer("wait", run_id=run_id, timeout=timeout))

    async def cancel(self, run_id: str, *, reason: str | None = None) -> Run:
        return desk.read(await self._voice.answer("cancel", run_id=run_id, reason=reason))

    async def replay_run(self, run_id: str, *, delay: Any = None, reason: str | None = None) -> str:
        return str(await self._voice.answer("replay", run_id=run_id, delay=delay, reason=reason))

    def events(self, run_id: str) -> AsyncIterator[HistoryEntry]:
        raise InvalidOption("events() is not to be had in a child process: use run() or result()")
