"""The delay ladder: a hint that is due later climbs down through queues of constant time to live.

The delay is written in binary, in units of 20 ms; each set bit is one queue to wait in, each clear bit is passed over
by a binding between exchanges. Every queue has one time to live for all its messages: none waits behind another.

What a queue lets go of at one moment leaves it over some time, for dead letters are passed on a few at a time. So the
ladder is left early, by 480 to 640 ms, and the consumer waits out the rest.
"""

from __future__ import annotations

from actorjobs.retry import LADDER_LEAD_UNITS, LADDER_UNIT_SECONDS

LEVELS = 16
UNIT_MS = round(1000 * LADDER_UNIT_SECONDS)
EARLIEST_UNITS = LADDER_LEAD_UNITS + 8
EARLIEST_SECONDS = EARLIEST_UNITS * LADDER_UNIT_SECONDS
"""By no more than this a hint leaves the ladder before its run is due."""


def units_of(seconds: float) -> int:
    """The units to wait on the ladder of a delay: as few binary digits as may be. What is left of it, the hint waits
    out where it arrives."""
    whole = min(round(seconds * 1000) // UNIT_MS, (1 << LEVELS) - 1)
    units = max(0, whole - LADDER_LEAD_UNITS)
    while units and (fewer := units & (units - 1)) > whole - EARLIEST_UNITS:
        units = fewer
    return units


def level_of(units: int) -> int:
    """The highest level that a delay of so many units has to wait in."""
    return units.bit_length() - 1


def routing_key(units: int, queue: str) -> str:
    """The bits, the most significant first, and then the queue where the hint is to arrive."""
    return ".".join(format(units, f"0{LEVELS}b")) + "." + queue


def waits_here(level: int) -> str:
    """What the keys of hints have in common that wait on this level."""
    return "*." * (LEVELS - 1 - level) + "1.#"


def passes_by(level: int) -> str:
    """What the keys of hints have in common that do not wait on this level."""
    return "*." * (LEVELS - 1 - level) + "0.#"


def arrives_at(queue: str) -> str:
    """What matches the keys for this very queue. (`#.b` would match those for `a.b` as well.)"""
    return "*." * LEVELS + queue
