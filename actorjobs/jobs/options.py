"""The options of a job and of a dispatch: what each may be, and what it is turned into.

Every option may be None, which says nothing: the job's own value holds, or the runtime's.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, Literal, TypeAlias, TypedDict, cast, get_args

from actorjobs import codec
from actorjobs.errors import InvalidOption
from actorjobs.jobs.unique import Unique, check_unique
from actorjobs.ports import Transaction
from actorjobs.retry import Duration, Retry, seconds, shown
from actorjobs.tracestate import RELATIONS, Relation

DEFAULT_QUEUE: Final = "default"
DEFAULT_PRIORITY: Final = 4
TOP_PRIORITY: Final = 9

_JOB_NAME = re.compile(r"[a-z0-9][a-z0-9._:-]{0,127}")
_QUEUE_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,99}")
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_LONGEST_RETENTION: Final = 10 * 365 * 86400.0
_YEARS: Final = range(1970, 9999)
_MOST_TAGS: Final = 20
MOST_VERSIONS: Final = 1_000_000


OnLeaseLoss: TypeAlias = Literal["cancel", "continue"]


class EnvelopeOptions(TypedDict, total=False):
    """What one run may be asked to do differently. Durations are seconds or a timedelta."""

    delay: Duration | None
    """Wait so long after acceptance: from 0 to 365 days. Not together with `run_at`."""
    run_at: datetime | None
    """Not before this moment: an aware datetime. A moment that has passed means now."""
    queue: str | None
    priority: int | None
    """0 to 9; 9 goes first, 4 is the default."""
    idempotency_key: str | None
    """1 to 255 characters, compared exactly: the same key for the same job and tenant gives the same run."""
    key_expires_in: Duration | None
    """The key holds for so long after acceptance; otherwise as long as its run is kept."""
    tenant: str | None
    """1 to 128 characters; otherwise `current_tenant()`."""
    retry: Retry | None
    """Attempts, backoff and max_elapsed of this run; `on` and `never` stay the job's."""
    timeout: Duration | None
    """Of each attempt."""
    expires_in: Duration | None
    """A run that has not started so long after its acceptance ends as `expired`."""
    retention: Duration | None
    """Keep the finished run so long."""
    tags: Iterable[str] | None
    """At most 20, of 1 to 64 characters each."""
    meta: Mapping[str, Any] | None
    """A JSON object of at most 16 KiB, kept with the run and never looked into."""
    unique: Unique | Literal[False] | None
    """At most one run of the kind alive; False takes back what the job declares."""
    trace: Relation | None
    """How attempts stand to the dispatch in a trace: "parent", "link" or "none". Left out, an immediate dispatch is the
    parent of its attempts; those of one that is delayed, replayed, or one of twenty and more, have traces of their own
    that link to it."""


class Options(EnvelopeOptions, total=False):
    """The options of a dispatch: those of its envelope, and the transaction to write it in."""

    tx: Transaction | None
    """A SQLAlchemy session or connection on the store's database: the run exists if, and only if, that commits."""


def check_job_name(name: object) -> str:
    """`name` if a job may be called so; `InvalidOption` otherwise."""
    return _check_name(name, "a job name", _JOB_NAME, "a-z, 0-9 and . _ : - (at most 128), as in 'mail:welcome'")


def check_queue_name(name: object) -> str:
    """`name` if a queue may be called so; `InvalidOption` otherwise."""
    queue = _check_name(name, "a queue name", _QUEUE_NAME, "a-z, 0-9 and . _ - (at most 100), as in 'emails'")
    if queue.startswith("amq."):
        raise InvalidOption("a queue name must not begin with 'amq.', which brokers keep for themselves")
    return queue


