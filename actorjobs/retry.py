"""How often a run is tried, and how long it waits in between. Pure: no clock, no randomness of its own, no I/O.

Every duration is given as seconds or as a `timedelta` and kept as float seconds. What cannot work is refused with
`InvalidOption` when the policy is made, never when a run fails.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, TypeAlias, cast

from actorjobs.errors import InvalidOption

Duration: TypeAlias = float | timedelta
"""Seconds, or a timedelta."""

ErrorTypes: TypeAlias = type[BaseException] | tuple[type[BaseException], ...]
"""What `isinstance` takes: one exception class or a tuple of them."""

LONGEST_SECONDS: Final = 365 * 86400.0
MOST_ATTEMPTS: Final = 10_000
MOST_DELAYS: Final = 1_000


def shown(value: object) -> str:
    """A value as an error message may show it: numbers as they are, anything else by its type alone."""
    if isinstance(value, timedelta):
        return str(value)
    if isinstance(value, int | float) and (isinstance(value, bool | float) or abs(value) < 10**18):
        return repr(value)
    return "so large a number" if isinstance(value, int) else f"a value of type {type(value).__name__}"


def check_number(
    value: object, what: str, *, low: float, high: float, unit: str = "", above_low: bool = False
) -> float:
    """`value` as a float between `low` and `high`, `low` itself excluded if `above_low`; `InvalidOption` otherwise."""
    number = value.total_seconds() if isinstance(value, timedelta) and unit else value
    if not _lies_between(number, low, high, above_low=above_low):
        kind = "a number of seconds or a timedelta" if unit else "a number"
        bound = f"above {low:,.10g} and at most" if above_low else f"from {low:,.10g} to"
        raise InvalidOption(f"{what} must be {kind} {bound} {high:,.10g}{unit}, not {shown(value)}")
    return float(cast("float", number))


def _lies_between(number: object, low: float, high: float, *, above_low: bool) -> bool:
    if isinstance(number, bool) or not isinstance(number, int | float):
        return False
    if low >= 0 and math.copysign(1.0, number if isinstance(number, float) else 1.0) < 0:
        return False
    return (low < number if above_low else low <= number) and number <= high


def seconds(value: object, what: str, *, high: float = LONGEST_SECONDS, positive: bool = False) -> float:
    """A duration as float seconds from 0 (or above 0 if `positive`) to `high`; `InvalidOption` otherwise."""
    return check_number(value, what, low=0, high=high, unit=" s", above_low=positive)


def _set(target: object, **fields: object) -> None:
    for name, value in fields.items():
        object.__setattr__(target, name, value)


@dataclass(frozen=True, slots=True, init=False)
class Fixed:
    """The same delay after every failure."""

    delay: float

    def __init__(self, delay: Duration) -> None:
        _set(self, delay=seconds(delay, "the delay of Fixed"))

    def after(self, failures: int, random: Callable[[], float]) -> float:
        """Seconds to wait after failure number `failures`, counted from 1."""
        return self.delay


LADDER_UNIT_SECONDS = 0.02
"""What a broker's ladder of delay queues counts in."""
LADDER_LEAD_UNITS = 24
"""By so much at least the ladder is left before a delay is over."""
_FEW_BITS = 4


def _coarse(seconds: float, longest: float) -> float:
    """The delay, lengthened if it may be, so that few binary digits are left for the ladder: each is a queue."""
    units = max(0, math.ceil(seconds / LADDER_UNIT_SECONDS) - LADDER_LEAD_UNITS)
    while units.bit_count() > _FEW_BITS:
        units += units & -units
    coarse = max(seconds, (units + LADDER_LEAD_UNITS) * LADDER_UNIT_SECONDS) if units else seconds
    return coarse if coarse <= longest else seconds


