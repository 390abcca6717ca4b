"""The runtime: the jobs an application knows, where their runs are kept, and the pools that perform them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Generator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from random import Random
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar, overload

from anyio import CancelScope
from anyio.from_thread import start_blocking_portal
from pydantic import BaseModel
from typing_extensions import Unpack

from actorjobs.clock import Clock, SystemClock
from actorjobs.config import EMBEDDED, Settings, load_settings
from actorjobs.errors import ActorJobsError, InvalidOption, NoRuntime
from actorjobs.jobs import ArgsDispatchable, Dispatchable, Job, JobDefaults, Queue, RunHandle, order_for
from actorjobs.jobs.dispatch import build_envelope
from actorjobs.jobs.hooks import DispatchMiddleware, Hooks, Middleware, Observer
from actorjobs.jobs.options import EnvelopeOptions, Options, check_options
from actorjobs.model import Envelope
from actorjobs.policy import Guard, Policy
from actorjobs.ports import (
    Accepted,
    Broker,
    Quarantined,
    Transaction,
    close_dispatcher,
    dispatching_through,
    open_dispatcher,
)
from actorjobs.runtime.around import Together, around
from actorjobs.runtime.checking import (
    check_are_several,
    check_is_list,
    check_is_mapping,
    check_is_names,
    check_made_by_hand,
)
from actorjobs.runtime.doctoring import Finding, examine, examine_broker, repair, repair_broker
from actorjobs.runtime.opened import AppFactory, Opened
from actorjobs.runtime.pending import PendingReport, check_pending
from actorjobs.runtime.queues import Queues
from actorjobs.runtime.registry import Registry
from actorjobs.runtime.runs import Runs
from actorjobs.stores import SqlStore
from actorjobs.telemetry.metrics_meters import MeterProvider, meters_of
from actorjobs.worker.isolation import refuse_in_child
from actorjobs.worker.perform_here import perform_here

T = TypeVar("T")
P = TypeVar("P", bound=BaseModel)
R = TypeVar("R")
A = ParamSpec("A")


class Runtime:
    """Jobs, store, broker and pools as one object. Making one connects to nothing and reads no environment.

    `async with runtime:` dispatches and performs in this event loop; `async with runtime.client():` only dispatches and
    manages. It may be opened again afterwards, on another loop too; several may be open at once.
    """

    def __init__(
        self,
        *,
        broker: str | None = None,
        store: str | None = None,
        namespace: str | None = None,
        jobs: Sequence[Any] = (),
        queues: Mapping[str, int | Queue] | None = None,
        context: AppFactory | None = None,
        defaults: JobDefaults | None = None,
        policy: Policy | None = None,
        middleware: Sequence[Middleware] = (),
        dispatch_middleware: Sequence[DispatchMiddleware] = (),
        observers: Sequence[Observer] = (),
        grace: float | None = None,
        tracer_provider: Any = None,
        clock: Clock | None = None,
        random: Random | None = None,
        meter_provider: MeterProvider | None = None,
        metric_tenants: Collection[str] = (),
    ) -> None:
        """`jobs` are definitions, modules, or names of modules and packages; `queues` maps a name to how many runs a
        process performs at once. `context` makes the application's own async context manager, entered once per
        process: `ctx.app`. `policy` says who may do what; `middleware` goes around every attempt and
        `dispatch_middleware` around every dispatch, the first outermost; `observers` are told of whatever happens here.
        `grace` is seconds. `tracer_provider` and `meter_provider` are OpenTelemetry's, the global ones if left out;
        `metric_tenants` are the tenants that metrics tell of by name. What else is left out comes from `ACTORJOBS_*`
        variables or the defaults.
        """
        self._given = {"broker_url": broker, "store_url": store, "namespace": namespace, "grace": grace}
        lists: Mapping[str, object] = {
            "jobs": jobs,
            "middleware": middleware,
            "dispatch_middleware": dispatch_middleware,
            "observers": observers,
        }
        for name, value in lists.items():
            check_is_list(name, value)
        check_is_mapping("queues", queues or {})
        check_is_names("metric_tenants", metric_tenants)
        self._registry = Registry(queues or {}, defaults)
        self._registry.add(jobs)
        self._defaults = defaults
        self._guard = Guard(policy)
        self._hooks = Hooks(
            middleware=tuple(middleware), dispatch_middleware=tuple(dispatch_middleware), observers=tuple(observers)
        )
        self._context = context
        self._tracer_provider = tracer_provider
        self._clock = clock or SystemClock()
        self._random = random or Random()
        self._meter_provider = meter_provider
        self._metric_tenants = frozenset(metric_tenants)
        self._opened: Opened | None = None
        self._closing: Opened | None = None
        self._loop_thread: int | None = None

    # opening and closing

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def open(self, *, only: Mapping[str, int | None] | None = None, is_worker_process: bool = False) -> None:
        """Connect and start the pools; what `async with` does.

        `only` limits the pools to these queues, with another concurrency where one is given. A worker process exits
        when its event loop is stuck for minutes; an embedded runtime only gives up its lease.
        """
        refuse_in_child(pools=True)
        served = self._registry.served(only)
        opened = await self._connect()
        self._registry.close()
        try:
            await opened.start_worker(
                dispatcher=self, app=self._context, queues=served, exits_when_stuck=is_worker_process
            )
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Stop taking work, let running work end for `grace` seconds, hand back the rest, disconnect. Idempotent."""
        opened, self._opened = self._opened, None
        if opened is None:
            return
        try:
            # While it drains, handlers at work still dispatch through this runtime.
            self._closing = opened
            with CancelScope(shield=True):  # a scope of anyio that was left early would cancel every step of it
                await opened.close()
        finally:
            self._closing = None
            self._loop_thread = None
            self._registry.reopen()
            close_dispatcher(self)

    @asynccontextmanager
    async def client(self) -> AsyncGenerator[Self]:
        """Dispatch and manage only; no pool runs here."""
        await self._connect()
        try:
            yield self
        finally:
            await self.close()

    @contextmanager
    def client_sync(self) -> Generator[Self]:
        """The same for code without an event loop: `job.dispatch_sync(...)`, `runtime.run_sync(...)`."""
        with start_blocking_portal("asyncio") as portal, portal.wrap_async_context_manager(self.client()):
            yield self

    async def _connect(self) -> Opened:
        if self._opened is not None or self._closing is not None:
            raise InvalidOption("this runtime is open already: make a second Runtime for a second opening")
        refuse_in_child(pools=False)
        opened = Opened(
            settings=self.settings,
            registry=self._registry,
            clock=self._clock,
            random=self._random,
            guard=self._guard,
            hooks=self._hooks,
            accept_replay=self._accept_replay,
            meters=meters_of(self._meter_provider),
            metric_tenants=self._metric_tenants,
            tracer_provider=self._tracer_provider,
        )
        self._opened = opened
        try:
            await opened.open()
        except BaseException:
            self._opened = None
            raise
        self._loop_thread = threading.get_ident()
        open_dispatcher(self)
        return opened

    def hurry(self) -> None:
        """While closing: wait for running work no longer, cancel it and hand it back at once."""
        opened = self._opened or self._closing
        if opened is not None:
            opened.hurry.set()

    @contextmanager
    def override(self) -> Generator[Self]:
        """Have every dispatch below this block go through this runtime."""
        with dispatching_through(self):
            yield self

    # what it consists of

    @property
    def settings(self) -> Settings:
        """The settings in force, read now. `InvalidOption` naming the variable that is wrong."""
        return load_settings(**self._given)

    @property
    def is_open(self) -> bool:
        return self._opened is not None

    @property
    def runs(self) -> Runs:
        """Reading and managing runs."""
        return self._open_one.runs

    @property
    def queues(self) -> Queues:
        """Pausing, resuming and scaling queues."""
        return self._open_one.queues

    @property
    def store(self) -> SqlStore:
        """The store; `runtime.store.engine` is a SQLAlchemy engine on its database."""
        return self._open_one.store

    @property
    def broker(self) -> Broker:
        return self._open_one.broker

    @property
    def job_names(self) -> tuple[str, ...]:
        """Every name and alias that is registered, sorted."""
        return self._registry.names

    @property
    def declared_queues(self) -> dict[str, Queue]:
        """The queues that this runtime serves."""
        return self._registry.queues

    def register(self, *jobs: Any) -> None:
        """Take in more jobs; `RegistrationClosed` once the pools run, `DuplicateJob` for a name that is taken."""
        self._registry.add(jobs)

    @property
    def health(self) -> dict[str, str]:
        """What is wrong, by part; empty when nothing is."""
        opened = self._open_one
        wrong = dict(opened.broker.health)
        if opened.worker is None:
            return wrong
        wrong |= {f"queue {queue}": why for queue, why in opened.worker.holds.items()}
        if opened.worker.lease.claiming_owner is None:
            wrong["lease"] = f"not renewed for {opened.worker.lease.age:.0f} s: the store does not answer"
        return wrong

    @property
    def is_at_rest(self) -> bool:
        """True when nothing is at work here and nothing that is due was left at the last look."""
        return self._open_one.is_at_rest

    async def check_pending(self) -> PendingReport:
        """Which waiting and running runs this code could not perform: unknown jobs, newer versions, payloads that no
        longer validate. Goes through all of them; for a deployment that is about to start."""
        await self._guard.runs()
        return await check_pending(self._open_one.store, self._registry)

    async def examine(self, *, is_repairing: bool = False) -> list[Finding]:
        """What `actorjobs doctor` finds in the store; with `is_repairing` after taking back runs of dead workers."""
        await self._guard.runs()
        store, broker, tracer = self._open_one.store, self._open_one.broker, self._open_one.tracer
        repaired = await repair(store, self._clock, tracer) if is_repairing else []
        if is_repairing and self.settings.broker_url != EMBEDDED:
            repaired += await repair_broker(broker, store)
        return [*repaired, *await examine(store), *await examine_broker(broker, store)]

    async def quarantined(self, *, limit: int = 50, after: str | None = None) -> Sequence[Quarantined]:
        """Messages that came from the broker and are no hints of ours, oldest first; those after that id."""
        await self._guard.runs()
        return await self._open_one.store.quarantined(limit, after)

    async def release_quarantined(self, ids: Sequence[str]) -> int:
        """Forget these messages; how many there were."""
        await self._guard.runs()
        return await self._open_one.store.release_quarantined(ids)

    def statistics(self) -> dict[str, Any]:
        """Counters of every pool, by queue."""
        worker = self._open_one.worker
        return {} if worker is None else {pool.queue: pool.statistics() for pool in worker.pools}

    def __repr__(self) -> str:
        state = "closed" if self._opened is None else "client" if self._opened.worker is None else "open"
        return f"<Runtime {state}, {len(self._registry.names)} jobs, queues {sorted(self._registry.queues)}>"

    @property
    def _open_one(self) -> Opened:
        opened = self._opened or self._closing
        if opened is None:
            raise NoRuntime("this runtime is not open: enter `async with runtime:` or `async with runtime.client():`")
        with suppress(RuntimeError):
            if asyncio.get_running_loop() is not opened.loop:
                raise InvalidOption(
                    "this runtime was opened on another event loop: use dispatch_sync or run_sync, without one"
                )
        return opened

    # dispatching

    def knows(self, job: str) -> bool:
        return self._registry.knows(job)

    @overload
    async def dispatch(self, job: Dispatchable[P, R], payload: P, /, **options: Unpack[Options]) -> RunHandle[R]: ...

    @overload
    async def dispatch(self, job: type[Job[P, R, Any]], payload: P, /, **options: Unpack[Options]) -> RunHandle[R]: ...

    @overload
    async def dispatch(self, job: ArgsDispatchable[A, R], /, *args: A.args, **kwargs: A.kwargs) -> RunHandle[R]: ...

    @overload
    async def dispatch(self, job: Envelope, /, *, tx: Transaction | None = None) -> RunHandle[Any]: ...

    async def dispatch(self, job: Any, /, *args: Any, **kwargs: Any) -> RunHandle[Any]:
        """Ask this very runtime for a run; answers once it is durably accepted."""
        if isinstance(job, Envelope):
            self._checked(job)
        return await order_for(job, *args, **kwargs).send(self)

    async def dispatch_many(
        self, envelopes: Sequence[Envelope], *, tx: Transaction | None = None
    ) -> list[RunHandle[Any]]:
        """Accept all envelopes or none, in one transaction. The error of a bad one says which it was."""
        check_are_several(envelopes)
        given = list(envelopes)
        opened = self._open_one
        accept_all = partial(self._accept_all, tx=tx)
        if self._hooks.dispatch_middleware and given:
            accepted = await Together(self._hooks.dispatch_middleware).accept(given, accept_all)
        else:
            accepted = await accept_all(given)
        return [
            opened.runs.handle(answer.run_id, envelope.job, existing=answer.existing)
            for answer, envelope in zip(accepted, given, strict=True)
        ]

    async def _accept_all(self, envelopes: list[Envelope], *, tx: Transaction | None) -> list[Accepted]:
        ready: list[Envelope] = []
        for index, envelope in enumerate(envelopes):
            try:
                prepared = self._prepared(self._checked(envelope))
                await self._guard.enqueue(prepared)
                ready.append(prepared)
            except ActorJobsError as error:
                raise type(error)(f"envelope {index}: {error}") from None
        if not ready:
            return []
        opened = self._open_one
        with opened.tracer.sending(ready, is_batch=True) as sending:
            return await opened.accept_all(list(sending.envelopes), tx)

    def envelope(self, job: str, payload: Any, **options: Unpack[EnvelopeOptions]) -> Envelope:
        """The run asked for by a registered job's name, from a payload as JSON has it; validated and not sent."""
        definition = self._registry.definition(job)
        envelope = build_envelope(definition, definition.encode_payload(payload), check_options(options), None)
        return definition.built.note(envelope)

    async def accept(self, envelope: Envelope, *, tx: Transaction | None = None) -> Accepted:
        """Accept one envelope; what every dispatch comes down to."""
        return await self._accept(envelope, tx, self._guard.enqueue)

    async def _accept_replay(self, envelope: Envelope) -> Accepted:
        """Accept an envelope for whose run the policy was asked already."""
        return await self._accept(envelope, None, None)

    async def _accept(
        self, given: Envelope, tx: Transaction | None, ask: Callable[[Envelope], Awaitable[None]] | None
    ) -> Accepted:
        opened = self._open_one

        async def accept(envelope: Envelope) -> Accepted:
            # What a middleware has changed is held to what an envelope made by hand is.
            prepared = self._prepared(envelope if envelope is given else self._checked(envelope))
            with opened.tracer.sending((prepared,)) as sending:
                [traced] = sending.envelopes
                if ask is not None:
                    await ask(traced)
                accepted = await opened.accept(traced, tx)
                sending.answered((accepted,))
                return accepted

        return await around(accept, self._hooks.dispatch_middleware)(given)

    def accept_sync(self, envelope: Envelope, *, tx: Transaction | None = None) -> Accepted:
        """The same from a thread that is not the loop's; in the caller's own thread with a synchronous `tx`."""
        if tx is None:
            return self.run_sync(lambda: self.accept(envelope))
        if self._guard.is_on or self._hooks.dispatch_middleware:
            raise InvalidOption("a policy and dispatch middleware run on the loop: use `await dispatch(..., tx=...)`")
        opened = self._open_one
        with opened.tracer.sending((self._prepared(envelope),)) as sending:
            accepted = opened.accept_in(sending.envelopes, tx)
            sending.answered(accepted)
            return accepted[0]

    def run_sync(self, make: Callable[[], Awaitable[T]]) -> T:
        """Await `make()` on the runtime's loop from another thread, as in `run_sync(lambda: runtime.runs.get(id))`."""
        opened = self._open_one
        if threading.get_ident() == self._loop_thread:
            raise InvalidOption("this would block the event loop that has to answer: use await here")

        async def work() -> T:
            return await make()

        return asyncio.run_coroutine_threadsafe(work(), opened.loop).result()

    async def perform_envelope(self, envelope: Envelope) -> Any:
        """Execute an envelope here and now, with validation, tenant and trace, and return what its handler returns.

        One attempt: nothing is recorded or retried, and what the handler raises is raised. A job with `isolation=` is
        performed in this process too.
        """
        await self._guard.enqueue(envelope)
        app = self._opened.app if self._opened is not None else None
        return await perform_here(
            self._registry.definition(envelope.job),
            envelope,
            dispatcher=self,
            app=app,
            middleware=self._hooks.middleware,
        )

    def _checked(self, envelope: Envelope) -> Envelope:
        job = getattr(envelope, "job", None)
        definition = self._registry.definition(job) if isinstance(job, str) and self._registry.knows(job) else None
        if definition is not None and definition.built.has(envelope):
            return envelope
        return check_made_by_hand(envelope, definition)

    def _prepared(self, envelope: Envelope) -> Envelope:
        """The envelope as it will be stored; `UnknownQueue` for a job of ours on a queue that nobody declared."""
        if self._registry.knows(envelope.job):
            self._registry.check_queue(envelope.queue)
        return envelope if self._defaults is None else self._defaults.complete(envelope)
