"""What job bodies write down, and what the driver reads while they do: a file for each process, about 1 µs a run.

The files are mapped into memory, so that neither side makes a system call and nothing is added to the system measured.
Times are seconds of the monotonic clock, which all processes of a machine share.
"""

from __future__ import annotations

import mmap
import os
import struct
import threading
import time
from dataclasses import dataclass
from pathlib import Path

_COUNT = struct.Struct("Q")
_RUN = struct.Struct("ddd")
_MOMENT = struct.Struct("d")
CAPACITY = 500_000
"""Runs that one process may record. The files are sparse: only what is written takes room."""
_FAILURES = "failures"


@dataclass(frozen=True, slots=True)
class Run:
    """An execution that came to its end. `promised` is 0 where nothing was promised."""

    promised: float
    started: float
    finished: float

    @property
    def lateness(self) -> float:
        """Seconds; negative for a run that started early."""
        return self.started - self.promised


class Recorder:
    """Of one process; its threads may share it."""

    def __init__(self, folder: Path) -> None:
        self._map = _mapped(folder / f"{os.getpid()}.runs", _COUNT.size + CAPACITY * _RUN.size)
        self._failures = _mapped(folder / _FAILURES, CAPACITY * _MOMENT.size)
        self._lock = threading.Lock()
        self._count = 0

    def finished(self, started: float, promised: float = 0.0) -> None:
        """A run that started then has ended now."""
        with self._lock:
            _RUN.pack_into(self._map, _COUNT.size + self._count * _RUN.size, promised, started, time.monotonic())
            self._count += 1
            _COUNT.pack_into(self._map, 0, self._count)

    def failed_at(self, index: int) -> float:
        """When run number `index` failed, in whichever process; 0 if it did not."""
        moment: float = _MOMENT.unpack_from(self._failures, index * _MOMENT.size)[0]
        return moment

    def failed(self, index: int, at: float) -> None:
        _MOMENT.pack_into(self._failures, index * _MOMENT.size, at)


class Recording:
    """The driver's side of a folder that recorders write to."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def count(self) -> int:
        """How many runs have finished by now; cheap enough to be asked all the time."""
        return sum(_count(path) for path in self._folder.glob("*.runs"))

    def runs(self) -> list[Run]:
        """All of them, by when they started."""
        found = [run for path in self._folder.glob("*.runs") for run in _runs(path)]
        return sorted(found, key=lambda run: run.started)


def _count(path: Path) -> int:
    with path.open("rb") as file:
        head = file.read(_COUNT.size)
    return 0 if len(head) < _COUNT.size else int(_COUNT.unpack(head)[0])


def _runs(path: Path) -> list[Run]:
    count = _count(path)
    with path.open("rb") as file:
        file.seek(_COUNT.size)
        return [Run(*fields) for fields in _RUN.iter_unpack(file.read(count * _RUN.size))]


def _mapped(path: Path, size: int) -> mmap.mmap:
    with path.open("a+b") as file:
        file.truncate(size)
        return mmap.mmap(file.fileno(), size)
