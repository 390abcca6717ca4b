"""What happens to runs, in numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

from actorjobs.codec import decode_error
from actorjobs.lifecycle import TERMINAL
from actorjobs.model import Envelope, Outcome, RunState, Transition
from actorjobs.ports import Accepted, Claim, Destination, Settlement
from actorjobs.telemetry import metrics
from actorjobs.telemetry.conventions import PROCESS, SEND
from actorjobs.telemetry.metrics_meters import Meters
from actorjobs.telemetry.tracing import FAILURES

SETTLE = "settle"

PER_JOB = (
    metrics.RETRIES,
    metrics.DEAD_LETTERS,
    metrics.LEASES_LOST,
    metrics.DEDUPLICATED,
    metrics.STALE_SETTLES,
)


class RunMetrics:
    """Told of each fact once, by whoever sees it happen. Takes microseconds and never raises for what it is told."""

    def __init__(self, meters: Meters, *, destination: Destination, tenants: Collection[str] = ()) -> None:
        """`messaging.*` speaks of the same `destination` as spans do; `tenants` are those to be told of by name."""
        self._meters = meters
        self._destination = destination
        self._tenants = frozenset(tenants)

    def begin(self, queue: str, job: str) -> None:
        """Have the counters of a job begin at 0. Whoever looks for an increase cannot see one in a series that begins
        with the first dead letter."""
        for metric in PER_JOB:
            self._meters.count(metric, (queue, job), 0)
        for state in RunState:
            if state in TERMINAL:
                self._meters.count(metrics.RUNS, (queue, job, None, state.value), 0)

    # dispatches

    def sent(self, envelopes: Sequence[Envelope], answers: Sequence[Accepted], seconds: float) -> None:
        """A dispatch was committed. What was accepted before was not sent again."""
        new = Counter[str]()
        for envelope, answer in zip(envelopes, answers, strict=True):
            if answer.existing:
                self._meters.count(metrics.DEDUPLICATED, (envelope.queue, envelope.job))
            else:
                new[envelope.queue] += 1
        for queue, count in new.items():
            self._meters.count(metrics.SENT, self._of_client(SEND, queue), count)
        self._operation(SEND, _only_queue(envelopes), None, seconds)

    def not_sent(self, envelopes: Sequence[Envelope], error: BaseException, seconds: float) -> None:
        kind = type(error).__name__
        for queue, count in Counter(envelope.queue for envelope in envelopes).items():
            self._meters.count(metrics.SENT, self._of_client(SEND, queue, kind), count)
        self._operation(SEND, _only_queue(envelopes), kind, seconds)

    # attempts

    def started(self, claim: Claim) -> None:
        self._meters.count(metrics.CONSUMED, self._of_client(PROCESS, claim.queue))
        waited = (claim.claimed_at - claim.available_at).total_seconds()
        self._meters.record(metrics.QUEUE_WAIT, max(waited, 0.0), self._run(claim.queue, claim.job, claim.tenant))

    def recorded(self, queue: str, seconds: float, error: BaseException | None) -> None:
        """An outcome was committed, or will never be."""
        self._operation(SETTLE, queue, None if error is None else type(error).__name__, seconds)

    def settled(self, settlement: Settlement, state: RunState | None, claim: Claim | None) -> None:
        """An attempt has ended; `state` is what its run is in now, None when somebody else owned it. `claim` is known
        where the attempt was made here."""
        queue, job = settlement.hint.queue, settlement.hint.job
        if state is None:
            self._meters.count(metrics.STALE_SETTLES, (queue, job))
            return
        run = self._run(queue, job, settlement.tenant)
        if settlement.taken is not None:
            told = settlement.error if settlement.outcome in FAILURES else None
            error = None if told is None else decode_error(told).name
            self._meters.record(metrics.ATTEMPT_DURATION, settlement.taken, (*run, settlement.outcome.value, error))
            self._meters.record(metrics.PROCESS_DURATION, settlement.taken, self._of_client(PROCESS, queue, error))
        if settlement.outcome is Outcome.LOST:
            self._meters.count(metrics.LEASES_LOST, (queue, job))
        if state is RunState.RETRYING and settlement.decision.transition is Transition.RETRY:
            self._meters.count(metrics.RETRIES, (queue, job))
        if state in TERMINAL:
            self._ended(run, state)
            if claim is not None:
                waited = (claim.claimed_at - claim.inserted_at).total_seconds()
                taken = settlement.taken or 0.0
                self._meters.record(metrics.RUN_DURATION, max(waited, 0.0) + taken, (*run, state.value))

    def ended(self, queue: str, job: str, tenant: str | None, state: RunState) -> None:
        """A run that waited came to its end without another attempt: canceled, or expired."""
        self._ended(self._run(queue, job, tenant), state)

    def _ended(self, run: tuple[str, str, str | None], state: RunState) -> None:
        self._meters.count(metrics.RUNS, (*run, state.value))
        if state is RunState.DEAD_LETTERED:
            self._meters.count(metrics.DEAD_LETTERS, run[:2])

    def _run(self, queue: str, job: str, tenant: str | None) -> tuple[str, str, str | None]:
        if tenant is not None and tenant not in self._tenants:
            tenant = metrics.OTHER if self._tenants else None
        return queue, job, tenant

    def _operation(self, operation: str, queue: str | None, error: str | None, seconds: float) -> None:
        self._meters.record(metrics.OPERATION_DURATION, seconds, (*self._of_client(operation, queue, error), operation))

    def _of_client(self, operation: str, queue: str | None, error: str | None = None) -> tuple[Any, ...]:
        """What the conventions want to know, in the order of the metrics' attributes."""
        to = self._destination
        return to.system, operation, None if queue is None else to.name(queue), to.host, to.port, error


def _only_queue(envelopes: Sequence[Envelope]) -> str | None:
    """The queue of all of them, if they have one."""
    queues = {envelope.queue for envelope in envelopes}
    return queues.pop() if len(queues) == 1 else None
