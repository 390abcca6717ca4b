"""The delivery protocol of one run, small enough to try every order of events.

A run is a row in the database; a message in the broker is a hint `seq` that the run may be due in its generation `seq`.
The row alone decides. The order is everywhere: commit, then publish, then acknowledge. What follows tells the whole of
it, one small function per act, in the order of a run's life:

- somebody dispatches, and the hint of what was committed is published (`dispatching`, `publishing`);
- the relay publishes what nobody is known to have published, the sweep what was published and got lost (`relaying`);
- a worker receives the hint, claims the run, performs it and settles it (`receiving`, `claiming`, `performing`);
- what a dead worker left running is rescued (`rescuing`);
- an operator cancels, reopens, pauses, reschedules (`operating`);
- and everything breaks (`breaking`).

What becomes of a run is asked of `actorjobs.lifecycle`, so that the code that decides is the code that is tried here.

What is left out: clocks (a run that waits is due or not yet due, and at any moment time may pass), groups (one run
stands for each of many), and commits of unknown end. A statement is atomic, as it is in the database.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from actorjobs.lifecycle import REOPENABLE, TERMINAL, WAITING, Decision, Ending, Standing, advance, decide
from actorjobs.model import Outcome, RunState, Transition

NOTHING = 0
"""Where a hint or an attempt would be: both count from 1."""


class Run(NamedTuple):
    """The row."""

    state: RunState
    max_attempts: int
    is_due: bool
    seq: int = 1
    """Raised by each write that makes the run claimable: hints with another one are void."""
    attempt: int = 0
    """Raised by each claim: the fencing token."""
    failures: int = 0
    losses: int = 0
    is_marked: bool = False
    """The hint of this generation has been confirmed by the broker: `published_at` is set, `publish_after` cleared."""
    is_asked: bool = False
    """A cancel was requested while it ran."""
    is_called_off: bool = False
    """Not in the row: an operator's cancel was answered, and nobody has reopened the run since."""


class Worker(NamedTuple):
    """A process that performs one run at a time. Which of them is which makes no difference."""

    intake: int = NOTHING
    """The hint of a delivery that nothing has been claimed for yet."""
    attempt: int = NOTHING
    """The attempt it performs."""
    unacked: int = NOTHING
    """The hint whose delivery that attempt still holds."""
    is_declared_dead: bool = False
    """Its lease is lost by the record, and it has not noticed."""


class Left(NamedTuple):
    """How often what nobody owes may still happen."""

    crashes: int = 0
    lost_hints: int = 0
    doubled_hints: int = 0
    disconnects: int = 0
    false_deaths: int = 0
    cancels: int = 0
    reopenings: int = 0
    pauses: int = 0
    reschedulings: int = 0
    expiries: int = 0
    snoozes: int = 0
    releases: int = 0
    renewals: int = 0


NOTHING_HAPPENS = Left()


class State(NamedTuple):
    """Everything there is."""

    run: Run | None
    left: Left
    workers: tuple[Worker, ...]
    publishing: tuple[int, ...] = ()
    """Hints of committed rows, still in the memory of the process that committed."""
    relaying: int = NOTHING
    ready: tuple[int, ...] = ()
    """Hints in the broker's queue. Whether it delivers in order, or early, is not relied upon."""
    unmarked: tuple[int, ...] = ()
    """Hints that the broker has confirmed; the row is to be marked at leisure."""
    is_paused: bool = False
    successes: int = 0
    """Not kept anywhere: how often a success was recorded."""


class Step(NamedTuple):
    """Something that may happen next. What is owed happens sooner or later: faults, and what people may do, are not."""

    name: str
    after: State
    is_owed: bool = True


@dataclass(frozen=True, kw_only=True)
class Flaws:
    """Ways to get the protocol wrong, each of which a test must find. The protocol has none of them."""

    no_relay: bool = False
    no_sweep: bool = False
    no_rescue: bool = False
    publishes_before_commit: bool = False
    mark_is_not_fenced: bool = False
    claim_is_no_compare_and_set: bool = False
    claim_ignores_seq: bool = False
    claim_ignores_due_time: bool = False
    claim_ignores_pause: bool = False
    claim_ignores_cancel: bool = False
    acks_before_claim: bool = False
    drops_early_hints: bool = False
    early_hints_keep_seq: bool = False
    settle_is_not_fenced: bool = False
    settle_ignores_cancel: bool = False
    attempt_is_refunded: bool = False
    rescue_keeps_seq: bool = False
    snooze_keeps_mark: bool = False
    cancel_only_asks: bool = False
    reopens_succeeded: bool = False


