"""What must never happen, judged step by step. What must happen in the end is judged by `explore`."""

from __future__ import annotations

from actorjobs.lifecycle import TABLE, TERMINAL, WAITING
from actorjobs.model import RunState
from tests.model.protocol import Run, State

LOST_COUNT = "seq or attempt has fallen"
STARTED_OVER = "a run that is over was started"
STARTED_TWICE = "a running run was started"
STARTED_EARLY = "a run was started before it was due"
STARTED_CANCELED = "a run was started after it was canceled"
STARTED_PAUSED = "a paused queue started a run"
TWO_ATTEMPTS = "two attempts hold the run"
TWO_SUCCESSES = "success was recorded twice"
LEFT_THE_TABLE = "the run went where no transition leads"
CANCEL_IGNORED = "a run that was to be canceled waits again"
SUCCESS_DROPPED = "a value was returned, and the run was canceled"
BUDGET_EXCEEDED = "there were more failures than attempts allowed"

STUCK = "nothing that is owed brings the run to its end"

_LED_TO = {(before, after) for (before, _), after in TABLE.items()}


def broken_by(name: str, before: State, after: State) -> str | None:
    """What the step has broken; None when all is well."""
    old, new = before.run, after.run
    if old is new or old is None or new is None:
        return None
    if new.seq < old.seq or new.attempt < old.attempt:
        return LOST_COUNT
    if new.attempt > old.attempt and (wrong := _wrong_start(old, before.is_paused)) is not None:
        return wrong
    if new.attempt and sum(worker.attempt == new.attempt for worker in after.workers) > 1:
        return TWO_ATTEMPTS
    if after.successes > 1:
        return TWO_SUCCESSES
    if new.failures > new.max_attempts:
        return BUDGET_EXCEEDED
    if old.is_asked and old.state is RunState.RUNNING and new.state in WAITING:
        return CANCEL_IGNORED
    if name == "worker: succeed" and new.state is not RunState.SUCCEEDED:
        return SUCCESS_DROPPED
    if new.state is not old.state and (old.state, new.state) not in _LED_TO:
        return LEFT_THE_TABLE
    return None


def _wrong_start(run: Run, is_paused: bool) -> str | None:
    if run.state in TERMINAL:
        return STARTED_OVER
    if run.state is RunState.RUNNING:
        return STARTED_TWICE
    if not run.is_due:
        return STARTED_EARLY
    if run.is_called_off:
        return STARTED_CANCELED
    return STARTED_PAUSED if is_paused else None
