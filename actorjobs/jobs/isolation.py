"""Where a handler runs: with the others, or in a child process of its own that can be killed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from actorjobs.errors import InvalidOption
from actorjobs.retry import Duration, seconds, shown

MIB: Final = 1024 * 1024
LEAST_MEMORY: Final = 256 * MIB
"""A child takes some 160 MB of address space before its first run."""


@dataclass(frozen=True, slots=True, init=False)
class Process:
    """A child process, reused from run to run, with limits of the operating system (`setrlimit`) if wanted.

    `memory` is bytes of address space, `cpu` seconds of processor time per attempt, `files` open files.
    """

    memory: int | None
    cpu: float | None
    files: int | None

    def __init__(self, *, memory: int | None = None, cpu: Duration | None = None, files: int | None = None) -> None:
        values = {
            "memory": _count(
                memory, "memory", low=LEAST_MEMORY, why=", since a child takes some 160 MB before its first run"
            ),
            "cpu": None if cpu is None else seconds(cpu, "cpu", positive=True),
            "files": _count(files, "files", low=32),
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)


Isolation: TypeAlias = Literal["process"] | Process


def check_isolation(value: object) -> Process | None:
    """The kind of child that `isolation=` asks for; None for none. `InvalidOption` for anything else."""
    if value is None or isinstance(value, Process):
        return value
    if value == "process":
        return Process()
    raise InvalidOption(f"isolation is 'process' or Process(memory=..., cpu=...), not {shown(value)}")


def _count(value: object, what: str, *, low: int, why: str = "") -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value < 1 << 62:
        raise InvalidOption(f"{what} is a whole number from {low:,} on{why}, not {shown(value)}")
    return int(value)
