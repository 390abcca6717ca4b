"""Values that pass by once per run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from typing_extensions import dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True, kw_only_default=True)
def record(cls: type[T]) -> type[T]:
    """A dataclass that type checkers keep from being changed.

    `frozen=True` would have the interpreter do that too, at more than twice the price of making one.
    """
    return dataclass(slots=True, kw_only=True, unsafe_hash=True)(cls)
