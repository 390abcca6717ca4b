"""Jobs as classes: constructor arguments, shared defaults in a base class, a backoff of the job's own."""

from __future__ import annotations

import dataclasses
import inspect
import logging
import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from inspect import Parameter
from typing import Any, ClassVar, Final, Generic, ParamSpec, cast, dataclass_transform

from pydantic import BaseModel
from typing_extensions import TypeVar, Unpack

from actorjobs.codec import LIMITS
from actorjobs.errors import InvalidOption
from actorjobs.jobs.context import JobContext
from actorjobs.jobs.definition import Definition, define, naming, nothing_to_construct
from actorjobs.jobs.dispatch import Dispatchable, Order, directed
from actorjobs.jobs.generics import arguments_of
from actorjobs.jobs.handle import RunHandle
from actorjobs.jobs.isolation import Isolation
from actorjobs.jobs.options import DEFAULT_QUEUE, EnvelopeOptions, OnLeaseLoss, Options, check_job_name
from actorjobs.jobs.payloads import ModelPayload, ParametersPayload
from actorjobs.jobs.signature import is_payload, resolve
from actorjobs.jobs.unique import Unique
from actorjobs.model import Envelope
from actorjobs.retry import Duration, Retry, seconds
from actorjobs.tracestate import Relation

P = TypeVar("P", bound=BaseModel)
R = TypeVar("R")
C = TypeVar("C", default=None)
Fields = ParamSpec("Fields")
P2 = TypeVar("P2", bound=BaseModel)
R2 = TypeVar("R2")

_LOGGER = logging.getLogger("actorjobs.job")
_OPTIONS: Final = ("queue", "timeout", "priority", "expires_in", "retention", "tags", "unique", "trace")
_OWN: Final = ("version", "upcast", "isolation", "on_lease_loss")


class _OwnDefinition:
    """Gives each concrete job class its own definition, and an abstract one none."""

    def __get__(self, instance: object, owner: type[Job[Any, Any, Any]]) -> Definition:
        try:
            return definition_of_class(owner)
        except InvalidOption as abstract:
            raise AttributeError(str(abstract)) from None


@dataclass_transform(kw_only_default=True, field_specifiers=(dataclasses.field,))
class Job(Generic[P, R, C]):
    """A job with payload P, result R, and C as the application's context: set `name` and write `perform`.

    Annotated attributes are constructor arguments, given with `build(...)` and kept on the run. A subclass that sets no
    `name` is abstract: a place for defaults that its own subclasses share. Options mean what they mean for `@job`.
    """

    name: ClassVar[str]
    queue: ClassVar[str] = DEFAULT_QUEUE
    retry: ClassVar[Retry | None] = None
    retries: ClassVar[int | None] = None
    retry_delay: ClassVar[Duration | None] = None
    timeout: ClassVar[Duration | None] = None
    priority: ClassVar[int | None] = None
    expires_in: ClassVar[Duration | None] = None
    retention: ClassVar[Duration | None] = None
    tags: ClassVar[Sequence[str]] = ()
    unique: ClassVar[Unique | None] = None
    trace: ClassVar[Relation | None] = None
    aliases: ClassVar[Sequence[str]] = ()
    version: ClassVar[int] = 1
    isolation: ClassVar[Isolation | None] = None
    on_lease_loss: ClassVar[OnLeaseLoss] = "cancel"
    definition: ClassVar[Definition] = cast("Definition", _OwnDefinition())

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Check the class and make its definition. `InvalidOption` for what cannot work."""
        super().__init_subclass__(**kwargs)
        caller = inspect.currentframe()
        names = caller.f_back.f_locals if caller and caller.f_back else {}
        with naming(cls.__name__):
            _make_constructor(cls)
            if "name" in cls.__dict__:
                _define_class(cls, names)

    def perform(self, payload: P, ctx: JobContext[C], /) -> R | Coroutine[Any, Any, R]:
        """Do the work: with `async def` on the loop, with `def` in a thread."""
        raise NotImplementedError(f"{type(self).__name__} has no perform()")

    def backoff(self, failures: int, error: BaseException) -> Duration | None:
        """Seconds (or a timedelta) until the next attempt; None leaves it to `retry`. `failures` counts from 1."""
        return None

    @classmethod
    def upcast(cls, payload: Any, version: int) -> Any:
        """Make a payload of an older `version`, a JSON value, into one of today's version."""
        return payload

    @classmethod  # pyright: ignore[reportArgumentType] - that `cls` is callable with its fields is not seen here
    def build(
        cls: Callable[Fields, Job[P2, R2, Any]], *args: Fields.args, **kwargs: Fields.kwargs
    ) -> Dispatchable[P2, R2]:
        """This job with constructor arguments, checked. `PayloadInvalid` if they do not fit."""
        return _target(cast("type[Job[P2, R2, Any]]", cls), args, kwargs)

    @classmethod
    def order(cls, payload: P, **options: Unpack[Options]) -> Order[R]:
        """What `dispatch` would send, validated."""
        return _target(cls).order(payload, **options)

    @classmethod
    def envelope(cls, payload: P, **options: Unpack[EnvelopeOptions]) -> Envelope:
        """The run asked for, validated and not sent. Dispatching it twice gives one run."""
        return _target(cls).envelope(payload, **options)

    @classmethod
    def schedule(cls, payload: P, **options: Unpack[EnvelopeOptions]) -> Envelope:
        """Another word for `envelope`."""
        return cls.envelope(payload, **options)

    @classmethod
    async def dispatch(cls, payload: P, **options: Unpack[Options]) -> RunHandle[R]:
        """Ask for a run; answers once it is durably accepted."""
        return await _target(cls).dispatch(payload, **options)

    @classmethod
    async def dispatch_to(cls, queue: str, payload: P, /, **options: Unpack[Options]) -> RunHandle[R]:
        """The same, straight to a named queue."""
        return await _target(cls).order(payload, **directed(queue, options)).send()

    @classmethod
    def dispatch_sync(cls, payload: P, **options: Unpack[Options]) -> RunHandle[R]:
        """The same from code outside the loop; an error on the loop's own thread."""
        return _target(cls).dispatch_sync(payload, **options)

    @classmethod
    def options(cls, **options: Unpack[Options]) -> Dispatchable[P, R]:
        """This job with options set beforehand; those given later win."""
        return _target(cls).options(**options)

    @classmethod
    def handle(cls, run_id: str) -> RunHandle[R]:
        """The typed handle of a run that was dispatched earlier."""
        definition = definition_of_class(cls)
        return RunHandle(run_id, job=definition.name, decode=definition.decode_result)


