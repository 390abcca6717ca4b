"""Handlers for child processes, which import this module."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import faulthandler
import logging
import mmap
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel

import actorjobs as aj

ONCE = aj.Retry(attempts=1)
TWICE = aj.Retry(attempts=2, backoff=aj.Fixed(0.01))


class Work(BaseModel):
    what: str = ""
    where: str = ""


def mark(path: Path, text: str | None = None) -> None:
    path.write_text(text or str(os.getpid()))


def read(path: Path) -> str:
    return path.read_text()


class Services:
    def __init__(self) -> None:
        self.pid = os.getpid()
        self.entered = 0


@asynccontextmanager
async def services() -> AsyncGenerator[Services]:
    made = Services()
    made.entered += 1
    yield made
    if left := os.environ.get("TEST_LEFT"):
        mark(Path(left, str(os.getpid())))


@asynccontextmanager
async def spacious() -> AsyncGenerator[mmap.mmap]:
    """Takes address space, hardly any memory."""
    with mmap.mmap(-1, 512 * 1024 * 1024) as space:
        yield space


def facts(ctx: aj.JobContext[Any]) -> dict[str, Any]:
    return {
        "pid": os.getpid(),
        "run": ctx.run_id,
        "current": aj.current_context().run_id,
        "tenant": [ctx.tenant, aj.current_tenant()],
        "trace": ctx.trace_id,
        "attempt": ctx.attempt,
        "app": None if ctx.app is None else ctx.app.pid,
        "deadline": ctx.deadline is not None,
        "fds": len(os.listdir("/proc/self/fd")),
        "stdin": sys.stdin.read(),
    }


@aj.job("iso:facts", isolation="process", retry=ONCE)
async def tell(payload: Work, ctx: aj.JobContext[Any]) -> dict[str, Any]:
    return await asyncio.to_thread(facts, ctx)


@aj.job("iso:facts-sync", isolation="process", retry=ONCE)
def tell_sync(payload: Work, ctx: aj.JobContext[Any]) -> dict[str, Any]:
    return facts(ctx)


@aj.job("iso:echo", isolation="process", retry=ONCE)
async def echo(text: str) -> str:
    return text


@aj.job("iso:pid", isolation="process", retry=ONCE)
async def pid() -> int:
    return os.getpid()


@aj.job("iso:here", retry=ONCE)
async def here() -> int:
    await asyncio.sleep(0.2)
    return os.getpid()


class Odd(Exception):
    retry_after = 0.02


class Report(aj.Job[Work, str]):
    name = "iso:report"
    isolation = "process"
    retry = aj.Retry(attempts=3, backoff=aj.Fixed(600))
    language: str = "en"

    async def perform(self, payload: Work, ctx: aj.JobContext[Any]) -> str:
        if ctx.attempt < 3:
            raise Odd(payload.what)
        return f"{payload.what} in {self.language}, by {os.getpid()}"

    def backoff(self, failures: int, error: BaseException) -> float | None:
        return 0.01 if isinstance(error, Odd) else None


@aj.job("iso:never", isolation="process", retry=aj.Retry(attempts=9, never=(Odd,), backoff=aj.Fixed(0.01)))
def never(payload: Work) -> None:
    raise Odd("never again")


@aj.job("iso:on", isolation="process", retry=aj.Retry(attempts=2, on=(Odd,), backoff=aj.Fixed(0.0)))
async def only_on(payload: Work) -> None:
    raise Odd("again")


@aj.job("iso:undeclared", isolation="process")
async def undeclared(payload: Work) -> None:
    raise Odd("by the runtime's defaults")


def signal_of(what: str) -> Exception:
    return {
        "snooze": aj.Snooze(0.01),
        "later": aj.RetryLater(0.01),
        "fail": aj.Fail("bad account"),
        "cancel": aj.Cancel("user left"),
    }[what]


@aj.job("iso:steer", isolation="process", retry=aj.Retry(attempts=3, backoff=aj.Fixed(600)))
async def steer(payload: Work, ctx: aj.JobContext[Any]) -> int:
    def below() -> None:
        raise signal_of(payload.what)

    if ctx.attempt > 1:
        return ctx.attempt
    if payload.where == "thread":
        await asyncio.to_thread(below)
    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.to_thread(below))
    return 0


@aj.job("iso:steer-sync", isolation="process", retry=aj.Retry(attempts=3, backoff=aj.Fixed(600)))
def steer_sync(payload: Work, ctx: aj.JobContext[Any]) -> int:
    if ctx.attempt == 1:
        raise signal_of(payload.what)
    return ctx.attempt


@aj.job("iso:spin", isolation="process", retry=ONCE)
async def spin(payload: Work) -> int:
    """Busy in C without a pause: neither a task nor a thread of this process gets a turn."""
    mark(Path(payload.where))
    return sum(10 ** (10**8) % 7 for _ in range(10**6))


@aj.job("iso:sleep", isolation="process", retry=ONCE)
def sleep(payload: Work) -> None:
    mark(Path(payload.where))
    with contextlib.suppress(BaseException):
        time.sleep(600)


@aj.job("iso:family", isolation="process", retry=ONCE)
def family(payload: Work) -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    Path(payload.where).write_text(f"{os.getpid()} {child.pid}")
    time.sleep(600)


@aj.job("iso:die", isolation="process", retry=ONCE)
async def die(payload: Work) -> None:
    kill(payload)


@aj.job("iso:die-sync", isolation="process", retry=ONCE)
def die_sync(payload: Work) -> None:
    kill(payload)


@aj.job("iso:die-twice", isolation="process", retry=TWICE)
def die_twice(payload: Work, ctx: aj.JobContext[Any]) -> int:
    if ctx.attempt == 1:
        kill(payload)
    return os.getpid()


def kill(payload: Work) -> None:
    match payload.what:
        case "exit":
            sys.exit(4)
        case "_exit":
            os._exit(int(payload.where))
        case "segfault":
            faulthandler.disable()
            ctypes.string_at(0)
        case "garbage":
            for fd in os.listdir("/proc/self/fd"):
                with contextlib.suppress(OSError):
                    if os.readlink(f"/proc/self/fd/{fd}").startswith("socket:"):
                        os.write(int(fd), b"HTTP/1.1 200 OK\r\n\r\n")
            time.sleep(600)
        case "hang up":
            for fd in os.listdir("/proc/self/fd"):
                with contextlib.suppress(OSError):
                    if os.readlink(f"/proc/self/fd/{fd}").startswith("socket:"):
                        socket.fromfd(int(fd), socket.AF_UNIX, socket.SOCK_STREAM).shutdown(socket.SHUT_WR)
            time.sleep(600)
        case "close":
            os.closerange(3, int(payload.where))
            if payload.where == "90":
                time.sleep(600)
        case "put another in its place":
            for fd in os.listdir("/proc/self/fd"):
                with contextlib.suppress(OSError):
                    if os.readlink(f"/proc/self/fd/{fd}").startswith("socket:"):
                        os.dup2(socket.socketpair()[0].detach(), int(fd))
        case name:
            os.kill(os.getpid(), getattr(signal, name))


@aj.job("iso:eat", isolation=aj.Process(memory=512 * 1024 * 1024), retry=ONCE)
def eat(payload: Work) -> int:
    if payload.what == "little":
        return os.getpid()
    return len(bytearray(2 * 1024 * 1024 * 1024))


@aj.job("iso:tight", isolation=aj.Process(memory=256 * 1024 * 1024), retry=ONCE)
async def tight(payload: Work) -> None: ...


@aj.job("iso:burn", isolation=aj.Process(cpu=1, files=64), retry=ONCE)
def burn(payload: Work) -> list[int]:
    import resource

    if payload.what == "tell":
        return [resource.getrlimit(resource.RLIMIT_NOFILE)[0]]
    while True:
        pass


@aj.job("iso:resume", isolation="process", retry=TWICE)
async def resume(payload: Work, ctx: aj.JobContext[Any]) -> dict[str, Any]:
    await ctx.progress(0.25, "a quarter")
    await ctx.progress(0.5)
    if ctx.attempt == 1:
        await ctx.checkpoint(done=7)
        raise ValueError(str(ctx.state))
    return ctx.state


@aj.job("iso:resume-sync", isolation="process", retry=TWICE)
def resume_sync(payload: Work, ctx: aj.JobContext[Any]) -> dict[str, Any]:
    if ctx.attempt == 1:
        ctx.checkpoint_sync(done=8)
        os._exit(1)
    ctx.progress_sync(0.75, "nearly")
    return ctx.state


@aj.job("iso:dispatch", isolation="process", retry=ONCE)
async def dispatch(payload: Work, ctx: aj.JobContext[Any]) -> dict[str, Any]:
    linked = await ctx.dispatch(echo, "linked")
    loose = await echo.options(idempotency_key="k1", delay=0.001).dispatch("loose")
    again = await echo.options(idempotency_key="k1").dispatch("loose")
    errors: list[str] = []
    for wrong in (
        echo.options(idempotency_key="k1").dispatch("other"),
        echo.options(queue="nowhere").dispatch("x"),
        ctx.progress(7),
        echo.handle("no-such-run").run(),
        linked.result(timeout=0.001),
    ):
        try:
            await wrong
        except aj.ActorJobsError as error:
            errors.append(f"{type(error).__name__}: {error} {getattr(error, 'run_id', '')}")
    with contextlib.suppress(aj.InvalidOption):
        linked.events()
    return {
        "linked": linked.id,
        "loose": loose.id,
        "again": [again.id, again.existing],
        "result": await linked.result(timeout=10),
        "run": (await linked.run()).parent,
        "canceled": str((await (await echo.options(delay=60).dispatch("x")).cancel()).state),
        "replay": (await (await linked.replay()).run()).replay_of,
        "errors": errors,
    }


@aj.job("iso:dispatch-sync", isolation="process", retry=ONCE)
def dispatch_sync(payload: Work, ctx: aj.JobContext[Any]) -> list[str]:
    return [ctx.dispatch_sync(echo, "one").id, echo.dispatch_sync("two").id]


@aj.job("iso:log", isolation="process", retry=ONCE)
def log(payload: Work, ctx: aj.JobContext[Any]) -> None:
    ctx.log.info("told by %s \ud800", "the child", extra={"shade": {"of": "blue"}, "odd": object()})
    logging.getLogger("elsewhere").debug("not wanted")
    try:
        raise Odd("broken")
    except Odd:
        logging.getLogger("elsewhere").exception("went wrong")
    print("printed by the child")


@aj.job("iso:fork", isolation="process", retry=ONCE)
def fork(payload: Work, ctx: aj.JobContext[Any]) -> str:
    child = os.fork()
    if child == 0:
        try:
            ctx.log.warning("said by a forked process")
            ctx.progress_sync(0.5)
        except aj.ContextMissing:
            os._exit(7)
        finally:
            os._exit(1)
    return str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


@aj.job("iso:result", isolation="process", retry=TWICE)
async def bad_result(payload: Work) -> int:
    return "no number"  # type: ignore[return-value]


@aj.job("iso:self-canceled", isolation="process", retry=ONCE)
async def self_canceled(payload: Work) -> None:
    raise asyncio.CancelledError


@aj.job("iso:nested", isolation="process", retry=ONCE)
async def nested(store: str) -> list[str]:
    runtime = aj.Runtime(store=store, jobs=[echo])
    async with runtime.client():
        handle = await runtime.dispatch(echo, "from below")
    try:
        await runtime.open()
    except aj.InvalidOption as refusal:
        return [handle.id, str(refusal)]
    return []


_left: set[asyncio.Task[None]] = set()


@aj.job("iso:leave", isolation="process", retry=ONCE)
async def leave(ctx: aj.JobContext[Any], where: str) -> None:
    waiting = asyncio.create_task(echo.handle(ctx.run_id).result())

    async def later() -> None:
        said: list[str] = []
        for late in (waiting, ctx.progress(0.9), ctx.dispatch(echo, "late")):
            try:
                await late
            except aj.ActorJobsError as error:
                said.append(type(error).__name__)
            while not os.environ.get("TEST_NEXT"):
                await asyncio.sleep(0.01)
        mark(Path(where), " ".join(said))

    _left.add(asyncio.create_task(later()))
    await asyncio.sleep(0.05)


@aj.job("iso:next", isolation="process", retry=ONCE)
async def following(where: str) -> str:
    os.environ["TEST_NEXT"] = "yes"
    await asyncio.gather(*_left)
    return read(Path(where))
