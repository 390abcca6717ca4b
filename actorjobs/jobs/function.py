"""`@job`: a function as a job."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Concatenate, Generic, ParamSpec, overload

from typing_extensions import TypeVar

from actorjobs.jobs.context import JobContext
from actorjobs.jobs.definition import Definition, Upcast, define, naming, nothing_to_construct
from actorjobs.jobs.dispatch import A, ArgsDispatchable, Dispatchable, P, R
from actorjobs.jobs.isolation import Isolation
from actorjobs.jobs.options import DEFAULT_QUEUE, OnLeaseLoss, check_job_name
from actorjobs.jobs.payloads import ModelPayload, ParametersPayload
from actorjobs.jobs.signature import Reading, read_signature
from actorjobs.jobs.unique import Unique
from actorjobs.retry import Duration, Retry
from actorjobs.tracestate import Relation

Call = ParamSpec("Call")
Returned = TypeVar("Returned")
AppT = TypeVar("AppT")


class PayloadJob(Dispatchable[P, R], Generic[P, R, Call, Returned]):
    """A function that takes one model. Called, it runs here and now as the function it is."""

    def __init__(self, function: Callable[Call, Returned], definition: Definition) -> None:
        super().__init__(definition)
        functools.update_wrapper(self, function)
        self._function = function
        self.definition = definition

    def __call__(self, *args: Call.args, **kwargs: Call.kwargs) -> Returned:
        """Call the function itself: nothing is dispatched, recorded or retried."""
        return self._function(*args, **kwargs)


class ArgsJob(ArgsDispatchable[A, R], Generic[A, R, Call, Returned]):
    """A function that takes plain parameters. Called, it runs here and now as the function it is."""

    def __init__(self, function: Callable[Call, Returned], definition: Definition, *, bind: Callable[..., Any]) -> None:
        super().__init__(definition, bind=bind)
        functools.update_wrapper(self, function)
        self._function = function
        self.definition = definition

    def __call__(self, *args: Call.args, **kwargs: Call.kwargs) -> Returned:
        """Call the function itself: nothing is dispatched, recorded or retried."""
        return self._function(*args, **kwargs)


class JobDecorator:
    """What `job(...)` returns: makes a job of a function."""

    def __init__(self, name: str, options: Mapping[str, Any]) -> None:
        self._name = name
        self._options = options

    # The order decides: a model with or without ctx before plain parameters, coroutines before values.
    @overload
    def __call__(  # type: ignore[overload-overlap]  # pyright: ignore[reportOverlappingOverload]
        self, function: Callable[[P, JobContext[AppT]], Coroutine[Any, Any, R]], /
    ) -> PayloadJob[P, R, [P, JobContext[AppT]], Coroutine[Any, Any, R]]: ...

    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, function: Callable[[P], Coroutine[Any, Any, R]], /
    ) -> PayloadJob[P, R, [P], Coroutine[Any, Any, R]]: ...

    @overload
    def __call__(
        self, function: Callable[Concatenate[JobContext[AppT], A], Coroutine[Any, Any, R]], /
    ) -> ArgsJob[A, R, Concatenate[JobContext[AppT], A], Coroutine[Any, Any, R]]: ...

    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, function: Callable[A, Coroutine[Any, Any, R]], /
    ) -> ArgsJob[A, R, A, Coroutine[Any, Any, R]]: ...

    @overload
    def __call__(
        self, function: Callable[[P, JobContext[AppT]], R], /
    ) -> PayloadJob[P, R, [P, JobContext[AppT]], R]: ...

    @overload
    def __call__(self, function: Callable[[P], R], /) -> PayloadJob[P, R, [P], R]: ...

    @overload
    def __call__(
        self, function: Callable[Concatenate[JobContext[AppT], A], R], /
    ) -> ArgsJob[A, R, Concatenate[JobContext[AppT], A], R]: ...

    @overload
    def __call__(self, function: Callable[A, R], /) -> ArgsJob[A, R, A, R]: ...

    def __call__(self, function: Any, /) -> Any:
        """`InvalidOption` for a function that cannot be a job, saying why."""
        caller = inspect.currentframe()
        names = caller.f_back.f_locals if caller and caller.f_back else {}
        with naming(self._name):
            reading = read_signature(function, names)
            make = self._args_job if reading.payload is None else self._payload_job
            return make(function, reading)

    def _payload_job(self, function: Any, reading: Reading) -> Any:
        payload = ModelPayload(reading.payload)
        made: PayloadJob[Any, Any, ..., Any] = PayloadJob(function, self._define(function, reading, payload))
        return made

    def _args_job(self, function: Any, reading: Reading) -> Any:
        payload = ParametersPayload(reading.parameters)
        definition = self._define(function, reading, payload)
        made: ArgsJob[..., Any, ..., Any] = ArgsJob(function, definition, bind=payload.bind)
        return made

    def _define(self, function: Any, reading: Reading, payload: ModelPayload | ParametersPayload) -> Definition:
        takes_parameters = reading.payload is None
        return define(
            self._name,
            payload=payload,
            result=reading.result,
            handler=FunctionHandler(function, reading.takes_context, takes_parameters),
            script=f"{function.__module__}:{function.__qualname__}",
            is_async=inspect.iscoroutinefunction(function),
            takes_context=reading.takes_context,
            options=self._options,
        )


def job(
    name: str,
    *,
    queue: str = DEFAULT_QUEUE,
    retry: Retry | None = None,
    retries: int | None = None,
    retry_delay: Duration | None = None,
    timeout: Duration | None = None,
    priority: int | None = None,
    expires_in: Duration | None = None,
    retention: Duration | None = None,
    tags: Sequence[str] = (),
    unique: Unique | None = None,
    trace: Relation | None = None,
    aliases: Sequence[str] = (),
    version: int = 1,
    upcast: Upcast | None = None,
    isolation: Isolation | None = None,
    on_lease_loss: OnLeaseLoss = "cancel",
) -> JobDecorator:
    """Make a job of the function below. Pure: nothing is connected to and nothing registered anywhere.

    `retries` and `retry_delay` are another way to say `retry`: tries besides the first, and the time between them.
    `timeout` bounds each attempt; `expires_in` counts from acceptance to the first start; `retention` is how long a
    finished run is kept; `aliases` are older names that still lead here. Durations are seconds or a timedelta.

    `version` is the form that payloads have by now, and `upcast(payload, version)` makes one of an older version, a
    JSON value, into one of today's. `isolation="process"` runs the handler in a child process that can be killed.
    `trace` says how attempts stand to the dispatch in a trace: "parent", "link" or "none".
    `on_lease_loss="continue"` leaves a handler alone whose worker lost its lease, though nobody waits for its result.
    `InvalidOption` for what cannot work.
    """
    options = {
        "queue": queue,
        "retry": retry,
        "retries": retries,
        "retry_delay": retry_delay,
        "timeout": timeout,
        "priority": priority,
        "expires_in": expires_in,
        "retention": retention,
        "tags": tags or None,
        "unique": unique,
        "trace": trace,
        "aliases": aliases,
        "version": version,
        "upcast": upcast,
        "isolation": isolation,
        "on_lease_loss": on_lease_loss,
    }
    return JobDecorator(check_job_name(name), options)


@dataclass(frozen=True, slots=True)
class FunctionHandler:
    """Calls the function with what its signature asks for."""

    function: Callable[..., Any]
    takes_context: bool
    takes_parameters: bool
    fields: tuple[str, ...] = ()

    def invoke(self, bound: Any, constructor_args: str | None, ctx: JobContext[Any]) -> Any:
        """The function's coroutine or value."""
        if self.takes_parameters:
            return self.function(ctx, **bound) if self.takes_context else self.function(**bound)
        return self.function(bound, ctx) if self.takes_context else self.function(bound)

    def check_constructor_args(self, constructor_args: str | None) -> None:
        """A function has no constructor."""
        nothing_to_construct(constructor_args)

    def backoff(self, failures: int, error: BaseException, constructor_args: str | None) -> float | None:
        """A function leaves this to its retry policy."""
        return None
