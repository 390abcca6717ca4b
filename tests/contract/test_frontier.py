"""Searches for what is due, while the index is full of entries of rows that have left it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from actorjobs.stores.frontier import SLACK, SLOW_SECONDS, WHOLE_EVERY_SECONDS, Frontier

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


class Time:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def searched(frontier: Frontier, time: Time, *, seconds: float, found: list[tuple[int, datetime]]) -> bool:
    """Whether it was a whole search."""
    search = frontier.begin()
    time.now += seconds
    frontier.end(search, found)
    return search.is_whole


def test_as_long_as_searches_are_quick_all_of_them_are_whole() -> None:
    time = Time()
    frontier = Frontier(monotonic=time)
    for _ in range(3):
        assert searched(frontier, time, seconds=SLOW_SECONDS / 2, found=[(0, NOON)])


def test_after_a_slow_one_they_begin_where_it_got_to() -> None:
    time = Time()
    frontier = Frontier(bands=2, monotonic=time)
    assert searched(frontier, time, seconds=SLOW_SECONDS * 2, found=[(1, NOON), (1, NOON - timedelta(hours=1))])
    search = frontier.begin()
    assert not search.is_whole
    assert search.since[1] == NOON - SLACK
    assert search.since[0] < NOON - timedelta(days=10_000), "in the other band nothing was found"


def test_now_and_then_one_is_whole_again() -> None:
    time = Time()
    frontier = Frontier(monotonic=time)
    assert searched(frontier, time, seconds=SLOW_SECONDS * 2, found=[(0, NOON)])
    assert not searched(frontier, time, seconds=0.001, found=[])
    time.now += WHOLE_EVERY_SECONDS
    assert searched(frontier, time, seconds=0.001, found=[]), "and this one was quick:"
    assert searched(frontier, time, seconds=0.001, found=[])


def test_very_slow_ones_take_a_tenth_of_the_time() -> None:
    time = Time()
    frontier = Frontier(monotonic=time)
    searched(frontier, time, seconds=2.0, found=[(0, NOON)])
    time.now += 17.0
    assert not searched(frontier, time, seconds=0.001, found=[])
    time.now += 1.5
    assert searched(frontier, time, seconds=0.001, found=[])
