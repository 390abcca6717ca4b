"""Which fields of a payload a trace may show."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Traced:
    """Marks a field of a payload, or a parameter, whose value is to be an attribute of the spans of its runs:
    `order: Annotated[str, Traced()]`. Nothing else of a payload is ever shown there."""
