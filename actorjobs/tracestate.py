"""What a run carries of its trace besides the context of its dispatch: our member of the W3C `tracestate`.

    actorjobs=link;replay_of:00-<trace id>-<span id>-01

First the relation of its attempts to the dispatch, decided once by who dispatches; then what else they are to link to.
It needs no column of its own and travels wherever the trace context does. Members of other vendors are kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias, cast, get_args

Relation: TypeAlias = Literal["parent", "link", "none"]
"""`parent`: attempts are children of the dispatch, in its trace. `link`: each has a trace of its own that links to it.
`none`: each has a trace of its own, and nothing leads from one to the other."""

RELATIONS: Final[tuple[str, ...]] = get_args(Relation)

_KEY: Final = "actorjobs"
_MOST_MEMBERS: Final = 32
_LONGEST: Final = 512
"""Members and characters that a `tracestate` has at most (W3C Trace Context, 3.3.1)."""


@dataclass(frozen=True, slots=True)
class Told:
    """What our member says; `links` maps a kind of link to a `traceparent`."""

    relation: Relation | None = None
    links: Mapping[str, str] = field(default_factory=dict[str, str])


_NOTHING: Final = Told()


def read(tracestate: str | None) -> Told:
    """What our member says. Nonsense in it says nothing: it may have been made anywhere."""
    if not tracestate or _KEY not in tracestate:
        return _NOTHING
    for member in tracestate.split(","):
        key, _, value = member.strip().partition("=")
        if key == _KEY:
            relation, *links = value.split(";")
            known = relation if relation in RELATIONS else None
            return Told(cast("Relation | None", known), dict(_pair(link) for link in links))
    return _NOTHING


def foreign(tracestate: str | None) -> str | None:
    """The members of other vendors."""
    if not tracestate or _KEY not in tracestate:
        return tracestate or None
    members = (member.strip() for member in tracestate.split(","))
    return ",".join(member for member in members if member.partition("=")[0] != _KEY) or None


def written(tracestate: str | None, told: Told) -> str:
    """The `tracestate` with our member, which comes first as the one written last; what is too much goes at the end."""
    value = ";".join([told.relation or "parent", *(f"{kind}:{to}" for kind, to in told.links.items())])
    members = [f"{_KEY}={value}"]
    length = len(members[0])
    for member in (foreign(tracestate) or "").split(","):
        length += len(member) + 1
        if member and len(members) < _MOST_MEMBERS and length <= _LONGEST:
            members.append(member)
    return ",".join(members)


def _pair(text: str) -> tuple[str, str]:
    kind, _, to = text.partition(":")
    return kind, to
