"""The table of transitions and the decision: pure, so every case is tried."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest

from actorjobs.errors import RunStateConflict
from actorjobs.lifecycle import (
    LOSSES_UNTIL_POISON,
    REOPENABLE,
    TABLE,
    TERMINAL,
    WAITING,
    Ending,
    Standing,
    advance,
    decide,
    diagram,
)
from actorjobs.model import Outcome, RunState, Transition

DOC = Path(__file__).parents[2] / "docs" / "lifecycle.md"


def test_the_diagram_is_not_stale() -> None:
    assert DOC.read_text(encoding="utf-8") == diagram(), "run `make docs`"


@pytest.mark.parametrize(("state", "transition"), list(product(RunState, Transition)))
def test_a_missing_entry_is_the_error(state: RunState, transition: Transition) -> None:
    if (state, transition) in TABLE:
        assert advance(state, transition) is TABLE[state, transition]
    else:
        with pytest.raises(RunStateConflict, match=f"a {state} run cannot {transition}"):
            advance(state, transition)


def test_the_law() -> None:
    assert WAITING | TERMINAL | {RunState.RUNNING} == set(RunState)
    assert {state for state, transition in TABLE if transition is Transition.CLAIM} == WAITING
    out_of_terminal = {(state, transition) for state, transition in TABLE if state in TERMINAL}
    assert {transition for _, transition in out_of_terminal} == {Transition.REOPEN}
    assert TERMINAL - {RunState.SUCCEEDED} == REOPENABLE
    assert all(TABLE[state, Transition.REOPEN] is RunState.QUEUED for state in REOPENABLE)


@pytest.mark.parametrize(
    ("outcome", "state", "failures", "losses"),
    [
        (Outcome.SUCCEEDED, RunState.SUCCEEDED, 1, 0),
        (Outcome.FAILED, RunState.RETRYING, 2, 0),
        (Outcome.TIMED_OUT, RunState.RETRYING, 2, 0),
        (Outcome.CANCELED, RunState.CANCELED, 1, 0),
        (Outcome.INTERRUPTED, RunState.QUEUED, 1, 0),
        (Outcome.SNOOZED, RunState.SCHEDULED, 1, 0),
        (Outcome.LOST, RunState.RETRYING, 1, 4),
    ],
)
def test_only_failures_use_up_the_budget_and_any_outcome_ends_a_row_of_losses(
    outcome: Outcome, state: RunState, failures: int, losses: int
) -> None:
    decision = decide(Standing(failures=1, max_attempts=3, losses=3), Ending(outcome=outcome, delay=7))
    assert (decision.state, decision.failures, decision.losses) == (state, failures, losses)
    waits = outcome in (Outcome.FAILED, Outcome.TIMED_OUT, Outcome.SNOOZED)
    assert decision.delay == (7 if waits else 8 if outcome is Outcome.LOST else 0)


@pytest.mark.parametrize(
    ("failures", "permanent", "reason"), [(2, False, "exhausted"), (0, True, "permanent"), (7, False, "exhausted")]
)
def test_a_failure_that_ends_the_run_says_why(failures: int, permanent: bool, reason: str) -> None:
    ending = Ending(outcome=Outcome.FAILED, delay=9, permanent=permanent)
    decision = decide(Standing(failures=failures, max_attempts=3), ending)
    assert (decision.state, decision.reason, decision.delay) == (RunState.DEAD_LETTERED, reason, 0)


def test_losses_back_off_and_end_as_poison() -> None:
    decisions = [decide(Standing(losses=before), Ending(outcome=Outcome.LOST)) for before in range(LOSSES_UNTIL_POISON)]
    assert [decision.delay for decision in decisions] == [0, 2, 4, 8, 0]
    assert [decision.state for decision in decisions[:-1]] == [RunState.RETRYING] * 4
    assert (decisions[-1].state, decisions[-1].reason) == (RunState.DEAD_LETTERED, "poison")


def test_a_loss_that_was_a_neighbours_fault_does_not_count() -> None:
    for losses in range(LOSSES_UNTIL_POISON + 1):
        decision = decide(Standing(losses=losses), Ending(outcome=Outcome.LOST, counts=False))
        assert (decision.state, decision.losses, decision.delay) == (RunState.RETRYING, losses, 0)


def test_a_running_attempt_cannot_be_decided_on() -> None:
    with pytest.raises(RunStateConflict):
        decide(Standing(), Ending(outcome=Outcome.RUNNING))
