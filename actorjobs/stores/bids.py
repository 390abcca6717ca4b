"""Bids for the runs of hints: which are worth asking the database about, and why one brings no claim."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeAlias, TypeVar

from actorjobs.lifecycle import LOSSES_UNTIL_SUSPECT
from actorjobs.model import is_run_id
from actorjobs.ports import Bid, Claim, Hint, Refusal, Refused

T = TypeVar("T")

IDS_AT_ONCE = 500
LARGEST_INTEGER = 2**31 - 1

Generation: TypeAlias = tuple[str, int]
"""A run in one of its generations: its id and `seq`."""

Answers: TypeAlias = Mapping[Generation, Claim | Refusal]


class Waiting(NamedTuple):
    """What a run that waits is judged by. `seconds` is how long it is until it is due; `is_over` says that it has
    expired or is to be canceled."""

    id: str
    seq: int
    seconds: float
    losses: int
    job: str
    version: int
    is_held: bool
    is_over: bool
    is_paused: bool
    queue: str


STALE = Refusal(why=Refused.STALE)


def first_bids(bids: Iterable[Bid]) -> list[Bid]:
    """Of several bids for one generation the first, in the order of ids; without those for what can be no run."""
    first: dict[Generation, Bid] = {}
    for bid in bids:
        if is_generation(bid.run_id, bid.seq):
            first.setdefault((bid.run_id, bid.seq), bid)
    return [first[generation] for generation in sorted(first)]


def generations(hints: Iterable[Hint]) -> list[Generation]:
    """Those that the hints are about, each once, in the order of ids."""
    told = {(hint.run_id, hint.seq) for hint in hints if hint.seq is not None}
    return sorted(one for one in told if is_generation(*one))


def is_generation(run_id: str, seq: int) -> bool:
    """Whether there could be such a one: what a broker brings may be anything."""
    return is_run_id(str(run_id)) and 0 < seq <= LARGEST_INTEGER


def in_portions(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """The items in groups that fit a list of ids. (MariaDB makes a subquery, and another plan, of a longer one.)"""
    return (items[start : start + IDS_AT_ONCE] for start in range(0, len(items), IDS_AT_ONCE))


def answered(bids: Sequence[Bid], answers: Answers) -> list[Claim | Refusal]:
    """The answers in the order of the bids. A bid that repeats an earlier one has nothing left to do."""
    left = dict(answers)
    return [left.pop((bid.run_id, bid.seq), STALE) for bid in bids]


def refusal(run: Waiting | None, bid: Bid, jobs: Mapping[str, int]) -> Refusal | None:
    """Why the bid does not get the run, as it was found waiting or not at all; None if nothing is in the way."""
    if run is None or run.seq != bid.seq or run.is_over or bid.queue not in (None, run.queue):
        return STALE
    if run.is_paused:
        return Refusal(why=Refused.PAUSED)
    if run.is_held or run.version > jobs.get(run.job, 0):
        return Refusal(why=Refused.UNKNOWN)
    if run.seconds > 0:
        return Refusal(why=Refused.EARLY, seconds=run.seconds)
    if run.losses >= LOSSES_UNTIL_SUSPECT and not bid.takes_suspect:
        return Refusal(why=Refused.SUSPECT)
    return None


def refusals(
    bids: Iterable[Bid], found: Iterable[Waiting], jobs: Mapping[str, int]
) -> dict[Generation, Claim | Refusal]:
    """Why these bids brought nothing. What could be claimed by now was locked a moment ago."""
    runs = {run.id: run for run in found}
    locked = Refusal(why=Refused.LOCKED)
    return {(bid.run_id, bid.seq): refusal(runs.get(bid.run_id), bid, jobs) or locked for bid in bids}
