"""A handler's exception as it is kept: short, printable, and made in bounded time whatever the exception does.

The traceback is formatted here and not by `traceback`, whose work grows with the width of exception groups, the length
of chains and the size of messages.
"""

from __future__ import annotations

import re
import traceback
from collections import deque
from collections.abc import Iterator, Sized
from datetime import datetime
from types import FrameType, TracebackType
from typing import Any, Final, cast

import orjson

from actorjobs.codec.limits import LIMITS, Limits
from actorjobs.errors import PayloadInvalid
from actorjobs.model import ErrorInfo

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_LONGEST_NAME: Final = 200
_MESSAGE_IN_STACK: Final = 1_000
_FRAMES: Final = 60
_MEMBER_FRAMES: Final = 20
_CHAINED: Final = 8
_GROUPED: Final = 5
_PASSWORD: Final = re.compile(r"(://[^\s/@:]{0,256}:)[^\s/@]{1,256}@")
_GROUP_DEPTH: Final = 2
_NOTES: Final = 5
_HUGE_ARGUMENT: Final = 10_000


def truncate_error(
    error: BaseException,
    *,
    attempt: int = 0,
    attempt_by: str | None = None,
    attempted_at: datetime | None = None,
    limits: Limits = LIMITS,
) -> ErrorInfo:
    """What is kept of `error`: its class, its message, and its traceback with the most recent frames."""
    return ErrorInfo(
        name=_name_of(error),
        message=clip(_message_of(error), limits.error_message),
        stack=clip(_stack_of(error), limits.error_stack, keep_end=True),
        attempt=attempt,
        attempt_by=attempt_by,
        attempted_at=attempted_at,
    )


def encode_error(info: ErrorInfo) -> str:
    """JSON text of name, message and stack; the rest of an `ErrorInfo` is on the attempt."""
    return orjson.dumps({"name": info.name, "message": info.message, "stack": info.stack}).decode()


def decode_error(
    text: str, *, attempt: int = 0, attempt_by: str | None = None, attempted_at: datetime | None = None
) -> ErrorInfo:
    """What `encode_error` wrote, with the figures of its attempt. `PayloadInvalid` for anything else."""
    try:
        kept = orjson.loads(text)
        name, message, stack = str(kept["name"]), str(kept["message"]), str(kept.get("stack", ""))
    except (ValueError, TypeError, KeyError, AttributeError):
        raise PayloadInvalid("a stored error is a JSON object with name, message and stack") from None
    return ErrorInfo(
        name=name, message=message, stack=stack, attempt=attempt, attempt_by=attempt_by, attempted_at=attempted_at
    )


def clip(text: str, limit: int, *, keep_end: bool = False) -> str:
    """`text` in at most `limit` bytes of UTF-8, without NUL, lone surrogates and the passwords of addresses; a marker
    says what is missing."""
    kept = _PASSWORD.sub(r"\1***@", text[-limit:] if keep_end else text[:limit])
    raw = _UNSTORABLE.sub("\N{REPLACEMENT CHARACTER}", kept).encode()
    if len(text) <= limit and len(raw) <= limit:
        return raw.decode()
    marker = f"[shortened; {len(text):,} characters in all]".encode()
    room = max(limit - len(marker) - 1, 0)
    parts = (marker, raw[len(raw) - room :]) if keep_end else (raw[:room], marker)
    return b"\n".join(parts).decode(errors="ignore")[:limit]


def _name_of(error: BaseException) -> str:
    kind = type(error)
    try:
        name = str(kind.__qualname__)
    except Exception:  # a metaclass may do anything
        return "an exception without a name"
    # The traceback names the module; the bare name is what people search for.
    return clip(name.rpartition("<locals>.")[2], _LONGEST_NAME)


def _full_name_of(error: BaseException) -> str:
    try:
        module = str(type(error).__module__)
    except Exception:  # see above
        module = "builtins"
    name = _name_of(error)
    return name if module in ("builtins", "__main__") else f"{clip(module, _LONGEST_NAME)}.{name}"


