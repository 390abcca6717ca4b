"""A run that was lost with its worker twice is a suspect: a process performs one of them at a time."""

from __future__ import annotations


class SuspectSeat:
    """The one place that a process has for suspects: should one kill again, it kills alone."""

    def __init__(self) -> None:
        self._taken_by: object | None = None

    @property
    def is_free(self) -> bool:
        return self._taken_by is None

    def take(self, who: object) -> bool:
        """Whether the place is theirs now."""
        if self._taken_by is None:
            self._taken_by = who
        return self._taken_by is who

    def leave(self, who: object) -> None:
        if self._taken_by is who:
            self._taken_by = None
