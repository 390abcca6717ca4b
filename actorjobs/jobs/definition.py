"""A job as the worker sees it: a name, defaults, and the ways in and out of its handler. Nothing more."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias, cast

import orjson

from actorjobs.codec import LIMITS, Shape, decode, encode
from actorjobs.errors import InvalidOption, PayloadInvalid, ResultInvalid
from actorjobs.jobs.built import Built
from actorjobs.jobs.defaults import JobDefaults
from actorjobs.jobs.isolation import Process, check_isolation
from actorjobs.jobs.options import (
    DEFAULT_PRIORITY,
    DEFAULT_QUEUE,
    OnLeaseLoss,
    check_job_name,
    check_on_lease_loss,
    check_options,
    check_retry,
    check_version,
)
from actorjobs.jobs.unique import Unique
from actorjobs.retry import MOST_ATTEMPTS, Fixed, Retry, seconds, shown
from actorjobs.tracestate import Relation, Told, written

if TYPE_CHECKING:
    from actorjobs.jobs.context import JobContext

DEFAULT_RETRY: Final = Retry()
_MOST_RETRIES: Final = MOST_ATTEMPTS - 1

Upcast: TypeAlias = Callable[[Any, int], Any]
"""Makes the JSON value of a payload that was accepted in an older version into one of today's version."""


class PayloadCodec(Protocol):
    """How a payload becomes JSON and what the handler gets of it. `PayloadInvalid` on both ways."""

    def encode(self, value: object) -> Any: ...

    def decode(self, text: str) -> Any: ...

    @property
    def fields(self) -> Iterable[str] | None:
        """The names that the JSON object has; None where that depends on the payload."""
        ...

    @property
    def traced(self) -> Sequence[str]:
        """The names of those that are marked with `Traced`."""
        ...


class Handler(Protocol):
    """The code of a job."""

    @property
    def fields(self) -> Iterable[str]:
        """The names of the constructor's arguments."""
        ...

    def invoke(self, bound: Any, constructor_args: str | None, ctx: JobContext[Any]) -> Any: ...

    def check_constructor_args(self, constructor_args: str | None) -> None: ...

    def backoff(self, failures: int, error: BaseException, constructor_args: str | None) -> float | None: ...


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Contract:
    """What dispatching a job takes; a service may know this much of a job that another one implements.

    `declared` holds the options that the job itself sets, already checked.
    """

    name: str
    payload: PayloadCodec = field(repr=False)
    result: Result = field(repr=False)
    declared: Mapping[str, Any] = field(default_factory=dict[str, Any], repr=False)
    script: str | None = None
    version: int = 1
    template: Mapping[str, Any] = field(init=False, repr=False)
    built: Built = field(init=False, repr=False, default_factory=Built)

    def __post_init__(self) -> None:
        values = {"queue": DEFAULT_QUEUE, "priority": DEFAULT_PRIORITY, **envelope_fields(self.declared)}
        values |= {"job": self.name, **({"script": self.script} if self.script else {})}
        values |= {"version": self.version} if self.version > 1 else {}
        object.__setattr__(self, "template", MappingProxyType(values))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Definition(Contract):
    """A job with its handler. `timeout`, `expires_in` and `retention` are seconds; `script` is module:qualname.

    `version` is the form that payloads have by now; `upcast` brings older ones to it. `isolation` is the child process
    to run in; None runs it with the others.
    """

    queue: str = DEFAULT_QUEUE
    retry: Retry = DEFAULT_RETRY
    timeout: float | None = None
    priority: int = DEFAULT_PRIORITY
    expires_in: float | None = None
    retention: float | None = None
    tags: tuple[str, ...] = ()
    unique: Unique | None = None
    trace: Relation | None = None
    aliases: tuple[str, ...] = ()
    upcast: Upcast | None = field(default=None, repr=False)
    isolation: Process | None = None
    on_lease_loss: OnLeaseLoss = "cancel"
    is_async: bool
    takes_context: bool
    handler: Handler = field(repr=False)

    def encode_payload(self, value: object) -> Any:
        """The JSON value to keep for `value`: an instance of the payload's model, or a JSON value from outside."""
        return self.payload.encode(value)

    def decode_payload(
        self, json_text: str, constructor_args_json: str | None = None, *, version: int | None = None
    ) -> Any:
        """What `invoke` takes, made of JSON stored in that version (None: today's) and validated. `PayloadInvalid`,
        without the input, if it is not the job's; the constructor arguments are checked with it if given."""
        if constructor_args_json is not None:
            self.handler.check_constructor_args(constructor_args_json)
        if version is not None and version != self.version:
            json_text = self._upcast(json_text, version)
        return self.payload.decode(json_text)

    def _upcast(self, json_text: str, version: int) -> str:
        if version > self.version:
            raise PayloadInvalid(f"payload is of version {version}, this code knows {self.name} up to {self.version}")
        if self.upcast is None:
            return json_text
        try:
            return encode(self.upcast(decode(json_text), version), what="the upcast payload")
        except PayloadInvalid:
            raise
        except Exception as failure:  # the user's code may raise anything; what it says may quote the payload
            raise PayloadInvalid(f"payload: upcast from version {version} raised {type(failure).__name__}") from None

    def invoke(self, bound: Any, constructor_args_json: str | None, ctx: JobContext[Any]) -> Any:
        """Call the handler: a coroutine if `is_async`, else the value itself (so call it in a thread)."""
        return self.handler.invoke(bound, constructor_args_json, ctx)

    def encode_result(self, value: object) -> str | None:
        """JSON text of what the handler returned, None for None; `ResultInvalid` unless it is of the declared type."""
        return self.result.encode(value)

    def decode_result(self, json_value: Any) -> Any:
        """The typed result of a stored JSON value; `ResultInvalid` if it no longer fits."""
        return self.result.decode(json_value)

    def backoff_override(self, failures: int, error: BaseException, constructor_args_json: str | None) -> float | None:
        """Seconds that the job's own `backoff()` asks for; None to go by `retry`."""
        return self.handler.backoff(failures, error, constructor_args_json)

    def with_defaults(self, defaults: JobDefaults) -> Definition:
        """The same job with the runtime's defaults where it declares nothing itself."""
        missing = {name: value for name, value in defaults.given().items() if name not in self.declared}
        return replace(self, **missing) if missing else self


