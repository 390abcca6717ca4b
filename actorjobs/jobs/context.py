"""What a handler sees of the attempt it performs."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, cast, overload

from typing_extensions import ParamSpec, TypeVar, Unpack

from actorjobs import codec
from actorjobs.errors import AttemptCanceled, ContextMissing, InvalidOption
from actorjobs.jobs.actor import Actor
from actorjobs.jobs.dispatch import ArgsDispatchable, Dispatchable, Order, order_for
from actorjobs.jobs.handle import RunHandle
from actorjobs.jobs.options import Options
from actorjobs.model import CancelReason, Envelope, in_trace, new_traceparent, trace_id_of
from actorjobs.ports import AttemptLink, Transaction
from actorjobs.retry import shown

if TYPE_CHECKING:
    from pydantic import BaseModel

    from actorjobs.jobs.classes import Job
    from actorjobs.jobs.fake import FakeContext, FakeFields

C = TypeVar("C", default=None)
AppT = TypeVar("AppT")
ActorT = TypeVar("ActorT", bound=Actor)
P = TypeVar("P", bound="BaseModel")
R = TypeVar("R")
T = TypeVar("T")
A = ParamSpec("A")

_LOGGER = logging.getLogger("actorjobs.job")


class JobContext(Generic[C]):
    """The attempt at hand, and the application's own context as `app`. One is made for every attempt.

    `attempt` counts from 1 and only grows, `failures` counts those that used up the budget of `max_attempts`;
    `deadline` is when the attempt times out; `cancel_reason` is set before the handler is canceled.
    """

    __slots__ = (
        "_actor",
        "_checkpoint",
        "_link",
        "_log",
        "_state",
        "app",
        "attempt",
        "cancel_reason",
        "deadline",
        "failures",
        "job",
        "max_attempts",
        "queue",
        "run_id",
        "tenant",
        "traceparent",
    )

    def __init__(
        self,
        *,
        run_id: str,
        job: str,
        queue: str,
        attempt: int,
        failures: int,
        max_attempts: int,
        tenant: str | None,
        traceparent: str | None,
        deadline: datetime | None,
        app: C,
        link: AttemptLink,
        checkpoint: str | None = None,
        actor: Actor | None = None,
    ) -> None:
        """`checkpoint` is the JSON text that an earlier attempt left; `actor` what the queue's actor keeps."""
        self.run_id = run_id
        self.job = job
        self.queue = queue
        self.attempt = attempt
        self.failures = failures
        self.max_attempts = max_attempts
        self.tenant = tenant
        self.traceparent = traceparent
        self.deadline = deadline
        self.app = app
        self.cancel_reason: CancelReason | None = None
        self._link = link
        self._checkpoint = checkpoint
        self._actor = actor
        self._state: dict[str, Any] | None = None
        self._log: JobLogger | None = None

    @overload
    @staticmethod
    def fake(**overrides: Unpack[FakeFields]) -> FakeContext[None]: ...

    @overload
    @staticmethod
    def fake(*, app: AppT, **overrides: Unpack[FakeFields]) -> FakeContext[AppT]: ...

    @staticmethod
    def fake(*, app: Any = None, **overrides: Unpack[FakeFields]) -> FakeContext[Any]:
        """A context for calling a handler in a test, with no runtime: what it does is recorded on itself."""
        from actorjobs.jobs.fake import FakeContext

        return FakeContext(app, overrides)

    @property
    def is_last_attempt(self) -> bool:
        """Whether a failure of this attempt ends the run."""
        return self.failures + 1 >= self.max_attempts

    @property
    def trace_id(self) -> str | None:
        """The 32 hex digits of the trace that this attempt is in."""
        return trace_id_of(self.traceparent)

    @property
    def log(self) -> JobLogger:
        """The logger `actorjobs.job`, with the run, job, attempt, tenant and trace id on every record."""
        if self._log is None:
            self._log = JobLogger(self)
        return self._log

    @property
    def state(self) -> dict[str, Any]:
        """What the last checkpoint of this run kept, in this attempt or an earlier one; empty before the first."""
        if self._state is None:
            self._state = cast("dict[str, Any]", codec.decode(self._checkpoint)) if self._checkpoint else {}
        return self._state

    def actor(self, kind: type[ActorT]) -> ActorT:
        """The application's own actor that performs this run; `ContextMissing` unless the queue has that kind."""
        if isinstance(self._actor, kind):
            return self._actor
        raise ContextMissing(
            f"queue {self.queue!r} has no actor of class {kind.__name__} here: declare it on the runtime with "
            f"queues={{{self.queue!r}: Queue(actor={kind.__name__})}}"
        )

    async def progress(self, fraction: float, message: str | None = None) -> None:
        """Say how far the work has come, from 0 to 1, and at what it is."""
        await self._link.save_progress(_check_fraction(fraction), _clip_message(message))

    async def checkpoint(self, **state: Any) -> None:
        """Keep `state` (JSON, at most 256 KiB) in place of the one before: a later attempt finds it as `ctx.state`."""
        text = codec.encode(state, what="checkpoint", limit=codec.LIMITS.checkpoint)
        kept = cast("dict[str, Any]", codec.decode(text))
        await self._link.save_checkpoint(kept)
        self._state = kept

    @overload
    async def dispatch(self, job: Dispatchable[P, R], payload: P, /, **options: Unpack[Options]) -> RunHandle[R]: ...

    @overload
    async def dispatch(self, job: type[Job[P, R, Any]], payload: P, /, **options: Unpack[Options]) -> RunHandle[R]: ...

    @overload
    async def dispatch(self, job: ArgsDispatchable[A, R], /, *args: A.args, **kwargs: A.kwargs) -> RunHandle[R]: ...

    @overload
    async def dispatch(self, job: Envelope, /, *, tx: Transaction | None = None) -> RunHandle[Any]: ...

    async def dispatch(self, job: Any, /, *args: Any, **kwargs: Any) -> RunHandle[Any]:
        """Ask for a run that is a child of this one: linked by `parent`, in the same trace and tenant."""
        return await self._send(self._child(order_for(job, *args, **kwargs)))

    def progress_sync(self, fraction: float, message: str | None = None) -> None:
        """`progress` from a `def` handler."""
        self._wait_for(lambda: self.progress(fraction, message))

    def checkpoint_sync(self, **state: Any) -> None:
        """`checkpoint` from a `def` handler."""
        self._wait_for(lambda: self.checkpoint(**state))

    @overload
    def dispatch_sync(self, job: Dispatchable[P, R], payload: P, /, **options: Unpack[Options]) -> RunHandle[R]: ...

    @overload
    def dispatch_sync(self, job: type[Job[P, R, Any]], payload: P, /, **options: Unpack[Options]) -> RunHandle[R]: ...

    @overload
    def dispatch_sync(self, job: ArgsDispatchable[A, R], /, *args: A.args, **kwargs: A.kwargs) -> RunHandle[R]: ...

    @overload
    def dispatch_sync(self, job: Envelope, /, *, tx: Transaction | None = None) -> RunHandle[Any]: ...

    def dispatch_sync(self, job: Any, /, *args: Any, **kwargs: Any) -> RunHandle[Any]:
        """`dispatch` from a `def` handler."""
        order = self._child(order_for(job, *args, **kwargs))
        return self._wait_for(lambda: self._send(order))

    def check_canceled(self) -> None:
        """Raise `AttemptCanceled` if the attempt is being canceled: a thread cannot be interrupted, it has to ask."""
        if self.cancel_reason is not None:
            raise AttemptCanceled(self.cancel_reason)

    def _child(self, order: Order[R]) -> Order[R]:
        given = order.envelope
        child = given.model_copy(update={"parent": self.run_id, "tenant": given.tenant or self.tenant})
        return replace(order, envelope=in_trace(child, self.traceparent or new_traceparent()))

    async def _send(self, order: Order[R]) -> RunHandle[R]:
        return await order.send()

    def _wait_for(self, make: Callable[[], Awaitable[T]]) -> T:
        return cast("T", self._link.run_on_loop(make))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of run {self.run_id}, attempt {self.attempt} of job {self.job!r}>"


class JobLogger(logging.LoggerAdapter[logging.Logger]):
    """Puts the attempt on every record, beside what the call gives as `extra`."""

    def __init__(self, context: JobContext[Any]) -> None:
        attempt = {name: getattr(context, name) for name in ("run_id", "job", "attempt", "tenant", "trace_id")}
        super().__init__(_LOGGER, attempt)

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        """Merge `extra`; the attempt's own fields win."""
        kwargs["extra"] = {**(kwargs.get("extra") or {}), **(self.extra or {})}
        return msg, kwargs


def _check_fraction(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise InvalidOption(
            f"progress goes from 0 to 1, as in ctx.progress(0.4, '4 of 10'); {shown(value)} does not fit"
        )
    return float(value)


def _clip_message(value: object) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise InvalidOption(f"the message of a progress must be a string, not {shown(value)}")
    return codec.clip(value, codec.LIMITS.progress_message)
