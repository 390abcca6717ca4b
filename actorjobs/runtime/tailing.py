"""What happens to runs anywhere, as it happens: `runtime.runs.tail`.

No index holds changes in their order: every run would have to pay for it. So the store is asked twice a second where
the newest runs, and those that wait or run, stand; whatever stands elsewhere than before has its history read.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from actorjobs.clock import Clock
from actorjobs.errors import RunNotFound
from actorjobs.lifecycle import TERMINAL
from actorjobs.model import HistoryEntry
from actorjobs.policy import Guard
from actorjobs.ports import Mark, RunFilter, Store

POLL_SECONDS: Final = 0.5
WATCHED: Final = 2000
"""How many of the newest runs are watched, and how many of those that wait and of those that run."""
HISTORIES_PER_POLL: Final = 500
REMEMBERED: Final = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Something that happened to a run; `entry` is the step of its history."""

    run_id: str
    job: str
    queue: str
    tenant: str | None
    entry: HistoryEntry


class Tail:
    """Looks again and again."""

    def __init__(
        self, *, store: Store, guard: Guard, clock: Clock, where: RunFilter, on_left_out: Callable[[int], object]
    ) -> None:
        self._store = store
        self._guard = guard
        self._clock = clock
        self._where = where
        self._on_left_out = on_left_out
        self._marks: dict[str, Mark] = {}
        self._told: OrderedDict[str, set[tuple[str, int, datetime | None]]] = OrderedDict()

    async def changes(self, since: datetime | None) -> AsyncIterator[Change]:
        """Changes since then, or from now on, in the order of their times within each look. Never ends by itself."""
        where = self._where
        await self._guard.runs(tenant=where.tenant, job=where.job, queue=where.queue)
        if since is None:
            since = await self._store.now()
            await self._changed()
        while True:
            changed = await self._changed()
            if len(changed) > HISTORIES_PER_POLL:
                self._on_left_out(len(changed) - HISTORIES_PER_POLL)
            found = [change for mark in changed[:HISTORIES_PER_POLL] for change in await self._news(mark, since)]
            for change in sorted(found, key=lambda change: change.entry.at):
                yield change
            await self._clock.sleep(POLL_SECONDS)

    async def _changed(self) -> list[Mark]:
        """Runs that stand elsewhere than at the last look, and match."""
        before = self._marks
        live = [mark.run_id for mark in before.values() if mark.state not in TERMINAL]
        self._marks = {mark.run_id: mark for mark in await self._store.marks(live, WATCHED)}
        return [mark for mark in self._marks.values() if before.get(mark.run_id) != mark and self._matches(mark)]

    def _matches(self, mark: Mark) -> bool:
        wanted = ((self._where.job, mark.job), (self._where.queue, mark.queue), (self._where.tenant, mark.tenant))
        return all(want is None or want == have for want, have in wanted)

    async def _news(self, mark: Mark, since: datetime) -> list[Change]:
        """What has happened to the run since then and was not told yet."""
        try:
            if self._guard.is_on and not await self._guard.may_read(await self._store.get(mark.run_id)):
                return []
            history = await self._store.history(mark.run_id)
        except RunNotFound:
            return []
        told = self._told.setdefault(mark.run_id, set())
        self._told.move_to_end(mark.run_id)
        while len(self._told) > REMEMBERED:
            self._told.popitem(last=False)
        news: list[HistoryEntry] = []
        for entry in history:
            # An attempt starts once; when exactly, is known a little better after its end.
            key = (entry.event, entry.attempt, None if entry.event == "started" else entry.at)
            if entry.at >= since and key not in told:
                told.add(key)
                news.append(entry)
        states = self._where.state
        return [
            Change(run_id=mark.run_id, job=mark.job, queue=mark.queue, tenant=mark.tenant, entry=entry)
            for entry in news
            if states is None or entry.state in states
        ]
