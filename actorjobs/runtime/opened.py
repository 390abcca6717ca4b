"""What an open runtime consists of: one object per opening, so that the runtime itself can be opened again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, AsyncExitStack, nullcontext
from contextvars import Context, copy_context
from dataclasses import replace
from datetime import datetime
from random import Random
from typing import Any

from anyio import CancelScope

from actorjobs.actors import Life, TaskService
from actorjobs.brokers.embedded import EmbeddedBroker
from actorjobs.clock import Clock, VirtualClock
from actorjobs.codec import decode_error
from actorjobs.config import EMBEDDED, Settings
from actorjobs.errors import ActorJobsError, InvalidOption
from actorjobs.jobs import Actor, Queue
from actorjobs.jobs.current import context_in
from actorjobs.jobs.hooks import Hooks
from actorjobs.lifecycle import WAITING
from actorjobs.model import CancelReason, Envelope, Observation, Run, RunState, trace_id_of
from actorjobs.policy import Guard
from actorjobs.ports import (
    PUBLISH_GRACE_SECONDS,
    Accepted,
    Broker,
    Claim,
    Destination,
    Dispatcher,
    Hint,
    Settlement,
    Store,
    Tracer,
    Transaction,
)
from actorjobs.runtime.brokering import destination_of, open_broker
from actorjobs.runtime.metering import Metering
from actorjobs.runtime.queues import Queues
from actorjobs.runtime.registry import Registry
from actorjobs.runtime.runs import Runs
from actorjobs.stores import SqlStore, is_in_memory, open_store
from actorjobs.telemetry.metrics_meters import Meters
from actorjobs.worker.isolation import Crew, plan_for
from actorjobs.worker.lease import Lease
from actorjobs.worker.observing import Observers
from actorjobs.worker.performer import Performer
from actorjobs.worker.pool import MakeOwn
from actorjobs.worker.recorder import Recorder
from actorjobs.worker.waiter import Waiter
from actorjobs.worker.worker import PoolPlan, Worker

logger = logging.getLogger("actorjobs.runtime")

BULK_RUNS = 500

LONGEST_LOGGED = 300
"""Characters of an error's message in the log; all of it is in the record."""

STALLED_SECONDS = 0.05
"""How long handlers that do not come to an end hold up a virtual clock."""

BUSY_SECONDS = 5.0

AppFactory = Callable[[], AbstractAsyncContextManager[Any]]


class PoolsFailing(ActorJobsError):
    """A pool's actors kept failing, so that its queue was held until the runtime was closed."""


class App(TaskService):
    """The application's own context, entered and left in one task, whoever opens and closes the runtime."""

    def __init__(self, factory: AppFactory) -> None:
        super().__init__(name="app context", context=copy_context())
        self._factory = factory
        self._entered: AbstractAsyncContextManager[Any] | None = None
        self.value: Any = None

    async def on_start(self) -> None:
        self._entered = self._factory()
        self.value = await self._entered.__aenter__()

    async def on_stop(self) -> None:
        if self._entered is not None:
            await self._entered.__aexit__(None, None, None)

    async def _run(self, life: Life) -> None:
        life.is_resting = True
        await asyncio.Event().wait()


