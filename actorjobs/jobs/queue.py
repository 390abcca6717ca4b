"""What an application says about one of its queues."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from actorjobs.errors import InvalidOption
from actorjobs.retry import shown

DEFAULT_CONCURRENCY: Final = 10
_MOST_ACTORS: Final = 10_000


@dataclass(frozen=True, slots=True)
class Queue:
    """How a process serves a queue: with a pool of so many actors, each doing one run at a time."""

    concurrency: int = DEFAULT_CONCURRENCY

    def __post_init__(self) -> None:
        check_concurrency(self.concurrency)


def check_concurrency(value: object) -> int:
    """A whole number of actors from 1 to 10,000; `InvalidOption` otherwise."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _MOST_ACTORS:
        raise InvalidOption(f"concurrency must be a whole number from 1 to {_MOST_ACTORS:,}, not {shown(value)}")
    return int(value)
