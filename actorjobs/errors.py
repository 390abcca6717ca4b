"""Every error the library raises, in one tree, and the signals a handler may raise. Imports nothing of the package.

A message says what was wrong and what to do about it, and never shows a secret.
"""

from __future__ import annotations

from datetime import timedelta


class ActorJobsError(Exception):
    """Base of every error of the library."""


class InvalidOption(ActorJobsError, ValueError):
    """An option, setting, name or argument has a value that cannot work."""


class PayloadInvalid(ActorJobsError, ValueError):
    """A payload does not fit its job, or cannot be kept as JSON without loss."""


class ResultInvalid(ActorJobsError, ValueError):
    """A handler returned something that cannot be stored as its declared result."""


class UnknownJob(ActorJobsError, LookupError):
    """No job of that name is registered with this runtime."""


class UnknownQueue(ActorJobsError, LookupError):
    """Nobody declared a queue of that name."""


class DuplicateJob(ActorJobsError):
    """Two jobs claim the same name or alias."""


class RegistrationClosed(ActorJobsError):
    """Jobs are registered before the pools start, never after."""


class NoRuntime(ActorJobsError):
    """Nothing in this process can accept the dispatch: no runtime is open."""


class AmbiguousRuntime(ActorJobsError):
    """Several open runtimes could accept the dispatch and nothing says which."""


class ContextMissing(ActorJobsError):
    """Something that lives only inside a running handler was asked for outside of one."""


class RunNotFound(ActorJobsError, LookupError):
    """No run with that id exists in this namespace."""


class RunStateConflict(ActorJobsError):
    """The run's state does not allow what was asked."""


class IdempotencyConflict(ActorJobsError):
    """The idempotency key was used before with another payload; `run_id` names that run."""

    def __init__(self, message: str, *, run_id: str) -> None:
        super().__init__(message)
        self.run_id = run_id


class DuplicateRun(ActorJobsError):
    """A unique twin of the run is alive; `run_id` names it."""

    def __init__(self, message: str, *, run_id: str) -> None:
        super().__init__(message)
        self.run_id = run_id


class PolicyDenied(ActorJobsError):
    """The application's policy refused the operation."""


class BrokerUnavailable(ActorJobsError):
    """The broker cannot be reached or does not answer."""


class StoreUnavailable(ActorJobsError):
    """The store cannot be reached, does not answer, or is locked by somebody else."""


class StoreRefused(StoreUnavailable):
    """The database does not allow its user what was asked."""


class SchemaOutdated(ActorJobsError):
    """The database's schema is not the one this version needs."""


class TopologyMismatch(ActorJobsError):
    """A queue or exchange exists with other arguments than the ones needed."""


class ResultTimeout(ActorJobsError, TimeoutError):
    """The run had no result in the time given; it goes on regardless."""


class RunFailed(ActorJobsError):
    """The run whose result was awaited ended without one; `state` and `error` say how."""

    def __init__(self, message: str, *, run_id: str, state: str) -> None:
        super().__init__(message)
        self.run_id = run_id
        self.state = state


class AttemptTimedOut(ActorJobsError, TimeoutError):
    """The attempt took longer than its time-out allows."""


class LeaseLost(ActorJobsError):
    """The worker lost its lease while the attempt ran."""


class IgnoredCancellation(ActorJobsError):
    """The handler was canceled and went on regardless."""


class CanceledItself(ActorJobsError):
    """The handler ended with a cancellation that nobody had asked for."""


class ProcessDied(ActorJobsError):
    """The child process of an isolated handler ended before the handler did, or could not start."""


class FlowControl(Exception):
    """What a handler raises to steer its own run instead of failing it."""


def _seconds(delay: object) -> float:
    if isinstance(delay, bool) or not isinstance(delay, int | float | timedelta):
        raise InvalidOption(f"a delay is seconds or a timedelta, not a value of type {type(delay).__name__}")
    seconds = delay.total_seconds() if isinstance(delay, timedelta) else float(delay)
    if not 0 <= seconds <= 10 * 365 * 86400:
        raise InvalidOption(f"a delay lies between 0 seconds and ten years, not {seconds!r}")
    return seconds


class Snooze(FlowControl):
    """Run again after `delay` seconds, without using up an attempt."""

    def __init__(self, delay: float | timedelta = 0.0) -> None:
        self.delay = _seconds(delay)
        super().__init__(f"snoozed for {self.delay:g} s")


class RetryLater(FlowControl):
    """Fail this attempt and try again after `delay` seconds, if attempts remain."""

    def __init__(self, delay: float | timedelta, reason: str = "retry later") -> None:
        self.delay = _seconds(delay)
        super().__init__(reason)


class Fail(FlowControl):
    """Fail for good: no further attempt, whatever the retry policy says."""

    def __init__(self, reason: str = "failed for good") -> None:
        super().__init__(reason)


class Cancel(FlowControl):
    """End the run as canceled."""

    def __init__(self, reason: str = "canceled by its handler") -> None:
        super().__init__(reason)
        self.reason = reason


class AttemptCanceled(BaseException):
    """What `ctx.check_canceled()` raises in a `def` handler once its attempt is being canceled; `reason` says why.

    Like `asyncio.CancelledError` it is no `Exception`, so that `except Exception` lets it through.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(f"the attempt is being canceled: {reason}")
        self.reason = reason
