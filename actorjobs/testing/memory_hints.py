"""The part of a store in memory that a broker which carries hints needs: claims by hint, outbox, quarantine."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from itertools import islice
from typing import Any

from actorjobs.clock import Clock
from actorjobs.lifecycle import WAITING, advance
from actorjobs.model import RunState, Transition, new_id
from actorjobs.ports import (
    LOST_AFTER_SECONDS,
    PROMISED_SECONDS,
    PUBLISH_GRACE_SECONDS,
    Backlog,
    Bid,
    Claim,
    Hint,
    OutboxFacts,
    Quarantined,
    Queued,
    Refusal,
)
from actorjobs.stores import bids as bidding
from actorjobs.stores import quarantine, rows
from actorjobs.testing import memory_rows
from actorjobs.testing.memory_leases import MemoryLeases
from actorjobs.testing.memory_rows import MemoryDatabase, Row, seconds, state_of


class MemoryHints(MemoryLeases):
    """Verbs on hints and what they lead to."""

    def __init__(self, *, namespace: str, clock: Clock, database: MemoryDatabase, has_outbox: bool = False) -> None:
        super().__init__(namespace=namespace, clock=clock, database=database)
        self._has_outbox = has_outbox

    def _to_publish(self, now: datetime, due: datetime, grace: float = 0.0) -> Row:
        """What a run's row says of its hint when the run becomes claimable."""
        return rows.unpublished(rows.publish_after(now, due, grace=grace) if self._has_outbox else None)

    # claims

    async def claim(self, bids: Sequence[Bid], jobs: Mapping[str, int], owner: str) -> Sequence[Claim | Refusal]:
        now = await self._begin()
        wanted = bidding.first_bids(bids)
        answers = {(bid.run_id, bid.seq): self._answer(bid, jobs, owner, now) for bid in wanted}
        return bidding.answered(bids, answers)

    def _answer(self, bid: Bid, jobs: Mapping[str, int], owner: str, now: datetime) -> Claim | Refusal:
        row = self.database.runs.get(bid.run_id)
        if row is None or not self._is_waiting(row):
            return bidding.STALE
        is_paused = self._queues().get(row["queue"], {}).get("is_paused", False)
        refusal = bidding.refusal(memory_rows.waiting_of(row, now, is_paused=is_paused), bid, jobs)
        return refusal or self._claim(row, owner, now)

    def _is_waiting(self, row: Row) -> bool:
        return row["namespace"] == self._namespace and state_of(row) in WAITING

    def _claim(self, row: Row, owner: str, now: datetime) -> Claim:
        row["state"] = advance(state_of(row), Transition.CLAIM).value
        row |= {"attempt": row["attempt"] + 1, "claimed_at": now, "claimed_by": owner}
        row |= {"attempted_at": None, "progress": None, "publish_after": None, "republished": 0}
        if row["unique_digest"] is not None and row["unique_digest"].startswith("q"):
            row["unique_digest"] = None
        return memory_rows.claim_of(row)

    # the outbox

    async def identity(self) -> str:
        await self._begin()
        return self.database.identities.setdefault(self._namespace, new_id())

    async def stage(self, limit: int) -> Sequence[Hint]:
        now = await self._begin()
        waiting = [row for row in self._waiting() if row["publish_after"] is not None]
        overdue = sorted((row for row in waiting if row["publish_after"] <= now), key=lambda row: row["publish_after"])
        staged = overdue[:limit]
        for row in staged:
            row["publish_after"] = now + seconds(PROMISED_SECONDS)
        return [memory_rows.hint_of(row, now) for row in staged]

    async def mark_published(self, hints: Sequence[Hint]) -> None:
        now = await self._begin()
        for row in self._hinted(hints):
            if row["publish_after"] is not None:
                row |= {"published_at": now, "publish_after": None}

    async def publish_later(
        self, hints: Sequence[Hint], seconds: float, *, doubling_to: float | None = None, as_new: bool = False
    ) -> None:
        now = await self._begin()
        for row in self._hinted(hints):
            grace = rows.postponed_by(row, seconds, doubling_to)
            row["publish_after"] = rows.publish_after(now, row["available_at"], grace=grace)
            row["republished"] += doubling_to is not None
            if as_new:
                row |= {"seq": row["seq"] + 1, "published_at": None}

    async def publish_now(self, queue: str, jobs: Sequence[str]) -> int:
        now = await self._begin()
        mine = [row for row in self._waiting(queue) if row["job"] in jobs and row["available_at"] <= now]
        later = now + seconds(PROMISED_SECONDS)
        put_off = [row for row in mine if row["republished"] and (row["publish_after"] or now) > later]
        for row in put_off:
            row["publish_after"] = now
        return len(put_off)

    async def outbox_facts(self) -> Mapping[str, OutboxFacts]:
        now = await self._begin()
        by_queue: dict[str, list[Any]] = {}
        for row in self._waiting():
            by_queue.setdefault(row["queue"], []).append(row)
        return {queue: _facts(some, now) for queue, some in by_queue.items()}

    async def backlog(self) -> Backlog:
        now = await self._begin()
        mine = list(self.database.runs_of(self._namespace, *WAITING, RunState.RUNNING, RunState.DEAD_LETTERED))
        names = sorted({*self._queues(), *(row["queue"] for row in mine)})
        due = [row for row in self._waiting() if row["available_at"] <= now and row["publish_after"] is not None]
        late = [row["available_at"] for row in due if _is_unpublished(row, now)]
        return Backlog(
            queues={name: _queued([row for row in mine if row["queue"] == name], now) for name in names},
            unpublished=len(late),
            unpublished_age=(now - min(late)).total_seconds() if late else 0.0,
            quarantined=len(await self.quarantined(sys.maxsize)),
        )

    async def note_queue(self, queue: str, *, is_absent: bool) -> None:
        now = await self._begin()
        await self.declare_queues([queue])
        self._seen(queue)["absent_at" if is_absent else "empty_at"] = now

    def _seen(self, queue: str) -> dict[str, datetime | None]:
        """When the queue was last seen empty and absent."""
        return self.database.sightings.setdefault((self._namespace, queue), {"empty_at": None, "absent_at": None})

    async def restage_lost(self, queue: str, overtaken: Mapping[int, datetime], limit: int) -> int:
        now = await self._begin()
        seen = self._seen(queue)
        told = [
            row for row in self._waiting(queue) if row["publish_after"] is None and memory_rows.has_rested(row, now)
        ]
        absent_at, empty_at = seen["absent_at"], seen["empty_at"]
        gone = [row for row in told if absent_at is not None and memory_rows.hinted_at(row) <= absent_at][:limit]
        if len(gone) < limit:
            seen["absent_at"] = None
        ids = {row["id"] for row in gone}
        old = None if empty_at is None else empty_at - seconds(LOST_AFTER_SECONDS)
        passed = (row for row in told if row["id"] not in ids and _is_passed(row, old, overtaken))
        lost = [*gone, *islice(passed, limit - len(gone))]
        for row in lost:
            row["publish_after"] = rows.publish_after(now, row["available_at"])
            row["republished"] += 1
        return len(lost)

    def _waiting(self, queue: str | None = None) -> Iterable[Row]:
        waiting = self.database.runs_of(self._namespace, *WAITING)
        return (row for row in waiting if queue is None or row["queue"] == queue)

    def _hinted(self, hints: Sequence[Hint]) -> list[Row]:
        """The runs that still wait in the generations of the hints."""
        found = [(self.database.runs.get(run_id), seq) for run_id, seq in bidding.generations(hints)]
        return [row for row, seq in found if row is not None and row["seq"] == seq and self._is_waiting(row)]

    # quarantine

    async def quarantine(self, messages: Sequence[Quarantined]) -> None:
        now = await self._begin()
        for message in messages:
            self.database.messages_ever += 1
            own = {"id": self.database.messages_ever, "namespace": self._namespace, "at": now}
            self.database.messages[self.database.messages_ever] = own | quarantine.kept(message)

    async def quarantined(self, limit: int, after: str | None = None) -> Sequence[Quarantined]:
        await self._begin()
        edge = 0 if after is None else quarantine.checked_id(after)
        later = (row for id, row in self.database.messages.items() if id > edge)
        mine = (row for row in later if row["namespace"] == self._namespace)
        return [quarantine.quarantined_of(row) for row in islice(mine, limit)]

    async def release_quarantined(self, ids: Sequence[str]) -> int:
        await self._begin()
        known = {int(id) for id in ids if quarantine.is_id(id)}
        mine = [id for id, row in self.database.messages.items() if row["namespace"] == self._namespace]
        return len([self.database.messages.pop(id) for id in mine if id in known])

    def _purge_quarantine(self, now: datetime) -> None:
        for id, row in list(self.database.messages.items()):
            if row["namespace"] == self._namespace and row["at"] < now - quarantine.KEPT_FOR:
                del self.database.messages[id]


