"""What /proc says of processes, and of the machine that a figure was measured on."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_TICKS = os.sysconf("SC_CLK_TCK")
_LISTENS = "0A"
"""The state of a listening socket in /proc/net/tcp."""


@dataclass(frozen=True, slots=True)
class Process:
    """CPU times are seconds; `children` is that of children that have ended and were waited for."""

    command: str
    parent: int
    cpu: float
    children: float


@dataclass(frozen=True, slots=True)
class Cpu:
    """CPU seconds spent so far by a worker and by servers, each with all its processes; 0 for what is not there."""

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


def spent(root: int | None, all_processes: Mapping[int, Process]) -> float:
    """CPU seconds of a process, all below it, and those below it that have ended."""
    below = [] if root is None else tree(root, all_processes)
    return sum(all_processes[pid].cpu + all_processes[pid].children for pid in below)


def cpu(*, worker: int | None, broker: int | None, database: int | None) -> Cpu:
    """What was spent until now by these processes."""
    now = processes()
    return Cpu(spent(worker, now), spent(broker, now), spent(database, now))


def listener(port: int) -> int | None:
    """The process of this machine that accepts connections there: the oldest, where several have the socket.

    None where it cannot be told: it runs elsewhere, or as another user.
    """
    sockets = {f"socket:[{inode}]" for inode in _listening(port)}
    holders = [pid for pid in processes() if sockets & set(_open_files(pid))] if sockets else []
    return min(holders, default=None)


def _listening(port: int) -> set[str]:
    lines = [line.split() for path in ("tcp", "tcp6") for line in _lines(Path("/proc/net") / path)[1:]]
    return {line[9] for line in lines if line[3] == _LISTENS and int(line[1].rsplit(":", 1)[1], 16) == port}


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


def _open_files(pid: int) -> Iterator[str]:
    with suppress(OSError):  # it may have ended, or belong to somebody else
        for path in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                yield str(path.readlink())


def peak_megabytes(root: int) -> float:
    """The most memory that each process of the tree has had, summed."""
    return sum(_status(pid, "VmHWM") for pid in tree(root, processes()))


def megabytes(root: int) -> float:
    """What the tree has in memory now."""
    return sum(_status(pid, "VmRSS") for pid in tree(root, processes()))


def _status(pid: int, name: str) -> float:
    kilobytes = _value(f"/proc/{pid}/status", name)
    return int(kilobytes.split()[0]) / 1024 if kilobytes else 0.0


def _value(file: str, name: str) -> str:
    """What such a file has behind a name; empty where it is not there."""
    lines = (line.partition(":") for line in _lines(Path(file)))
    return next((value.strip() for key, _, value in lines if key.strip() == name), "")


def described() -> dict[str, Any]:
    """What a reader must know of the machine to make sense of figures."""
    return {
        "cores": os.cpu_count(),
        "processor": _value("/proc/cpuinfo", "model name") or "unknown",
        "memory": _value("/proc/meminfo", "MemTotal") or "unknown",
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "load": [round(value, 2) for value in os.getloadavg()],
    }
