"""`actorjobs worker --processes N`: a parent that keeps N worker processes and passes signals on to them.

Each child holds the reading end of a pipe to its parent: when the parent dies, however it dies, the children drain.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Sequence

from actorjobs.cli.notifying import Notifier
from actorjobs.cli.worker import CHILD_VARIABLE

logger = logging.getLogger("actorjobs.worker")

FIRST_RESTART_SECONDS = 0.5
LAST_RESTART_SECONDS = 30.0
HEALTHY_AFTER_SECONDS = 30.0


def run_fleet(commands: Sequence[Sequence[str]]) -> int:
    """Keep one child per command (arguments of `actorjobs`) alive until a signal; the worst of their exit statuses."""
    return asyncio.run(_Fleet(commands).run())


async def start_child(arguments: Sequence[str]) -> asyncio.subprocess.Process:
    """A worker process, `actorjobs` with these arguments, that drains when this process dies."""
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "actorjobs",
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        env=os.environ | {CHILD_VARIABLE: "1"},
        # A terminal's Ctrl-C goes to the whole group: the parent alone is to hear it and pass it on.
        start_new_session=True,
    )


async def ended(child: asyncio.subprocess.Process) -> int:
    """Wait for the end of a child; its exit status, which for one that a signal killed is 128 and the signal."""
    status = await child.wait()
    return status if status >= 0 else 128 - status


class _Fleet:
    def __init__(self, commands: Sequence[Sequence[str]]) -> None:
        self._commands = commands
        self._children: dict[int, asyncio.subprocess.Process] = {}
        self._refusing: set[int] = set()
        """Children that would not start as they were told, and wait for another try."""
        self._notifier = Notifier()

    async def run(self) -> int:
        """The children are this process's affair, which restarts them: systemd hears of this one."""
        async with self._notifier:
            return await self._run()

    async def _run(self) -> int:
        self._stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signaled)
        self._notifier.ready(f"keeping {len(self._commands)} worker processes")
        statuses = await asyncio.gather(*(self._keep(index) for index in range(len(self._commands))))
        return max(statuses, key=lambda status: (status != 0, status))

    def _signaled(self) -> None:
        self._notifier.stopping("stopping its worker processes")
        self._stop.set()
        for child in self._children.values():
            if child.returncode is None:
                child.send_signal(signal.SIGTERM)

    async def _keep(self, index: int) -> int:
        """Run one child, again and again while it dies of something; an ordinary end ends it here too. One that will
        not start as it was told (another has its port, say) is tried again, unless none of them will."""
        pause = FIRST_RESTART_SECONDS
        while True:
            began = asyncio.get_running_loop().time()
            status = await self._run_child(index)
            if self._stop.is_set() and status == 128 + signal.SIGTERM:
                return 0  # told to end before it could listen: it had begun nothing
            if status == 2:
                self._refusing.add(index)
            if len(self._refusing) == len(self._commands):
                self._stop.set()
            if status == 0 or self._stop.is_set():
                return status
            if asyncio.get_running_loop().time() - began > HEALTHY_AFTER_SECONDS:
                pause = FIRST_RESTART_SECONDS
            logger.error("worker process %d died (status %d), starting another in %.1f s", index + 1, status, pause)
            try:
                await asyncio.wait_for(self._stop.wait(), pause)
            except TimeoutError:
                pause = min(pause * 2, LAST_RESTART_SECONDS)
            else:
                return status

    async def _run_child(self, index: int) -> int:
        child = await start_child(self._commands[index])
        self._refusing.discard(index)
        self._children[index] = child
        if self._stop.is_set():
            child.send_signal(signal.SIGTERM)
        return await ended(child)