@dataclass(frozen=True, kw_only=True)
class World:
    """What is explored: who is there, and what may go wrong how often."""

    left: Left = NOTHING_HAPPENS
    flaws: Flaws = field(default_factory=Flaws)
    max_attempts: int = 2
    workers: int = 2
    losses_before: int = 0
    is_delayed: bool = False
    """The run is dispatched for later."""
    is_punctual: bool = False
    """The broker never delivers the hint of a run before the run is due."""
    most_copies: int = 2
    """How many hints may be under way at once before the relay, or a fault, makes no more of them."""

    def start(self) -> State:
        return State(run=None, left=self.left, workers=(Worker(),) * self.workers)


def steps(state: State, world: World) -> Iterator[Step]:
    """Everything that may happen next."""
    yield from dispatching(state, world)
    yield from publishing(state, world)
    yield from relaying(state, world)
    yield from receiving(state, world)
    yield from claiming(state, world)
    yield from performing(state, world)
    yield from rescuing(state, world)
    yield from time_passing(state)
    yield from operating(state, world)
    yield from breaking(state, world)


def is_at_rest(state: State) -> bool:
    """The run is over, and no hint of it is left anywhere."""
    is_over = state.run is not None and state.run.state in TERMINAL
    is_empty = not (state.publishing or state.relaying or state.ready or state.unmarked)
    return is_over and is_empty and not any(w.intake or w.attempt or w.unacked for w in state.workers)


# --- dispatching and publishing --------------------------------------------------------------------------------------


def dispatching(state: State, world: World) -> Iterator[Step]:
    """The row is committed and the caller answered; the broker is nobody's condition."""
    if state.run is not None:
        return
    new = Run(
        state=RunState.SCHEDULED if world.is_delayed else RunState.QUEUED,
        max_attempts=world.max_attempts,
        is_due=not world.is_delayed,
        losses=world.losses_before,
    )
    if not world.flaws.publishes_before_commit:
        yield Step("dispatch: commit", _announced(state, new))
    elif not state.unmarked:
        yield Step("dispatch: publish", _published(state, new.seq))
    else:
        yield Step("dispatch: commit as published", state._replace(run=new._replace(is_marked=True), unmarked=()))


def publishing(state: State, world: World) -> Iterator[Step]:
    """A publisher sends what its process has committed. The mark in the row follows the confirm, when there is time."""
    for seq in dict.fromkeys(state.publishing):
        yield Step("publish", _published(state._replace(publishing=_without(state.publishing, seq)), seq))
    run = state.run
    if run is None:
        return
    for seq in state.unmarked:
        marked = state._replace(unmarked=_without(state.unmarked, seq))
        is_current = seq == run.seq or world.flaws.mark_is_not_fenced
        if is_current and run.state in WAITING:
            marked = marked._replace(run=run._replace(is_marked=True))
        yield Step("mark", marked)


def _published(state: State, seq: int) -> State:
    return state._replace(ready=_with(state.ready, seq), unmarked=tuple(sorted({*state.unmarked, seq})))


def relaying(state: State, world: World) -> Iterator[Step]:
    """The relay first commits when the row is to be looked at again, then publishes: should it die in between, that
    time comes. The sweep publishes again, with the same seq, what was marked and is nowhere to be found."""
    run = state.run
    if state.relaying:
        yield Step("relay: publish", _published(state._replace(relaying=NOTHING), state.relaying))
    if run is None or run.state not in WAITING:
        return
    has_room = _copies(state) < world.most_copies
    if not run.is_marked and not state.relaying and has_room and not world.flaws.no_relay:
        yield Step("relay: commit", state._replace(relaying=run.seq))
    is_lost = run.is_marked and run.is_due and not _is_under_way(state, run.seq)
    if is_lost and not world.flaws.no_sweep:
        yield Step("sweep: publish the lost hint", state._replace(ready=_with(state.ready, run.seq)))


# --- a worker --------------------------------------------------------------------------------------------------------


def receiving(state: State, world: World) -> Iterator[Step]:
    """The broker hands a hint to a worker that has nothing to do. What a paused queue has handed out is given back."""
    for worker in dict.fromkeys(state.workers):
        is_free = not (worker.intake or worker.attempt or worker.unacked)
        if is_free:
            for seq in dict.fromkeys(state.ready):
                if not (world.is_punctual and _is_early(state.run, seq)):
                    taken = state._replace(ready=_without(state.ready, seq))
                    yield Step("deliver", _with_worker(taken, worker, worker._replace(intake=seq)))
        elif worker.intake and state.is_paused and not world.flaws.acks_before_claim:
            given_back = state._replace(ready=_with(state.ready, worker.intake))
            yield Step("worker: give back", _with_worker(given_back, worker, worker._replace(intake=NOTHING)))


