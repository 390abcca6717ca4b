"""The sweeps: duties that any number of processes share. Each is a function; `Periodic` calls it.

Whatever a sweep finds it takes by a conditional write, so that two of them at once do no harm.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import groupby

from actorjobs.clock import Clock
from actorjobs.codec import encode_error
from actorjobs.lifecycle import LOSSES_UNTIL_SUSPECT, Ending, Standing, decide
from actorjobs.model import ErrorInfo, Outcome, RunState, trace_id_of
from actorjobs.ports import LostRun, Settlement, Store, Tracer, Trying
from actorjobs.worker.lease import DEAD_AFTER_SECONDS, Lease, forget_lock, is_known_dead
from actorjobs.worker.tracing import attempt_before

RESCUE_LIMIT = 500
EXPIRE_LIMIT = 500
PURGE_LIMIT = 1000
NEVER = 1e9


OnSettled = Callable[[Settlement, RunState | None], None]


async def rescue(
    store: Store,
    lease: Lease,
    on_settled: OnSettled,
    on_lost: Callable[[str], None],
    tracer: Tracer | None = None,
) -> bool:
    """Take back the runs of dead workers; `on_lost` when this one is found among them. True when there may be more."""
    workers, owner = await store.workers(), lease.owner
    if owner is not None and any(worker.id == owner and worker.is_dead for worker in workers):
        lease.end()
        on_lost(owner)
    fallen = [worker for worker in workers if worker.id != owner and is_known_dead(worker)]
    known_dead = [worker.id for worker in fallen if not worker.is_dead]
    if lease.is_steady or known_dead:
        await store.declare_dead(DEAD_AFTER_SECONDS if lease.is_steady else NEVER, known_dead)
    for worker in fallen:
        forget_lock(worker)
    lost = await store.lost_runs(RESCUE_LIMIT)
    if not lost:
        return False
    blamed = {worker.id: worker.blamed for worker in await store.workers()}
    settlements = rescue_settlements(lost, blamed)
    spans: dict[str, Trying] = {}
    if tracer is not None and tracer.is_on:
        for run in lost:
            previous = await attempt_before(store, run.fence.run_id, run.fence.attempt)
            spans[run.fence.run_id] = tracer.lost(run, previous=previous)
        settlements = [_in_span(settlement, spans[settlement.fence.run_id]) for settlement in settlements]
    for settlement, state in zip(settlements, await store.settle(settlements), strict=True):
        on_settled(settlement, state)
        if state is not None and spans:  # somebody else may have been first
            spans[settlement.fence.run_id].end(settlement)
    return len(lost) == RESCUE_LIMIT


def _in_span(settlement: Settlement, span: Trying) -> Settlement:
    trace_id = trace_id_of(span.traceparent)
    is_own = trace_id != trace_id_of(settlement.hint.traceparent)
    return replace(settlement, span_id=span.traceparent[36:52], trace_id=trace_id if is_own else None)


def rescue_settlements(lost: Sequence[LostRun], blamed: Mapping[str, str | None]) -> list[Settlement]:
    """What becomes of lost runs. Of a worker that was held by a culprit only the culprit is counted as lost: the run
    its watchdog named, else a run that was lost with its worker before. The others were neighbours."""
    settlements: list[Settlement] = []
    by_owner = sorted(lost, key=lambda run: run.fence.owner)
    for owner, group in groupby(by_owner, key=lambda run: run.fence.owner):
        runs = list(group)
        suspects = {run.fence.run_id for run in runs if run.losses >= LOSSES_UNTIL_SUSPECT}
        named = blamed.get(owner)
        culprits = {named} if named else suspects
        settlements += [_lost(run, counts=not culprits or run.fence.run_id in culprits) for run in runs]
    return settlements


def _lost(run: LostRun, *, counts: bool) -> Settlement:
    standing = Standing(failures=run.failures, max_attempts=run.max_attempts, losses=run.losses)
    decision = decide(standing, Ending(outcome=Outcome.LOST, counts=counts))
    error = ErrorInfo(name="WorkerLost", message=f"worker {run.fence.owner} died or lost its lease during the attempt")
    return Settlement(
        fence=run.fence,
        hint=run.hint,
        outcome=Outcome.LOST,
        decision=decision,
        error=encode_error(error),
        tenant=run.tenant,
    )


async def expire(store: Store, on_expired: Callable[[str, RunState], None]) -> bool:
    """End runs whose time to start has passed. True when there may be more."""
    expired = await store.expire(EXPIRE_LIMIT)
    for run_id in expired:
        on_expired(run_id, RunState.EXPIRED)
    return len(expired) == EXPIRE_LIMIT


async def purge(store: Store, keep: Mapping[RunState, float | None]) -> bool:
    """Delete what has been kept long enough. True when there is more to look at."""
    return (await store.purge(keep, PURGE_LIMIT)).has_more


class Reconciler:
    """Holds the record against what is performed here (both ways), with every beat."""

    def __init__(self, *, store: Store, lease: Lease, clock: Clock) -> None:
        self._store = store
        self._lease = lease
        self._clock = clock
        self._orphans: dict[tuple[str, int], float] = {}

    async def reconcile(self, performed: Callable[[], Mapping[str, int]], cancel_lost: Callable[[str], None]) -> None:
        """Release rows that nobody performs; cancel what the record does not know. `performed` maps run ids to
        attempts."""
        owner, before = self._lease.owner, performed()
        if owner is None:
            return
        rows = {claim.run_id: claim for claim in await self._store.running(owner)}
        now_performed = performed()
        for run_id, attempt in before.items():
            if now_performed.get(run_id) == attempt and run_id not in rows:
                cancel_lost(run_id)
        now = self._clock.monotonic()
        orphaned = {(c.run_id, c.attempt): c for c in rows.values() if now_performed.get(c.run_id) != c.attempt}
        self._orphans = {key: self._orphans.get(key, now) for key in orphaned}
        overdue = [orphaned[key] for key, since in self._orphans.items() if now - since >= ORPHANED_AFTER_SECONDS]
        if overdue:
            await self._store.settle(
                [
                    Settlement(
                        fence=claim.fence,
                        hint=claim.hint,
                        outcome=Outcome.INTERRUPTED,
                        decision=decide(
                            Standing(failures=claim.failures, max_attempts=claim.max_attempts),
                            Ending(outcome=Outcome.INTERRUPTED),
                        ),
                    )
                    for claim in overdue
                ]
            )


ORPHANED_AFTER_SECONDS = 10.0
