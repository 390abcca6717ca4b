"""From a call to an envelope, and from an envelope to a handle: what every kind of job can be asked to do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, ParamSpec

from pydantic import BaseModel
from typing_extensions import TypeVar, Unpack

from actorjobs import tracestate
from actorjobs.errors import InvalidOption
from actorjobs.jobs.current import current_trace, running_context
from actorjobs.jobs.definition import Contract, envelope_fields
from actorjobs.jobs.handle import RunHandle
from actorjobs.jobs.options import EnvelopeOptions, Options, check_options, check_tenant
from actorjobs.jobs.unique import unique_digest
from actorjobs.model import Envelope, new_traceparent
from actorjobs.ports import Accepted, Dispatcher, Transaction, find_dispatcher
from actorjobs.retry import Retry
from actorjobs.tenancy import current_tenant

P = TypeVar("P", bound=BaseModel)
R = TypeVar("R")
A = ParamSpec("A")


@dataclass(frozen=True, slots=True, kw_only=True)
class Order(Generic[R]):
    """A dispatch that is ready to be accepted; `decode` makes the run's result of its JSON value."""

    envelope: Envelope
    decode: Callable[[Any], R]
    tx: Transaction | None = None

    async def send(self, dispatcher: Dispatcher | None = None) -> RunHandle[R]:
        """Have it accepted by `dispatcher`, or by the one that is current here."""
        dispatcher = dispatcher or find_dispatcher(self.envelope.job)
        return self.handle(await dispatcher.accept(self.envelope, tx=self.tx), dispatcher)

    def send_sync(self, dispatcher: Dispatcher | None = None) -> RunHandle[R]:
        """The same from a thread that is not the loop's."""
        dispatcher = dispatcher or find_dispatcher(self.envelope.job)
        return self.handle(dispatcher.accept_sync(self.envelope, tx=self.tx), dispatcher)

    def handle(self, accepted: Accepted, dispatcher: Dispatcher) -> RunHandle[R]:
        """The typed handle of the run that was accepted."""
        return RunHandle(
            accepted.run_id,
            job=self.envelope.job,
            decode=self.decode,
            dispatcher=dispatcher,
            existing=accepted.existing,
        )


def order_for(job: Any, /, *args: Any, **kwargs: Any) -> Order[Any]:
    """The order that `job.dispatch(*args, **kwargs)` would send; an `Envelope` takes nothing besides `tx=`."""
    if isinstance(job, Envelope):
        return _order_of_envelope(job, *args, **kwargs)
    order = getattr(job, "order", None)
    if order is None:
        raise InvalidOption(f"dispatch takes a job or an envelope, not a value of type {type(job).__name__}")
    made: Order[Any] = order(*args, **kwargs)
    return made


def _order_of_envelope(envelope: Envelope, /, *, tx: Transaction | None = None) -> Order[Any]:
    return Order(envelope=envelope, decode=lambda value: value, tx=check_options({"tx": tx}).get("tx"))


class _Target(Generic[R]):
    """A contract, with the options and constructor arguments set beforehand."""

    def __init__(
        self,
        contract: Contract,
        *,
        preset: Mapping[str, Any] | None = None,
        constructor_args: Mapping[str, Any] | None = None,
    ) -> None:
        self._contract = contract
        self._preset: Mapping[str, Any] = preset or {}
        self._constructor_args = constructor_args

    @property
    def name(self) -> str:
        """The job's name."""
        return self._contract.name

    def handle(self, run_id: str) -> RunHandle[R]:
        """The typed handle of a run that was dispatched earlier. Asks nothing yet, not even whether it exists."""
        return RunHandle(run_id, job=self._contract.name, decode=self._contract.result.decode)

    def _order(self, payload: Any, options: Mapping[str, Any]) -> Order[R]:
        checked = check_options(options, self._preset)
        tx = checked.pop("tx", None)
        envelope = build_envelope(self._contract, payload, checked, self._constructor_args)
        return Order(envelope=envelope, decode=self._contract.result.decode, tx=tx)

    def __repr__(self) -> str:
        return f"<job {self._contract.name!r}>"


