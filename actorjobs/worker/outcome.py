"""From what a handler came to, to how its attempt ended. Pure but for the dice of the backoff."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from actorjobs.codec import truncate_error
from actorjobs.errors import (
    AttemptCanceled,
    AttemptTimedOut,
    Cancel,
    CanceledItself,
    Fail,
    FlowControl,
    IgnoredCancellation,
    LeaseLost,
    PayloadInvalid,
    ResultInvalid,
    RetryLater,
    Snooze,
    UnknownJob,
)
from actorjobs.lifecycle import Ending
from actorjobs.model import CancelReason, ErrorInfo, Outcome
from actorjobs.records import record
from actorjobs.retry import Retry, sole_error


@record
class Verdict:
    """How an attempt ended, with the error to keep and the result as JSON text."""

    ending: Ending
    error: ErrorInfo | None = None
    result: str | None = None


@record
class Ended:
    """What a handler came to: a value (JSON text), an exception, or neither when it ignored that it was canceled; or
    the verdict, where that was found in another process, which knows its exceptions."""

    value: str | None = None
    error: BaseException | None = None
    is_abandoned: bool = False
    verdict: Verdict | None = None


@record
class Budget:
    """What bears on a retry: the policy in force, the job's own idea of a delay, what was used up already.

    `elapsed` is seconds since the run was accepted.
    """

    retry: Retry
    own_delay: Callable[[int, BaseException], float | None]
    random: Callable[[], float]
    failures: int
    elapsed: float

    def after(self, error: BaseException, outcome: Outcome = Outcome.FAILED) -> Ending:
        """How an attempt that failed with `error` ended: to be retried after a delay, or for good."""
        failures = self.failures + 1
        if not self.retry.allows(error):
            return Ending(outcome=outcome, permanent=True)
        own = self.own_delay(failures, error)
        delay = self.retry.delay(failures, error, self.random) if own is None else own
        return Ending(outcome=outcome, delay=delay, permanent=self.retry.is_over(self.elapsed, delay))


def judge(ended: Ended, reason: CancelReason | None, budget: Budget) -> Verdict:
    """How the attempt ended, and what to keep of it.

    A value that was returned wins over a cancellation that came meanwhile, and so does a signal that ends the run, and
    whatever a child process had said before it was killed.
    """
    if ended.verdict is not None:
        return ended.verdict
    ending, error = _judge(ended, reason, budget)
    if error is not None:
        return Verdict(ending=ending, error=truncate_error(error))
    return Verdict(ending=ending, result=ended.value if ended.error is None else None)


def _judge(ended: Ended, reason: CancelReason | None, budget: Budget) -> tuple[Ending, BaseException | None]:
    error: BaseException
    if ended.is_abandoned:
        error = IgnoredCancellation(f"the handler was canceled ({reason}) and went on regardless")
    elif ended.error is None:
        return Ending(outcome=Outcome.SUCCEEDED), None
    else:
        error = _signal(ended.error)
    match error:
        case Cancel():
            return Ending(outcome=Outcome.CANCELED), error
        case Fail() | PayloadInvalid() | ResultInvalid() | UnknownJob():
            return Ending(outcome=Outcome.FAILED, permanent=True), error
        case Snooze() if reason is not CancelReason.CANCELED:
            return Ending(outcome=Outcome.SNOOZED, delay=error.delay), None
        case _ if reason is not None:
            return _stopped(reason, error, budget)
        case RetryLater():
            is_over = budget.retry.is_over(budget.elapsed, error.delay)
            return Ending(outcome=Outcome.FAILED, delay=error.delay, permanent=is_over), error
        case asyncio.CancelledError():
            error = CanceledItself("the handler raised CancelledError, but nobody had canceled it")
            return budget.after(error), error
        case _:
            return budget.after(error), error


def _stopped(reason: CancelReason, error: BaseException, budget: Budget) -> tuple[Ending, BaseException | None]:
    """The end of a handler that was asked to end: what it raised on its way out is kept, the reason decides."""
    kept = None if isinstance(error, asyncio.CancelledError | AttemptCanceled) else error
    match reason:
        case CancelReason.CANCELED:
            return Ending(outcome=Outcome.CANCELED), kept
        case CancelReason.SHUTDOWN:
            return Ending(outcome=Outcome.INTERRUPTED), kept
        case CancelReason.LOST:
            lost = kept or LeaseLost("the worker could not renew its lease: its work was canceled and handed back")
            return Ending(outcome=Outcome.INTERRUPTED), lost
        case CancelReason.TIMEOUT:
            late = kept or AttemptTimedOut("the attempt took longer than its time-out allows")
            return budget.after(late, Outcome.TIMED_OUT), late


def _signal(error: BaseException) -> BaseException:
    """The signal that is the sole content of the groups around it, else the error itself."""
    inner = sole_error(error)
    return inner if isinstance(inner, FlowControl) else error
