"""Telling systemd how the service does: datagrams to the socket that NOTIFY_SOCKET names, as sd_notify(3) has it."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from types import TracebackType
from typing import Self

logger = logging.getLogger("actorjobs.worker")


class Notifier:
    """Says nothing where nobody asked for it.

    The variables are taken out of the environment: processes that this one starts are not the service. The watchdog is
    fed by the event loop itself, twice in its time, so that a loop that stands still is seen to.
    """

    def __init__(self) -> None:
        self._address = os.environ.pop("NOTIFY_SOCKET", "")
        microseconds, process = os.environ.pop("WATCHDOG_USEC", ""), os.environ.pop("WATCHDOG_PID", "")
        is_watched = microseconds.isdigit() and process in ("", str(os.getpid()))
        self._beat_seconds = int(microseconds) / 2_000_000 if self._address and is_watched else 0.0
        self._next_beat: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> Self:
        if self._beat_seconds > 0:
            self._beat()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._next_beat is not None:
            self._next_beat.cancel()

    def ready(self, status: str) -> None:
        """The service is up; `status` is for people."""
        self._tell("READY=1", f"STATUS={status}")

    def stopping(self, status: str) -> None:
        """It is about to end."""
        self._tell("STOPPING=1", f"STATUS={status}")

    def _beat(self) -> None:
        self._tell("WATCHDOG=1")
        self._next_beat = asyncio.get_running_loop().call_later(self._beat_seconds, self._beat)

    def _tell(self, *words: str) -> None:
        if not self._address:
            return
        # A name that begins with @ is of the abstract kind, which the kernel writes with a zero byte.
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as line:
                line.sendto("\n".join(words).encode(), address)
        except OSError as error:
            logger.warning("systemd was not told %s: %s", words[0], error)