class Opened:
    """Store, recorder, waiter and, unless it is only a client, the worker."""

    def __init__(
        self,
        *,
        settings: Settings,
        registry: Registry,
        clock: Clock,
        random: Random,
        guard: Guard,
        hooks: Hooks,
        accept_replay: Callable[[Envelope], Awaitable[Accepted]],
        meters: Meters | None = None,
        metric_tenants: Collection[str] = (),
        tracer_provider: Any = None,
    ) -> None:
        """Nothing is measured without `meters`."""
        if settings.broker_url != EMBEDDED and clock.is_virtual:
            raise InvalidOption("a virtual clock moves no broker: leave broker_url at 'embedded'")
        self.settings = settings
        self.loop = asyncio.get_running_loop()
        self._registry = registry
        self._clock = clock
        self._random = random
        self._guard = guard
        self._hooks = hooks
        self._accept_replay = accept_replay
        self._meters = meters
        self._metric_tenants = metric_tenants
        self.metering: Metering | None = None
        self._tracer_provider = tracer_provider
        self._app: App | None = None
        self._crew: Crew | None = None
        self._unsettle: Callable[[], None] | None = None
        self.worker: Worker | None = None
        self.performer: Performer | None = None
        self.hurry = asyncio.Event()
        """Set when nobody wants to wait for running work any longer."""

    async def open(self) -> None:
        """Connect. `StoreUnavailable`, `SchemaOutdated`, `InvalidOption`."""
        destination = destination_of(self.settings)
        self.tracer = self._new_tracer(destination)
        self.store = await self._new_store()
        try:
            await self.store.open()
        except BaseException:
            with CancelScope(shield=True):
                await self.store.close()
            raise
        self.observers = Observers(self._hooks.observers, store=self.store)
        self.waiter = Waiter(store=self.store, clock=self._clock)
        self.recorder = Recorder(
            store=self.store,
            clock=self._clock,
            on_settled=self._settled,
            is_published=lambda: self.broker.is_taking,
        )
        self.broker = self._new_broker()
        await self.recorder.start()
        await self.broker.open()
        self._start_metering(destination)
        self.queues = Queues(
            store=self.store,
            declared=lambda: self._registry.queues,
            guard=self._guard,
            observe=self._observe,
            signal=self.broker.signal,
        )
        self.runs = Runs(
            store=self.store,
            waiter=self.waiter,
            clock=self._clock,
            registry=self._registry,
            guard=self._guard,
            observe=self._observe,
            accept=self._accept_replay,
            broker=self.broker,
            cancel_here=self._cancel_here,
        )

    def _start_metering(self, destination: Destination) -> None:
        if self._meters is None:
            return
        self.metering = Metering(
            self._meters,
            store=self.store,
            broker=self.broker,
            worker=lambda: self.worker,
            dropped=lambda: self.observers.dropped,
            destination=destination,
            tenants=self._metric_tenants,
        )
        for job in self._registry.definitions:
            self.metering.runs.begin(job.queue, job.name)
        self._endings = Observers((self.metering.ended,), store=self.store)
        self.metering.start()

    @property
    def app(self) -> Any:
        """What the application's context gave; None without one."""
        return None if self._app is None else self._app.value

    async def _new_store(self, *, inline: bool = False) -> SqlStore:
        if not self._clock.is_virtual and is_in_memory(self.settings.store_url):
            raise InvalidOption("a SQLite store is a file, as in sqlite:///actorjobs.db: in memory no run would last")
        return await open_store(
            self.settings.store_url,
            namespace=self.settings.namespace,
            clock=self._clock,
            inline=inline,
            has_outbox=self.settings.broker_url != EMBEDDED,
        )

    def _new_broker(self) -> Broker:
        if self.settings.broker_url == EMBEDDED:
            return EmbeddedBroker(store=self.store, take=self.recorder.take, clock=self._clock, random=self._random)
        return open_broker(
            self.settings, store=self.store, claim=self.recorder.claim, clock=self._clock, random=self._random
        )

    def _new_tracer(self, destination: Destination) -> Tracer:
        from actorjobs.telemetry.tracing import open_tracing  # what no runtime is opened in need not know of traces

        return open_tracing(self._tracer_provider, destination=destination, definition_of=self._registry.find)

    async def _open_beating_store(self) -> Store:
        return await self._new_store(inline=True)

    async def start_worker(
        self, *, dispatcher: Dispatcher, app: AppFactory | None, queues: Mapping[str, Queue], exits_when_stuck: bool
    ) -> None:
        """Enter the application's context and start the pools. `InvalidOption` for what child processes cannot find."""
        plan = plan_for(self._registry.definitions, app, self._registry.names)
        if plan is not None:
            self._crew = Crew(plan=plan, dispatcher=dispatcher, random=self._random, tracer=self.tracer)
        if app is not None:
            self._app = App(app)
            await self._app.start()
        self.performer = Performer(
            definition_of=self._registry.definition,
            dispatcher=dispatcher,
            store=self.store,
            settle=self.recorder.settle if self.metering is None else self.metering.settling(self.recorder.settle),
            clock=self._clock,
            random=self._random,
            app=lambda: self.app,
            middleware=self._hooks.middleware,
            on_started=self._started,
            crew=self._crew,
            tracer=self.tracer,
        )
        lease = Lease(clock=self._clock)
        versions = self._registry.versions
        self.worker = Worker(
            store=self.store,
            open_store=self._open_beating_store,
            broker=self.broker,
            lease=lease,
            performer=self.performer,
            plans=[
                PoolPlan(queue=name, concurrency=queue.concurrency, jobs=versions, make=self._maker(queue.actor))
                for name, queue in sorted(queues.items())
            ],
            keep=_keep(self.settings),
            on_settled=self._settled,
            note=self._noted,
            clock=self._clock,
            random=self._random,
            exits_when_stuck=exits_when_stuck,
            blame=self._blame,
            sweeps=() if self.metering is None else self.metering.sweeps,
            tracer=self.tracer,
        )
        await self.worker.start()
        if isinstance(self._clock, VirtualClock):
            self._unsettle = self._clock.settles_by(self._come_to_rest)

    def _maker(self, kind: type[Actor] | None) -> MakeOwn | None:
        """Makes the application's own actors of a queue."""
        if kind is None:
            return None

        def make() -> Actor:
            own = kind()
            own.app = self.app
            return own

        return make

    async def close(self) -> None:
        """Let running work end, hand back what does not, and disconnect. `PoolsFailing` when a queue was held."""
        failing: dict[str, str] = {}
        async with AsyncExitStack() as closing:  # each of them, also when another fails or the caller is canceled
            closing.push_async_callback(self.store.close)
            if self._app is not None:
                closing.push_async_callback(self._app.stop)
            if self.metering is not None:
                closing.push_async_callback(self.metering.stop)
                closing.push_async_callback(self._endings.close)
            closing.push_async_callback(self.observers.close)
            closing.push_async_callback(self.waiter.close)
            closing.push_async_callback(self.broker.close)
            closing.push_async_callback(self.recorder.stop)
            if self._crew is not None:
                closing.push_async_callback(self._crew.close)
            if self._unsettle is not None:
                self._unsettle()
            if self.worker is not None:
                failing = dict(self.worker.failing)
                await self.worker.stop(grace=self.settings.grace, hurry=self.hurry)
        if failing:
            raise PoolsFailing("; ".join(f"queue {queue}: {why}" for queue, why in failing.items()))

    # dispatching

    async def accept(self, envelope: Envelope, tx: Transaction | None = None) -> Accepted:
        """One dispatch, answered when it is committed (or, with `tx`, part of the caller's transaction)."""
        with self._measured([envelope]) as answered:
            if tx is None:
                accepted = await self.recorder.insert(envelope)
                self._announce([envelope], [accepted])
            else:
                [accepted] = await self.store.insert_all([envelope], tx)
            answered([accepted])
        return accepted

    async def accept_all(self, envelopes: list[Envelope], tx: Transaction | None = None) -> list[Accepted]:
        """All of them or none, in one transaction."""
        # More than the publisher has room for: the relay publishes them all, and at once.
        is_bulk = len(envelopes) > BULK_RUNS
        grace = 0.0 if is_bulk else PUBLISH_GRACE_SECONDS
        with self._measured(envelopes) as answered:
            accepted = list(await self.store.insert_all(envelopes, tx, publish_in=grace))
            if tx is None:
                self._announce(envelopes, accepted, is_bulk=is_bulk)
            answered(accepted)
        return accepted

    def accept_in(self, envelopes: Sequence[Envelope], tx: Transaction) -> Sequence[Accepted]:
        """All of them or none, in the caller's synchronous transaction and in the caller's thread."""
        with self._measured(envelopes) as answered:
            accepted = self.store.insert_in(envelopes, tx)
            answered(accepted)
        return accepted

    def _measured(self, envelopes: Sequence[Envelope]) -> AbstractContextManager[Callable[[Sequence[Accepted]], None]]:
        """What happens in the block is one dispatch; what it gives takes the answers."""
        return nullcontext(_unmeasured) if self.metering is None else self.metering.sending(envelopes)

    def _announce(self, envelopes: list[Envelope], accepted: list[Accepted], *, is_bulk: bool = False) -> None:
        if self.observers:
            for envelope, answer in zip(envelopes, accepted, strict=True):
                self._accepted(envelope, answer)
        now = self._clock.now()
        told = zip(envelopes, accepted, strict=True)
        if is_bulk:  # only that something is there, and when
            alike = {(envelope.queue, envelope.delay, envelope.run_at): (envelope, one) for envelope, one in told}
            self.broker.publish([replace(_hint(*one, now), seq=None) for one in alike.values()])
        else:
            self.broker.publish([_hint(*one, now) for one in told])
        if self.settings.broker_url == EMBEDDED and not self._clock.is_virtual:
            self.store.announce()

    def _cancel_here(self, run_id: str) -> None:
        if self.performer is not None:
            self.performer.cancel(run_id, CancelReason.CANCELED)

    # what observers are told

    def _observe(self, event: str, run: Run | None = None, **facts: Any) -> None:
        """Tell observers of something; with a run, of something that has happened to it."""
        if run is not None:
            names = ("job", "queue", "tenant", "state", "attempt")
            facts = {"run_id": run.id, **{name: getattr(run, name) for name in names}, **facts}
        self.observers.tell(lambda: Observation(event=event, at=self._clock.now(), **facts))
        if self.metering is not None and run is not None and event == "canceled":
            self.metering.runs.ended(run.queue, run.job, run.tenant, run.state)

    def _accepted(self, envelope: Envelope, accepted: Accepted) -> None:
        self._observe(
            "replaced" if accepted.replaced else "existing" if accepted.existing else "accepted",
            run_id=accepted.run_id,
            job=envelope.job,
            queue=envelope.queue,
            tenant=envelope.tenant,
        )

    def _started(self, claim: Claim) -> None:
        if self.observers:
            self._observe("started", state=RunState.RUNNING, **_facts(claim))
        if self.metering is not None:
            self.metering.runs.started(claim)

    def _noted(self, run_id: str, state: RunState) -> None:
        self.waiter.note(run_id, state)
        self._observe(state.value, run_id=run_id, state=state)
        if self.metering is not None:
            # Its job and queue are yet to be read.
            self._endings.tell(lambda: Observation(event=state.value, at=self._clock.now(), run_id=run_id, state=state))

    def _settled(self, settlement: Settlement, state: RunState | None) -> None:
        self.waiter.note(settlement.fence.run_id, state)
        self._log_end(settlement, state)
        if self.observers:
            self._observe_end(settlement, state)
        if self.metering is not None:
            self.metering.runs.settled(settlement, state, self._claim_of(settlement))
        if state in WAITING:
            hint = settlement.hint
            assert hint.seq is not None
            self.broker.publish([replace(hint, seq=hint.seq + 1, delay=settlement.decision.delay)])

    def _log_end(self, settlement: Settlement, state: RunState | None) -> None:
        """A failure is the handler's affair, but whoever reads a worker's log wants to know."""
        if settlement.error is None or state in (None, RunState.SUCCEEDED):
            return
        error = decode_error(settlement.error)
        logger.log(
            logging.WARNING if state is RunState.DEAD_LETTERED else logging.INFO,
            "run %s (%s): attempt %d %s: %s: %s; the run is %s",
            settlement.fence.run_id,
            settlement.hint.job,
            settlement.fence.attempt,
            settlement.outcome,
            error.name,
            _one_line(error.message),
            state,
            extra={
                "run_id": settlement.fence.run_id,
                "job": settlement.hint.job,
                "attempt": settlement.fence.attempt,
                "tenant": settlement.tenant,
                "trace_id": settlement.trace_id or trace_id_of(settlement.hint.traceparent),
                "span_id": settlement.span_id,
            },
        )

    def _observe_end(self, settlement: Settlement, state: RunState | None) -> None:
        run_id, error = settlement.fence.run_id, settlement.error
        claim = self._claim_of(settlement)
        facts: dict[str, Any] = {"run_id": run_id} if claim is None else _facts(claim)
        facts |= {"state": state, "seconds": settlement.taken}
        facts["error"] = None if error is None else decode_error(error).name
        self._observe("stale" if state is None else settlement.outcome.value, **facts)

    def _claim_of(self, settlement: Settlement) -> Claim | None:
        """What the attempt was made for; None where it was not made here."""
        run_id = settlement.fence.run_id
        at_work = None if self.performer is None else self.performer.performing.get(run_id)
        return None if at_work is None else at_work.claim

    def _blame(self, variables: Context | None, task_name: str | None) -> tuple[str, str] | None:
        """The run that these context variables belong to, or the task of that name; asked from another thread."""
        ctx = None if variables is None else context_in(variables)
        if ctx is None and self.performer is not None and task_name is not None:
            at_work = self.performer.performing.get(task_name)
            ctx = None if at_work is None else at_work.ctx
        return None if ctx is None else (ctx.run_id, ctx.job)

    async def _come_to_rest(self) -> None:
        """Wait until everything that is due now has been done, or until only handlers that wait are left."""
        calm, stalled_since = 0, self.loop.time()
        while calm < 8:
            await asyncio.sleep(0)
            if self._is_moving():
                calm, stalled_since = 0, self.loop.time()
                await asyncio.sleep(0.0005)
            elif self._has_work() and self.loop.time() - stalled_since < self._patience():
                calm = 0
                await asyncio.sleep(0.0005)
            else:
                calm += 1

    def _patience(self) -> float:
        """Seconds for which handlers hold up the clock: one beside the loop is surely busy, one on it may wait."""
        at_work = () if self.performer is None else self.performer.performing.values()
        return BUSY_SECONDS if any(not one.is_on_loop for one in at_work) else STALLED_SECONDS

    @property
    def is_at_rest(self) -> bool:
        """True when nothing is at work here and nothing that is due was left at the last look."""
        return self.recorder.is_idle and self.broker.is_idle and not self._has_work()

    def _is_moving(self) -> bool:
        if self.worker is not None and (self.worker.is_on_duty or any(pool.is_starting for pool in self.worker.pools)):
            return True
        return not (self.recorder.is_idle and self.broker.is_idle)

    def _has_work(self) -> bool:
        return self.worker is not None and any(not pool.is_idle for pool in self.worker.pools)