def claiming(state: State, world: World) -> Iterator[Step]:
    """One conditional write. What it refuses is acknowledged; what comes too early waits in the intake, or is left to
    the relay."""
    for worker in dict.fromkeys(state.workers):
        is_held = state.is_paused and not world.flaws.claim_ignores_pause
        # A worker stops to claim long before others may declare it dead: the figures of the lease see to that.
        if worker.intake and not is_held and not worker.is_declared_dead:
            yield from _claimed_or_refused(state, world, worker)


def _claimed_or_refused(state: State, world: World, worker: Worker) -> Iterator[Step]:
    run, seq = state.run, worker.intake
    if run is not None and _may_start(run, seq, world.flaws):
        claimed = run._replace(state=_claimed_state(run, world.flaws), attempt=run.attempt + 1, is_due=True)
        unacked = NOTHING if world.flaws.acks_before_claim else seq
        performing = Worker(attempt=claimed.attempt, unacked=unacked)
        yield Step("worker: claim", _with_worker(state._replace(run=claimed), worker, performing))
    elif run is not None and _is_early(run, seq) and not world.flaws.drops_early_hints:
        yield from _left_to_the_relay(_with_worker(state, worker, Worker()), run, world)
    else:
        yield Step("worker: refused, ack", _with_worker(state, worker, worker._replace(intake=NOTHING)))


def _left_to_the_relay(state: State, run: Run, world: World) -> Iterator[Step]:
    """In a new generation, since the mark of the old one may still be on its way. Nothing need happen: the hint may
    wait in the intake until the run is due."""
    if world.flaws.early_hints_keep_seq:
        yield Step("worker: leave to the relay", state._replace(run=run._replace(is_marked=False)))
    elif state.left.renewals:
        fewer = state.left._replace(renewals=state.left.renewals - 1)
        renewed = run._replace(is_marked=False, seq=run.seq + 1)
        yield Step("worker: leave to the relay, renewed", state._replace(run=renewed, left=fewer))


def _may_start(run: Run, seq: int, flaws: Flaws) -> bool:
    return (
        (seq == run.seq or flaws.claim_ignores_seq)
        and (run.state in WAITING or flaws.claim_is_no_compare_and_set)
        and (run.is_due or flaws.claim_ignores_due_time)
        and (not run.is_asked or flaws.claim_ignores_cancel)
    )


def _claimed_state(run: Run, flaws: Flaws) -> RunState:
    return RunState.RUNNING if flaws.claim_is_no_compare_and_set else advance(run.state, Transition.CLAIM)


def _is_early(run: Run | None, seq: int) -> bool:
    return run is not None and run.state in WAITING and run.seq == seq and not run.is_due


def performing(state: State, world: World) -> Iterator[Step]:
    """An attempt ends in one fenced write, and its delivery is acknowledged: after that, or after a minute of work."""
    run, left = state.run, state.left
    for worker in dict.fromkeys(state.workers):
        if worker.unacked:
            name = "worker: ack while performing" if worker.attempt else "worker: ack"
            yield Step(name, _with_worker(state, worker, worker._replace(unacked=NOTHING)))
        if worker.is_declared_dead:
            under_new_lease = worker._replace(attempt=NOTHING, is_declared_dead=False)
            yield Step("worker: find itself dead", _with_worker(state, worker, under_new_lease))
        if not worker.attempt or run is None:
            continue
        done = _with_worker(state, worker, worker._replace(attempt=NOTHING))
        if not _holds(run, worker, world.flaws):
            yield Step("worker: outcome is stale", done)
            continue
        yield Step("worker: succeed", _settled(done, run, _ended(run, Outcome.SUCCEEDED), world))
        yield Step("worker: fail", _settled(done, run, _ended(run, Outcome.FAILED, delay=1.0), world))
        if run.is_asked:
            yield Step("worker: cancel as asked", _settled(done, run, _ended(run, Outcome.CANCELED), world))
        if left.snoozes:
            snoozed = done._replace(left=left._replace(snoozes=left.snoozes - 1))
            yield Step("worker: snooze", _settled(snoozed, run, _ended(run, Outcome.SNOOZED, delay=1.0), world))
        if left.releases:
            released = done._replace(left=left._replace(releases=left.releases - 1))
            yield Step("worker: release", _settled(released, run, _ended(run, Outcome.INTERRUPTED), world))


