"""A hint as bytes: `{v, store, run, seq, job, due}`. It names a run and has no authority over it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import orjson

from actorjobs.model import is_run_id
from actorjobs.ports import Hint

VERSION = 1
LARGEST_BODY = 4096
"""Bytes. A hint has about two hundred."""
_LARGEST_SEQ = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Undecodable:
    """Why a message is no hint of this store."""

    reason: str


Decoded: TypeAlias = Hint | Undecodable


def encode(hint: Hint, store: str, due: float) -> bytes:
    """`due` is a moment in seconds since 1970 by the sender's clock: for people to read, nobody goes by it."""
    return orjson.dumps(
        {"v": VERSION, "store": store, "run": hint.run_id, "seq": hint.seq, "job": hint.job, "due": round(due, 3)}
    )


def decode(body: bytes, *, store: str, queue: str) -> Decoded:
    """The hint in these bytes, or what is wrong with them."""
    if len(body) > LARGEST_BODY:
        return Undecodable(f"has {len(body)} bytes, a hint has {LARGEST_BODY} at most")
    try:
        read: Any = orjson.loads(body)
    except ValueError:
        return Undecodable("is not JSON")
    if not isinstance(read, dict):
        return Undecodable("is not a JSON object")
    fields = cast("dict[str, Any]", read)
    if type(fields.get("v")) is not int or fields["v"] != VERSION:
        return Undecodable(f"is of version {str(fields.get('v'))[:20]}, this process reads version {VERSION}")
    if fields.get("store") != store:
        return Undecodable(f"belongs to another store ({str(fields.get('store'))[:40]})")
    run, seq, job = fields.get("run"), fields.get("seq"), fields.get("job")
    if not isinstance(run, str) or not isinstance(job, str) or not is_run_id(run):
        return Undecodable("does not name a run and its job")
    if not isinstance(seq, int) or isinstance(seq, bool) or not 1 <= seq <= _LARGEST_SEQ:
        return Undecodable("has no generation that a run could have")
    return Hint(run_id=run, seq=seq, job=job, queue=queue)