class Dispatchable(_Target[R], Generic[P, R]):
    """A job that takes one model as its payload, or that job with options and constructor arguments set."""

    def order(self, payload: P, **options: Unpack[Options]) -> Order[R]:
        """What `dispatch` would send, validated."""
        return self._order(self._contract.payload.encode(payload), options)

    def envelope(self, payload: P, **options: Unpack[EnvelopeOptions]) -> Envelope:
        """The run asked for, validated and not sent. Dispatching it twice gives one run."""
        return self._contract.built.note(envelope_of(self.order(payload, **options)))

    schedule = envelope

    async def dispatch(self, payload: P, **options: Unpack[Options]) -> RunHandle[R]:
        """Ask for a run; answers once it is durably accepted. `PayloadInvalid` or `InvalidOption` before that.

        Cancelled while it waits, the dispatch may or may not have been accepted: use a key where that matters.
        """
        return await self.order(payload, **options).send()

    async def dispatch_to(self, queue: str, payload: P, /, **options: Unpack[Options]) -> RunHandle[R]:
        """The same, straight to a named queue."""
        return await self.order(payload, **directed(queue, options)).send()

    def dispatch_sync(self, payload: P, **options: Unpack[Options]) -> RunHandle[R]:
        """The same from code outside the loop; an error on the loop's own thread."""
        return self.order(payload, **options).send_sync()

    def options(self, **options: Unpack[Options]) -> Dispatchable[P, R]:
        """This job with options set beforehand; those given later win."""
        preset = check_options(options, self._preset)
        return Dispatchable(self._contract, preset=preset, constructor_args=self._constructor_args)


class ArgsDispatchable(_Target[R], Generic[A, R]):
    """A job that takes plain parameters, or that job with options set."""

    def __init__(
        self, contract: Contract, *, bind: Callable[..., Any], preset: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(contract, preset=preset)
        self._bind = bind

    def order(self, *args: A.args, **kwargs: A.kwargs) -> Order[R]:
        """What `dispatch` would send, validated."""
        return self._order(self._bind(*args, **kwargs), {})

    def envelope(self, *args: A.args, **kwargs: A.kwargs) -> Envelope:
        """The run asked for, validated and not sent. Dispatching it twice gives one run."""
        return self._contract.built.note(envelope_of(self.order(*args, **kwargs)))

    schedule = envelope

    async def dispatch(self, *args: A.args, **kwargs: A.kwargs) -> RunHandle[R]:
        """Ask for a run; answers once it is durably accepted. Options are set with `.options(...)` beforehand."""
        return await self.order(*args, **kwargs).send()

    async def dispatch_to(self, queue: str, /, *args: A.args, **kwargs: A.kwargs) -> RunHandle[R]:
        """The same, straight to a named queue."""
        order = self._order(self._bind(*args, **kwargs), directed(queue, {}))
        return await order.send()

    def dispatch_sync(self, *args: A.args, **kwargs: A.kwargs) -> RunHandle[R]:
        """The same from code outside the loop; an error on the loop's own thread."""
        return self.order(*args, **kwargs).send_sync()

    def options(self, **options: Unpack[Options]) -> ArgsDispatchable[A, R]:
        """This job with options set beforehand; those given later win."""
        return ArgsDispatchable(self._contract, bind=self._bind, preset=check_options(options, self._preset))


def build_envelope(
    contract: Contract, payload: Any, options: Mapping[str, Any], constructor_args: Mapping[str, Any] | None
) -> Envelope:
    """The envelope of a run: what the job declares, overlaid by checked options, in the tenant and trace at hand."""
    trace = _trace()
    values: dict[str, Any] = {**trace, **contract.template, **envelope_fields(options), "payload": payload}
    if "tracestate" in trace and values["tracestate"] is not trace["tracestate"]:
        values["tracestate"] = tracestate.written(trace["tracestate"], tracestate.read(values["tracestate"]))
    retry: Retry | None = options.get("retry")
    if retry is not None:
        values["retry"] = retry.to_json()
    if constructor_args:
        values["constructor_args"] = constructor_args
    if "tenant" not in options and (tenant := current_tenant()) is not None:
        values["tenant"] = check_tenant(tenant)
    envelope = Envelope(**values)
    envelope.model_fields_set.discard("traceparent")  # nobody asked for this very one: see `in_trace`
    if envelope.unique is not None:
        unique_digest(envelope)  # refuses a field that this payload does not have
    return envelope


def _trace() -> Mapping[str, str]:
    """The trace context at hand: the running handler's, a request's, or a new one."""
    context = running_context()
    trace = current_trace() if context is None else {"traceparent": context.traceparent or new_traceparent()}
    return trace if "traceparent" in trace else {**trace, "traceparent": new_traceparent()}


def envelope_of(order: Order[Any]) -> Envelope:
    """Its envelope; `InvalidOption` when a transaction was given, which an envelope cannot carry."""
    if order.tx is not None:
        raise InvalidOption("an envelope carries no transaction: give tx= when it is dispatched")
    return order.envelope


def directed(queue: str, options: Options) -> Options:
    """`options` with the queue that `dispatch_to` names."""
    if options.get("queue") is not None:
        raise InvalidOption("dispatch_to() already names the queue: leave out queue=")
    return {**options, "queue": queue}
