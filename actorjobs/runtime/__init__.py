"""The runtime: registry, client, and what `async with` starts and stops."""

from actorjobs.runtime.opened import PoolsFailing
from actorjobs.runtime.queues import Queues
from actorjobs.runtime.runs import Runs
from actorjobs.runtime.runtime import Runtime

__all__ = ["PoolsFailing", "Queues", "Runs", "Runtime"]