_RESERVED: Final = frozenset(name for name in dir(Job) if not name.startswith("__")) | {"name"}


def definition_of_class(cls: type[Job[Any, Any, Any]]) -> Definition:
    """The definition of a concrete job class; `InvalidOption` for an abstract one."""
    definition: Definition | None = cls.__dict__.get("_own_definition")
    if definition is None:
        raise InvalidOption(f"{cls.__name__} is abstract: give it a name of its own, as in name = 'reports:build'")
    return definition


@dataclasses.dataclass(frozen=True, slots=True)
class ClassHandler:
    """Constructs the job anew for every call."""

    cls: type[Job[Any, Any, Any]]
    constructor: ParametersPayload | None

    @property
    def fields(self) -> Sequence[str]:
        """The names of the constructor's arguments."""
        return () if self.constructor is None else self.constructor.fields

    def invoke(self, bound: Any, constructor_args: str | None, ctx: JobContext[Any]) -> Any:
        """The coroutine or value of `perform`."""
        return self._construct(constructor_args).perform(bound, ctx)

    def check_constructor_args(self, constructor_args: str | None) -> None:
        """`PayloadInvalid` if the stored arguments do not fit the class any more."""
        if self.constructor is None:
            nothing_to_construct(constructor_args)
        else:
            self.constructor.decode(constructor_args or "{}")

    def backoff(self, failures: int, error: BaseException, constructor_args: str | None) -> float | None:
        """What the job's own `backoff` says; None, and a warning, if it raises or says nonsense."""
        if inspect.getattr_static(self.cls, "backoff") is Job.__dict__["backoff"]:
            return None
        try:
            asked = self._construct(constructor_args).backoff(failures, error)
            return None if asked is None else seconds(asked, "what backoff() returns")
        except Exception:  # the user's code: a slip in it must not cost the run its retry
            _LOGGER.warning("backoff() of job %r failed; its retry policy decides", self.cls.name, exc_info=True)
            return None

    def _construct(self, constructor_args: str | None) -> Job[Any, Any, Any]:
        if self.constructor is None:
            return self.cls()
        return self.cls(**self.constructor.decode(constructor_args or "{}"))