def _unmeasured(_answers: Sequence[Accepted]) -> None: ...


def _hint(envelope: Envelope, accepted: Accepted, now: datetime) -> Hint:
    """What to tell the broker: of a run that was there before, only that its queue may be looked at."""
    return Hint(
        run_id=accepted.run_id,
        seq=None if accepted.existing else 1,
        job=envelope.job,
        queue=envelope.queue,
        delay=_delay(envelope, now),
        priority=envelope.priority,
        traceparent=envelope.traceparent,
        tracestate=envelope.tracestate,
        baggage=envelope.baggage,
    )


def _delay(envelope: Envelope, now: datetime) -> float:
    """Seconds until it is due, by this host's clock where a moment was given: a hint may be early or late."""
    delay = envelope.delay or 0.0
    if envelope.run_at is None:
        return delay
    return max(delay, (envelope.run_at - now).total_seconds())


def _facts(claim: Claim) -> dict[str, Any]:
    """Which attempt a claim is for."""
    names = ("run_id", "job", "queue", "tenant", "attempt")
    return {name: getattr(claim, name) for name in names}


def _one_line(text: str) -> str:
    """The beginning of a message, fit for one line of a log."""
    return "".join(character if character.isprintable() else " " for character in text[:LONGEST_LOGGED])


def _keep(settings: Settings) -> dict[RunState, float | None]:
    return {
        RunState.SUCCEEDED: settings.keep_succeeded,
        RunState.DEAD_LETTERED: settings.keep_dead_lettered,
        RunState.CANCELED: settings.keep_canceled,
        RunState.EXPIRED: settings.keep_expired,
    }
