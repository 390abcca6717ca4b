"""within, Backoff, text_of: how the kernel waits."""

from __future__ import annotations

import asyncio
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actorjobs.actors import Backoff, within
from actorjobs.actors.timing import text_of
from actorjobs.clock import VirtualClock
from actorjobs.errors import InvalidOption
from tests.actors.stress import loop_turns

pytestmark = pytest.mark.usefixtures("nothing_left")


async def sleep_then(clock: VirtualClock, seconds: float, result: str = "done") -> str:
    await clock.sleep(seconds)
    return result


class TestWithin:
    async def test_returns_what_the_work_returns(self, clock: VirtualClock) -> None:
        call = asyncio.create_task(within(10, sleep_then(clock, 9), clock=clock))
        await clock.advance(9)
        assert await call == "done"

    async def test_raises_what_the_work_raises(self, clock: VirtualClock) -> None:
        async def fail() -> None:
            raise KeyError("no")

        with pytest.raises(KeyError):
            await within(10, fail(), clock=clock)

    async def test_cancels_work_that_is_late(self, clock: VirtualClock) -> None:
        work = asyncio.create_task(sleep_then(clock, 11))
        call = asyncio.create_task(within(10, work, clock=clock))
        await clock.advance(9.9)
        assert not call.done()
        await clock.advance(0.1)
        with pytest.raises(TimeoutError, match="10 s"):
            await call
        assert work.cancelled()

    async def test_keeps_the_result_of_work_that_ends_when_cancelled(self, clock: VirtualClock) -> None:
        async def stubborn() -> str:
            try:
                await clock.sleep(100)
            except asyncio.CancelledError:
                await loop_turns(3)
            return "after all"

        call = asyncio.create_task(within(10, stubborn(), clock=clock))
        await clock.advance(10)
        assert await call == "after all"

    async def test_cancelled_itself_ends_the_work_first(self, clock: VirtualClock) -> None:
        ended: list[str] = []

        async def tidy() -> None:
            try:
                await clock.sleep(100)
            finally:
                await loop_turns(3)
                ended.append("tidy")
                raise KeyError("nobody asks")

        call = asyncio.create_task(within(10, tidy(), clock=clock))
        await loop_turns(3)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert ended == ["tidy"]

    async def test_a_cancellation_of_the_work_by_a_stranger_is_no_time_out(self, clock: VirtualClock) -> None:
        work = asyncio.create_task(sleep_then(clock, 5))
        call = asyncio.create_task(within(10, work, clock=clock))
        await loop_turns(3)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call


class TestBackoff:
    def test_grows_to_the_cap(self) -> None:
        backoff = Backoff(base=0.1, factor=2, cap=30, jitter=0)
        delays = [round(backoff.delay(failures, Random(0)), 6) for failures in range(1, 12)]
        assert delays == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30, 30]
        assert backoff.longest(Random(0)) == 30

    @given(failures=st.integers(1, 100_000), seed=st.integers(0, 1000))
    def test_jitter_only_lengthens_by_its_fraction(self, failures: int, seed: int) -> None:
        plain = Backoff(jitter=0).delay(failures, Random(seed))
        assert plain <= Backoff(jitter=0.1).delay(failures, Random(seed)) <= plain * 1.1

    def test_jitter_is_spread_over_its_fraction(self) -> None:
        random = Random(0)
        delays = [Backoff(base=1, jitter=0.1).delay(1, random) for _ in range(500)]
        assert min(delays) < 1.01
        assert max(delays) > 1.09
        longest = [Backoff(cap=1, jitter=0.1).longest(random) for _ in range(500)]
        assert min(longest) < 1.01
        assert max(longest) > 1.09

    @pytest.mark.parametrize(
        "options", [{"base": 0}, {"base": -1}, {"factor": 0.5}, {"cap": 0.01}, {"jitter": -0.1}, {"base": float("nan")}]
    )
    def test_that_cannot_work_is_refused(self, options: dict[str, float]) -> None:
        with pytest.raises(InvalidOption):
            Backoff(**options)


def test_text_of_an_error_that_cannot_say_what_it_is() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError("mute")

    assert text_of(Mute()) == "Mute: (its message cannot be shown)"
    assert text_of(KeyError("a")) == "KeyError: 'a'"
