"""Saying why pydantic refused a value, without repeating the value."""

from __future__ import annotations

import re
from typing import Any, Final, cast, get_args

from pydantic import ValidationError
from pydantic_core import core_schema

from actorjobs.codec.faults import path_of

_SHOWN_PROBLEMS: Final = 5
_TELLING_LENGTH: Final = 6
_MOST_ITEMS: Final = 1_000
_LONGEST_REASON: Final = 200
_QUOTING: Final = {"value_error", "assertion_error", "union_tag_invalid", "get_attribute_error", "json_invalid"}
_IMPERSONAL: Final = frozenset(get_args(core_schema.ErrorType)) - _QUOTING
"""pydantic's own kinds of errors whose words come from the schema and its parsers, not from the input."""


def explain(failure: ValidationError, what: str) -> str:
    """Every place and reason in one line, as in `payload.title: String should have at least 3 characters`."""
    problems = failure.errors(include_url=False, include_context=False)
    lines = [f"{path_of(what, problem['loc'])}: {_reason(problem)}" for problem in problems[:_SHOWN_PROBLEMS]]
    hidden = len(problems) - len(lines)
    return "; ".join(lines) + (f"; and {hidden} more" if hidden else "")


def _reason(problem: Any) -> str:
    """Why, in the validator's words, unless they repeat a piece of the input: a message ends up in logs."""
    message = " ".join(str(problem["msg"]).split())[:_LONGEST_REASON]
    if problem["type"] in _IMPERSONAL or not _repeats_any(message, problem["input"]):
        return message
    return f"refused by its validator ({problem['type']}; its reason is left out because it shows the value)"


def _repeats_any(message: str, value: Any) -> bool:
    """Whether the message repeats a string or number of the input; also true for an input too large to tell.

    Keys do not count: they are the path, which every message shows.
    """
    pieces = {message[i : i + _TELLING_LENGTH] for i in range(len(message) - _TELLING_LENGTH + 1)}
    waiting: list[Any] = [value]
    for _ in range(_MOST_ITEMS):
        if not waiting:
            return False
        item = waiting.pop()
        if isinstance(item, dict):
            waiting.extend(cast("dict[object, object]", item).values())
        elif isinstance(item, list | tuple | set | frozenset):
            waiting.extend(cast("list[object]", item))
        elif _repeats(message, pieces, item.decode("latin-1") if isinstance(item, bytes) else str(item)):
            return True
    return True


def _repeats(message: str, pieces: set[str], text: str) -> bool:
    if len(text) < _TELLING_LENGTH:
        return bool(text) and re.search(rf"(?<!\w){re.escape(text)}(?!\w)", message) is not None
    return any(text[i : i + _TELLING_LENGTH] in pieces for i in range(len(text) - _TELLING_LENGTH + 1))
