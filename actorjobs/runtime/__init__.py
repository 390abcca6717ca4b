"""The runtime: registry, client, and what `async with` starts and stops."""

from actorjobs.runtime.bulk import BulkResult
from actorjobs.runtime.opened import PoolsFailing
from actorjobs.runtime.queues import Queues
from actorjobs.runtime.runs import Runs
from actorjobs.runtime.runtime import Runtime

__all__ = ["BulkResult", "PoolsFailing", "Queues", "Runs", "Runtime"]
