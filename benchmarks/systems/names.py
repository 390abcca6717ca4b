"""The names of actorjobs' queues in a trial: known to the driver, which does not import the jobs."""

from __future__ import annotations

from benchmarks.plan import Plan

QUEUE = "bench"
SERVED = 10
"""Of the numbered queues of a plan, so many are dispatched to and served."""


def numbered(number: int) -> str:
    return f"{QUEUE}-{number}"


def queues_of(plan: Plan) -> list[str]:
    """All that are declared."""
    return [QUEUE, *(numbered(number) for number in range(plan.queues))]


def served() -> list[str]:
    return [numbered(number) for number in range(SERVED)]
