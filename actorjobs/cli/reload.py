"""`actorjobs worker --reload`: a parent that keeps one worker process, and a new one whenever the source changes.

The parent never imports the application: each child reads it afresh. A child that ends by itself, as with an error in
the source, has said why; the next is started after the next change.
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import os
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

# The type of its stop_event, which is not given here, names a library that is not installed.
from watchfiles import Change, DefaultFilter, awatch  # pyright: ignore[reportUnknownVariableType]

from actorjobs.cli.fleet import ended, start_child
from actorjobs.errors import InvalidOption

logger = logging.getLogger("actorjobs.worker")

WATCHED = (".py", ".toml")
IGNORED_FOLDERS = (*DefaultFilter.ignore_dirs, ".nox", ".ruff_cache", "site-packages")
LONGEST_GROUP_MILLISECONDS = 400
"""Changes that follow one another closely, as of a checkout, are one change; but never wait longer than this."""


def run_reloading(command: Sequence[str]) -> int:
    """Keep a child for `command` (arguments of `actorjobs`) until a signal; the exit status of the last one."""
    return asyncio.run(_Reloader(command, Path.cwd()).run())


def is_source(folder: Path) -> Callable[[Change, str], bool]:
    """Whether a change below `folder` is one of the source. What lies above `folder` does not matter."""
    is_kept = DefaultFilter(ignore_dirs=IGNORED_FOLDERS)
    above = str(folder)
    return lambda change, path: path.endswith(WATCHED) and is_kept(change, path.removeprefix(above))


class _Reloader:
    def __init__(self, command: Sequence[str], folder: Path) -> None:
        self._command = command
        self._folder = folder
        self._child: asyncio.subprocess.Process | None = None
        self._changed = asyncio.Event()
        self._changed_paths: set[str] = set()
        self._stop = asyncio.Event()
        self._was_told_to_end = False

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signaled)
        watching = asyncio.create_task(self._watch())
        keeping = asyncio.create_task(self._keep())
        await asyncio.wait((watching, keeping), return_when=asyncio.FIRST_COMPLETED)
        if not keeping.done():  # without a watch this is no reloading: say so rather than go on with old code
            self._signaled()
        status = await keeping
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching
        return status

    async def _watch(self) -> None:
        """Set `_changed` at every change of the source; `InvalidOption` if the folder cannot be watched."""
        changes = awatch(
            self._folder,
            watch_filter=is_source(self._folder),
            debounce=LONGEST_GROUP_MILLISECONDS,
            ignore_permission_denied=True,
        )
        try:
            async for group in changes:
                paths = sorted(path for _, path in group)
                more = f" and {len(paths) - 1} more" if paths[1:] else ""
                logger.info("%r%s changed", paths[0].removeprefix(f"{self._folder}{os.sep}"), more)
                self._changed_paths.update(paths)
                self._changed.set()
                self._end_child()
        except (OSError, RuntimeError) as error:
            raise InvalidOption(f"{self._folder} cannot be watched for changes: {error}") from None

    async def _keep(self) -> int:
        """Run one child after the other until a signal."""
        while True:
            # Cleared before the child reads anything: whatever changes from here on leads to yet another child.
            self._changed.clear()
            while self._changed_paths:
                _forget_compiled(self._changed_paths.pop())
            status = await self._run_child()
            if not (self._changed.is_set() or self._stop.is_set()):
                logger.warning("the worker ended (status %d); the next change of the source starts another", status)
                await _first(self._changed, self._stop)
            if self._stop.is_set():
                return status

    async def _run_child(self) -> int:
        self._was_told_to_end = False
        self._child = await start_child(self._command)
        if self._changed.is_set() or self._stop.is_set():
            self._end_child()
        status = await ended(self._child)
        self._child = None
        return status

    def _end_child(self) -> None:
        """Let the child drain. Once is enough: a second SIGTERM would cancel its running work."""
        if not self._was_told_to_end:
            self._pass_on()

    def _signaled(self) -> None:
        """End the child, and with the user's second signal in a hurry."""
        if self._stop.is_set():
            self._pass_on()
        else:
            self._stop.set()
            self._end_child()

    def _pass_on(self) -> None:
        if self._child is not None and self._child.returncode is None:
            self._was_told_to_end = True
            self._child.send_signal(signal.SIGTERM)


def _forget_compiled(path: str) -> None:
    """Python takes compiled code for current if its source has the same second and size, as after a quick edit."""
    if path.endswith(".py"):
        with suppress(OSError, NotImplementedError):
            Path(importlib.util.cache_from_source(path)).unlink()


async def _first(*events: asyncio.Event) -> None:
    waits = [asyncio.create_task(event.wait()) for event in events]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()