def _is_passed(row: Row, old: datetime | None, overtaken: Mapping[int, datetime]) -> bool:
    """Whether the queue was empty, or had come to younger hints, when this one should have been in it."""
    at = max(memory_rows.hinted_at(row), row["available_at"])
    moment = overtaken.get(row["priority"])
    return (old is not None and at <= old) or (moment is not None and at < moment)


def _is_unpublished(row: Row, now: datetime) -> bool:
    """Whether somebody should be publishing its hint: it has come back to nobody."""
    grace = seconds(PUBLISH_GRACE_SECONDS if row["republished"] == 0 else 0.0)
    at: datetime = row["publish_after"]
    return at <= now + grace


def _facts(waiting: Sequence[Any], now: datetime) -> OutboxFacts:
    overdue = [row for row in waiting if row["publish_after"] is not None and row["publish_after"] <= now - seconds(10)]
    told = [row for row in waiting if row["publish_after"] is None and row["available_at"] <= now]
    return OutboxFacts(waiting=len(waiting), overdue=len(overdue), told=len(told))


def _queued(runs: Sequence[Row], now: datetime) -> Queued:
    states = Counter(state_of(row) for row in runs if row["available_at"] > now or state_of(row) not in WAITING)
    due = [row["available_at"] for row in runs if state_of(row) in WAITING and row["available_at"] <= now]
    return Queued(
        ready=len(due),
        oldest_age=(now - min(due)).total_seconds() if due else 0.0,
        scheduled=states[RunState.SCHEDULED] + states[RunState.QUEUED],
        retrying=states[RunState.RETRYING],
        running=states[RunState.RUNNING],
        dead_lettered=states[RunState.DEAD_LETTERED],
    )