def _holds(run: Run, worker: Worker, flaws: Flaws) -> bool:
    """The fence. Each claim has a number of its own, so the number tells whose claim it was."""
    return (run.state is RunState.RUNNING and run.attempt == worker.attempt) or flaws.settle_is_not_fenced


def rescuing(state: State, world: World) -> Iterator[Step]:
    """What runs, and is performed by nobody whose lease lives, is settled as lost."""
    run = state.run
    if run is None or run.state is not RunState.RUNNING or world.flaws.no_rescue:
        return
    if not any(worker.attempt == run.attempt and not worker.is_declared_dead for worker in state.workers):
        yield Step("rescue", _settled(state, run, _ended(run, Outcome.LOST), world))


def time_passing(state: State) -> Iterator[Step]:
    run = state.run
    if run is not None and not run.is_due:
        yield Step("the run falls due", state._replace(run=run._replace(is_due=True)))


# --- what becomes of the run -----------------------------------------------------------------------------------------


def _ended(run: Run, outcome: Outcome, *, delay: float = 0.0) -> Decision:
    standing = Standing(failures=run.failures, max_attempts=run.max_attempts, losses=run.losses)
    return decide(standing, Ending(outcome=outcome, delay=delay))


def _settled(state: State, run: Run, decision: Decision, world: World) -> State:
    """The end of an attempt, written. A cancel request turns every decision but success into `canceled`."""
    is_canceled = run.is_asked and not world.flaws.settle_ignores_cancel
    is_overruled = is_canceled and decision.transition is not Transition.SUCCEED
    run = run._replace(
        state=advance(RunState.RUNNING, Transition.CANCEL) if is_overruled else decision.state,
        failures=decision.failures,
        losses=decision.losses,
    )
    if run.state in TERMINAL:
        is_success = run.state is RunState.SUCCEEDED
        return state._replace(run=run._replace(is_marked=False), successes=state.successes + is_success)
    keeps_mark = decision.transition is Transition.SNOOZE and world.flaws.snooze_keeps_mark
    keeps_seq = decision.transition is Transition.RESCUE and world.flaws.rescue_keeps_seq
    is_refunded = decision.transition is Transition.RELEASE and world.flaws.attempt_is_refunded
    run = run._replace(
        is_due=decision.delay == 0,
        seq=run.seq if keeps_seq else run.seq + 1,
        attempt=run.attempt - is_refunded,
        is_marked=run.is_marked and keeps_mark,
    )
    return _announced(state, run)


def _announced(state: State, run: Run) -> State:
    """Committed, so that it can be claimed; its hint is now for the publisher of this process."""
    return state._replace(run=run, publishing=_with(state.publishing, run.seq))


# --- what nobody owes ------------------------------------------------------------------------------------------------


def operating(state: State, world: World) -> Iterator[Step]:
    """What an operator may do. Only a queue that was paused is owed something: to be resumed."""
    run, left = state.run, state.left
    if state.is_paused:
        yield Step("operator: resume", state._replace(is_paused=False))
    elif left.pauses:
        paused = state._replace(is_paused=True, left=left._replace(pauses=left.pauses - 1))
        yield Step("operator: pause", paused, is_owed=False)
    if run is None:
        return
    if left.cancels and run.state not in TERMINAL and not run.is_called_off:
        canceled = state._replace(run=_canceled(run, world.flaws), left=left._replace(cancels=left.cancels - 1))
        yield Step("operator: cancel", canceled, is_owed=False)
    if left.reopenings and (run.state in REOPENABLE or _may_reopen_wrongly(run, world.flaws)):
        reopened = state._replace(left=left._replace(reopenings=left.reopenings - 1))
        yield Step("operator: reopen", _announced(reopened, _reopened(run, world.flaws)), is_owed=False)
    if run.state in WAITING and left.reschedulings:
        moved = state._replace(left=left._replace(reschedulings=left.reschedulings - 1))
        yield Step("operator: reschedule", _announced(moved, _rescheduled(run)), is_owed=False)
    if run.state in WAITING and left.expiries:
        expired = run._replace(state=advance(run.state, Transition.EXPIRE), is_due=True, is_marked=False)
        after = state._replace(run=expired, left=left._replace(expiries=left.expiries - 1))
        yield Step("the run expires", after, is_owed=False)


def _canceled(run: Run, flaws: Flaws) -> Run:
    """At once while it waits; while it runs, by asking."""
    if run.state is RunState.RUNNING or flaws.cancel_only_asks:
        return run._replace(is_asked=True, is_called_off=True)
    ended = advance(run.state, Transition.CANCEL)
    return run._replace(state=ended, is_due=True, is_marked=False, is_called_off=True)


