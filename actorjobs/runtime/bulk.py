"""One operation on all runs that match: in groups, oldest first, so that any number of them takes little memory and no
long transaction.

What is in question is fixed at the start: the runs accepted by then. What others do to them meanwhile is no error: a
run whose state has changed is skipped.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, TypeAlias

from actorjobs.clock import Clock
from actorjobs.errors import InvalidOption, PolicyDenied
from actorjobs.model import Run, RunState
from actorjobs.policy import Action, Guard
from actorjobs.ports import RunFilter, Store
from actorjobs.runtime.filtering import Criteria, chosen, has_criteria

GROUP_RUNS = 200
"""Runs per transaction: enough to pay a commit off, few enough to hold nobody up and to fit into memory."""
FAILURES_KEPT = 100
PACE_SECONDS = 0.5
"""With a rate, a group is what may be done in so many seconds."""

Fate: TypeAlias = Exception | bool
"""What became of a run: True when it was done, False when there was nothing to do, or why it failed."""
Act: TypeAlias = Callable[[Sequence[Run]], Awaitable[Sequence[Fate]]]
OnProgress: TypeAlias = Callable[[int, int], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkResult:
    """What a bulk operation did. Of the runs that `matched`, so many were `done`, and so many `skipped`: they had
    changed meanwhile, or the policy denied it. The rest failed; `failed` has the first hundred of them, as (run id,
    reason)."""

    matched: int
    done: int = 0
    skipped: int = 0
    failed: tuple[tuple[str, str], ...] = ()


class BulkOptions(Criteria, total=False):
    """Which runs, and how to go about it: `rate` is runs per second (None: as fast as it goes), `dry_run` only counts,
    `limit` ends it after so many, `on_progress(so_far, of)` is called after each group, and `everything=True` stands
    for the criterion that is missing."""

    everything: bool
    rate: float | None
    dry_run: bool
    limit: int | None
    on_progress: OnProgress | None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How a bulk operation is to go about it."""

    where: RunFilter
    rate: float | None = None
    dry_run: bool = False
    limit: int | None = None
    on_progress: OnProgress | None = None


def plan(
    where: RunFilter | None, options: BulkOptions, *, possible: Collection[RunState], default: Collection[RunState]
) -> Plan:
    """A checked plan. `InvalidOption` without any criterion, unless `everything`; for states that never allow the
    operation; for a rate or a limit that is no positive number; for what is no switch, or not to be called."""
    own: dict[str, Any] = {name: options[name] for name in _OWN if name in options}  # type: ignore[literal-required]
    _check_own(own)
    where = chosen(where, {name: value for name, value in options.items() if name not in _OWN})
    if not own.pop("everything", False) and not has_criteria(where):
        raise InvalidOption("this would be done to every run: give a criterion like job=, or everything=True")
    if where.search == "":
        raise InvalidOption("search is empty, which every run would match: leave it out, or say what to look for")
    if where.state is None:
        where = replace(where, state=tuple(state for state in RunState if state in default))
    wrong = [state for state in where.state or () if state not in possible]
    if wrong:
        allowed = ", ".join(state for state in RunState if state in possible)
        raise InvalidOption(f"this cannot be done to {wrong[0]} runs: state is one of {allowed}")
    return Plan(where=where, **own)


_OWN = tuple(BulkOptions.__annotations__.keys() - Criteria.__annotations__.keys())


def _check_own(own: Mapping[str, Any]) -> None:
    for name in ("everything", "dry_run"):
        if not isinstance(own.get(name, False), bool):
            raise InvalidOption(f"{name} is True or False")
    if own.get("on_progress") is not None and not callable(own["on_progress"]):
        raise InvalidOption("on_progress is a function, called with how many runs so far and of how many, or None")
    _check_rate(own.get("rate"))
    _check_limit(own.get("limit"))


