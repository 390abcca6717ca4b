"""What /proc says of processes, and of the machine that a figure was measured on."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_TICKS = os.sysconf("SC_CLK_TCK")
_BROKER = "beam.smp"
_DATABASES = ("postgres", "mariadbd", "mysqld")


@dataclass(frozen=True, slots=True)
class Process:
    """CPU times are seconds; `children` is that of children that have ended and were waited for."""

    command: str
    parent: int
    cpu: float
    children: float


@dataclass(frozen=True, slots=True)
class Cpu:
    """CPU seconds spent so far by a worker with all its processes, and by all servers of a kind on this machine."""

    worker: float
    broker: float
    database: float

    def since(self, earlier: Cpu) -> Cpu:
        return Cpu(self.worker - earlier.worker, self.broker - earlier.broker, self.database - earlier.database)


def parse_stat(text: str) -> Process:
    """A line of /proc/<pid>/stat. The command is in parentheses and may hold blanks and parentheses itself."""
    opening, closing = text.index("("), text.rindex(")")
    fields = text[closing + 2 :].split()
    user, system, dead_user, dead_system = (int(field) / _TICKS for field in fields[11:15])
    return Process(text[opening + 1 : closing], int(fields[1]), user + system, dead_user + dead_system)


def processes() -> dict[int, Process]:
    """All of this machine, by their ids."""
    found: dict[int, Process] = {}
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            with suppress(OSError):  # it may have ended meanwhile
                found[int(path.name)] = parse_stat((path / "stat").read_text(encoding="utf-8", errors="replace"))
    return found


def tree(root: int, all_processes: Mapping[int, Process]) -> list[int]:
    """A process and all below it."""
    found, left = list[int](), [root]
    while left:
        pid = left.pop()
        if pid in all_processes:
            found.append(pid)
            left += [child for child, process in all_processes.items() if process.parent == pid]
    return found


def cpu(worker: int | None) -> Cpu:
    """What was spent until now; `worker` is the id of its first process."""
    now = processes()
    below = [] if worker is None else tree(worker, now)
    return Cpu(
        sum(now[pid].cpu + now[pid].children for pid in below),
        sum(process.cpu for process in now.values() if process.command == _BROKER),
        sum(_database_cpu(process, now) for process in now.values() if process.command in _DATABASES),
    )


def _database_cpu(process: Process, now: Mapping[int, Process]) -> float:
    parent = now.get(process.parent)
    is_child = parent is not None and parent.command == process.command
    # A connection's process that has ended is counted with its parent.
    return process.cpu + (0.0 if is_child else process.children)


def peak_megabytes(root: int) -> float:
    """The most memory that each process of the tree has had, summed."""
    return sum(_status(pid, "VmHWM") for pid in tree(root, processes()))


def megabytes(root: int) -> float:
    """What the tree has in memory now."""
    return sum(_status(pid, "VmRSS") for pid in tree(root, processes()))


def _status(pid: int, name: str) -> float:
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:")), 0.0)


def described() -> dict[str, Any]:
    """What a reader must know of the machine to make sense of figures."""
    return {
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "load": [round(value, 2) for value in os.getloadavg()],
    }