@dataclass(frozen=True, slots=True, init=False)
class Exponential:
    """`base * factor ** (failures - 1)` seconds, at most `cap`, then up to `jitter` (a fraction) longer.

    Jitter only lengthens, so that a delay is never shorter than promised; `cap` bounds the delay before jitter.
    """

    base: float
    factor: float
    cap: float
    jitter: float

    def __init__(self, base: Duration = 15, factor: float = 2, cap: Duration = 3600, jitter: float = 0.1) -> None:
        _set(
            self,
            base=seconds(base, "the base of Exponential", positive=True),
            factor=check_number(factor, "the factor of Exponential", low=1, high=1000),
            cap=seconds(cap, "the cap of Exponential", positive=True),
            jitter=check_number(jitter, "the jitter of Exponential", low=0, high=1),
        )
        if self.cap < self.base:
            raise InvalidOption(
                f"the cap of Exponential ({self.cap:g} s) is below its base ({self.base:g} s): raise the cap"
            )

    def after(self, failures: int, random: Callable[[], float]) -> float:
        """Seconds to wait after failure number `failures`, counted from 1; `random()` lies in [0, 1)."""
        try:
            grown = self.base * self.factor ** (failures - 1)
        except OverflowError:
            grown = self.cap
        shortest = min(grown, self.cap)
        if not self.jitter:
            return shortest
        return _coarse(shortest * (1 + self.jitter * random()), longest=shortest * (1 + self.jitter))


@dataclass(frozen=True, slots=True, init=False)
class Custom:
    """One delay for each failure in turn; the last one repeats."""

    delays: tuple[float, ...]

    def __init__(self, *delays: Duration) -> None:
        if not 1 <= len(delays) <= MOST_DELAYS:
            raise InvalidOption(
                f"Custom takes 1 to {MOST_DELAYS} delays, not {len(delays)}: write Custom(10, 30, 120)"
                " (the last one repeats)"
            )
        _set(self, delays=tuple(seconds(delay, f"delay {i} of Custom") for i, delay in enumerate(delays, 1)))

    def after(self, failures: int, random: Callable[[], float]) -> float:
        """Seconds to wait after failure number `failures`, counted from 1."""
        return self.delays[min(failures, len(self.delays)) - 1]


Backoff: TypeAlias = Fixed | Exponential | Custom
DEFAULT_BACKOFF: Final = Exponential()


@dataclass(frozen=True, slots=True, init=False)
class Retry:
    """How often a run is tried in all (`attempts` counts the first try) and how long it waits after each failure.

    `on` limits retries to these exception classes, `never` rules classes out and wins over `on`. `max_elapsed` is in
    seconds since the run was accepted: no retry starts later.
    """

    attempts: int
    backoff: Backoff
    on: ErrorTypes | None
    never: ErrorTypes
    max_elapsed: float | None

    def __init__(
        self,
        attempts: int = 5,
        backoff: Backoff = DEFAULT_BACKOFF,
        on: ErrorTypes | None = None,
        never: ErrorTypes = (),
        max_elapsed: Duration | None = None,
    ) -> None:
        _set(
            self,
            attempts=_attempts(attempts),
            backoff=_backoff(backoff),
            on=None if on is None else _error_types(on, "on"),
            never=never if never == () else _error_types(never, "never"),
            max_elapsed=None if max_elapsed is None else seconds(max_elapsed, "max_elapsed", positive=True),
        )

    def delay(self, failures: int, error: BaseException, random: Callable[[], float]) -> float:
        """Seconds until the next attempt after failure number `failures` (from 1); `random()` lies in [0, 1).

        A `retry_after` on the exception (seconds or a timedelta) lengthens the delay to that, never shortens it.
        """
        return max(self.backoff.after(failures, random), _asked_for_by(error))

    def allows(self, error: BaseException) -> bool:
        """Whether an attempt that failed with `error` may be tried again at all, going by `on` and `never`."""
        cause = sole_error(error)
        return not isinstance(cause, self.never) and (self.on is None or isinstance(cause, self.on))

    def is_over(self, elapsed: float, delay: float) -> bool:
        """Whether a retry `delay` seconds from now, `elapsed` seconds after acceptance, would exceed `max_elapsed`."""
        return self.max_elapsed is not None and elapsed + delay > self.max_elapsed

    def to_json(self) -> dict[str, Any]:
        """What can be kept with a run: attempts, backoff, max_elapsed. `InvalidOption` when `on` or `never` is set."""
        if self.on is not None or self.never != ():
            raise InvalidOption(
                "on= and never= name exception classes, which are not kept with a run: "
                "put them into the retry= of the job's definition"
            )
        return {"attempts": self.attempts, "backoff": _backoff_to_json(self.backoff), "max_elapsed": self.max_elapsed}

    @classmethod
    def from_json(cls, data: object) -> Retry:
        """The policy kept by `to_json`; `InvalidOption` for anything else."""
        if not isinstance(data, Mapping):
            raise InvalidOption(f"a stored retry policy is a JSON object, not {shown(data)}")
        stored = cast("Mapping[str, Any]", data)
        try:
            return cls(stored["attempts"], _backoff_from_json(stored["backoff"]), max_elapsed=stored["max_elapsed"])
        except (KeyError, TypeError, AttributeError):
            raise InvalidOption(
                "a stored retry policy needs attempts, backoff and max_elapsed as Retry.to_json() writes them"
            ) from None

    def overridden_by(self, data: object) -> Retry:
        """The policy of a run that was dispatched with its own `retry=`; `on` and `never` stay the job's."""
        stored = Retry.from_json(data)
        return Retry(stored.attempts, stored.backoff, self.on, self.never, stored.max_elapsed)