def _check_rate(rate: object) -> None:
    if rate is None:
        return
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not math.isfinite(rate) or rate <= 0:
        raise InvalidOption("rate is a number of runs per second above 0, or None for no limit")


def _check_limit(limit: object) -> None:
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        raise InvalidOption("limit is a whole number from 1, or None for no limit")


@dataclass
class _Tally:
    matched: int = 0
    done: int = 0
    skipped: int = 0
    failed: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])

    def count(self, run: Run, fate: Fate) -> None:
        if isinstance(fate, Exception):
            if len(self.failed) < FAILURES_KEPT:
                self.failed.append((run.id, str(fate)))
        elif fate:
            self.done += 1
        else:
            self.skipped += 1

    def result(self) -> BulkResult:
        return BulkResult(matched=self.matched, done=self.done, skipped=self.skipped, failed=tuple(self.failed))


class Bulk:
    """Goes through runs and has something done to them."""

    def __init__(self, *, store: Store, guard: Guard, clock: Clock) -> None:
        self._store = store
        self._guard = guard
        self._clock = clock

    async def run(self, action: Action, plan: Plan, act: Act) -> BulkResult:
        """`PolicyDenied` unless runs so chosen may be listed; a run for which `action` is denied is skipped."""
        where = plan.where
        await self._guard.runs(tenant=where.tenant, job=where.job, queue=where.queue)
        newest = await self._store.list(RunFilter(), limit=1, cursor=None)
        if not newest.runs:
            return BulkResult(matched=0)
        # By the store's own time, and by the ids where time stands still: new runs of this very operation are later.
        last_id, now = newest[0].id, await self._store.now()
        until = min(where.until or now + _INSTANT, now + _INSTANT)
        bounded = replace(plan, where=replace(where, until=until))
        if plan.dry_run and not self._guard.is_on:
            return BulkResult(matched=await self._count(bounded))
        return await self._through(action, bounded, act, last_id)

    async def _count(self, plan: Plan) -> int:
        counted = sum((await self._store.count_by_state(plan.where)).values())
        return counted if plan.limit is None else min(counted, plan.limit)

    async def _through(self, action: Action, plan: Plan, act: Act, last_id: str) -> BulkResult:
        tally, cursor, began = _Tally(), None, self._clock.monotonic()
        total = 0 if plan.on_progress is None else await self._count(plan)
        while True:
            page = await self._store.list(
                plan.where, limit=_group_size(plan, tally.matched), cursor=cursor, is_oldest_first=True
            )
            group = [run for run in page if run.id <= last_id]
            tally.matched += len(group)
            await self._do(action, plan, act, group, tally)
            if plan.on_progress is not None:
                plan.on_progress(tally.matched, max(total, tally.matched))
            cursor = page.cursor
            if cursor is None or cursor > last_id or tally.matched == plan.limit:
                break
            await self._keep_pace(plan, tally.matched, began)
        return tally.result()

    async def _do(self, action: Action, plan: Plan, act: Act, group: Sequence[Run], tally: _Tally) -> None:
        allowed = [run for run in group if await self._may(action, run)]
        tally.skipped += len(group) - len(allowed)
        if allowed and not plan.dry_run:
            for run, fate in zip(allowed, await act(allowed), strict=True):
                tally.count(run, fate)

    async def _may(self, action: Action, run: Run) -> bool:
        try:
            await self._guard.run(action, run)
        except PolicyDenied:
            return False
        return True

    async def _keep_pace(self, plan: Plan, matched: int, began: float) -> None:
        if plan.rate is not None and not plan.dry_run:
            ahead = began + matched / plan.rate - self._clock.monotonic()
            if ahead > 0:
                await self._clock.sleep(ahead)


_INSTANT = timedelta(microseconds=1)


def _group_size(plan: Plan, matched: int) -> int:
    size = GROUP_RUNS if plan.rate is None else min(GROUP_RUNS, max(1, int(plan.rate * PACE_SECONDS)))
    return size if plan.limit is None else min(size, plan.limit - matched)
