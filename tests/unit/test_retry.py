"""Retry policies: the delays they give, what they retry, how they are stored, and every value they refuse."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actorjobs.errors import InvalidOption
from actorjobs.retry import (
    LADDER_LEAD_UNITS,
    LONGEST_SECONDS,
    Custom,
    Exponential,
    Fixed,
    Retry,
    seconds,
    sole_error,
)


def least() -> float:
    return 0.0


def most() -> float:
    return 1 - 2**-53


def delays(retry: Retry, count: int, random: Callable[[], float] = least) -> list[float]:
    return [retry.delay(failures, ValueError(), random) for failures in range(1, count + 1)]


# --- delays ----------------------------------------------------------------------------------------------------------


def test_the_default_is_five_attempts_and_grows_from_15_seconds() -> None:
    assert Retry().attempts == 5
    # A little longer, so that each delay has few binary digits for the ladder of a broker.
    assert delays(Retry(), 4) == pytest.approx([15.2, 31.2, 61.92, 123.36])


def test_exponential_stays_at_its_cap() -> None:
    retry = Retry(backoff=Exponential(base=10, factor=3, cap=100, jitter=0))
    assert delays(retry, 5) == [10, 30, 90, 100, 100]


def test_exponential_survives_any_number_of_failures() -> None:
    assert Exponential(cap=60, base=1, factor=1000, jitter=0).after(10_000, least) == 60


def test_jitter_lengthens_even_beyond_the_cap() -> None:
    backoff = Exponential(base=100, factor=2, cap=100, jitter=0.5)
    assert backoff.after(1, least) == pytest.approx(100.32)
    assert 149.9 < backoff.after(1, most) <= 150


@given(st.integers(1, 10_000), st.floats(0, 1, exclude_max=True), st.floats(0, 1))
def test_jitter_never_shortens(failures: int, dice: float, jitter: float) -> None:
    plain = Exponential(jitter=0).after(failures, least)
    assert plain <= Exponential(jitter=jitter).after(failures, lambda: dice) <= plain * (1 + jitter)


@given(st.floats(0, 1, exclude_max=True))
def test_a_jittered_delay_has_few_binary_digits_where_its_jitter_has_room(dice: float) -> None:
    delay = Exponential(base=100, factor=2, cap=100, jitter=0.5).after(1, lambda: dice)
    units = delay / 0.02
    assert (round(units) - LADDER_LEAD_UNITS).bit_count() <= 4 or delay > 150 / 1.07
    assert 100 <= delay <= 150


def test_fixed_is_always_the_same() -> None:
    assert delays(Retry(backoff=Fixed(5)), 3, most) == [5, 5, 5]


def test_the_last_custom_delay_repeats() -> None:
    assert delays(Retry(8, Custom(10, 30, 120, 300, 900)), 7, most) == [10, 30, 120, 300, 900, 900, 900]


def test_durations_may_be_timedeltas() -> None:
    assert Fixed(timedelta(minutes=2)).delay == 120
    assert Custom(timedelta(seconds=1), 2).delays == (1, 2)
    assert Exponential(base=timedelta(seconds=1), cap=timedelta(hours=1)) == Exponential(base=1, cap=3600)
    assert Retry(max_elapsed=timedelta(days=1)).max_elapsed == 86400


# --- retry_after -----------------------------------------------------------------------------------------------------


class Busy(Exception):
    def __init__(self, retry_after: Any) -> None:
        super().__init__("busy")
        self.retry_after = retry_after


class Treacherous(Exception):
    @property
    def retry_after(self) -> float:
        raise RuntimeError("no")


@pytest.mark.parametrize(
    ("asked", "expected"),
    [(120, 120), (120.5, 120.5), (timedelta(minutes=3), 180), (5, 10), (10**30, LONGEST_SECONDS)],
)
def test_an_exception_may_lengthen_the_delay(asked: Any, expected: float) -> None:
    assert Retry(backoff=Fixed(10)).delay(1, Busy(asked), least) == expected


@pytest.mark.parametrize("asked", [None, "120", -5, math.nan, math.inf, -math.inf, True, b"", object(), 10**400 * -1])
def test_garbage_in_retry_after_is_ignored(asked: Any) -> None:
    assert Retry(backoff=Fixed(10)).delay(1, Busy(asked), least) == 10
    assert Retry(backoff=Fixed(0)).delay(1, Busy(asked), least) == 0


def test_a_short_retry_after_counts_too() -> None:
    assert Retry(backoff=Fixed(0)).delay(1, Busy(0.5), least) == 0.5


def test_a_retry_after_that_raises_is_ignored() -> None:
    assert Retry(backoff=Fixed(0)).delay(1, Treacherous(), least) == 0
    assert Retry(backoff=Fixed(10)).delay(1, Treacherous(), least) == 10


def test_retry_after_counts_inside_a_group_of_one() -> None:
    group = ExceptionGroup("g", [ExceptionGroup("h", [Busy(60)])])
    assert Retry(backoff=Fixed(1)).delay(1, group, least) == 60


# --- what is retried -------------------------------------------------------------------------------------------------


def test_everything_is_retried_by_default() -> None:
    assert Retry().allows(ValueError())
    assert Retry().allows(KeyboardInterrupt())


def test_on_limits_and_never_wins() -> None:
    retry = Retry(on=OSError, never=(ConnectionError, KeyError))
    assert retry.allows(FileNotFoundError())
    assert not retry.allows(ConnectionResetError())
    assert not retry.allows(ValueError())
    assert not Retry(never=KeyError).allows(KeyError())


def test_a_group_of_one_counts_as_the_one() -> None:
    retry = Retry(on=OSError)
    assert retry.allows(ExceptionGroup("g", [OSError()]))
    assert not retry.allows(ExceptionGroup("g", [OSError(), OSError()]))


def test_the_sole_error_is_found_at_any_depth() -> None:
    inner = ValueError()
    group: Exception = inner
    for _ in range(3_000):
        group = ExceptionGroup("g", [group])
    assert sole_error(group) is inner


def test_max_elapsed_bounds_the_start_of_the_next_attempt() -> None:
    retry = Retry(max_elapsed=100)
    assert not retry.is_over(elapsed=60, delay=40)
    assert retry.is_over(elapsed=60, delay=40.1)
    assert not Retry().is_over(elapsed=1e9, delay=1e9)


# --- storing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "retry",
    [
        Retry(),
        Retry(1, Fixed(0), max_elapsed=3600),
        Retry(7, Custom(10, 30)),
        Retry(3, Exponential(base=1, factor=1.5, cap=2, jitter=1)),
    ],
)
def test_a_stored_policy_comes_back_equal(retry: Retry) -> None:
    assert Retry.from_json(retry.to_json()) == retry


@pytest.mark.parametrize("retry", [Retry(on=OSError), Retry(never=(KeyError,))])
def test_exception_classes_cannot_be_stored(retry: Retry) -> None:
    with pytest.raises(InvalidOption, match="the job's definition"):
        retry.to_json()


def test_a_stored_policy_keeps_the_jobs_own_exception_classes() -> None:
    job = Retry(5, Fixed(1), on=OSError, never=(ConnectionError,), max_elapsed=10)
    run = job.overridden_by(Retry(2, Fixed(9)).to_json())
    assert run == Retry(2, Fixed(9), on=OSError, never=(ConnectionError,))


@pytest.mark.parametrize(
    "data",
    [
        None,
        "x",
        [],
        {},
        {"attempts": 3},
        {"attempts": 3, "backoff": None, "max_elapsed": None},
        {"attempts": 3, "backoff": {"kind": "quadratic"}, "max_elapsed": None},
        {"attempts": 3, "backoff": {"kind": "fixed", "delay": -1}, "max_elapsed": None},
        {"attempts": 3, "backoff": {"kind": "fixed", "speed": 1}, "max_elapsed": None},
        {"attempts": 3, "backoff": {"kind": "custom", "delays": 5}, "max_elapsed": None},
        {"attempts": 0, "backoff": {"kind": "fixed", "delay": 1}, "max_elapsed": None},
    ],
)
def test_a_damaged_stored_policy_is_refused(data: Any) -> None:
    with pytest.raises(InvalidOption):
        Retry.from_json(data)


# --- what cannot work ------------------------------------------------------------------------------------------------

BAD_DURATIONS: list[Any] = [
    -1,
    -0.0,
    math.nan,
    math.inf,
    -math.inf,
    1e300,
    10**400,
    True,
    "5",
    b"5",
    None,
    [],
    timedelta.max,
    timedelta.min,
    timedelta(seconds=-1),
    LONGEST_SECONDS + 1,
]


@pytest.mark.parametrize("value", BAD_DURATIONS)
@pytest.mark.parametrize("make", [Fixed, Custom, lambda value: Custom(1, value)])
def test_a_backoff_refuses_what_is_no_duration(make: Callable[[Any], Any], value: Any) -> None:
    with pytest.raises(InvalidOption, match="seconds or a timedelta"):
        make(value)


@pytest.mark.parametrize("value", [*BAD_DURATIONS[:-1], 0, 0.0])
@pytest.mark.parametrize("make", [lambda v: Exponential(base=v), lambda v: Exponential(cap=v)])
def test_exponential_refuses_what_is_no_positive_duration(make: Callable[[Any], Any], value: Any) -> None:
    with pytest.raises(InvalidOption, match="of Exponential must be a number of seconds or a timedelta above 0"):
        make(value)


@pytest.mark.parametrize("factor", [0, 0.9, -2, math.nan, math.inf, 1e300, True, "2", None])
def test_exponential_refuses_a_bad_factor(factor: Any) -> None:
    with pytest.raises(InvalidOption, match="factor of Exponential must be a number from 1 to 1,000"):
        Exponential(factor=factor)


@pytest.mark.parametrize("jitter", [-0.1, 1.1, math.nan, math.inf, True, "0.1", None])
def test_exponential_refuses_a_bad_jitter(jitter: Any) -> None:
    with pytest.raises(InvalidOption, match="jitter of Exponential must be a number from 0 to 1"):
        Exponential(jitter=jitter)


def test_exponential_refuses_a_cap_below_its_base() -> None:
    with pytest.raises(InvalidOption, match=r"cap .* is below its base .*: raise the cap"):
        Exponential(base=20, cap=10)


@pytest.mark.parametrize("count", [0, 1_001, 10**6])
def test_custom_refuses_no_delays_and_too_many(count: int) -> None:
    with pytest.raises(InvalidOption, match=f"1 to 1000 delays, not {count}"):
        Custom(*([1] * count))


def test_bounds_are_inside() -> None:
    assert len(Custom(*([1] * 1_000)).delays) == 1_000
    assert (Retry(1).attempts, Retry(10_000).attempts) == (1, 10_000)
    assert Exponential(factor=1, jitter=1, base=LONGEST_SECONDS, cap=LONGEST_SECONDS).cap == LONGEST_SECONDS


@pytest.mark.parametrize("attempts", [0, -1, 10_001, 10**9, True, "3", 2.5, 3.0, math.nan, None])
def test_attempts_must_be_a_sensible_whole_number(attempts: Any) -> None:
    with pytest.raises(InvalidOption, match="attempts must be a whole number from 1"):
        Retry(attempts)


@pytest.mark.parametrize("value", [*BAD_DURATIONS[:10], 0])
def test_max_elapsed_must_be_a_positive_duration(value: Any) -> None:
    with pytest.raises(InvalidOption, match="max_elapsed must be"):
        Retry(max_elapsed=value)


@pytest.mark.parametrize("backoff", [None, 5, "fixed", Fixed, [1, 2], object()])
def test_backoff_must_be_one_of_the_three(backoff: Any) -> None:
    with pytest.raises(InvalidOption, match="Fixed"):
        Retry(backoff=backoff)


@pytest.mark.parametrize("classes", ["OSError", OSError(), [OSError], int, (OSError, 5), object()])
@pytest.mark.parametrize("word", ["on", "never"])
def test_on_and_never_take_exception_classes(word: str, classes: Any) -> None:
    with pytest.raises(InvalidOption, match=f"{word} must be an exception class or a tuple"):
        Retry(**{word: classes})


def test_on_nothing_is_refused() -> None:
    with pytest.raises(InvalidOption, match="use attempts=1"):
        Retry(on=())


def test_a_message_never_holds_a_string_it_was_given() -> None:
    with pytest.raises(InvalidOption) as refusal:
        seconds("s3cr3t-value", "delay")
    assert "s3cr3t" not in str(refusal.value)
    assert str(refusal.value) == (
        "delay must be a number of seconds or a timedelta from 0 to 31,536,000 s, not a value of type str"
    )


def test_policies_are_values() -> None:
    assert Retry(3, Fixed(1)) == Retry(3, Fixed(1))
    assert hash(Retry(3, Custom(1, 2))) == hash(Retry(3, Custom(1, 2)))
    with pytest.raises(AttributeError):
        Retry().attempts = 9  # type: ignore[misc]
