"""The runtime: registry, client, and what `async with` starts and stops."""

from actorjobs.runtime.bulk import BulkResult
from actorjobs.runtime.doctoring import Finding
from actorjobs.runtime.explaining import Explanation
from actorjobs.runtime.opened import PoolsFailing
from actorjobs.runtime.pending import Misfit, PendingReport
from actorjobs.runtime.queues import Queues
from actorjobs.runtime.runs import Runs
from actorjobs.runtime.runtime import Runtime
from actorjobs.runtime.tailing import Change

__all__ = [
    "BulkResult",
    "Change",
    "Explanation",
    "Finding",
    "Misfit",
    "PendingReport",
    "PoolsFailing",
    "Queues",
    "Runs",
    "Runtime",
]
