"""The half of a store in memory that is not about single runs: leases of workers, wishes of operators."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta

from actorjobs.clock import Clock
from actorjobs.errors import StoreUnavailable
from actorjobs.lifecycle import WAITING
from actorjobs.model import RunState
from actorjobs.ports import LostRun, QueueInfo, Serves, Wishes, WorkerInfo
from actorjobs.testing import memory_rows
from actorjobs.testing.memory_rows import MemoryDatabase, Row, clean, seconds

DEAD_WORKERS_KEPT = timedelta(days=1)


class MemoryLeases:
    """What a store in memory stands on, and who works and how much of it."""

    def __init__(self, *, namespace: str, clock: Clock, database: MemoryDatabase) -> None:
        self.database = database
        self._namespace = namespace
        self._clock = clock
        self._is_closed = False

    async def _begin(self) -> datetime:
        """Let others go first, as a database would; the time of what follows."""
        await asyncio.sleep(0)
        if self._is_closed:
            raise StoreUnavailable("the store in memory is closed")
        return self._clock.now()

    # leases

    async def join(self, worker: WorkerInfo) -> datetime:
        now = await self._begin()
        given = {name: getattr(worker, name) for name in ("id", "host", "boot_id", "pid", "lock_path")}
        own = {"namespace": self._namespace, "started_at": now, "beat_at": now, "died_at": None}
        own |= {"blamed": None, "serves": None}
        self.database.workers[worker.id] = given | own
        return now

    async def beat(self, owner: str) -> datetime | None:
        now = await self._begin()
        row = self.database.workers.get(owner)
        if row is None or row["died_at"] is not None:
            return None
        row["beat_at"] = now
        return now

    async def leave(self, owner: str) -> None:
        await self._begin()
        self.database.workers.pop(owner, None)

    async def blame(self, owner: str, run_id: str) -> None:
        await self._begin()
        if owner in self.database.workers:
            self.database.workers[owner]["blamed"] = run_id

    async def serve(self, owner: str, serves: Serves) -> None:
        await self._begin()
        if owner in self.database.workers:
            self.database.workers[owner]["serves"] = serves

    async def workers(self) -> Sequence[WorkerInfo]:
        await self._begin()
        mine = sorted(self._workers(), key=lambda row: (row["started_at"], row["id"]))
        return [memory_rows.worker_of(row) for row in mine]

    def _workers(self) -> list[Row]:
        return [row for row in self.database.workers.values() if row["namespace"] == self._namespace]

    async def declare_dead(self, silent_for: float, known_dead: Sequence[str] = ()) -> Sequence[str]:
        now = await self._begin()
        dying: list[str] = []
        for row in self._workers():
            if row["died_at"] is None:
                if row["id"] in known_dead or row["beat_at"] < now - seconds(silent_for):
                    row["died_at"] = now
                    dying.append(row["id"])
            elif row["died_at"] < now - DEAD_WORKERS_KEPT and not self.database.running_of(row["id"]):
                del self.database.workers[row["id"]]
        return sorted(dying)

    async def lost_runs(self, limit: int) -> Sequence[LostRun]:
        await self._begin()
        alive = {row["id"] for row in self.database.workers.values() if row["died_at"] is None}
        running = self.database.runs_of(self._namespace, RunState.RUNNING)
        lost = sorted(
            (row for row in running if row["claimed_by"] not in alive), key=lambda row: (row["claimed_at"], row["id"])
        )
        return [memory_rows.lost_run_of(row) for row in lost[:limit]]

    # the wishes of operators

    async def wishes(self, owner: str) -> Wishes:
        await self._begin()
        queues = {name: memory_rows.queue_of(row) for name, row in self._queues().items()}
        asked = (row for row in self.database.running_of(owner) if row["cancel_requested_at"] is not None)
        return Wishes(queues=queues, cancel={row["id"]: row["reason"] for row in asked})

    async def queues(self) -> Sequence[QueueInfo]:
        await self._begin()
        waiting = Counter(row["queue"] for row in self.database.runs_of(self._namespace, *WAITING))
        running = Counter(row["queue"] for row in self.database.runs_of(self._namespace, RunState.RUNNING))
        declared = self._queues()
        names = sorted({*declared, *waiting, *running})
        return [
            memory_rows.queue_of(declared.get(name, {"name": name}), waiting[name], running[name]) for name in names
        ]

    def _queues(self) -> dict[str, Row]:
        return {name: row for (space, name), row in self.database.queues.items() if space == self._namespace}

    async def declare_queues(self, names: Sequence[str]) -> None:
        await self._begin()
        for name in names:
            new = {"name": name, "is_paused": False, "concurrency": None, "reason": None}
            self.database.queues.setdefault((self._namespace, name), new)

    async def set_queue(
        self, name: str, *, is_paused: bool | None = None, concurrency: int | None = None, reason: str | None = None
    ) -> QueueInfo:
        await self.declare_queues([name])
        row = self.database.queues[self._namespace, name]
        if is_paused is not None:
            row |= {"is_paused": is_paused, "reason": clean(reason) if is_paused else None}
        if concurrency is not None:
            row["concurrency"] = concurrency
        return memory_rows.queue_of(row)
