"""Uniqueness: how many runs of a kind may be asked for at once. An index of the database decides, never a race."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final, Literal, TypeAlias, cast, get_args

import orjson

from actorjobs.codec import decode, encode
from actorjobs.errors import InvalidOption
from actorjobs.model import Envelope
from actorjobs.retry import Duration, check_number, shown

While: TypeAlias = Literal["active", "queued"]
OnConflict: TypeAlias = Literal["return", "raise", "replace"]

LONGEST_PERIOD: Final = 366 * 86400.0
_MOST_FIELDS: Final = 20


@dataclass(frozen=True, slots=True, init=False)
class Unique:
    """At most one run of a job alive with the same values. It concerns acceptance, not parallel execution.

    `by` names fields of the payload (or constructor arguments); None compares all of both. A run counts until it is
    over (`while_="active"`) or until it starts (`"queued"`); with `period` it counts for the rest of its period of so
    many seconds, whatever becomes of it. A dispatch that finds a twin gets that run (`"return"`), a `DuplicateRun`
    (`"raise"`), or gives a twin that has not started its own payload, options and due time (`"replace"`).
    """

    by: tuple[str, ...] | None
    while_: While
    period: float | None
    on_conflict: OnConflict

    def __init__(
        self,
        by: Iterable[str] | None = None,
        *,
        while_: While = "active",
        period: Duration | None = None,
        on_conflict: OnConflict = "return",
    ) -> None:
        values = {
            "by": None if by is None else _fields(by),
            "while_": _one_of(while_, While, "while_"),
            "period": None if period is None else check_number(period, "period", low=1, high=LONGEST_PERIOD, unit=" s"),
            "on_conflict": _one_of(on_conflict, OnConflict, "on_conflict"),
        }
        if period is not None and while_ == "queued":
            raise InvalidOption("period= counts a run for its whole period: leave out while_='queued'")
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def to_json(self) -> dict[str, Any]:
        """What is kept with a run."""
        by = None if self.by is None else list(self.by)
        return {"by": by, "while_": self.while_, "period": self.period, "on_conflict": self.on_conflict}

    @classmethod
    def from_json(cls, data: object) -> Unique:
        """What `to_json` gave; `InvalidOption` for anything else."""
        if not isinstance(data, Mapping):
            raise InvalidOption(f"unique is a JSON object as Unique.to_json() writes it, not {shown(data)}")
        kept = dict(cast("Mapping[str, Any]", data))
        unknown = kept.keys() - {"by", "while_", "period", "on_conflict"}
        if unknown:
            raise InvalidOption(f"unique has no {sorted(map(str, unknown))[0][:40]!a}: by, while_, period, on_conflict")
        return cls(kept.pop("by", None), **kept)

    def check_fields(self, known: Iterable[str]) -> None:
        """`InvalidOption` for a field in `by` that is none of those."""
        names = set(known)
        for name in self.by or ():
            if name not in names:
                have = ", ".join(sorted(names)) or "no fields at all"
                raise InvalidOption(f"unique: there is no field {name!r}; the payload has {have}")

    def digest(self, payload: Any, constructor_args: Mapping[str, Any]) -> str:
        """What two twins have in common: a letter for the kind, then 40 hex digits. The store adds to that of a kind
        with a period the period's number, by its own clock."""
        identity = decode(encode(self._identity(payload, constructor_args)))
        content = orjson.dumps(identity, option=orjson.OPT_SORT_KEYS)
        return self._kind + sha256(content).hexdigest()[:40]

    @property
    def _kind(self) -> str:
        return "p" if self.period is not None else "q" if self.while_ == "queued" else "a"

    def _identity(self, payload: Any, constructor_args: Mapping[str, Any]) -> Any:
        if self.by is None:
            return [payload, constructor_args]
        fields = dict(cast("Mapping[str, Any]", payload)) if isinstance(payload, Mapping) else {}
        known = {**constructor_args, **fields}
        self.check_fields(known)
        return {name: known[name] for name in self.by}


def check_unique(value: object) -> Unique | None:
    """`value` if it is a `Unique`; None for False, which takes back what the job declares; else `InvalidOption`."""
    if value is False:
        return None
    if not isinstance(value, Unique):
        raise InvalidOption(f"unique must be Unique(...), as in unique=Unique(by=('email',)), not {shown(value)}")
    return value


def _fields(by: Iterable[str]) -> tuple[str, ...]:
    if isinstance(by, str) or not isinstance(by, list | tuple | set | frozenset):
        raise InvalidOption(f"by must be a list of field names, as in by=('email',), not {shown(by)}")
    names = tuple(cast("Iterable[object]", by))
    if not 1 <= len(names) <= _MOST_FIELDS or not all(isinstance(name, str) and name for name in names):
        raise InvalidOption(f"by names 1 to {_MOST_FIELDS} fields; leave it out to compare the whole payload")
    return tuple(sorted(set(cast("tuple[str, ...]", names))))


def _one_of(value: object, allowed: Any, what: str) -> str:
    words = get_args(allowed)
    if not isinstance(value, str) or value not in words:
        given = ascii(value[:40]) if isinstance(value, str) else shown(value)
        raise InvalidOption(f"{what} is one of {', '.join(map(repr, words))}, not {given}")
    return value


def unique_digest(envelope: Envelope) -> str | None:
    """The digest of the run asked for; None where it need not be unique. `InvalidOption` for a field it lacks."""
    if envelope.unique is None:
        return None
    rule = Unique.from_json(envelope.unique)
    if rule.on_conflict == "replace" and envelope.idempotency_key is not None:
        raise InvalidOption(
            "idempotency_key= does not go with on_conflict='replace': a dispatch that is sent twice would replace what "
            "was asked for between the two"
        )
    return rule.digest(envelope.payload, envelope.constructor_args)
