"""Standard output whose failures are no `OSError`, which every library on the way treats in its own manner."""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, TextIO, cast


class OutputFailed(Exception):
    """Standard output cannot be written: the disk is full, or nobody reads any more."""

    def __init__(self, cause: OSError) -> None:
        super().__init__(str(cause))
        self.cause = cause


class Guarded:
    """A stream like the one inside, but for `OutputFailed` in place of `OSError`."""

    def __init__(self, inside: TextIO) -> None:
        self._inside = inside

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inside, name)

    def write(self, text: str) -> int:
        try:
            return self._inside.write(text)
        except OSError as error:
            raise OutputFailed(error) from None

    def flush(self) -> None:
        try:
            self._inside.flush()
        except OSError as error:
            raise OutputFailed(error) from None


@contextmanager
def guarded_output() -> Generator[None]:
    """`sys.stdout` is `Guarded` in here, and everything is written at the end."""
    before = sys.stdout
    guarded = Guarded(before)
    sys.stdout = cast("TextIO", guarded)
    try:
        yield
    finally:
        sys.stdout = before
        guarded.flush()
