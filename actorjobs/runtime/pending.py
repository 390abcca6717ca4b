"""Which waiting and running runs this code could not perform: what a deployment wants to know before it starts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Final

from actorjobs.codec import encode
from actorjobs.errors import PayloadInvalid
from actorjobs.lifecycle import TERMINAL
from actorjobs.model import Run, RunState
from actorjobs.ports import RunFilter, Store
from actorjobs.runtime.registry import Registry

PAGE_RUNS: Final = 200
EXAMPLES: Final = 3
MOST_GROUPS: Final = 1000
PENDING: Final = tuple(state for state in RunState if state not in TERMINAL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Misfit:
    """Runs of one job in one version that this code could not perform, all for one reason.

    `reason` says which field is wrong and never shows what it holds; `examples` are the ids of the first few.
    """

    job: str
    version: int
    reason: str
    runs: int
    examples: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingReport:
    """What was looked at, and what does not fit; empty `misfits` mean that all of it could be performed."""

    checked: int
    misfits: tuple[Misfit, ...]


@dataclass
class _Group:
    runs: int = 0
    examples: list[str] = field(default_factory=list[str])


async def check_pending(
    store: Store, registry: Registry, on_progress: Callable[[int], object] | None = None
) -> PendingReport:
    """Go through all runs that wait or run, oldest first."""
    groups: dict[tuple[str, int, str], _Group] = {}
    checked = 0
    async for run in _pending(store):
        reason = why_not(registry, run)
        checked += 1
        if on_progress is not None and checked % PAGE_RUNS == 0:
            on_progress(checked)
        if reason is None:
            continue
        key = (run.job, run.version, reason)
        if key not in groups and len(groups) >= MOST_GROUPS:
            key = (run.job, run.version, "and other reasons")
        group = groups.setdefault(key, _Group())
        group.runs += 1
        if len(group.examples) < EXAMPLES:
            group.examples.append(run.id)
    misfits = [
        Misfit(job=job, version=version, reason=reason, runs=group.runs, examples=tuple(group.examples))
        for (job, version, reason), group in sorted(groups.items())
    ]
    return PendingReport(checked=checked, misfits=tuple(misfits))


async def _pending(store: Store) -> AsyncIterator[Run]:
    cursor, is_first = None, True
    while is_first or cursor is not None:
        page = await store.list(RunFilter(state=PENDING), limit=PAGE_RUNS, cursor=cursor, is_oldest_first=True)
        cursor, is_first = page.cursor, False
        for run in page:
            yield run


def why_not(registry: Registry, run: Run) -> str | None:
    """Why this code could not perform the run, in words that quote nothing of its payload; None if it could."""
    if not registry.knows(run.job):
        return "unknown job"
    definition = registry.definition(run.job)
    if run.version > definition.version:
        return f"newer version: this code knows it up to {definition.version}"
    constructor_args = encode(dict(run.constructor_args)) if run.constructor_args else None
    try:
        definition.decode_payload(encode(run.payload), constructor_args, version=run.version)
    except PayloadInvalid as error:
        return str(error)
    except Exception as error:  # a validator of the application's may raise anything, and quote what it was given
        return f"payload: validating it raised {type(error).__name__}"
    return None
