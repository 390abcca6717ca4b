"""The application that faults happen to: its handler writes what it does to a file, behind the runtime's back.

FAULTS_EFFECTS   the folder of those files         FAULTS_AT_ONCE   how many runs a worker performs at once
FAULTS_DIE       where this process kills itself, as in `settle:after:3`: after its third settle
FAULTS_CLOCK     how many seconds this host's wall clock is off
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from pydantic import BaseModel

import actorjobs as aj
from actorjobs.brokers.rabbitmq import settling
from actorjobs.brokers.rabbitmq.pipeline import Pipeline
from actorjobs.clock import SystemClock
from actorjobs.stores import SqlStore

WALL = time.time
"""Right, whatever FAULTS_CLOCK does to the process."""
_files: dict[Path, int] = {}
effects = Path(os.environ.get("FAULTS_EFFECTS", "/tmp"))


class Work(BaseModel):
    """What to do: work so long, fail so often first, or hold up the whole event loop."""

    seconds: float = 0.0
    failures: int = 0
    blocks: float = 0.0


def note(event: str, ctx: aj.JobContext) -> None:
    if effects not in _files:
        _files[effects] = os.open(effects / f"{os.getpid()}.jsonl", os.O_APPEND | os.O_CREAT | os.O_WRONLY)
    line = {"event": event, "run": ctx.run_id, "attempt": ctx.attempt, "pid": os.getpid()}
    line |= {"mono": time.monotonic(), "wall": WALL()}
    os.write(_files[effects], json.dumps(line).encode() + b"\n")


@aj.job("faults:work", queue="work", retry=aj.Retry(attempts=4, backoff=aj.Fixed(0.5)))
async def work(payload: Work, ctx: aj.JobContext) -> str:
    note("start", ctx)
    try:
        time.sleep(payload.blocks)
        until = time.monotonic() + payload.seconds
        while (left := until - time.monotonic()) > 0:
            await asyncio.sleep(min(0.1, left))
            note("tick", ctx)
        if ctx.failures < payload.failures:
            raise RuntimeError("as asked")
    except asyncio.CancelledError:
        note("canceled", ctx)
        raise
    note("end", ctx)
    return f"{ctx.run_id}/{ctx.attempt}"


def make_runtime(**options: Any) -> aj.Runtime:
    options = {"queues": {"work": int(os.environ.get("FAULTS_AT_ONCE", "10"))}, "grace": 5} | options
    return aj.Runtime(jobs=[work], **options)


Verb = Callable[..., Awaitable[Any]]


def dying(verb: Verb, *, when: str, number: int) -> Verb:
    """The same, but the process is gone at its call of this number, before or after."""
    calls = 0

    async def called(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        answer = await verb(*args, **options)
        if calls >= number and when == "after":
            await asyncio.sleep(0.02)  # for what was written to leave
            os.kill(os.getpid(), signal.SIGKILL)
        return answer

    return called


def set_trap(where: str) -> None:
    verb, when, number = where.split(":")
    owner: Any = {"publish": Pipeline, "acknowledge": settling}.get(verb, SqlStore)
    setattr(owner, verb, dying(getattr(owner, verb), when=when, number=int(number)))


if "FAULTS_DIE" in os.environ:
    set_trap(os.environ["FAULTS_DIE"])
if "FAULTS_CLOCK" in os.environ:
    off = float(os.environ["FAULTS_CLOCK"])
    right: Callable[[SystemClock], datetime] = SystemClock.now
    SystemClock.now = lambda clock: right(clock) + timedelta(seconds=off)  # type: ignore[method-assign]
    time.time = lambda: WALL() + off

runtime = make_runtime()
