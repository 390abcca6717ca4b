"""The performer: claim → attempt → decide → settle.

One task per attempt, in a fresh copy of the runtime's start context, so that no context variable leaks from one run to
the next. What the handler came to is judged (`outcome`), and `lifecycle.decide` says what becomes of the run.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import math
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from random import Random
from typing import Any

import orjson
from anyio import CapacityLimiter

from actorjobs import codec
from actorjobs.actors import RestartActor
from actorjobs.clock import Clock
from actorjobs.errors import PayloadInvalid, UnknownJob
from actorjobs.jobs import Definition, JobContext
from actorjobs.jobs.hooks import Middleware
from actorjobs.lifecycle import Ending, Standing, decide
from actorjobs.model import CancelReason, Outcome, RunState, new_traceparent, trace_id_of
from actorjobs.ports import Claim, Dispatcher, Settlement, Store, Tracer, Trying
from actorjobs.retry import Retry, sole_error
from actorjobs.worker.handling import RecordedLink, handle, handle_elsewhere
from actorjobs.worker.isolation import Crew
from actorjobs.worker.outcome import Budget, Ended, Verdict, judge
from actorjobs.worker.performance import Performance, Seat
from actorjobs.worker.tracing import attempt_before

logger = logging.getLogger("actorjobs.worker")


@dataclass(slots=True, kw_only=True)
class _Attempt:
    """One attempt on its way to its settlement. Times are the clock's monotonic seconds."""

    claim: Claim
    seat: Seat
    received: float
    began: float
    trying: Trying | None = None
    traceparent: str = field(init=False)
    ctx: JobContext[Any] | None = None
    started_after: float = 0.0

    def __post_init__(self) -> None:
        self.traceparent = new_traceparent(self.claim.traceparent) if self.trying is None else self.trying.traceparent


