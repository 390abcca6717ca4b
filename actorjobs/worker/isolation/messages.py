"""What worker and child say to each other: JSON objects, each behind its length.

No pickle: nothing that is said can run code.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Mapping
from typing import Any, Final, TypeAlias, cast

import orjson

from actorjobs import errors
from actorjobs.errors import ActorJobsError

Message: TypeAlias = dict[str, Any]
"""What is said is under `say`."""

HEADER: Final = struct.Struct(">I")
LARGEST_BYTES: Final = 16 * 1024 * 1024


class Garbled(Exception):  # never leaves this package
    """What arrived is no message."""


def pack(message: Mapping[str, Any]) -> bytes:
    """The bytes of a message. What JSON does not know is written as its `repr`."""
    body = orjson.dumps(message, default=repr, option=orjson.OPT_NON_STR_KEYS)
    return HEADER.pack(len(body)) + body


def size_of(header: bytes) -> int:
    """How many bytes follow; `Garbled` if there cannot be so many."""
    (size,) = HEADER.unpack(header)
    if size > LARGEST_BYTES:
        raise Garbled("it wrote what is no message")
    return int(size)


def unpack(body: bytes) -> Message:
    try:
        message: object = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise Garbled("it wrote what is no message") from None
    if not isinstance(message, dict) or not isinstance(cast("Message", message).get("say"), str):
        raise Garbled("it wrote what is no message")
    return cast("Message", message)


async def read(reader: asyncio.StreamReader) -> Message:
    """The next message. `IncompleteReadError` at the end, `Garbled` for anything else."""
    size = size_of(await reader.readexactly(HEADER.size))
    return unpack(await reader.readexactly(size))


def failure_of(error: BaseException) -> Message:
    """An error as it crosses the line."""
    facts = {name: value for name, value in vars(error).items() if isinstance(value, str)}
    return {"type": type(error).__name__, "message": str(error), "facts": facts}


def error_of(failure: Mapping[str, Any]) -> Exception:
    """The error on the other side: of the same type if it is one of the library's."""
    kind = getattr(errors, failure["type"], None)
    if isinstance(kind, type) and issubclass(kind, ActorJobsError):
        try:
            return kind(failure["message"], **failure["facts"])
        except TypeError:
            pass
    return ActorJobsError(f"{failure['type']}: {failure['message']}")
