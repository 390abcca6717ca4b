"""From where on an index of due rows is worth reading.

As long as somebody's transaction stays open, PostgreSQL keeps the index entries of all rows that have left the index
since, and a search for what is due goes through every one of them: a backup of an hour would slow every claim down by
what was claimed in that hour. So where a search turns out slow, the next ones begin where it got to. What lies before
that (a transaction that was long in committing, a run whose hold was lifted) is found by the whole searches in between.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import NamedTuple

from actorjobs.stores.schema import EPOCH

SLOW_SECONDS = 0.02
WHOLE_EVERY_SECONDS = 1.0
WHOLE_SHARE = 0.1
"""Whole searches take at most this part of the time."""
SLACK = timedelta(seconds=0.25)
"""What was accepted so much before the newest that was found is still found at once."""


class Search(NamedTuple):
    """`since` has a moment for each band; nothing before it is looked at."""

    since: list[datetime]
    is_whole: bool
    began: float


class Frontier:
    """How far the searches of one index have got, in each of its bands: its priorities, where there are any."""

    def __init__(
        self, *, bands: int = 1, slow_seconds: float = SLOW_SECONDS, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._slow_seconds = slow_seconds
        self._monotonic = monotonic
        self._everything = [EPOCH] * bands
        self._reached = [EPOCH + SLACK] * bands
        self._is_slow = False
        self._next_whole = 0.0

    def begin(self) -> Search:
        now = self._monotonic()
        if self._is_slow and now < self._next_whole:
            return Search([moment - SLACK for moment in self._reached], is_whole=False, began=now)
        return Search(self._everything, is_whole=True, began=now)

    def end(self, search: Search, found: Iterable[tuple[int, datetime]]) -> None:
        """What a search found: bands and moments."""
        for band, moment in found:
            self._reached[band] = max(self._reached[band], moment)
        if search.is_whole:
            took = self._monotonic() - search.began
            self._is_slow = took > self._slow_seconds
            self._next_whole = search.began + max(WHOLE_EVERY_SECONDS, took / WHOLE_SHARE)
