"""actorjobs: background jobs for asyncio, with every run and every attempt on record."""

from typing import TYPE_CHECKING, Any

from actorjobs.actors import RestartActor
from actorjobs.clock import Clock, SystemClock, VirtualClock
from actorjobs.errors import (
    ActorJobsError,
    AmbiguousRuntime,
    AttemptCanceled,
    BrokerUnavailable,
    Cancel,
    ContextMissing,
    DuplicateJob,
    DuplicateRun,
    Fail,
    IdempotencyConflict,
    InvalidOption,
    NoRuntime,
    PayloadInvalid,
    PolicyDenied,
    ProcessDied,
    RegistrationClosed,
    ResultInvalid,
    ResultTimeout,
    RetryLater,
    RunFailed,
    RunNotFound,
    RunStateConflict,
    SchemaOutdated,
    Snooze,
    StoreRefused,
    StoreUnavailable,
    TopologyMismatch,
    UnknownJob,
    UnknownQueue,
)
from actorjobs.jobs import (
    Actor,
    CallNext,
    DispatchNext,
    Job,
    JobContext,
    JobDefaults,
    JobRef,
    Process,
    Queue,
    RunHandle,
    Traced,
    Unique,
    current_context,
    job,
)
from actorjobs.model import (
    Attempt,
    CancelReason,
    Envelope,
    ErrorInfo,
    HistoryEntry,
    Observation,
    Outcome,
    Run,
    RunState,
)
from actorjobs.policy import Access, Policy
from actorjobs.ports import Accepted, RunFilter
from actorjobs.retry import Custom, Exponential, Fixed, Retry
from actorjobs.tenancy import current_tenant, tenant

if TYPE_CHECKING:
    from actorjobs.runtime import BulkResult, Explanation, Runtime

__version__ = "0.1.0"

__all__ = [
    "Accepted",
    "Access",
    "Actor",
    "ActorJobsError",
    "AmbiguousRuntime",
    "Attempt",
    "AttemptCanceled",
    "BrokerUnavailable",
    "BulkResult",
    "CallNext",
    "Cancel",
    "CancelReason",
    "Clock",
    "ContextMissing",
    "Custom",
    "DispatchNext",
    "DuplicateJob",
    "DuplicateRun",
    "Envelope",
    "ErrorInfo",
    "Explanation",
    "Exponential",
    "Fail",
    "Fixed",
    "HistoryEntry",
    "IdempotencyConflict",
    "InvalidOption",
    "Job",
    "JobContext",
    "JobDefaults",
    "JobRef",
    "NoRuntime",
    "Observation",
    "Outcome",
    "PayloadInvalid",
    "Policy",
    "PolicyDenied",
    "Process",
    "ProcessDied",
    "Queue",
    "RegistrationClosed",
    "RestartActor",
    "ResultInvalid",
    "ResultTimeout",
    "Retry",
    "RetryLater",
    "Run",
    "RunFailed",
    "RunFilter",
    "RunHandle",
    "RunNotFound",
    "RunState",
    "RunStateConflict",
    "Runtime",
    "SchemaOutdated",
    "Snooze",
    "StoreRefused",
    "StoreUnavailable",
    "SystemClock",
    "TopologyMismatch",
    "Traced",
    "Unique",
    "UnknownJob",
    "UnknownQueue",
    "VirtualClock",
    "current_context",
    "current_tenant",
    "job",
    "tenant",
]


def __getattr__(name: str) -> Any:
    """`Runtime` and what it answers with, once somebody asks: it brings the databases along, two thirds of the import,
    and a child process that only performs handlers starts that much sooner without them."""
    if name not in ("BulkResult", "Explanation", "Runtime"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from actorjobs import runtime

    value = globals()[name] = getattr(runtime, name)
    return value