def sole_error(error: BaseException) -> BaseException:
    """The one exception inside an exception group that holds no other; `error` itself otherwise."""
    while len(parts := _parts(error)) == 1:
        error = parts[0]
    return error


def _parts(error: BaseException) -> tuple[BaseException, ...]:
    if not isinstance(error, BaseExceptionGroup):
        return ()
    return cast("BaseExceptionGroup[BaseException]", error).exceptions


def _asked_for_by(error: BaseException) -> float:
    try:
        asked = getattr(sole_error(error), "retry_after", None)
        number = asked.total_seconds() if isinstance(asked, timedelta) else asked
        is_sound = number != math.inf and _lies_between(number, 0, math.inf, above_low=True)
        return float(min(cast("float", number), LONGEST_SECONDS)) if is_sound else 0.0
    except Exception:  # the attribute is foreign code; whatever it does must not cost the run its retry
        return 0.0


def _attempts(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MOST_ATTEMPTS:
        raise InvalidOption(
            f"attempts must be a whole number from 1 (no retry) to {MOST_ATTEMPTS}, not {shown(value)}; "
            "it counts the first try"
        )
    return int(value)


def _backoff(value: object) -> Backoff:
    if not isinstance(value, Fixed | Exponential | Custom):
        raise InvalidOption(f"backoff must be Fixed(...), Exponential(...) or Custom(...), not {shown(value)}")
    return value


def _error_types(value: object, what: str) -> ErrorTypes:
    classes = cast("tuple[object, ...]", value if isinstance(value, tuple) else (value,))
    if not classes or not all(isinstance(item, type) and issubclass(item, BaseException) for item in classes):
        raise InvalidOption(
            f"{what} must be an exception class or a tuple of them, as in {what}=(TimeoutError, OSError); "
            "to retry nothing at all use attempts=1"
        )
    return cast("ErrorTypes", value)


def _backoff_to_json(backoff: Backoff) -> dict[str, Any]:
    match backoff:
        case Fixed(delay=delay):
            return {"kind": "fixed", "delay": delay}
        case Exponential(base=base, factor=factor, cap=cap, jitter=jitter):
            return {"kind": "exponential", "base": base, "factor": factor, "cap": cap, "jitter": jitter}
        case Custom(delays=delays):
            return {"kind": "custom", "delays": list(delays)}


def _backoff_from_json(data: Mapping[str, Any]) -> Backoff:
    rest = {name: value for name, value in data.items() if name != "kind"}
    match data["kind"]:
        case "fixed":
            return Fixed(**rest)
        case "exponential":
            return Exponential(**rest)
        case "custom":
            return Custom(*rest["delays"])
        case _:
            raise InvalidOption("a stored backoff is fixed, exponential or custom")