def check_options(options: Mapping[str, Any], preset: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The options that say something, checked and on top of `preset`, which was checked before.

    Durations become float seconds, `run_at` becomes UTC, tags a tuple. `InvalidOption` for an unknown name (with the
    nearest known one) or a value that cannot work.
    """
    checked: dict[str, Any] = dict(preset) if preset else {}
    for name, value in options.items():
        check = _CHECKS.get(name)
        if check is None:
            raise InvalidOption(_unknown(name))
        if value is not None:
            checked[name] = check(value)
    if "delay" in checked and "run_at" in checked:
        raise InvalidOption("delay= and run_at= both say when to run: give one of them")
    if "key_expires_in" in checked and "idempotency_key" not in checked:
        raise InvalidOption("key_expires_in= is about a key: give idempotency_key= with it")
    return checked


def check_retry(value: object) -> Retry:
    """`value` if it is a `Retry`; `InvalidOption` otherwise."""
    if not isinstance(value, Retry):
        raise InvalidOption(f"retry must be a Retry(...), as in retry=Retry(attempts=3), not {shown(value)}")
    return value


def check_tags(value: object) -> tuple[str, ...]:
    """Tags without duplicates, in the order given; `InvalidOption` if there are too many or one cannot be kept."""
    if isinstance(value, str) or not isinstance(value, list | tuple | set | frozenset):
        raise InvalidOption(f"tags must be a list of strings, as in tags=['signup'], not {shown(value)}")
    given = cast(
        "Iterable[object]", sorted(cast("set[object]", value), key=str) if isinstance(value, set | frozenset) else value
    )
    tags = tuple(dict.fromkeys(_check_text(tag, "a tag", 64) for tag in given))
    if len(tags) > _MOST_TAGS:
        raise InvalidOption(f"a run has at most {_MOST_TAGS} tags, not {len(tags)}")
    return tags


def check_tenant(value: object) -> str:
    """`value` if a tenant may be called so; `InvalidOption` otherwise."""
    return _check_text(value, "tenant", 128)


def check_timeout(value: object) -> float:
    """Seconds that one attempt may take, above 0."""
    return seconds(value, "timeout", positive=True)


def check_expires_in(value: object) -> float:
    """Seconds from acceptance until a run that has not started expires, above 0."""
    return seconds(value, "expires_in", positive=True)


def check_retention(value: object) -> float:
    """Seconds that a finished run is kept, above 0 and at most ten years."""
    return seconds(value, "retention", high=_LONGEST_RETENTION, positive=True)


def check_priority(value: object) -> int:
    """A whole number from 0 to 9."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= TOP_PRIORITY:
        raise InvalidOption(f"priority must be a whole number from 0 to {TOP_PRIORITY} (first), not {shown(value)}")
    return int(value)


def check_trace(value: object) -> Relation:
    """How the attempts of a run stand to its dispatch in a trace."""
    if not isinstance(value, str) or value not in RELATIONS:
        raise InvalidOption(f"trace is 'parent', 'link' or 'none', not {shown(value)}")
    return cast("Relation", value)


def check_version(value: object) -> int:
    """A whole number from 1 on: the form that payloads have by now."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MOST_VERSIONS:
        raise InvalidOption(f"version must be a whole number from 1 to {MOST_VERSIONS:,}, not {shown(value)}")
    return int(value)


def check_on_lease_loss(value: object) -> OnLeaseLoss:
    """What becomes of a handler whose worker lost its lease."""
    if not isinstance(value, str) or value not in get_args(OnLeaseLoss):
        raise InvalidOption(f"on_lease_loss is 'cancel' or 'continue', not {shown(value)}")
    return cast("OnLeaseLoss", value)


def _check_run_at(value: object) -> datetime:
    if not isinstance(value, datetime):
        raise InvalidOption(f"run_at must be a datetime, not {shown(value)}")
    if value.utcoffset() is None:
        raise InvalidOption(
            "run_at must say which time zone it means, as in datetime.now(UTC) or datetime(..., tzinfo=UTC)"
        )
    try:
        moment = value.astimezone(UTC)
    except OverflowError:
        moment = None
    if moment is None or moment.year not in _YEARS:
        raise InvalidOption(f"run_at must lie in the years {_YEARS[0]} to {_YEARS[-1]}")
    return moment


def _check_meta(value: object) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise InvalidOption(f"meta must be a JSON object (a dict), not {shown(value)}")
    text = codec.encode(
        dict(cast("Mapping[str, Any]", value)), what="meta", limit=codec.LIMITS.meta, error=InvalidOption
    )
    return cast("dict[str, Any]", codec.decode(text))


def _check_transaction(value: object) -> Transaction:
    if not isinstance(value, Transaction):
        raise InvalidOption(
            f"tx must be a SQLAlchemy Session, AsyncSession, Connection or AsyncConnection, not {shown(value)}"
        )
    return value


_CHECKS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "delay": lambda value: seconds(value, "delay"),
    "run_at": _check_run_at,
    "queue": check_queue_name,
    "priority": check_priority,
    "idempotency_key": lambda value: _check_text(value, "idempotency_key", 255),
    "key_expires_in": lambda value: seconds(value, "key_expires_in", high=_LONGEST_RETENTION, positive=True),
    "tenant": check_tenant,
    "retry": check_retry,
    "timeout": check_timeout,
    "expires_in": check_expires_in,
    "retention": check_retention,
    "tags": check_tags,
    "meta": _check_meta,
    "unique": check_unique,
    "trace": check_trace,
    "tx": _check_transaction,
}


def _check_name(name: object, what: str, pattern: re.Pattern[str], rule: str) -> str:
    if isinstance(name, str) and pattern.fullmatch(name):
        return name
    given = ascii(name[:40]) if isinstance(name, str) else shown(name)
    raise InvalidOption(f"{what} begins with a-z or 0-9 and goes on with {rule}; {given} does not fit")


def _check_text(value: object, what: str, longest: int) -> str:
    """The text is not shown in the message: a key or a tenant may be somebody's name or secret."""
    if not isinstance(value, str):
        raise InvalidOption(f"{what} must be a string, not {shown(value)}")
    if not 1 <= len(value) <= longest:
        raise InvalidOption(f"{what} must have 1 to {longest} characters, not {len(value)}")
    if _UNPRINTABLE.search(value):
        raise InvalidOption(f"{what} must not hold control characters, line separators or lone surrogates")
    return value


def _unknown(name: str) -> str:
    near = difflib.get_close_matches(name, _CHECKS, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(sorted(_CHECKS))}"
    return f"there is no option {name[:40]!a}: {hint}"