def _message_of(error: BaseException) -> str:
    try:
        huge = next(filter(_is_huge, _arguments_of(error)), None)
        if huge is not None:
            return f"(not shown: an argument is a {type(huge).__name__} of {len(huge):,} items)"
        text = str(error)
        return text if type(text) is str else str.__str__(text)
    except BaseException as failure:  # foreign code again; not even SystemExit may take the worker down from here
        return f"(no message: {_name_of(error)}.__str__ raised {type(failure).__name__})"


def _arguments_of(error: BaseException) -> tuple[Any, ...]:
    """What `__str__` may print; of a group it prints the number of its members only."""
    return () if isinstance(error, BaseExceptionGroup) else error.args


def _is_huge(argument: Any) -> bool:
    return not isinstance(argument, str) and isinstance(argument, Sized) and len(argument) > _HUGE_ARGUMENT


def _stack_of(error: BaseException) -> str:
    try:
        return "".join(_chain(error))
    except Exception as failure:  # an exception class may override even __cause__ or __traceback__
        return f"(no traceback: formatting it raised {type(failure).__name__})"


def _chain(error: BaseException) -> Iterator[str]:
    """The traceback as Python prints it: causes first, the error itself last."""
    links: list[tuple[BaseException, str]] = []
    seen: set[int] = set()
    link: BaseException | None = error
    joint = ""
    while link is not None and id(link) not in seen and len(links) < _CHAINED:
        links.append((link, joint))
        seen.add(id(link))
        link, joint = _cause_of(link)
    if link is not None and id(link) not in seen:
        yield "[earlier exceptions of the chain left out]\n\n"
    for link, joint in reversed(links):
        yield from _paragraph(link, "", 0)
        yield joint


def _cause_of(error: BaseException) -> tuple[BaseException | None, str]:
    if error.__cause__ is not None:
        return error.__cause__, "\nThe above exception was the direct cause of the following exception:\n\n"
    if error.__context__ is not None and not error.__suppress_context__:
        return error.__context__, "\nDuring handling of the above exception, another exception occurred:\n\n"
    return None, ""


def _paragraph(error: BaseException, indent: str, depth: int) -> Iterator[str]:
    yield from (indent + line + "\n" for line in _frame_lines(error.__traceback__, depth))
    message = clip(_message_of(error), _MESSAGE_IN_STACK)
    name = _full_name_of(error)
    yield f"{indent}{name}: {message}\n" if message else f"{indent}{name}\n"
    for note in _notes_of(error):
        yield f"{indent}{note}\n"
    if isinstance(error, BaseExceptionGroup):
        yield from _members(cast("BaseExceptionGroup[BaseException]", error), indent, depth)


def _members(group: BaseExceptionGroup[BaseException], indent: str, depth: int) -> Iterator[str]:
    inner = group.exceptions
    shown = inner[:_GROUPED] if depth < _GROUP_DEPTH else ()
    for number, member in enumerate(shown, 1):
        yield f"{indent}  +-- {number} of {len(inner)}\n"
        yield from _paragraph(member, indent + "  | ", depth + 1)
    if len(shown) < len(inner):
        yield f"{indent}  +-- {len(inner) - len(shown)} more left out\n"


def _frame_lines(start: TracebackType | None, depth: int) -> list[str]:
    frames, total = _last_frames(start, _MEMBER_FRAMES if depth else _FRAMES)
    if not frames:
        return []
    summary = traceback.StackSummary.extract(iter(frames))
    left_out = [f"  [{total - len(frames):,} earlier frames left out]"] if total > len(frames) else []
    lines = [line for entry in summary.format() for line in entry.rstrip("\n").split("\n")]
    return ["Traceback (most recent call last):", *left_out, *lines]


def _last_frames(start: TracebackType | None, most: int) -> tuple[deque[tuple[FrameType, int]], int]:
    frames: deque[tuple[FrameType, int]] = deque(maxlen=most)
    total = 0
    while start is not None:
        frames.append((start.tb_frame, start.tb_lineno))
        total += 1
        start = start.tb_next
    return frames, total


def _notes_of(error: BaseException) -> list[str]:
    try:
        return [clip(str(note), _MESSAGE_IN_STACK) for note in error.__notes__[:_NOTES]]
    except BaseException:  # no notes, or foreign code that raises
        return []
