"""What the jobs do, the same in every system: almost nothing, and write down when.

Systems that await their handlers get the `async def` ones, systems with threads and processes the `blocking` ones.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.plan import Plan
from benchmarks.recording import Recorder

IO_SECONDS = 0.01
HOLD_SECONDS = 120.0
RETRY_SECONDS = 1.0

_recorder: Recorder | None = None
_making = threading.Lock()
"""Threads start their first runs at the same moment."""


class Failing(Exception):
    """A first attempt that is meant to fail."""


def recorder() -> Recorder:
    """This process's own."""
    return _recorder or _made()


def _made() -> Recorder:
    global _recorder
    with _making:
        if _recorder is None:
            _recorder = Recorder(Path(Plan.current().folder))
        return _recorder


def _forget_recorder() -> None:
    global _recorder, _making
    _recorder, _making = None, threading.Lock()


# A forked child writes to a file of its own.
os.register_at_fork(after_in_child=_forget_recorder)


async def noop(email: str, title: str) -> None:
    noop_blocking(email, title)


async def io(email: str, title: str) -> None:
    started = time.monotonic()
    await asyncio.sleep(IO_SECONDS)
    recorder().finished(started)


async def latency(promised: float, email: str, title: str) -> None:
    latency_blocking(promised, email, title)


async def retry(index: int, email: str, title: str) -> None:
    retry_blocking(index, email, title)


async def hold(email: str, title: str) -> None:
    """Occupies its place until the worker is stopped."""
    recorder().finished(time.monotonic())
    await asyncio.sleep(HOLD_SECONDS)


def noop_blocking(email: str, title: str) -> None:
    recorder().finished(time.monotonic())


def io_blocking(email: str, title: str) -> None:
    started = time.monotonic()
    time.sleep(IO_SECONDS)
    recorder().finished(started)


def latency_blocking(promised: float, email: str, title: str) -> None:
    recorder().finished(time.monotonic(), promised)


def retry_blocking(index: int, email: str, title: str) -> None:
    """Fails the first time; the second attempt was promised for a second after that."""
    now = time.monotonic()
    failed_at = recorder().failed_at(index)
    if failed_at == 0.0:
        recorder().failed(index, now)
        raise Failing("the first attempt fails")
    recorder().finished(now, failed_at + RETRY_SECONDS)


ASYNC: dict[str, Callable[..., Any]] = {"noop": noop, "io": io, "latency": latency, "retry": retry}
BLOCKING: dict[str, Callable[..., Any]] = {
    "noop": noop_blocking,
    "io": io_blocking,
    "latency": latency_blocking,
    "retry": retry_blocking,
}
"""By the name under which a system registers them."""
