"""Reading and managing runs: `runtime.runs`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from typing_extensions import Unpack

from actorjobs.clock import Clock
from actorjobs.codec import LIMITS, clip
from actorjobs.errors import (
    ActorJobsError,
    InvalidOption,
    PolicyDenied,
    ResultTimeout,
    RunNotFound,
    RunStateConflict,
    StoreUnavailable,
)
from actorjobs.jobs import RunHandle
from actorjobs.lifecycle import REOPENABLE, TERMINAL
from actorjobs.model import Attempt, Envelope, HistoryEntry, Run, RunState, in_trace, new_traceparent
from actorjobs.policy import Action, Guard
from actorjobs.ports import Accepted, Broker, Hint, RunFilter, RunPage, Store
from actorjobs.retry import seconds
from actorjobs.runtime.bulk import Bulk, BulkOptions, BulkResult, Fate, plan
from actorjobs.runtime.explaining import Explanation, explain, facts
from actorjobs.runtime.filtering import States, check_words, moment, run_filter
from actorjobs.runtime.tailing import Change, Tail
from actorjobs.tracestate import Told, written
from actorjobs.worker.waiter import Waiter

if TYPE_CHECKING:
    from actorjobs.runtime.registry import Registry

LIST_LIMIT = 100
MOST_PER_PAGE = 1000
EVENT_POLL_SECONDS = 0.1

TOGETHER = 50
"""Replays on their way at once."""


class Runs:
    """The runs of this runtime's namespace. Ids are strings; `RunNotFound` for one that does not exist."""

    def __init__(
        self,
        *,
        store: Store,
        waiter: Waiter,
        clock: Clock,
        registry: Registry,
        guard: Guard,
        observe: Callable[..., None],
        accept: Callable[[Envelope], Awaitable[Accepted]],
        broker: Broker,
        cancel_here: Callable[[str], None],
    ) -> None:
        self._store = store
        self._waiter = waiter
        self._clock = clock
        self._registry = registry
        self._guard = guard
        self._observe = observe
        self._accept = accept
        self._broker = broker
        self._cancel_here = cancel_here
        self._bulk = Bulk(store=store, guard=guard, clock=clock)

    async def get(self, run_id: str) -> Run:
        """The run as it stands."""
        return await self._readable(run_id)

    async def _readable(self, run_id: str) -> Run:
        """The run; `PolicyDenied` unless it may be read."""
        run = await self._store.get(run_id)
        await self._guard.run("read", run)
        return run

    async def _allowed(self, action: Action, run_id: str) -> None:
        """`PolicyDenied` unless this may be done with the run."""
        if self._guard.is_on:
            await self._guard.run(action, await self._store.get(run_id))

    async def list(
        self,
        *,
        state: States = None,
        job: str | None = None,
        queue: str | None = None,
        tenant: str | None = None,
        tag: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        search: str | None = None,
        limit: int = LIST_LIMIT,
        cursor: str | None = None,
    ) -> RunPage:
        """One page of runs, newest first; `since`/`until` bound the acceptance.

        `page.cursor` asks for the next page, and only None means the end: a page looks for about a second, and where
        matches are rare it may then be short, or empty, with more to come.
        """
        _check_limit(limit)
        where = run_filter(
            state=state, job=job, queue=queue, tenant=tenant, tag=tag, since=since, until=until, search=search
        )
        await self._guard.runs(tenant=tenant, job=job, queue=queue)
        page = await self._store.list(where, limit=limit, cursor=cursor)
        if not self._guard.is_on:
            return page
        return replace(page, runs=[run for run in page if await self._guard.may_read(run)])

    async def count_by_state(
        self,
        *,
        job: str | None = None,
        queue: str | None = None,
        tenant: str | None = None,
        tag: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> Mapping[RunState, int]:
        """How many runs are in each of the eight states."""
        await self._guard.runs(tenant=tenant, job=job, queue=queue)
        return await self._store.count_by_state(
            run_filter(job=job, queue=queue, tenant=tenant, tag=tag, since=since, until=until)
        )

    async def explain(self, run_id: str) -> Explanation:
        """Why the run is not running: all reasons, the first one first; or where it runs, or how it ended."""
        return explain(await facts(self._store, self._broker, await self._readable(run_id)))

    async def attempts(self, run_id: str) -> Sequence[Attempt]:
        """Every attempt, in order; the last one has outcome `running` while the run runs."""
        await self._allowed("read", run_id)
        return await self._store.attempts(run_id)

    async def history(self, run_id: str) -> Sequence[HistoryEntry]:
        """Everything that happened to the run, in order."""
        await self._allowed("read", run_id)
        return await self._store.history(run_id)

    async def cancel(self, run_id: str, *, reason: str | None = None, by: str | None = None) -> Run:
        """End a waiting run at once; ask a running one to end. A run that is over stays as it is."""
        check_words(reason=reason, by=by)
        before = await self._store.get(run_id)
        await self._guard.run("cancel", before)
        run = await self._store.cancel(run_id, reason, by)
        is_new = (before.state, before.cancel_requested_at) != (run.state, run.cancel_requested_at)
        self._canceled(run, reason, by, is_new=is_new)
        return run

    def _canceled(self, run: Run, reason: str | None, by: str | None, *, is_new: bool) -> None:
        """Tell everybody here who has to know that a run was canceled, or asked to end."""
        self._waiter.note(run.id, run.state)
        is_asked = run.state is RunState.RUNNING
        if is_asked:
            self._cancel_here(run.id)
            self._broker.signal()
        if is_new:
            self._observe("cancel_requested" if is_asked else "canceled", run, detail=_who(reason, by))

    async def cancel_many(
        self,
        filter: RunFilter | None = None,
        /,
        *,
        reason: str | None = None,
        by: str | None = None,
        **options: Unpack[BulkOptions],
    ) -> BulkResult:
        """Cancel every run that matches, oldest first; with no state given, those that wait or run.

        Takes a filter or the criteria of `list`; none at all needs `everything=True`. With `rate=` it does so many a
        second, with `dry_run=True` it only counts. After `StoreUnavailable` what was done stays done: ask again.
        """
        check_words(reason=reason, by=by)
        live = frozenset(RunState) - TERMINAL
        how = plan(filter, options, possible=live, default=live)

        async def act(group: Sequence[Run]) -> Sequence[Fate]:
            answers = await self._store.cancel_many([run.id for run in group], reason, by)
            for run in answers:
                if run is not None:
                    self._canceled(run, reason, by, is_new=True)
            return [run is not None for run in answers]

        return await self._bulk.run("cancel", how, act)

    async def replay(
        self,
        run_id: str,
        *,
        delay: float | timedelta | None = None,
        reason: str | None = None,
        payload: Any = None,
    ) -> RunHandle[Any]:
        """A new run of what that run was, linked by `replay_of`; with another payload if given."""
        new_id = await self.replay_run(run_id, delay=delay, reason=reason, payload=payload)
        return self.handle(new_id, (await self._store.get(new_id)).job)

    async def replay_run(
        self,
        run_id: str,
        *,
        delay: float | timedelta | None = None,
        reason: str | None = None,
        payload: Any = None,
    ) -> str:
        """The same; the id of the new run."""
        again = await self._store.envelope(run_id)
        changes: dict[str, Any] = {}
        if again.traceparent is not None:
            changes["tracestate"] = written(again.tracestate, Told("link", {"replay_of": again.traceparent}))
        check_words(reason=reason)
        if delay is not None:
            changes["delay"] = seconds(delay, "delay")
        if payload is not None:
            definition = self._registry.definition(again.job)
            changes |= {"payload": definition.encode_payload(payload), "version": definition.version}
        if reason is not None:
            changes["meta"] = again.meta | {"replay_reason": clip(reason, LIMITS.error_message)}
        asked = in_trace(again.model_copy(update=changes), new_traceparent(again.traceparent))
        if self._guard.is_on:
            await self._guard.run("replay", await self._store.get(run_id), asked)
        return (await self._accept(asked)).run_id

    async def replay_many(
        self,
        filter: RunFilter | None = None,
        /,
        *,
        delay: float | timedelta | None = None,
        reason: str | None = None,
        **options: Unpack[BulkOptions],
    ) -> BulkResult:
        """A new run for every run that matches and is over, oldest first; with no state given, for dead letters. Like
        `cancel_many` otherwise; but asking again after `StoreUnavailable` replays again what was replayed."""
        seconds(0.0 if delay is None else delay, "delay")
        check_words(reason=reason)
        how = plan(filter, options, possible=TERMINAL, default={RunState.DEAD_LETTERED})

        async def one(run: Run) -> Fate:
            try:
                await self.replay_run(run.id, delay=delay, reason=reason)
            except (RunNotFound, RunStateConflict, PolicyDenied):
                return False
            except StoreUnavailable:
                raise
            except ActorJobsError as error:
                return error
            return True

        async def act(group: Sequence[Run]) -> Sequence[Fate]:
            fates: list[Fate] = []
            for start in range(0, len(group), TOGETHER):
                fates += await asyncio.gather(*(one(run) for run in group[start : start + TOGETHER]))
            return fates

        return await self._bulk.run("replay", how, act)

    async def retry_many(
        self,
        filter: RunFilter | None = None,
        /,
        *,
        reason: str | None = None,
        by: str | None = None,
        **options: Unpack[BulkOptions],
    ) -> BulkResult:
        """Reopen every run that matches, oldest first; with no state given, those dead-lettered, canceled or expired.
        Like `cancel_many` otherwise; a unique run whose place is taken fails."""
        check_words(reason=reason, by=by)
        how = plan(filter, options, possible=REOPENABLE, default=REOPENABLE)

        async def act(group: Sequence[Run]) -> Sequence[Fate]:
            answers = await self._store.reopen_many([run.id for run in group], reason, by)
            reopened = [answer for answer in answers if isinstance(answer, Run)]
            self._broker.publish([_hint(run) for run in reopened])
            for run in reopened:
                self._observe("reopened", run, detail=_who(reason, by))
            return [answer if isinstance(answer, Exception) else answer is not None for answer in answers]

        return await self._bulk.run("retry", how, act)

    async def retry(self, run_id: str, *, reason: str | None = None, by: str | None = None) -> Run:
        """Reopen a dead-lettered, canceled or expired run for one more attempt; `RunStateConflict` otherwise."""
        check_words(reason=reason, by=by)
        await self._allowed("retry", run_id)
        run = await self._store.reopen(run_id, reason, by)
        self._wake(run)
        self._observe("reopened", run, detail=_who(reason, by))
        return run

    async def reschedule(self, run_id: str, run_at: datetime, *, by: str | None = None) -> Run:
        """Let a waiting run become due at another time; `RunStateConflict` unless it waits."""
        check_words(by=by)
        due = moment("run_at", run_at)
        if due is None:
            raise InvalidOption("reschedule needs a moment: datetime.now(UTC) + timedelta(hours=1)")
        await self._allowed("reschedule", run_id)
        run = await self._store.reschedule(run_id, due, by)
        self._wake(run)
        self._observe("rescheduled", run, detail=_who(None, by))
        return run

    async def delete(self, run_id: str) -> None:
        """Forget the run and its attempts; `RunStateConflict` while it runs."""
        run = await self._store.get(run_id)
        await self._guard.run("delete", run)
        await self._store.delete(run_id)
        self._observe("deleted", run)

    async def wait(self, run_id: str, timeout: float | None = None) -> Run:
        """The run once it is over; `ResultTimeout` after `timeout` seconds."""
        run = await self._readable(run_id)
        if run.state in TERMINAL:
            return run
        if not await self._waiter.until_over(run_id, timeout):
            raise ResultTimeout(f"run {run_id} was not over after {timeout:g} s; it goes on regardless")
        return await self._store.get(run_id)

    async def events(self, run_id: str) -> AsyncIterator[HistoryEntry]:
        """What happens to the run, from its acceptance on, as it happens; ends with the run."""
        await self._allowed("read", run_id)
        seen: set[tuple[str, int, datetime | None]] = set()
        progress: Mapping[str, Any] | None = None
        while True:
            run = await self._store.get(run_id)
            for entry in await self._store.history(run_id):
                # An attempt starts once; when exactly, is known a little better after its end.
                at = None if entry.event == "started" else entry.at
                if (key := (entry.event, entry.attempt, at)) not in seen:
                    seen.add(key)
                    yield entry
            if run.progress is not None and run.progress != progress:
                progress = run.progress
                yield HistoryEntry(
                    at=self._clock.now(), event="progress", state=run.state, attempt=run.attempt, detail=progress
                )
            if run.state in TERMINAL:
                return
            await self._waiter.until_over(run_id, EVENT_POLL_SECONDS)

    def tail(
        self,
        *,
        state: States = None,
        job: str | None = None,
        queue: str | None = None,
        tenant: str | None = None,
        since: datetime | None = None,
        on_left_out: Callable[[int], object] = lambda count: None,
    ) -> AsyncIterator[Change]:
        """What happens to runs anywhere in the fleet, about twice a second, from now on or since then; without end.

        It watches the newest 2,000 runs and as many of those that wait and that run. A run that had waited behind more
        than these, and started and ended between two looks, is missed; so is one that was deleted. Of a look at which
        more than 500 runs had changed the others are left out: `on_left_out` is told how many.
        """
        where = run_filter(state=state, job=job, queue=queue, tenant=tenant)
        tail = Tail(store=self._store, guard=self._guard, clock=self._clock, where=where, on_left_out=on_left_out)
        return tail.changes(moment("since", since))

    def handle(self, run_id: str, job: str, *, existing: bool = False) -> RunHandle[Any]:
        """A handle of that run; its result is typed by the job if it is registered here, plain JSON otherwise."""
        decode = self._registry.definition(job).decode_result if self._registry.knows(job) else _as_it_is
        return RunHandle(run_id, job=job, decode=decode, runs=self, existing=existing)

    def _wake(self, run: Run) -> None:
        self._broker.publish([_hint(run)])


def _hint(run: Run) -> Hint:
    """Only that something of its queue is to be looked for: which generation, its row says."""
    return Hint(run_id=run.id, seq=None, job=run.job, queue=run.queue)


def _who(reason: str | None, by: str | None) -> dict[str, str]:
    return {name: words for name, words in (("reason", reason), ("by", by)) if words is not None}


def _check_limit(limit: object) -> None:
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= MOST_PER_PAGE:
        raise InvalidOption(f"limit is a whole number from 1 to {MOST_PER_PAGE}")


def _as_it_is(value: Any) -> Any:
    return value
