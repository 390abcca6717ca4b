"""Which runs are meant: criteria as a caller gives them, checked and made into a `RunFilter`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any, TypeAlias, TypedDict

from actorjobs.errors import InvalidOption
from actorjobs.model import RunState
from actorjobs.ports import RunFilter

States: TypeAlias = RunState | str | Sequence[RunState | str] | None


class Criteria(TypedDict, total=False):
    """What `list` and the bulk operations choose runs by; what is left out does not matter. `since` and `until` bound
    the acceptance."""

    state: States
    job: str | None
    queue: str | None
    tenant: str | None
    tag: str | None
    since: datetime | None
    until: datetime | None
    search: str | None


def run_filter(
    *, state: States = None, since: datetime | None = None, until: datetime | None = None, **words: Any
) -> RunFilter:
    """A checked filter; `InvalidOption` for a state that does not exist or a time without zone."""
    check_words(**words)
    return RunFilter(state=_states(state), since=moment("since", since), until=moment("until", until), **words)


def check_words(**words: object) -> None:
    """`InvalidOption` unless each is a string or None."""
    for name, word in words.items():
        if word is not None and not isinstance(word, str):
            raise InvalidOption(f"{name} is a string, not a value of type {type(word).__name__}")


def chosen(where: RunFilter | None, criteria: Mapping[str, Any]) -> RunFilter:
    """One checked filter of what a bulk operation was given: a filter, or the criteria of one."""
    if where is None:
        unknown = criteria.keys() - {field.name for field in fields(RunFilter)}
        if unknown:
            raise InvalidOption(f"runs are not chosen by {sorted(unknown)[0]!r}: {', '.join(_CRITERIA)}")
        return run_filter(**criteria)
    if criteria:
        raise InvalidOption("give a RunFilter or single criteria, not both")
    if not isinstance(where, RunFilter):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidOption(f"the filter is an aj.RunFilter, not a value of type {type(where).__name__}")
    return run_filter(**{name: getattr(where, name) for name in _CRITERIA})


def has_criteria(where: RunFilter) -> bool:
    """Whether the filter leaves any run out."""
    return any(getattr(where, name) not in (None, "") for name in _CRITERIA)


_CRITERIA = tuple(field.name for field in fields(RunFilter))


def moment(name: str, at: object) -> datetime | None:
    """An aware moment in UTC; `InvalidOption` for anything that is none."""
    if at is None:
        return None
    if not isinstance(at, datetime) or at.tzinfo is None:
        raise InvalidOption(f"{name} is a datetime with a time zone, like datetime.now(UTC) - timedelta(hours=1)")
    try:
        return at.astimezone(UTC)
    except OverflowError:
        raise InvalidOption(f"{name} lies outside the years that can be compared") from None


def _states(given: States) -> tuple[RunState, ...] | None:
    if given is None:
        return None
    words: Any = [given] if isinstance(given, str) else given
    try:
        return tuple(dict.fromkeys(RunState(word) for word in words))
    except (ValueError, TypeError):
        raise InvalidOption(f"a state is one of {', '.join(RunState)}") from None