class Result:
    """The declared type of what a handler returns."""

    __slots__ = ("_allows_none", "_shape")

    def __init__(self, annotation: object) -> None:
        self._shape = Shape(annotation, what="result", error=ResultInvalid, limit=LIMITS.result)
        self._allows_none = self._fits_none()

    def encode(self, value: object) -> str | None:
        """JSON text of `value` once it conforms to the type; None for None. `ResultInvalid` otherwise."""
        if value is None and self._allows_none:
            return None
        return self._shape.encode(self._shape.conform(value))[1]

    def decode(self, value: Any) -> Any:
        """An instance of the type made of its JSON value. `ResultInvalid` otherwise."""
        return None if value is None and self._allows_none else self._shape.decode(orjson.dumps(value))

    def _fits_none(self) -> bool:
        try:
            return self._shape.conform(None) is None
        except ResultInvalid:
            return False


def define(
    name: str,
    *,
    payload: PayloadCodec,
    result: object,
    handler: Handler,
    script: str,
    is_async: bool,
    takes_context: bool,
    options: Mapping[str, Any],
) -> Definition:
    """A definition whose options, with `retries` and `retry_delay` among them, have been checked.

    `InvalidOption` for what cannot work.
    """
    rest = dict(options)
    retry = semitra_retry(rest.pop("retry", None), rest.pop("retries", None), rest.pop("retry_delay", None))
    own: dict[str, Any] = {
        "aliases": _check_aliases(rest.pop("aliases", ()), name),
        "version": check_version(rest.pop("version", 1)),
        "upcast": _check_upcast(rest.pop("upcast", None)),
        "isolation": check_isolation(rest.pop("isolation", None)),
        "on_lease_loss": check_on_lease_loss(rest.pop("on_lease_loss", "cancel")),
    }
    declared = check_options({**rest, "retry": retry})
    unique: Unique | None = declared.get("unique")
    if unique is not None and payload.fields is not None:
        unique.check_fields([*payload.fields, *handler.fields])
    if own["isolation"] is not None and "<locals>" in script:
        raise InvalidOption("a child process has to import the handler: isolation= needs one at the top of its module")
    return Definition(
        name=name,
        payload=payload,
        result=Result(result),
        declared=MappingProxyType(declared),
        script=script,
        is_async=is_async,
        takes_context=takes_context,
        handler=handler,
        **own,
        **declared,
    )


@contextmanager
def naming(job: str) -> Generator[None]:
    """Say in every refusal below which job it is about."""
    try:
        yield
    except InvalidOption as refusal:
        raise InvalidOption(f"job {job!r}: {refusal}") from None


def semitra_retry(retry: object, retries: object, retry_delay: object) -> Retry | None:
    """The policy said with `retry`, or with `retries` (tries besides the first) and `retry_delay` (between them)."""
    if retries is None and retry_delay is None:
        return None if retry is None else check_retry(retry)
    if retry is not None:
        raise InvalidOption("retry= already says what retries= and retry_delay= would say: give one or the other")
    attempts = DEFAULT_RETRY.attempts if retries is None else _check_retries(retries) + 1
    if retry_delay is None:
        return Retry(attempts)
    return Retry(attempts, Fixed(seconds(retry_delay, "retry_delay")))


def envelope_fields(options: Mapping[str, Any]) -> dict[str, Any]:
    """Checked options as fields of an envelope."""
    values = dict(options)
    retry: Retry | None = values.pop("retry", None)
    if retry is not None:
        values["max_attempts"] = retry.attempts
    if "unique" in values:
        unique: Unique | None = values["unique"]
        values["unique"] = None if unique is None else unique.to_json()
    relation: Relation | None = values.pop("trace", None)
    if relation is not None:
        values["tracestate"] = written(None, Told(relation))
    return values


def _check_retries(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MOST_RETRIES:
        raise InvalidOption(
            f"retries must be a whole number from 0 to {_MOST_RETRIES}, not {shown(value)}; "
            "it does not count the first try"
        )
    return int(value)


def _check_aliases(value: object, name: str) -> tuple[str, ...]:
    if not isinstance(value, list | tuple):
        raise InvalidOption("aliases must be a list of job names, as in aliases=['mail:greet']")
    aliases = tuple(check_job_name(alias) for alias in cast("list[object]", value))
    if name in aliases or len(set(aliases)) < len(aliases):
        raise InvalidOption("aliases must differ from the job's name and from each other")
    return aliases


def _check_upcast(value: object) -> Upcast | None:
    if value is not None and not callable(value):
        raise InvalidOption(f"upcast is a function of (payload, version), not {shown(value)}")
    return cast("Upcast | None", value)


def nothing_to_construct(constructor_args: str | None) -> None:
    """`PayloadInvalid` for constructor arguments where a job takes none."""
    if constructor_args not in (None, "", "{}", "null"):
        raise PayloadInvalid("constructor_args: this job takes none")
