"""How much is kept of what users hand over. Sizes are bytes of UTF-8."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

KIB: Final = 1024

MAX_DEPTH: Final = 32
"""How deep JSON may be nested. From 200 levels on parsers fail, each in its own way; no payload needs this many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one run may keep, in bytes of JSON text, and in bytes of text for the two parts of an error."""

    payload: int = 256 * KIB
    constructor_args: int = 16 * KIB
    result: int = 256 * KIB
    meta: int = 16 * KIB
    checkpoint: int = 256 * KIB
    error_message: int = 8 * KIB
    error_stack: int = 32 * KIB
    progress_message: int = 1 * KIB


LIMITS: Final = Limits()
