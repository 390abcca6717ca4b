"""Finding what makes a value unfit for JSON, and saying where it is without showing what it is."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any, Final, NamedTuple, cast
from uuid import UUID

from pydantic import BaseModel, RootModel
from pydantic_core import to_jsonable_python

from actorjobs.codec.limits import MAX_DEPTH

EXACT_INTEGERS: Final = range(-(2**63), 2**64)
"""What every parser in use reads back as the same integer; beyond it some of them make floats."""

_SURROGATE = re.compile("[\ud800-\udfff]")
_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SHOWN_KEY_LENGTH = 40

Place = tuple[str | int, ...]


class Fault(NamedTuple):
    """Where a value cannot be kept as JSON, and why."""

    place: Place
    reason: str


def path_of(what: str, place: Iterable[object]) -> str:
    """A place inside `what` as in `payload.items[3].price`."""
    return what + "".join(_step(part) for part in place)


def _step(part: object) -> str:
    if isinstance(part, int):
        return f"[{part}]"
    key = str(part)
    if _PLAIN_KEY.fullmatch(key) and len(key) <= _SHOWN_KEY_LENGTH:
        return f".{key}"
    return f"[{shown_key(key)}]"


def shown_key(key: str) -> str:
    """A key as a message may show it: in ASCII, on one line, and not long."""
    return ascii(key if len(key) <= _SHOWN_KEY_LENGTH else key[:_SHOWN_KEY_LENGTH] + "...")


def is_sound(value: object, room: int = MAX_DEPTH) -> bool:
    """Whether a value holds no NaN or infinity and nests at most `room` deep. False when in doubt, and fast."""
    kind = type(value)
    if kind is float:
        return math.isfinite(cast("float", value))
    if kind is dict:
        children: Iterable[object] = cast("dict[object, object]", value).values()
    elif kind in _SEQUENCES:
        children = cast("Iterable[object]", value)
    elif isinstance(value, BaseModel):
        children = (*vars(value).values(), *(value.__pydantic_extra__ or {}).values())
    else:
        return kind in _ATOMS
    if room == 0:
        return False
    for child in children:  # noqa: SIM110 - a generator for all() would cost twice as much
        if type(child) not in _ATOMS and not is_sound(child, room - 1):
            return False
    return True


_SEQUENCES = frozenset({list, tuple, set, frozenset})
_ATOMS = frozenset({str, int, bool, type(None), bytes, datetime, date, time, timedelta, UUID, Decimal})


def find_fault(value: object, *, foreign: bool = False) -> Fault | None:
    """The first place where `value` cannot be kept as JSON without loss, depth first; None if there is none.

    `foreign` takes a value as pydantic sees it, which knows how to write sets, bytes, decimals and more.
    """
    try:
        return _search(value, (), foreign)
    except Exception as failure:  # a mapping or a dataclass of the user's own may raise anything, or never end
        return Fault((), f"cannot be read: looking into it raised {type(failure).__name__}")


def _search(value: Any, place: Place, foreign: bool) -> Fault | None:
    if isinstance(value, RootModel):
        return _search(vars(value).get("root"), place, foreign)
    children = _children(value, foreign)
    if children is None:
        reason = _fault_of_leaf(value, foreign)
    elif len(place) == MAX_DEPTH:
        reason = f"is nested more than {MAX_DEPTH} levels deep"
    else:
        reason = _fault_of_keys(value, foreign)
    if reason is not None:
        return Fault(place, reason)
    for step, child in children or ():
        if (fault := _search(child, (*place, step), foreign)) is not None:
            return fault
    return None


def _children(value: Any, foreign: bool) -> Iterable[tuple[Any, Any]] | None:
    """What a container holds, by name or index; None for anything that is not a container."""
    if isinstance(value, str | bytes):
        return None
    if isinstance(value, BaseModel):
        kept = vars(value)
        fields = {name: kept[name] for name in type(value).model_fields if name in kept}
        return (fields | (value.__pydantic_extra__ or {})).items()
    if isinstance(value, Mapping):
        return cast("Mapping[object, Any]", value).items()
    if isinstance(value, list | tuple) or (foreign and isinstance(value, set | frozenset)):
        return enumerate(cast("Iterable[object]", value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [(field.name, getattr(value, field.name, None)) for field in dataclasses.fields(value)]
    return None


def _fault_of_keys(value: Any, foreign: bool) -> str | None:
    for key in cast("Mapping[object, Any]", value) if isinstance(value, Mapping) else ():
        if isinstance(key, str):
            if (reason := _fault_of_text(key)) is not None:
                return f"has a key that {reason}"
        elif not foreign:
            return f"has a key of type {type(key).__name__}; JSON keys are strings"
    return None


def _fault_of_leaf(value: object, foreign: bool) -> str | None:
    leaf = value.value if isinstance(value, Enum) else value
    if isinstance(leaf, str):
        return _fault_of_text(leaf)
    if isinstance(leaf, float):
        return None if math.isfinite(leaf) else "is NaN or infinite, which JSON cannot express"
    if isinstance(leaf, int):
        return None if int(leaf) in EXACT_INTEGERS else "is an integer of more than 64 bits; use a string"
    return None if leaf is None or isinstance(leaf, _NATIVE) else _fault_of_stranger(leaf, foreign)


_NATIVE = (datetime, date, time, UUID)


def _fault_of_text(text: str) -> str | None:
    if "\x00" in text:
        return "holds a NUL character, which databases refuse"
    if _SURROGATE.search(text):
        return "holds a lone surrogate, which is not valid Unicode"
    return None


def _fault_of_stranger(value: object, foreign: bool) -> str | None:
    reason = f"has the type {type(value).__name__}, which cannot be written as JSON"
    try:
        to_jsonable_python(value)
    except Exception:  # foreign types raise what they like here; it only matters that they do
        return reason
    return None if foreign else reason