class Performer:
    """Executes claims for the actors of all pools of a process."""

    def __init__(
        self,
        *,
        definition_of: Callable[[str], Definition],
        dispatcher: Dispatcher,
        store: Store,
        settle: Callable[[Settlement], asyncio.Future[RunState | None]],
        clock: Clock,
        random: Random,
        app: Callable[[], Any],
        middleware: Sequence[Middleware] = (),
        on_started: Callable[[Claim], None] = lambda _claim: None,
        crew: Crew | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        """`crew` performs the jobs with `isolation=`; without one they are performed like the others."""
        self._definition_of = definition_of
        self._dispatcher = dispatcher
        self._store = store
        self._settle = settle
        self._clock = clock
        self._random = random
        self._app = app
        self._middleware = tuple(middleware)
        self._on_started = on_started
        self._crew = crew
        self._tracer = tracer if tracer is not None and tracer.is_on else None
        self._context = contextvars.copy_context()
        self._loop = asyncio.get_running_loop()
        # The actors limit how many handlers run; a thread that ignores its cancellation must not take a token along.
        self._threads = CapacityLimiter(math.inf)
        self.performing: dict[str, Performance] = {}

    async def perform(self, claim: Claim, seat: Seat) -> asyncio.Future[RunState | None]:
        """Execute one claimed run. What it came to is on record once the future is done."""
        try:
            settled = self._settle(await self._attempt_safely(claim, seat))
        except BaseException:
            self._forget(claim)
            raise
        settled.add_done_callback(partial(self._settled, claim))
        return settled

    def hand_back(self, claim: Claim) -> asyncio.Future[RunState | None]:
        """Release a run that was claimed and not begun; the future is done once that is on record."""
        now = self._clock.monotonic()
        attempt = _Attempt(claim=claim, seat=Seat("none"), received=now, began=now)
        released = self._recorded(attempt, Verdict(ending=Ending(outcome=Outcome.INTERRUPTED)))
        # Nothing was tried: what is known of its losses stays.
        decision = replace(released.decision, losses=claim.losses)
        settled = self._settle(replace(released, decision=decision, actor=None, span_id=None))
        settled.add_done_callback(partial(self._settled, claim))
        return settled

    def _settled(self, claim: Claim, settled: asyncio.Future[RunState | None]) -> None:
        self._forget(claim)
        if not settled.cancelled() and settled.exception() is not None:
            logger.warning("run %s has ended, but the store cannot be told: it will be rescued", claim.run_id)

    def _forget(self, claim: Claim) -> None:
        at_work = self.performing.get(claim.run_id)
        if at_work is not None and at_work.claim is claim:
            del self.performing[claim.run_id]

    def cancel(self, run_id: str, reason: CancelReason) -> None:
        """Ask the handler of this run to end, if it is performed here."""
        if run_id in self.performing:
            self.performing[run_id].cancel(reason)

    def cancel_all(self, reason: CancelReason) -> None:
        for performance in list(self.performing.values()):
            performance.cancel(reason)

    def abandon_all(self, reason: CancelReason) -> None:
        """Give up the handlers that were canceled for this reason and go on."""
        for performance in list(self.performing.values()):
            if performance.ctx.cancel_reason is not None or reason is not CancelReason.LOST:
                performance.abandon()

    async def _attempt_safely(self, claim: Claim, seat: Seat) -> Settlement:
        """An error of our own, or of a row that says nonsense, must end the run: released, it would come back."""
        received = self._clock.monotonic()
        trying = None if self._tracer is None else await self._traced(self._tracer, claim, seat)
        began = received if trying is None else self._clock.monotonic()  # as its span does
        attempt = _Attempt(claim=claim, seat=seat, received=received, began=began, trying=trying)
        try:
            definition, ended = await self._attempt(attempt)
            return self._settlement(attempt, definition, ended)
        except Exception as error:
            logger.exception("run %s (%s) cannot be performed", claim.run_id, claim.job)
            ending = Ending(outcome=Outcome.FAILED, permanent=True)
            return self._recorded(attempt, Verdict(ending=ending, error=codec.truncate_error(error)))

    async def _traced(self, tracer: Tracer, claim: Claim, seat: Seat) -> Trying | None:
        """The attempt as a trace shows it."""
        try:
            previous = await attempt_before(self._store, claim.run_id, claim.attempt)
            return tracer.trying(claim, actor=seat.name, previous=previous)
        except Exception:  # a row that says nonsense is for the attempt to find, which ends its run
            logger.exception("run %s (%s) cannot be traced", claim.run_id, claim.job)
            return None

    async def _attempt(self, attempt: _Attempt) -> tuple[Definition | None, Ended]:
        """Perform it; what it came to, and the job if it is known here and takes such a payload."""
        claim = attempt.claim
        try:
            definition = self._definition_of(claim.job)
            timeout = claim.timeout if claim.timeout is not None else definition.timeout
            attempt.ctx = ctx = self._context_for(attempt, timeout)
            work = self._work(definition, claim, ctx, partial(self._note_start, attempt))
        except (UnknownJob, PayloadInvalid) as error:
            return None, Ended(error=error)
        performance = self._begin(claim, ctx, definition)
        self._note_start(attempt)
        self._on_started(claim)
        variables = self._context.copy()
        if attempt.trying is not None:
            attempt.trying.enter(variables)
        task = self._loop.create_task(work, name=claim.run_id, context=variables)
        timer = None
        if timeout is not None:
            timer = self._clock.call_later(timeout, partial(performance.cancel, CancelReason.TIMEOUT))
        try:
            ended = await performance.run(task)
        finally:
            if timer is not None:
                timer.cancel()
        attempt.seat.is_to_renew = isinstance(ended.error and sole_error(ended.error), RestartActor)
        return definition, ended

    def _note_start(self, attempt: _Attempt) -> None:
        attempt.started_after = self._clock.monotonic() - attempt.received

    def _begin(self, claim: Claim, ctx: JobContext[Any], definition: Definition) -> Performance:
        is_isolated = self._crew is not None and definition.isolation is not None
        performance = Performance(
            claim=claim,
            ctx=ctx,
            is_cancelable=definition.is_async or is_isolated,
            is_on_loop=definition.is_async and not is_isolated,
            survives_lease=definition.on_lease_loss == "continue",
            clock=self._clock,
        )
        if claim.run_id in self.performing:
            # This process lost the run to a rescue and got it back: the earlier attempt is a zombie by now.
            self.performing[claim.run_id].cancel(CancelReason.LOST)
        self.performing[claim.run_id] = performance
        return performance

    def _work(
        self, definition: Definition, claim: Claim, ctx: JobContext[Any], on_start: Callable[[], None]
    ) -> Coroutine[Any, Any, Ended]:
        """The attempt: here, or in a child process, which validates for itself and says when it starts.
        `PayloadInvalid`."""
        if self._crew is not None and definition.isolation is not None:
            perform = partial(self._crew.perform, definition, claim, ctx, on_start)
            return handle_elsewhere(perform, definition, ctx, dispatcher=self._dispatcher, middleware=self._middleware)
        return handle(
            definition,
            definition.decode_payload(claim.payload, claim.constructor_args, version=claim.version),
            claim.constructor_args,
            ctx,
            dispatcher=self._dispatcher,
            threads=self._threads,
            middleware=self._middleware,
        )

    def _context_for(self, attempt: _Attempt, timeout: float | None) -> JobContext[Any]:
        claim = attempt.claim
        return JobContext(
            run_id=claim.run_id,
            job=claim.job,
            queue=claim.queue,
            attempt=claim.attempt,
            failures=claim.failures,
            max_attempts=claim.max_attempts,
            tenant=claim.tenant,
            traceparent=attempt.traceparent,
            deadline=None if timeout is None else claim.claimed_at + timedelta(seconds=timeout),
            app=self._app(),
            link=RecordedLink(claim=claim, store=self._store, loop=self._loop, lost=self._lost),
            checkpoint=claim.checkpoint,
            actor=attempt.seat.own,
        )

    def _lost(self, run_id: str) -> None:
        self.cancel(run_id, CancelReason.LOST)

    def _settlement(self, attempt: _Attempt, definition: Definition | None, ended: Ended) -> Settlement:
        taken = self._clock.monotonic() - attempt.began
        reason = None if attempt.ctx is None else attempt.ctx.cancel_reason
        return self._recorded(attempt, judge(ended, reason, self._budget(attempt.claim, definition, taken)), taken)

    def _recorded(self, attempt: _Attempt, verdict: Verdict, taken: float | None = None) -> Settlement:
        claim = attempt.claim
        standing = Standing(failures=claim.failures, max_attempts=claim.max_attempts, losses=claim.losses)
        trace_id = None if attempt.trying is None else trace_id_of(attempt.traceparent)
        settlement = Settlement(
            fence=claim.fence,
            hint=claim.hint,
            outcome=verdict.ending.outcome,
            decision=decide(standing, verdict.ending),
            result=verdict.result,
            error=None if verdict.error is None else codec.encode_error(verdict.error),
            actor=attempt.seat.name,
            started_after=attempt.started_after,
            taken=taken,
            tenant=claim.tenant,
            span_id=attempt.traceparent[36:52],
            trace_id=None if trace_id == trace_id_of(claim.traceparent) else trace_id,
        )
        if attempt.trying is not None:
            attempt.trying.end(settlement)
        return settlement

    def _budget(self, claim: Claim, definition: Definition | None, taken: float) -> Budget:
        retry = definition.retry if definition is not None else Retry()
        if claim.retry is not None:
            retry = retry.overridden_by(orjson.loads(claim.retry))

        def own_delay(failures: int, error: BaseException) -> float | None:
            if definition is None:
                return None
            return definition.backoff_override(failures, error, claim.constructor_args)

        return Budget(
            retry=retry,
            own_delay=own_delay,
            random=self._random.random,
            failures=claim.failures,
            elapsed=(claim.claimed_at - claim.inserted_at).total_seconds() + taken,
        )
