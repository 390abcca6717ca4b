"""JSON text: what may be written into the store, and what is accepted from outside."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any, NoReturn, TypeAlias

import orjson
from pydantic import BaseModel

from actorjobs.codec.faults import EXACT_INTEGERS, Fault, find_fault, is_sound, path_of, shown_key
from actorjobs.codec.limits import LIMITS, MAX_DEPTH
from actorjobs.errors import InvalidOption, PayloadInvalid, ResultInvalid

Refusal: TypeAlias = type[PayloadInvalid] | type[ResultInvalid] | type[InvalidOption]
"""The error that says so: which one depends on what is being encoded."""


def encode(
    value: object, *, what: str = "payload", limit: int = LIMITS.payload, error: Refusal = PayloadInvalid
) -> str:
    """JSON text of at most `limit` bytes for a JSON value, or raise `error` naming the place that is not one.

    Besides JSON's own types: dates, times and UUIDs as RFC strings, enums as their values, dataclasses and pydantic
    models as objects. Refused rather than bent: NaN, infinity, integers of more than 64 bits, NUL characters, lone
    surrogates, keys that are not strings, sets, bytes, decimals, more than 32 levels, whatever contains itself.
    """
    try:
        raw = orjson.dumps(value, default=_write_model)
    except (TypeError, ValueError, RecursionError):
        refuse(value, what, error)
    check(raw, value, what=what, limit=limit, error=error)
    return raw.decode()


def encode_result(value: object, *, limit: int = LIMITS.result) -> str:
    """JSON text of a handler's result, under the rules of `encode`; `ResultInvalid` otherwise."""
    return encode(value, what="result", limit=limit, error=ResultInvalid)


def decode(text: str | bytes) -> Any:
    """The value of text that `encode` wrote. `PayloadInvalid` when it is not JSON at all."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as failure:
        raise PayloadInvalid(f"stored JSON cannot be read: {failure.msg}") from None


def parse(
    text: str | bytes, *, what: str = "payload", limit: int = LIMITS.payload, error: Refusal = PayloadInvalid
) -> Any:
    """The value of JSON text from outside (a file, a command line), or raise `error`.

    Strict RFC 8259 in UTF-8 without a byte order mark, and stricter where parsers differ or databases refuse: no
    duplicate keys, no NaN, no number out of range, no NUL character, at most `limit` bytes and 32 levels.
    """
    raw = _as_bytes(text, what, error)
    _check_size(raw, what, limit, error)
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as failure:
        raise error(f"{what} is not JSON: {failure.msg} at line {failure.lineno}, column {failure.colno}") from None
    check(raw, value, what=what, limit=limit, error=error)
    # orjson turns large integers into floats and lets the last of two equal keys win; this parser can be told not to.
    try:
        return json.loads(raw, object_pairs_hook=_unique, parse_int=_exact_int)
    except _Ambiguous as failure:
        raise error(f"{what} {failure}") from None


def check(raw: bytes, value: object, *, what: str, limit: int, error: Refusal) -> None:
    """Refuse what orjson wrote without complaint: too much, too deep, `null` for NaN, NUL characters.

    `value` is looked at only if the text could hide one of these, so that this costs next to nothing otherwise.
    """
    _check_size(raw, what, limit, error)
    suspect_nul = b"\\u0000" in raw
    suspect = b"null" in raw or raw.count(b"[") + raw.count(b"{") > MAX_DEPTH
    if suspect_nul or (suspect and not is_sound(value)):
        fault = find_fault(value)
        if fault is not None:
            refuse_fault(fault, what, error)


def refuse(
    value: object, what: str, error: Refusal, *, foreign: bool = False, otherwise: str | None = None
) -> NoReturn:
    """Raise `error` for a value that could not be written, naming the place if one can be found."""
    fault = find_fault(value, foreign=foreign)
    refuse_fault(fault or Fault((), otherwise or "cannot be written as JSON"), what, error)


def refuse_fault(fault: Fault, what: str, error: Refusal) -> NoReturn:
    raise error(f"{path_of(what, fault.place)} {fault.reason}") from None


def _check_size(raw: bytes, what: str, limit: int, error: Refusal) -> None:
    if len(raw) > limit:
        raise error(
            f"{what} takes {len(raw):,} bytes as JSON and at most {limit:,} are kept: "
            "store the data elsewhere and pass a reference to it"
        )


def _write_model(value: object) -> object:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", by_alias=False, round_trip=True, warnings=False)
    raise TypeError


def _as_bytes(text: str | bytes, what: str, error: Refusal) -> bytes:
    try:
        return text.encode() if isinstance(text, str) else text
    except UnicodeEncodeError:
        raise error(f"{what} holds a lone surrogate, which is not valid Unicode") from None


class _Ambiguous(Exception):  # never leaves this module
    """The text says something that two parsers would understand differently."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise _Ambiguous(f"has the key {shown_key(twice)} twice in one object")
    return result


def _exact_int(digits: str) -> int:
    if len(digits) > 20 or int(digits) not in EXACT_INTEGERS:
        raise _Ambiguous("holds an integer of more than 64 bits; use a string")
    return int(digits)
