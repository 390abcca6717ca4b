"""The life of a run: eight states, one table of transitions, one pure decision.

The law: a run starts only from a waiting state; what is terminal stays so unless an operator reopens it, and a
succeeded run is never reopened. A missing key in `TABLE` *is* the error. `docs/lifecycle.md` is drawn from this file.
"""

from __future__ import annotations

from actorjobs.errors import RunStateConflict
from actorjobs.model import Outcome, RunState, Transition
from actorjobs.records import record

S, T = RunState, Transition

TABLE: dict[tuple[RunState, Transition], RunState] = {
    (S.SCHEDULED, T.CLAIM): S.RUNNING,
    (S.QUEUED, T.CLAIM): S.RUNNING,
    (S.RETRYING, T.CLAIM): S.RUNNING,
    (S.RUNNING, T.SUCCEED): S.SUCCEEDED,
    (S.RUNNING, T.RETRY): S.RETRYING,
    (S.RUNNING, T.SNOOZE): S.SCHEDULED,
    (S.RUNNING, T.RELEASE): S.QUEUED,
    (S.RUNNING, T.RESCUE): S.RETRYING,
    (S.RUNNING, T.DEAD_LETTER): S.DEAD_LETTERED,
    (S.RUNNING, T.CANCEL): S.CANCELED,
    (S.SCHEDULED, T.CANCEL): S.CANCELED,
    (S.QUEUED, T.CANCEL): S.CANCELED,
    (S.RETRYING, T.CANCEL): S.CANCELED,
    (S.SCHEDULED, T.EXPIRE): S.EXPIRED,
    (S.QUEUED, T.EXPIRE): S.EXPIRED,
    (S.RETRYING, T.EXPIRE): S.EXPIRED,
    (S.SCHEDULED, T.RESCHEDULE): S.SCHEDULED,
    (S.QUEUED, T.RESCHEDULE): S.SCHEDULED,
    (S.RETRYING, T.RESCHEDULE): S.RETRYING,
    (S.DEAD_LETTERED, T.REOPEN): S.QUEUED,
    (S.CANCELED, T.REOPEN): S.QUEUED,
    (S.EXPIRED, T.REOPEN): S.QUEUED,
}

WAITING = frozenset({S.SCHEDULED, S.QUEUED, S.RETRYING})
TERMINAL = frozenset({S.SUCCEEDED, S.DEAD_LETTERED, S.CANCELED, S.EXPIRED})
REOPENABLE = frozenset(state for state, transition in TABLE if transition is T.REOPEN)

LOSSES_UNTIL_SUSPECT = 2
LOSSES_UNTIL_POISON = 5
RESCUE_BACKOFF_SECONDS = 2.0


def advance(state: RunState, transition: Transition) -> RunState:
    """The state that `transition` leads to from `state`; `RunStateConflict` when the table has no such entry."""
    try:
        return TABLE[state, transition]
    except KeyError:
        allowed = ", ".join(sorted(s for s, t in TABLE if t is transition))
        raise RunStateConflict(f"a {state} run cannot {transition}; that needs: {allowed}") from None


@record
class Standing:
    """What is on a running run's record and bears on what happens to it next."""

    failures: int = 0
    max_attempts: int = 1
    losses: int = 0


@record
class Ending:
    """How an attempt ended. `delay` is the backoff asked for in seconds; `permanent` rules out a retry; a loss that
    does not count was a neighbour's fault."""

    outcome: Outcome
    delay: float = 0.0
    permanent: bool = False
    counts: bool = True


@record
class Decision:
    """What becomes of the run: the transition, the state it leads to, and the new figures on its record.

    `delay` counts in seconds from the moment of the commit, by the database's clock.
    """

    transition: Transition
    state: RunState
    delay: float
    failures: int
    losses: int
    reason: str | None = None


