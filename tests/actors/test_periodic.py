"""Periodic: again and again, on time, whatever happens."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from random import Random
from typing import Any

import pytest

from actorjobs.actors import Periodic
from actorjobs.clock import VirtualClock
from actorjobs.errors import InvalidOption
from tests.actors.stress import loop_turns

pytestmark = pytest.mark.usefixtures("nothing_left")

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="nobody's")


class Duty:
    """The function: notes when it is called, and does what is planned for that call."""

    def __init__(self, clock: VirtualClock, *plan: Exception | float | bool | None) -> None:
        """An error is raised, a number is slept (seconds), True and None are returned."""
        self.clock, self.plan = clock, list(plan)
        self.times: list[float] = []
        self.ended = 0

    async def __call__(self) -> bool | None:
        self.times.append(round(self.clock.monotonic(), 3))
        step = self.plan.pop(0) if self.plan else None
        try:
            if isinstance(step, Exception):
                raise step
            if isinstance(step, float):
                await self.clock.sleep(step)
        finally:
            self.ended += 1
        return step if isinstance(step, bool) else None


def periodic(duty: Any, clock: VirtualClock, **options: Any) -> Periodic:
    defaults: dict[str, Any] = {"interval": 10.0, "jitter": 0.0, "random": Random(1)}
    return Periodic(name="duty", fn=duty, clock=clock, **{**defaults, **options})


class TestInterval:
    async def test_calls_at_once_and_then_after_every_interval(self, clock: VirtualClock) -> None:
        service = periodic(duty := Duty(clock), clock)
        await service.start()
        await clock.advance(30)
        await service.stop()
        await clock.advance(30)
        assert duty.times == [0, 10, 20, 30]

    async def test_or_first_after_one_interval(self, clock: VirtualClock) -> None:
        service = periodic(duty := Duty(clock), clock, is_immediate=False)
        await service.start()
        await clock.advance(25)
        await service.stop()
        assert duty.times == [10, 20]

    async def test_is_counted_from_the_end_of_a_call(self, clock: VirtualClock) -> None:
        service = periodic(duty := Duty(clock, 4.0, 3.0), clock)
        await service.start()
        await clock.advance(30)
        await service.stop()
        assert duty.times == [0, 14, 27]

    async def test_may_be_a_callable_asked_each_time(self, clock: VirtualClock) -> None:
        intervals = iter([1.0, 5.0, 100.0])
        service = periodic(duty := Duty(clock), clock, interval=lambda: next(intervals))
        await service.start()
        await clock.advance(10)
        await service.stop()
        assert duty.times == [0, 1, 6]

    async def test_a_callable_that_fails_is_a_failure_and_ends_nothing(
        self, clock: VirtualClock, caplog: pytest.LogCaptureFixture
    ) -> None:
        def interval() -> float:
            raise KeyError("interval")

        service = periodic(duty := Duty(clock), clock, interval=interval, max_interval=50.0)
        await service.start()
        await clock.advance(60)
        assert duty.times == [0, 50]
        assert service.statistics().failures == 2
        assert "KeyError: 'interval'" in caplog.text
        await service.stop()

    async def test_a_callable_that_says_zero_does_not_spin(self, clock: VirtualClock) -> None:
        service = periodic(duty := Duty(clock), clock, interval=lambda: 0.0, max_interval=50.0)
        await service.start()
        await clock.advance(60)
        await service.stop()
        assert duty.times == [0, 50]

    async def test_jitter_lengthens_by_up_to_its_fraction(self, clock: VirtualClock) -> None:
        service = periodic(duty := Duty(clock), clock, jitter=0.5)
        await service.start()
        await clock.advance(1000)
        await service.stop()
        gaps = [after - before for before, after in zip(duty.times, duty.times[1:], strict=False)]
        assert all(10 <= gap <= 15 for gap in gaps)
        assert max(gaps) > 14
        assert min(gaps) < 11

    @pytest.mark.parametrize(
        "options",
        [{"interval": 0.0}, {"interval": -1.0}, {"timeout": 0.0}, {"jitter": -0.1}, {"max_interval": 0.0}],
    )
    def test_options_that_cannot_work_are_refused(self, options: dict[str, float], clock: VirtualClock) -> None:
        with pytest.raises(InvalidOption):
            periodic(Duty(clock), clock, **options)


class TestMoreToDo:
    async def test_calls_again_at_once(self, clock: VirtualClock) -> None:
        service = periodic(duty := Duty(clock, True, True, None), clock)
        await service.start()
        await clock.advance(10)
        await service.stop()
        assert duty.times == [0, 0, 0, 10]

    async def test_for_ever_leaves_turns_to_others_and_can_be_stopped(self, clock: VirtualClock) -> None:
        service = periodic(duty := Duty(clock, *[True] * 100_000), clock)
        await service.start()
        await loop_turns(100)
        await service.stop()
        assert 5 < len(duty.times) < 100


class TestKick:
    async def test_calls_now(self, clock: VirtualClock) -> None:
        service = periodic(duty := Duty(clock), clock)
        await service.start()
        await clock.advance(3)
        service.kick()
        await clock.advance(9)
        await service.stop()
        assert duty.times == [0, 3]

    async def test_many_are_one(self, clock: VirtualClock) -> None:
        service = periodic(duty := Duty(clock), clock)
        await service.start()
        await clock.advance(3)
        service.kick()
        service.kick()
        await clock.advance(1)
        await service.stop()
        assert duty.times == [0, 3]

    async def test_during_a_call_calls_once_more(self, clock: VirtualClock) -> None:
        service = periodic(duty := Duty(clock, 2.0), clock)
        await service.start()
        await clock.advance(1)
        service.kick()
        service.kick()
        await clock.advance(5)
        await service.stop()
        assert duty.times == [0, 2]

    async def test_is_satisfied_by_the_call_for_more(self, clock: VirtualClock) -> None:
        async def duty() -> bool:
            calls.append(clock.monotonic())
            if len(calls) == 1:
                service.kick()
            return len(calls) == 1

        calls: list[float] = []
        service = periodic(duty, clock)
        await service.start()
        await clock.advance(5)
        await service.stop()
        assert calls == [0, 0]

    async def test_of_one_that_does_not_run_is_forgotten(self, clock: VirtualClock) -> None:
        service = periodic(duty := Duty(clock), clock, is_immediate=False)
        service.kick()
        await service.start()
        await clock.advance(5)
        await service.stop()
        assert duty.times == []


class TestFailure:
    async def test_is_counted_and_doubles_the_interval_up_to_the_cap(self, clock: VirtualClock) -> None:
        service = periodic(duty := Duty(clock, *[ValueError("no")] * 5), clock, max_interval=50.0)
        await service.start()
        await clock.advance(300)
        await service.stop()
        assert duty.times == [0, 20, 60, 110, 160, 210, 220, 230, 240, 250, 260, 270, 280, 290, 300]

    async def test_does_not_shorten_an_interval_beyond_the_cap(self, clock: VirtualClock) -> None:
        service = periodic(duty := Duty(clock, ValueError("no")), clock, interval=100.0, max_interval=50.0)
        await service.start()
        await clock.advance(150)
        await service.stop()
        assert duty.times == [0, 100]

    async def test_is_shown_in_the_statistics(self, clock: VirtualClock) -> None:
        service = periodic(Duty(clock, 1.0, ValueError("no"), KeyError("k"), 0.5), clock)
        await service.start()
        assert service.statistics().last_duration is None
        await clock.advance(5)
        first = service.statistics()
        assert (first.runs, first.failures, first.last_error, first.last_duration) == (1, 0, None, 1.0)
        await clock.advance(30)
        second = service.statistics()
        assert (second.runs, second.failures, second.failures_in_a_row) == (3, 2, 2)
        assert second.last_error == "KeyError: 'k'"
        await clock.advance(100)
        third = service.statistics()
        assert third.last_duration == 0.0
        assert (third.failures, third.failures_in_a_row, third.last_error) == (2, 0, "KeyError: 'k'")
        assert third.name == "duty"
        assert third.starts == 1
        assert third.is_running
        assert repr(service) == f"Periodic('duty', running, runs={third.runs}, failures=2)"
        await service.stop()

    async def test_is_logged_once_per_distinct_error_until_a_success(
        self, clock: VirtualClock, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, logger="actorjobs.actors")
        errors = [ValueError("a"), ValueError("a"), ValueError("b"), ValueError("a"), KeyError("a")]
        service = periodic(Duty(clock, *errors, None, ValueError("a")), clock, max_interval=10.0)
        await service.start()
        await clock.advance(40)
        logged = [record for record in caplog.records if record.levelno == logging.ERROR]
        assert [str(record.exc_info[1]) for record in logged if record.exc_info] == ["a", "b", "'a'"]
        await clock.advance(20)
        assert "duty succeeded again after 5 failures" in caplog.text
        logged = [record for record in caplog.records if record.levelno == logging.ERROR]
        assert len(logged) == 4
        await service.stop()

    async def test_the_memory_of_errors_is_bounded(self, clock: VirtualClock) -> None:
        service = periodic(Duty(clock, *[ValueError(str(n)) for n in range(500)]), clock, max_interval=10.0)
        await service.start()
        await clock.advance(4000)
        assert service.statistics().failures_in_a_row == 401
        assert len(service._logged) <= 100  # pyright: ignore[reportPrivateUsage]
        await service.stop()

    async def test_a_call_that_takes_too_long_is_cancelled_and_has_failed(self, clock: VirtualClock) -> None:
        service = periodic(duty := Duty(clock, 100.0), clock, timeout=5.0)
        await service.start()
        await clock.advance(4.9)
        assert duty.ended == 0
        await clock.advance(0.2)
        assert duty.ended == 1
        statistics = service.statistics()
        assert (statistics.failures, statistics.last_error) == (1, "TimeoutError: took longer than 5 s")
        await clock.advance(20)
        await service.stop()
        assert duty.times == [0, 25]

    async def test_a_leaked_cancellation_is_a_failure(self, clock: VirtualClock) -> None:
        async def duty() -> None:
            raise asyncio.CancelledError

        service = periodic(duty, clock)
        await service.start()
        await clock.advance(1)
        assert service.is_running
        assert service.statistics().failures == 1
        await service.stop()

    async def test_an_error_that_cannot_say_what_it_is(self, clock: VirtualClock) -> None:
        class Mute(Exception):
            def __str__(self) -> str:
                raise RuntimeError("mute")

        service = periodic(Duty(clock, Mute()), clock)
        await service.start()
        await clock.advance(1)
        assert service.is_running
        assert service.statistics().last_error == "Mute: (its message cannot be shown)"
        await service.stop()


class TestEnd:
    async def test_stop_cancels_the_present_call(self, clock: VirtualClock) -> None:
        service = periodic(duty := Duty(clock, 5.0), clock)
        await service.start()
        await loop_turns(5)
        await service.stop()
        assert duty.ended == 1
        assert clock.monotonic() == 0

    async def test_retire_waits_for_the_present_call(self, clock: VirtualClock) -> None:
        service = periodic(duty := Duty(clock, 5.0), clock)
        await service.start()
        await loop_turns(5)
        retiring = asyncio.create_task(service.retire())
        await clock.advance(4)
        assert not retiring.done()
        await clock.advance(1)
        await retiring
        assert (duty.times, duty.ended) == ([0], 1)

    async def test_retire_does_not_wait_for_the_next_one(self, clock: VirtualClock) -> None:
        service = periodic(duty := Duty(clock), clock)
        await service.start()
        await clock.advance(1)
        await service.retire()
        assert duty.times == [0]

    async def test_stop_from_within_ends_it_after_the_call(self, clock: VirtualClock) -> None:
        done: list[str] = []

        async def duty() -> None:
            await service.stop()
            await loop_turns(3)
            done.append("done")

        service = periodic(duty, clock)
        await service.start()
        await clock.advance(30)
        assert done == ["done"]
        assert not service.is_alive

    async def test_a_call_that_ignores_cancellation_is_the_last(self, clock: VirtualClock) -> None:
        calls: list[float] = []

        async def duty() -> None:
            calls.append(clock.monotonic())
            try:
                await clock.sleep(5)
            except asyncio.CancelledError:
                await loop_turns(3)

        service = periodic(duty, clock)
        await service.start()
        await loop_turns(5)
        await service.stop()
        assert calls == [0]

    async def test_starts_again(self, clock: VirtualClock) -> None:
        service = periodic(duty := Duty(clock), clock)
        for _ in range(2):
            await service.start()
            await clock.advance(1)
            await service.stop()
        assert duty.times == [0, 1]

    async def test_inherits_no_context(self, clock: VirtualClock) -> None:
        seen: list[str] = []

        async def duty() -> None:
            seen.append(variable.get())

        variable.set("the caller's")
        service = periodic(duty, clock)
        await service.start()
        await loop_turns(5)
        await service.stop()
        assert seen == ["nobody's"]