def _reopened(run: Run, flaws: Flaws) -> Run:
    wrongly = _may_reopen_wrongly(run, flaws)
    return run._replace(
        state=RunState.QUEUED if wrongly else advance(run.state, Transition.REOPEN),
        is_due=True,
        seq=run.seq + 1,
        max_attempts=run.failures + 1,
        losses=0,
        is_marked=False,
        is_asked=False,
        is_called_off=False,
    )


def _may_reopen_wrongly(run: Run, flaws: Flaws) -> bool:
    return flaws.reopens_succeeded and run.state is RunState.SUCCEEDED


def _rescheduled(run: Run) -> Run:
    later = advance(run.state, Transition.RESCHEDULE)
    return run._replace(state=later, is_due=False, seq=run.seq + 1, is_marked=False)


def breaking(state: State, world: World) -> Iterator[Step]:
    """Faults: processes die, the broker loses and doubles, connections break, the living are taken for dead."""
    left = state.left
    if left.crashes:
        yield from _crashing(state._replace(left=left._replace(crashes=left.crashes - 1)), world.flaws)
    for seq in dict.fromkeys(state.ready):
        if left.lost_hints:
            fewer = left._replace(lost_hints=left.lost_hints - 1)
            yield Step("FAULT: hint lost", state._replace(left=fewer, ready=_without(state.ready, seq)), is_owed=False)
        if left.doubled_hints and _copies(state) < world.most_copies:
            fewer = left._replace(doubled_hints=left.doubled_hints - 1)
            yield Step("FAULT: hint doubled", state._replace(left=fewer, ready=_with(state.ready, seq)), is_owed=False)
    for worker in dict.fromkeys(state.workers):
        if left.disconnects and (worker.intake or worker.unacked):
            fewer = left._replace(disconnects=left.disconnects - 1)
            # What had not been started is forgotten, what runs goes on.
            going_on = worker._replace(intake=NOTHING, unacked=NOTHING)
            after = _redelivered(state._replace(left=fewer), worker, going_on, world.flaws)
            yield Step("FAULT: connection lost", after, is_owed=False)
        if left.false_deaths and worker.attempt and not worker.is_declared_dead:
            fewer = left._replace(false_deaths=left.false_deaths - 1)
            undead = worker._replace(is_declared_dead=True)
            yield Step("FAULT: taken for dead", _with_worker(state._replace(left=fewer), worker, undead), is_owed=False)


def _crashing(state: State, flaws: Flaws) -> Iterator[Step]:
    if state.publishing or state.unmarked:
        forgotten = state._replace(publishing=(), unmarked=())
        yield Step("FAULT: publisher crashes", forgotten, is_owed=False)
    if state.relaying:
        yield Step("FAULT: relay crashes", state._replace(relaying=NOTHING), is_owed=False)
    for worker in dict.fromkeys(state.workers):
        if worker != Worker():
            yield Step("FAULT: worker crashes", _redelivered(state, worker, Worker(), flaws), is_owed=False)


def _redelivered(state: State, worker: Worker, becomes: Worker, flaws: Flaws) -> State:
    """What the worker has not acknowledged is back in the queue."""
    ready = state.ready
    for seq in (NOTHING if flaws.acks_before_claim else worker.intake, worker.unacked):
        if seq:
            ready = _with(ready, seq)
    return _with_worker(state._replace(ready=ready), worker, becomes)


# --- bags of hints, and who is who -----------------------------------------------------------------------------------


def _with(hints: tuple[int, ...], seq: int) -> tuple[int, ...]:
    return tuple(sorted((*hints, seq)))


def _without(hints: tuple[int, ...], seq: int) -> tuple[int, ...]:
    at = hints.index(seq)
    return hints[:at] + hints[at + 1 :]


def _with_worker(state: State, worker: Worker, becomes: Worker) -> State:
    """Workers are kept in order, because nothing depends on which of them it is."""
    others = list(state.workers)
    others.remove(worker)
    return state._replace(workers=tuple(sorted((*others, becomes))))


def _copies(state: State) -> int:
    held = sum(1 for worker in state.workers for seq in (worker.intake, worker.unacked) if seq)
    return len(state.ready) + len(state.publishing) + bool(state.relaying) + held


def _is_under_way(state: State, seq: int) -> bool:
    in_hand = any(worker.intake == seq for worker in state.workers)
    return in_hand or seq in state.ready or seq in state.publishing or seq == state.relaying
