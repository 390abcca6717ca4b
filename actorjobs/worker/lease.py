"""The lease: how long this process may believe in its own claims.

Ages count from the *sending* of the last good beat, on the monotonic clock, so that a slow answer never makes a lease
look younger than the database thinks. Only a process whose own beats were regular, by the database's stamps, judges
others: after an outage of the database everyone has a fresh lease.
"""

from __future__ import annotations

import fcntl
import os
import socket
import tempfile
from collections import deque
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import TextIO

from actorjobs.clock import Clock
from actorjobs.model import new_id
from actorjobs.ports import WorkerInfo

BEAT_SECONDS = 5.0
BEAT_RETRY_SECONDS = 1.0
DEAD_AFTER_SECONDS = 15.0
CLAIM_WITHIN_SECONDS = 8.0
CANCEL_AFTER_SECONDS = 10.0
ABANDON_AFTER_SECONDS = 14.0
STEADY_GAP = timedelta(seconds=6)
STEADY_SPAN = timedelta(seconds=DEAD_AFTER_SECONDS)


class Lease:
    """One process's claim to be alive. Written by the heartbeat, read by everything that claims."""

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self._sent_at = clock.monotonic()
        self._stamps: deque[datetime] = deque(maxlen=16)
        self._lock: LockFile | None = None
        self.owner: str | None = None
        """The id under which runs are claimed; None while this process has no lease."""

    def renew_as(self, worker: WorkerInfo, lock: LockFile, stamp: datetime) -> None:
        """Begin a lease of a new owner id."""
        self._stamps.clear()
        self._lock = lock
        self.renewed(self._clock.monotonic(), stamp)
        self.owner = worker.id

    def renewed(self, sent_at: float, stamp: datetime) -> None:
        self._stamps.append(stamp)
        self._sent_at = sent_at

    def excused(self, sent_at: float) -> None:
        """Nobody could beat, so nobody can have judged this process: its lease is as good as it was."""
        self._sent_at = sent_at

    def end(self) -> None:
        self.owner = None
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def now(self) -> float:
        """The monotonic time that ages are counted in."""
        return self._clock.monotonic()

    @property
    def age(self) -> float:
        """Seconds since the last good beat was sent. Virtual time ages nobody: there are no others to judge."""
        return 0.0 if self._clock.is_virtual else self._clock.monotonic() - self._sent_at

    @property
    def claiming_owner(self) -> str | None:
        """The id to claim under, or None while claiming would be rash."""
        return self.owner if self.age < CLAIM_WITHIN_SECONDS else None

    @property
    def last_stamp(self) -> datetime | None:
        return self._stamps[-1] if self._stamps else None

    @property
    def is_steady(self) -> bool:
        """Whether the beats of the last 15 s, by the database's clock, were never more than 6 s apart."""
        stamps = list(self._stamps)
        if len(stamps) < 2 or self.age > STEADY_GAP.total_seconds():
            return False
        for later, earlier in zip(reversed(stamps), reversed(stamps[:-1]), strict=False):
            if not timedelta(0) <= later - earlier <= STEADY_GAP:
                return False
            if stamps[-1] - earlier >= STEADY_SPAN:
                return True
        return False

    def __repr__(self) -> str:
        return f"Lease(owner={self.owner!r}, age={self.age:.1f})"


class LockFile:
    """A file that this process keeps locked while its lease lasts: the kernel frees it when the process dies.

    `flock`, not record locks: those are lost when any descriptor of the file is closed.
    """

    def __init__(self, owner: str) -> None:
        folder = lock_folder()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path = folder / f"{owner}.lock"
        self._file: TextIO | None = self.path.open("w")
        fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def release(self) -> None:
        if self._file is not None:
            with suppress(OSError):
                self.path.unlink()
            self._file.close()
            self._file = None


def lock_folder() -> Path:
    return Path(tempfile.gettempdir()) / f"actorjobs-{os.getuid()}"


def is_known_dead(worker: WorkerInfo) -> bool:
    """Whether a worker of this very host and boot has died: its lock file is here and nobody holds the lock.

    A missing file proves nothing: the worker may live in a container with another /tmp.
    """
    if worker.lock_path is None or worker.host != host_name() or worker.boot_id != boot_id():
        return False
    try:
        with Path(worker.lock_path).open("r") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def forget_lock(worker: WorkerInfo) -> None:
    """Delete what a dead worker of this host has left behind. Nothing is deleted only because a database names it."""
    path = Path(worker.lock_path or "")
    if path.parent == lock_folder():
        with suppress(OSError):
            path.unlink()


def new_worker(lock_path: Path) -> WorkerInfo:
    """Describe this process under the owner id that its lock file is named after."""
    return WorkerInfo(id=lock_path.stem, host=host_name(), boot_id=boot_id(), pid=os.getpid(), lock_path=str(lock_path))


def new_owner_id() -> str:
    """A fresh owner id that tells a reader where it runs."""
    short_host = "".join(c for c in host_name().split(".")[0] if c.isalnum() or c in "-_")[:20] or "host"
    return f"{short_host}-{os.getpid()}-{new_id()[-12:]}"


def host_name() -> str:
    return socket.gethostname()[:255]


def boot_id() -> str:
    """What tells this boot of this kernel from every other; empty where the system has no such thing."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""