def decide(standing: Standing, ending: Ending) -> Decision:
    """What becomes of a running run whose attempt ended so. Pure: no clock, no I/O.

    Only failures and time-outs use up the budget. A loss (the lease ended without an outcome) is counted apart: the
    first costs nothing, further ones back off, and `LOSSES_UNTIL_POISON` in a row mean that the run kills its workers.
    """
    match ending.outcome:
        case Outcome.SUCCEEDED:
            return _to(T.SUCCEED, standing)
        case Outcome.CANCELED:
            return _to(T.CANCEL, standing)
        case Outcome.SNOOZED:
            return _to(T.SNOOZE, standing, delay=ending.delay)
        case Outcome.INTERRUPTED:
            return _to(T.RELEASE, standing)
        case Outcome.LOST:
            return _rescue(standing, counts=ending.counts)
        case Outcome.FAILED | Outcome.TIMED_OUT:
            return _fail(standing, ending)
        case Outcome.RUNNING:
            raise RunStateConflict("an attempt that is still running has no outcome to decide on")


def _to(transition: Transition, standing: Standing, *, delay: float = 0.0) -> Decision:
    state = advance(S.RUNNING, transition)
    return Decision(transition=transition, state=state, delay=delay, failures=standing.failures, losses=0)


def _fail(standing: Standing, ending: Ending) -> Decision:
    failures = standing.failures + 1
    exhausted = failures >= standing.max_attempts
    ends = ending.permanent or exhausted
    transition = T.DEAD_LETTER if ends else T.RETRY
    return Decision(
        transition=transition,
        state=advance(S.RUNNING, transition),
        delay=0.0 if ends else ending.delay,
        failures=failures,
        losses=0,
        reason=None if not ends else "permanent" if ending.permanent else "exhausted",
    )


def _rescue(standing: Standing, *, counts: bool) -> Decision:
    losses = standing.losses + counts
    poison = counts and losses >= LOSSES_UNTIL_POISON
    transition = T.DEAD_LETTER if poison else T.RESCUE
    backoff = RESCUE_BACKOFF_SECONDS * 2 ** (losses - 2) if counts and losses > 1 else 0.0
    return Decision(
        transition=transition,
        state=advance(S.RUNNING, transition),
        delay=0.0 if poison else backoff,
        failures=standing.failures,
        losses=losses,
        reason="poison" if poison else None,
    )


def diagram() -> str:
    """`docs/lifecycle.md`: the table as a picture (Mermaid) and as rows. `make docs` writes it."""
    lines = [
        "# The life of a run",
        "",
        "Generated from the table in `actorjobs/lifecycle.py` by `make docs`; a test keeps it true.",
        "",
        "```mermaid",
        "stateDiagram-v2",
        "    [*] --> scheduled: dispatch, due later",
        "    [*] --> queued: dispatch, due now",
        *(f"    {state} --> {after}: {transition}" for (state, transition), after in TABLE.items()),
        *(f"    {state} --> [*]" for state in RunState if state in TERMINAL),
        "```",
        "",
        "| from | what happens | to |",
        "|---|---|---|",
        *(f"| {state} | {transition} | {after} |" for (state, transition), after in TABLE.items()),
        "",
        f"Waiting: {_listed(WAITING)}. Terminal: {_listed(TERMINAL)}. Only an operator's `retry` leads out of a "
        f"terminal state ({_listed(REOPENABLE)}); a succeeded run is never reopened.",
        "",
        "A run whose worker died is rescued: the first loss costs nothing, further ones back off, and "
        f"{LOSSES_UNTIL_POISON} in a row make it a dead letter with the reason `poison`. From {LOSSES_UNTIL_SUSPECT} "
        "losses on it is a suspect: a process performs at most one of these at a time, and when it dies only the "
        "suspect is counted.",
        "",
    ]
    return "\n".join(lines)


def _listed(states: frozenset[RunState]) -> str:
    return ", ".join(f"`{state}`" for state in RunState if state in states)
