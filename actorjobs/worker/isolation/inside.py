"""Whether this process is a child of a worker, and what is not done in one."""

from __future__ import annotations

from actorjobs.errors import InvalidOption

_is_child = False
_is_importing = False


def enter_child() -> None:
    global _is_child, _is_importing
    _is_child = _is_importing = True


def has_imported() -> None:
    global _is_importing
    _is_importing = False


def refuse_in_child(*, pools: bool) -> None:
    """`InvalidOption` for a runtime where it would come up again in every child: pools always, a client while the
    child imports the application."""
    if _is_child and _is_importing:
        raise InvalidOption(
            "a child process imports the main script to find its handlers, and the script opens a runtime as it is "
            'imported: guard that with `if __name__ == "__main__":`'
        )
    if _is_child and pools:
        raise InvalidOption("a child process performs one run for its worker: it cannot start pools of its own")
