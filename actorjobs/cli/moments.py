"""Moments as they are written on a command line."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from actorjobs.errors import InvalidOption

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def parse_moment(option: str, given: str | None) -> datetime | None:
    """A moment written as ISO 8601 with a time zone, or as so long ago; `InvalidOption` otherwise."""
    if given is None:
        return None
    number, unit = given[:-1], given[-1:]
    if unit in _UNITS and number.isascii() and number.isdigit() and len(number) < 9:
        return datetime.now(UTC) - timedelta(seconds=min(int(number) * _UNITS[unit], 100 * 365 * 86400))
    try:
        at = datetime.fromisoformat(given)
    except ValueError:
        at = None
    if at is None or at.tzinfo is None:
        raise InvalidOption(f"{option} takes a moment like 2026-01-31T12:00Z, or 15m, 2h, 7d for so long ago")
    return at
