"""What an application says about one of its queues."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from actorjobs.errors import InvalidOption
from actorjobs.jobs.actor import Actor
from actorjobs.retry import shown

DEFAULT_CONCURRENCY: Final = 10
_MOST_ACTORS: Final = 10_000


@dataclass(frozen=True, slots=True)
class Queue:
    """How a process serves a queue: with a pool of so many actors, each doing one run at a time.

    `actor` is a class of the application's own whose instances hold what the actors keep between runs.
    """

    concurrency: int = DEFAULT_CONCURRENCY
    actor: type[Actor] | None = None

    def __post_init__(self) -> None:
        check_concurrency(self.concurrency)
        _check_actor(self.actor)


def _check_actor(value: object) -> None:
    if value is not None and not (isinstance(value, type) and issubclass(value, Actor)):
        raise InvalidOption("actor= is a class derived from Actor, as in Queue(concurrency=4, actor=Mailer)")


def check_concurrency(value: object) -> int:
    """A whole number of actors from 1 to 10,000; `InvalidOption` otherwise."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _MOST_ACTORS:
        raise InvalidOption(f"concurrency must be a whole number from 1 to {_MOST_ACTORS:,}, not {shown(value)}")
    return int(value)