def _target(
    cls: type[Job[P, R, Any]], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
) -> Dispatchable[P, R]:
    definition = definition_of_class(cls)
    constructor = cast("ClassHandler", definition.handler).constructor or _NO_FIELDS
    return Dispatchable(definition, constructor_args=constructor.bind(*args, **(kwargs or {})))


_NO_FIELDS: Final = ParametersPayload((), what="constructor_args")


def _make_constructor(cls: type[Job[Any, Any, Any]]) -> None:
    if "__init__" in cls.__dict__:
        raise InvalidOption("constructor arguments are annotated attributes (locale: str = 'en'): write no __init__")
    try:
        dataclasses.dataclass(kw_only=True, eq=False, repr=False)(cls)
    except (TypeError, ValueError) as failure:
        raise InvalidOption(str(failure)) from None
    taken = sorted(field.name for field in _fields_of(cls) if field.name in _RESERVED)
    if taken:
        raise InvalidOption(
            f"{taken[0]!r} belongs to the job and cannot be a constructor argument: "
            f"write `{taken[0]} = ...` without an annotation, or rename the argument"
        )


def _define_class(cls: type[Job[Any, Any, Any]], names: Mapping[str, Any]) -> None:
    payload, result, *_ = (*arguments_of(cls, Job), None, None)
    if not is_payload(payload):
        raise InvalidOption(
            "say what it takes and gives: class X(Job[Payload, Result]), with a pydantic model as Payload"
        )
    _check_perform(cls)
    parameters = [_parameter(cls, field, names) for field in _fields_of(cls) if field.init]
    limit = LIMITS.constructor_args
    constructor = ParametersPayload(parameters, what="constructor_args", limit=limit) if parameters else None
    definition = define(
        check_job_name(cls.name),
        payload=ModelPayload(payload),
        result=result,
        handler=ClassHandler(cls, constructor),
        script=f"{cls.__module__}:{cls.__qualname__}",
        is_async=inspect.iscoroutinefunction(cls.perform),
        takes_context=True,
        options=_own_options(cls),
    )
    type.__setattr__(cls, "_own_definition", definition)


def _own_options(cls: type[Job[Any, Any, Any]]) -> dict[str, Any]:
    """What the class and its bases say. Of `retry` and Semitra's two words, those nearest to the class count."""
    said = {option: getattr(cls, option) for option in (*_OPTIONS, *_OWN)} | {"tags": cls.tags or None}
    said["aliases"] = cls.__dict__.get("aliases", ())  # a name leads to one job, not to its subclasses too
    for owner in cls.__mro__[: cls.__mro__.index(Job)]:
        has_words = any(owner.__dict__.get(word) is not None for word in ("retries", "retry_delay"))
        if owner.__dict__.get("retry") is not None:
            said["retry"] = cls.retry
        if has_words:
            said |= {"retries": cls.retries, "retry_delay": cls.retry_delay}
        if has_words or "retry" in said:
            break
    return said


def _check_perform(cls: type[Job[Any, Any, Any]]) -> None:
    perform = inspect.getattr_static(cls, "perform")
    if perform is Job.__dict__["perform"] or not inspect.isfunction(perform):
        raise InvalidOption("it needs a method `async def perform(self, payload, ctx)`, or the same with def")
    if inspect.isasyncgenfunction(perform) or inspect.isgeneratorfunction(perform):
        raise InvalidOption("perform returns one result: it cannot be a generator (no yield)")
    try:
        inspect.signature(perform).bind("self", "payload", "ctx")
    except TypeError:
        raise InvalidOption("perform is called with (payload, ctx) and must take just these two") from None


def _fields_of(cls: type[Any]) -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(cls)


def _parameter(cls: type[Any], field: dataclasses.Field[Any], names: Mapping[str, Any]) -> Parameter:
    owner = next(base for base in cls.__mro__ if field.name in inspect.get_annotations(base))
    try:
        annotation = resolve(field.type, vars(sys.modules[owner.__module__]), names)
    except NameError as unknown:
        raise InvalidOption(
            f"{field.name!r} is annotated with {unknown.name!r}, which is not known at run time"
        ) from None
    default: Any = Parameter.empty
    if field.default is not dataclasses.MISSING:
        default = field.default
    elif field.default_factory is not dataclasses.MISSING:
        default = field.default_factory()
    return Parameter(field.name, Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
