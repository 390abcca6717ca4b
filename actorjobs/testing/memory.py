"""A store in memory: the same answers and errors as one on a database, for tests. Nothing outlives the process.

It keeps rows as the tables do and reads them by the same functions; what becomes of a run it asks `lifecycle`. A verb
runs to its end without giving way to another one, so that each is a transaction.
"""

from __future__ import annotations

import builtins
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from itertools import islice

from actorjobs import ports
from actorjobs.clock import Clock, SystemClock
from actorjobs.errors import (
    ActorJobsError,
    DuplicateRun,
    IdempotencyConflict,
    InvalidOption,
    RunNotFound,
    RunStateConflict,
)
from actorjobs.lifecycle import WAITING, advance
from actorjobs.model import Attempt, Envelope, HistoryEntry, Run, RunState, Transition
from actorjobs.ports import PUBLISH_GRACE_SECONDS, Accepted, Claim, Demand, Fence, RunFilter, Settlement
from actorjobs.stores import rows
from actorjobs.stores.holds import Standings
from actorjobs.testing import memory_rows
from actorjobs.testing.memory_hints import MemoryHints
from actorjobs.testing.memory_rows import MemoryDatabase, Row, by_urgency, clean, state_of


class MemoryStore(MemoryHints):
    """Runs of one namespace in memory. See `actorjobs.ports.Store` for what each verb promises.

    Stores that are given the same `database` see each other's runs, like two processes; all of them on one event loop.
    """

    url = "memory://"

    def __init__(
        self,
        *,
        namespace: str = "default",
        clock: Clock | None = None,
        database: MemoryDatabase | None = None,
        has_outbox: bool = False,
    ) -> None:
        clock, database = clock or SystemClock(), database or MemoryDatabase()
        super().__init__(namespace=namespace, clock=clock, database=database, has_outbox=has_outbox)
        self._purged_up_to = ""

    def __repr__(self) -> str:
        return f"MemoryStore(namespace={self._namespace!r}, runs={len(self.database.runs)})"

    async def open(self) -> None:
        self._is_closed = False

    async def close(self) -> None:
        self._is_closed = True

    # accepting

    async def insert(
        self, envelopes: Sequence[Envelope], *, publish_in: float = PUBLISH_GRACE_SECONDS
    ) -> Sequence[Accepted | Exception]:
        now = await self._begin()
        return [self._insert(envelope, now, publish_in) for envelope in envelopes]

    async def insert_all(
        self,
        envelopes: Sequence[Envelope],
        tx: ports.Transaction | None = None,
        *,
        publish_in: float = PUBLISH_GRACE_SECONDS,
    ) -> Sequence[Accepted]:
        if tx is not None:
            raise InvalidOption("a store in memory takes part in no transaction: tx= needs one on a database")
        now = await self._begin()
        accepted: builtins.list[Accepted] = []
        runs = {run_id: dict(row) for run_id, row in self.database.runs.items()}
        events = {run_id: builtins.list(noted) for run_id, noted in self.database.events.items()}
        for index, envelope in enumerate(envelopes):
            answer = self._insert(envelope, now, publish_in)
            if isinstance(answer, Exception):
                self.database.runs, self.database.events = runs, events
                if len(envelopes) > 1:
                    answer.args = (f"envelope {index}: {answer}",)
                raise answer
            accepted.append(answer)
        return accepted

    def _insert(self, envelope: Envelope, now: datetime, publish_in: float) -> Accepted | Exception:
        try:
            row = memory_rows.new_row(envelope, self._namespace, now)
        except ActorJobsError as refusal:
            return refusal
        if (same := self.database.runs.get(envelope.id)) is not None:
            if same["namespace"] != self._namespace:
                return InvalidOption(f"run id {envelope.id} is taken in another namespace")
            return Accepted(run_id=envelope.id, existing=True)
        if envelope.idempotency_key is not None and (holder := self._holder_of_key(row, now)) is not None:
            if holder["fingerprint"] != row["fingerprint"]:
                return IdempotencyConflict(
                    f"the idempotency key was used for {envelope.job} with another payload, by run {holder['id']}: "
                    "use a new key for new work",
                    run_id=holder["id"],
                )
            return Accepted(run_id=holder["id"], existing=True)
        if (twin := self._twin_of(row)) is not None:
            return self._conflict(twin, envelope, now)
        self.database.runs[envelope.id] = row | self._to_publish(now, row["available_at"], publish_in)
        return Accepted(run_id=envelope.id, existing=False)

    def _conflict(self, twin: Row, envelope: Envelope, now: datetime) -> Accepted | Exception:
        on_conflict = (envelope.unique or {}).get("on_conflict")
        if on_conflict == "raise":
            return DuplicateRun(
                f"run {twin['id']} of {envelope.job} is {twin['state']} and unique: wait for it, or cancel it",
                run_id=twin["id"],
            )
        if on_conflict == "replace" and state_of(twin) in WAITING:
            twin["state"] = advance(state_of(twin), Transition.RESCHEDULE).value
            twin |= {"seq": twin["seq"] + 1} | rows.new_content(envelope, now)
            twin |= self._to_publish(now, twin["available_at"])
            self.database.note(twin, "replaced", now, None, None)
            return Accepted(run_id=twin["id"], existing=True, replaced=True)
        return Accepted(run_id=twin["id"], existing=True)

    def _twin_of(self, new: Row) -> Row | None:
        if new["unique_digest"] is None:
            return None
        scope = ("tenant", "job", "unique_digest")
        runs = self.database.runs_of(self._namespace)
        return next((row for row in runs if all(row[name] == new[name] for name in scope)), None)

    def _holder_of_key(self, new: Row, now: datetime) -> Row | None:
        scope = ("tenant", "job", "idempotency_key")
        runs = self.database.runs_of(self._namespace)
        holder = next((row for row in runs if all(row[name] == new[name] for name in scope)), None)
        if holder is not None and holder["key_expires_at"] is not None and holder["key_expires_at"] <= now:
            holder |= {"idempotency_key": None, "key_expires_at": None}
            return None
        return holder

    # delivering

    async def take(self, demands: Sequence[Demand], owner: str) -> Sequence[ports.Taken]:
        now = await self._begin()
        return [self._take(demand, owner, now) for demand in demands]

    def _take(self, demand: Demand, owner: str, now: datetime) -> ports.Taken:
        if self.database.queues.get((self._namespace, demand.queue), {}).get("is_paused"):
            return ports.Taken(claims=())
        waiting = [row for row in self.database.runs_of(self._namespace, *WAITING) if row["queue"] == demand.queue]
        due = sorted((row for row in waiting if row["available_at"] <= now), key=by_urgency)
        found = islice((row for row in due if memory_rows.is_claimable(row, demand, now)), demand.limit)
        claims = [self._claim(row, owner, now) for row in found]
        claims.sort(key=lambda claim: (-claim.priority, claim.available_at, claim.run_id))
        if len(claims) == demand.limit or demand.suspects:
            return ports.Taken(claims=claims, next_due=0.0 if claims else None)
        later = [row["available_at"] for row in waiting if row["available_at"] > now]
        next_due = (min(later) - now).total_seconds() if later else None
        suspects_due = any(state_of(row) in WAITING and memory_rows.is_suspect(row) for row in due)
        return ports.Taken(claims=claims, next_due=next_due, suspects_due=suspects_due)

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[RunState | None]:
        now = await self._begin()
        return [self._settle(settlement, now) for settlement in settlements]

    def _settle(self, settlement: Settlement, now: datetime) -> RunState | None:
        row = self.database.held_by(settlement.fence)
        if row is None:
            return self.database.recorded(settlement)
        ended = memory_rows.end_attempt(row, settlement, now)
        self.database.attempts.setdefault(row["id"], []).append(ended)
        if state_of(row) in WAITING:
            row |= self._to_publish(now, row["available_at"], PUBLISH_GRACE_SECONDS)
        return state_of(row)

    async def save_progress(self, fence: Fence, progress: str) -> bool:
        return await self._save(fence, {"progress": progress})

    async def save_checkpoint(self, fence: Fence, checkpoint: str) -> bool:
        return await self._save(fence, {"checkpoint": checkpoint})

    async def _save(self, fence: Fence, values: Row) -> bool:
        await self._begin()
        row = self.database.held_by(fence)
        if row is not None:
            row |= values
        return row is not None

    async def running(self, owner: str) -> Sequence[Claim]:
        await self._begin()
        return [memory_rows.claim_of(row) for row in self.database.running_of(owner)]

    # sweeps

    async def expire(self, limit: int) -> Sequence[str]:
        now = await self._begin()
        waiting = self.database.runs_of(self._namespace, *WAITING)
        overdue = [row for row in waiting if row["expires_at"] is not None and row["expires_at"] <= now]
        ended = sorted(overdue, key=lambda row: row["id"])[:limit]
        for row in ended:
            row["state"] = advance(state_of(row), Transition.EXPIRE).value
            row |= {"finished_at": now, "reason": rows.EXPIRED_REASON, "publish_after": None}
            row["unique_digest"] = rows.ended_digest(row["unique_digest"])
            self.database.note(row, "expired", now, None, None)
        return [row["id"] for row in ended]

    async def purge(self, keep: Mapping[RunState, float | None], limit: int) -> ports.Purged:
        now = await self._begin()
        runs = sorted(self.database.runs_of(self._namespace), key=lambda row: row["id"])
        youngest = rows.youngest_to_purge(keep, now)
        self._purge_quarantine(now)
        ended = [row for row in runs if row["finished_at"] is not None]
        candidates = [row for row in ended if row["finished_at"] < youngest or row["retention"] is not None]
        seen = [row for row in candidates if row["id"] > self._purged_up_to][:limit]
        old = [row["id"] for row in seen if rows.is_past_keeping(row, keep, now)]
        for run_id in old:
            self.database.remove(run_id)
        self._purged_up_to = seen[-1]["id"] if len(seen) == limit else ""
        return ports.Purged(deleted=len(old), has_more=self._purged_up_to != "")

    # managing

    def _row(self, run_id: str) -> Row:
        row = self.database.runs.get(run_id)
        if row is None or row["namespace"] != self._namespace:
            raise RunNotFound(f"there is no run {str(run_id)[:64]!r} in namespace {self._namespace!r}")
        return row

    def _run(self, row: Row) -> Run:
        ended = self.database.attempts.get(row["id"], ())
        paused = {name for name, queue in self._queues().items() if queue["is_paused"]}
        fleet = [worker["serves"] for worker in self._workers() if worker["died_at"] is None and worker["serves"]]
        run = rows.run_of(row, [rows.attempt_of(attempt, None) for attempt in ended])
        return Standings(paused=paused, fleet=fleet).shown(run)

    async def now(self) -> datetime:
        return await self._begin()

    async def get(self, run_id: str) -> Run:
        await self._begin()
        return self._run(self._row(run_id))

    async def envelope(self, run_id: str) -> Envelope:
        await self._begin()
        return rows.envelope_of(self._row(run_id))

    async def states(self, run_ids: Sequence[str]) -> Mapping[str, RunState]:
        await self._begin()
        return {row["id"]: state_of(row) for row in self.database.runs_of(self._namespace) if row["id"] in run_ids}

    async def list(
        self, where: RunFilter, *, limit: int, cursor: str | None, is_oldest_first: bool = False
    ) -> ports.RunPage:
        rows.check_cursor(cursor)
        await self._begin()
        found = sorted(self._matching(where), key=lambda row: str(row["id"]), reverse=not is_oldest_first)
        if cursor is not None:
            found = [row for row in found if (row["id"] > cursor if is_oldest_first else row["id"] < cursor)]
        page = [self._run(row) for row in found[:limit]]
        return ports.RunPage(runs=page, cursor=page[-1].id if len(found) > limit else None)

    async def count_by_state(self, where: RunFilter) -> Mapping[RunState, int]:
        await self._begin()
        counted = Counter(state_of(row) for row in self._matching(where))
        return {state: counted[state] for state in RunState}

    def _matching(self, where: RunFilter) -> builtins.list[Row]:
        return [row for row in self.database.runs_of(self._namespace) if memory_rows.matches(row, where)]

    async def marks(self, run_ids: Sequence[str], limit: int) -> Sequence[ports.Mark]:
        await self._begin()
        mine = sorted(self.database.runs_of(self._namespace), key=lambda row: str(row["id"]), reverse=True)
        waiting = [row for row in mine if state_of(row) in WAITING]
        running = [row for row in mine if state_of(row) is RunState.RUNNING]
        asked = [row for row in mine if row["id"] in run_ids]
        found = {row["id"]: row for row in [*mine[:limit], *waiting[:limit], *running[:limit], *asked]}
        return [memory_rows.mark_of(row) for row in found.values()]

    async def attempts(self, run_id: str) -> Sequence[Attempt]:
        await self._begin()
        run = self._run(self._row(run_id))
        ended = [rows.attempt_of(row, run.trace_id) for row in self.database.attempts.get(run_id, ())]
        return [*ended, rows.current_attempt(run)] if run.state is RunState.RUNNING else ended

    async def history(self, run_id: str) -> Sequence[HistoryEntry]:
        await self._begin()
        run = self._run(self._row(run_id))
        return rows.history_of(run, self.database.attempts.get(run_id, []), self.database.events.get(run_id, []))

    async def cancel(self, run_id: str, reason: str | None, by: str | None) -> Run:
        now = await self._begin()
        return self._cancel(self._row(run_id), reason, by, now)

    def _cancel(self, row: Row, reason: str | None, by: str | None, now: datetime) -> Run:
        reason = clean(reason)
        if state_of(row) in WAITING:
            row["state"] = advance(state_of(row), Transition.CANCEL).value
            row |= {"finished_at": now, "reason": reason, "publish_after": None}
            row["unique_digest"] = rows.ended_digest(row["unique_digest"])
            self.database.note(row, "canceled", now, reason, by)
        elif state_of(row) is RunState.RUNNING and row["cancel_requested_at"] is None:
            row |= {"cancel_requested_at": now, "reason": reason}
            self.database.note(row, "cancel_requested", now, reason, by)
        return self._run(row)

    async def cancel_many(self, run_ids: Sequence[str], reason: str | None, by: str | None) -> Sequence[Run | None]:
        now = await self._begin()
        answers: builtins.list[Run | None] = []
        for run_id in run_ids:
            row = self.database.runs.get(run_id)
            if row is None or row["namespace"] != self._namespace or not memory_rows.may_be_canceled(row):
                answers.append(None)
            else:
                answers.append(self._cancel(row, reason, by, now))
        return answers

    async def reopen(self, run_id: str, reason: str | None, by: str | None) -> Run:
        now = await self._begin()
        return self._reopen(run_id, reason, by, now)

    def _reopen(self, run_id: str, reason: str | None, by: str | None, now: datetime) -> Run:
        row = self._row(run_id)
        state, digest = advance(state_of(row), Transition.REOPEN), rows.reopened_digest(row)
        twin = self._twin_of(row | {"unique_digest": digest})
        if twin is not None and twin is not row:
            raise DuplicateRun(
                f"run {run_id} is unique, and run {twin['id']} has its place: wait for that one", run_id=twin["id"]
            )
        row |= {"state": state.value, "unique_digest": digest}
        cleared = ("finished_at", "expires_at", "hold", "cancel_requested_at", "reason")
        row |= dict.fromkeys(cleared) | {"losses": 0, "max_attempts": row["failures"] + 1}
        row |= {"available_at": now, "seq": row["seq"] + 1} | self._to_publish(now, now)
        self.database.note(row, "reopened", now, clean(reason), by)
        return self._run(row)

    async def reopen_many(
        self, run_ids: Sequence[str], reason: str | None, by: str | None
    ) -> Sequence[Run | DuplicateRun | None]:
        now = await self._begin()
        answers: builtins.list[Run | DuplicateRun | None] = []
        for run_id in run_ids:
            try:
                answers.append(self._reopen(run_id, reason, by, now))
            except (RunNotFound, RunStateConflict):
                answers.append(None)
            except DuplicateRun as duplicate:
                answers.append(duplicate)
        return answers

    async def ahead(self, run: Run, most: int) -> int:
        now, own = await self._begin(), (-run.priority, run.available_at)
        waiting = (row for row in self.database.runs_of(self._namespace, *WAITING) if row["queue"] == run.queue)
        first = (row for row in waiting if row["available_at"] <= now and by_urgency(row) < own)
        return sum(1 for _ in islice(first, most))

    async def reschedule(self, run_id: str, run_at: datetime, by: str | None) -> Run:
        now = await self._begin()
        row, due = self._row(run_id), max(run_at.astimezone(UTC), now)
        row["state"] = advance(state_of(row), Transition.RESCHEDULE).value
        row |= {"available_at": due, "seq": row["seq"] + 1} | self._to_publish(now, due)
        self.database.note(row, "rescheduled", now, f"due {due.isoformat()}", by)
        return self._run(row)

    async def delete(self, run_id: str) -> None:
        await self._begin()
        row = self._row(run_id)
        if state_of(row) is RunState.RUNNING:
            raise RunStateConflict(f"run {run_id} is running: cancel it first, then delete it")
        self.database.remove(row["id"])

    # noticing what others commit

    @asynccontextmanager
    async def watch(self, notice: Callable[[], None]) -> AsyncGenerator[None]:
        watcher = (self, notice)
        self.database.watchers.append(watcher)
        try:
            yield
        finally:
            self.database.watchers.remove(watcher)

    def announce(self) -> None:
        for store, notice in builtins.list(self.database.watchers):
            if store is not self:
                notice()
