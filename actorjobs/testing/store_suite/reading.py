"""Reading: get, states, list, counts, attempts, history, envelopes for replays."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime
from typing import Any

import pytest

from actorjobs.clock import Clock
from actorjobs.errors import InvalidOption, RunNotFound
from actorjobs.model import HistoryEntry, Outcome, RunState
from actorjobs.ports import RunFilter, Store
from actorjobs.testing.store_suite.setting import (
    EVERYTHING,
    JOB,
    NASTY,
    OWNER,
    QUEUE,
    StoreSetting,
    Travel,
    accepted,
    brought_to,
    end,
    envelope,
    later,
    run_id,
    take,
    taken,
)

GARBAGE = [
    "",
    " ",
    "garbage",
    "'",
    "' OR '1'='1",
    "'; DROP TABLE actorjobs_runs; --",
    "%",
    "_" * 36,
    "\x00",
    "\x00" * 36,
    "\ud800",
    "🦆" * 36,
    "00000000-0000-0000-0000-00000000000\x00",
    "A" * 100_000,
    "00000000-0000-0000-0000-000000000000",
]


async def found(store: Store, **criteria: Any) -> list[str]:
    """The ids of all runs that match, by a listing; the counts must say the same."""
    where = RunFilter(**criteria)
    page = await store.list(where, limit=100, cursor=None)
    counts = await store.count_by_state(where)
    assert set(counts) == set(RunState)
    assert {state: count for state, count in counts.items() if count} == {
        state: sum(run.state is state for run in page) for state in {run.state for run in page}
    }
    return [run.id for run in page]


class Reading(StoreSetting):
    async def test_runs_of_another_namespace_do_not_exist(self, store: Store, foreign: Store) -> None:
        run = await brought_to(foreign, RunState.QUEUED)
        await self._is_not_found(store, run.id)
        assert await store.states([run.id]) == {}
        assert await found(store) == []
        assert await foreign.get(run.id) == run

    async def test_a_run_that_does_not_exist_is_not_found(self, store: Store) -> None:
        run = await brought_to(store, RunState.QUEUED)
        for garbage in GARBAGE:
            await self._is_not_found(store, garbage)
        assert await store.states([*GARBAGE, run.id]) == {run.id: RunState.QUEUED}
        assert await store.get(run.id) == run

    async def _is_not_found(self, store: Store, run_id: str) -> None:
        asked = [read(run_id) for read in (store.get, store.envelope, store.attempts, store.history, store.delete)]
        asked += [change(run_id, "reason", "ann") for change in (store.cancel, store.reopen)]
        asked.append(store.reschedule(run_id, datetime(2099, 1, 1, tzinfo=UTC), "ann"))
        for answer in asked:
            with pytest.raises(RunNotFound):
                await answer

    async def test_the_states_of_many(self, store: Store) -> None:
        runs = [await brought_to(store, state) for state in RunState]
        assert await store.states([run_id(), *(run.id for run in runs)]) == {run.id: run.state for run in runs}
        assert await store.states([]) == {}
        many = [run_id() for _ in range(40_000)]
        assert await store.states([*many, runs[0].id]) == {runs[0].id: runs[0].state}

    # lists and counts

    async def test_a_list_is_newest_first_and_whole(self, store: Store) -> None:
        runs = [await brought_to(store, state, payload=state) for state in RunState]
        lost = await taken(store)
        runs.append(await end(store, lost, Outcome.LOST, error='{"name":"WorkerLost","message":"gone"}'))
        assert len(runs[-1].errors) == 1
        assert list(await store.list(EVERYTHING, limit=100, cursor=None)) == runs[::-1]

    async def test_filters(self, store: Store) -> None:
        by_state = {state: (await brought_to(store, state, job="suite:states")).id for state in RunState}
        one, two, three = await accepted(
            store,
            envelope(tenant="acme", tags=("red", "round"), job="suite:one"),
            envelope(tenant="Acme", tags=("redder", 'say "red"'), queue="slow"),
            envelope(tags=("Red", "blue,red", "\\", "100%")),
        )
        for state, id in by_state.items():
            assert await found(store, state=(state,), job="suite:states") == [id]
        both = (RunState.SUCCEEDED, RunState.CANCELED)
        assert sorted(await found(store, state=both)) == sorted(by_state[state] for state in both)
        assert await found(store, state=()) == []
        assert await found(store, job="suite:one") == [one]
        assert await found(store, job="suite:on") == []
        assert await found(store, job="suite:%") == []
        assert await found(store, queue="slow") == [two]
        assert await found(store, tenant="acme") == [one]
        assert await found(store, tenant="Acme") == [two]
        assert await found(store, tag="red") == [one]
        assert await found(store, tag="Red") == [three]
        assert await found(store, tag='say "red"') == [two]
        assert await found(store, tag="\\") == [three]
        assert await found(store, tag="100%") == [three]
        assert await found(store, tag="%") == []
        assert await found(store, tag="r_d") == []
        assert await found(store, tag="red,redder") == []
        assert await found(store, tag="round", tenant="acme", job="suite:one", queue=QUEUE) == [one]
        assert await found(store, tag="round", tenant="Acme") == []

    async def test_since_and_until_bound_the_acceptance(self, store: Store, travel: Travel, clock: Clock) -> None:
        times: list[datetime] = []
        new: list[str] = []
        for _ in range(3):
            times.append(clock.now())
            new += await accepted(store, envelope())
            await travel(1)
        assert await found(store, since=times[1]) == [new[2], new[1]]
        assert await found(store, since=later(times[1], 0.000_001)) == [new[2]]
        assert await found(store, until=times[1]) == [new[0]]
        assert await found(store, until=later(times[1], 0.000_001)) == [new[1], new[0]]
        assert await found(store, since=times[1], until=times[2]) == [new[1]]
        assert await found(store, since=times[2], until=times[1]) == []

    async def test_search_is_for_exactly_this_text(self, store: Store) -> None:
        new = await accepted(
            store,
            envelope(payload={"mail": "ann@example.com", "discount": "100%"}),
            envelope(payload="snake_case"),
            envelope(payload="snakeXcase"),
            envelope(payload="Grüße 🦆"),
            envelope(payload="a\\b"),
            envelope(idempotency_key="order_%7"),
            envelope(job="suite:find-me"),
        )
        percent, snake, _, duck, backslash, keyed, named = new
        assert await found(store, search="100%") == [percent]
        assert await found(store, search="ann@") == [percent]
        assert await found(store, search="ANN@") == []
        assert await found(store, search='"mail":"ann') == [percent]
        assert await found(store, search="snake_case") == [snake]
        assert await found(store, search="e_c") == [snake]
        assert await found(store, search="üße 🦆") == [duck]
        assert await found(store, search="\\\\") == [backslash]
        assert sorted(await found(store, search="%")) == sorted([percent, keyed])
        assert await found(store, search="_%") == [keyed]
        assert await found(store, search="find-me") == [named]
        assert await found(store, search=named) == [named]
        assert await found(store, search=named[:35]) == [named]
        assert len(await found(store, search="")) == len(new)
        assert await found(store, search="' OR ''='") == []

    async def test_words_that_nobody_has_match_nothing(self, store: Store) -> None:
        await accepted(store, envelope(tags=("t",), tenant="acme"))
        for word in ("\x00", "a\x00b", "\ud800", "'", "\\", "%", "x" * 10_000):
            for criterion in ("job", "queue", "tenant", "tag", "search"):
                assert await found(store, **{criterion: word}) == [], (criterion, word)

    @pytest.mark.parametrize("limit", [1, 3, 10, 11, 100])
    async def test_pages_leave_out_and_double_nothing(self, store: Store, limit: int) -> None:
        new = await accepted(store, *(envelope(payload=n) for n in range(11)))
        seen: list[str] = []
        cursor = None
        for _ in range(20):
            page = await store.list(EVERYTHING, limit=limit, cursor=cursor)
            assert 1 <= len(page) <= limit
            seen += [run.id for run in page]
            cursor = page.cursor
            if cursor is None:
                break
            # What happens meanwhile does not shift the pages.
            await accepted(store, envelope())
            await store.cancel(seen[-1], None, None)
            if len(seen) == limit:
                await store.delete(seen[-1])
        assert seen == new[::-1]

    async def test_pages_of_a_filtered_list(self, store: Store) -> None:
        new = await accepted(store, *(envelope(tags=("t",) if n % 3 else ()) for n in range(12)))
        wanted = [id for n, id in enumerate(new) if n % 3][::-1]
        where = RunFilter(tag="t")
        first = await store.list(where, limit=5, cursor=None)
        second = await store.list(where, limit=5, cursor=first.cursor)
        assert [run.id for run in [*first, *second]] == wanted
        assert second.cursor is None

    async def test_a_page_that_just_fits_is_the_last(self, store: Store) -> None:
        await accepted(store, *(envelope() for _ in range(4)))
        assert (await store.list(EVERYTHING, limit=4, cursor=None)).cursor is None
        assert (await store.list(EVERYTHING, limit=3, cursor=None)).cursor is not None

    async def test_a_cursor_that_no_page_gave_out_is_refused(self, store: Store) -> None:
        await accepted(store, envelope())
        for cursor in GARBAGE[:-1]:
            with pytest.raises(InvalidOption):
                await store.list(EVERYTHING, limit=5, cursor=cursor)
        assert list(await store.list(EVERYTHING, limit=5, cursor=GARBAGE[-1])) == []

    async def test_a_cursor_outlives_its_run(self, store: Store) -> None:
        new = await accepted(store, *(envelope() for _ in range(3)))
        page = await store.list(EVERYTHING, limit=2, cursor=None)
        assert page.cursor is not None
        for run in page:
            await store.delete(run.id)
        assert [run.id for run in await store.list(EVERYTHING, limit=2, cursor=page.cursor)] == [new[0]]

    async def test_pages_from_the_oldest_on(self, store: Store) -> None:
        new = await accepted(store, *(envelope(tags=("t",) if n % 3 else ()) for n in range(12)))
        for where, wanted in ((EVERYTHING, new), (RunFilter(tag="t"), [id for n, id in enumerate(new) if n % 3])):
            seen: list[str] = []
            cursor = None
            while len(seen) < 100:
                page = await store.list(where, limit=5, cursor=cursor, is_oldest_first=True)
                seen += [run.id for run in page]
                cursor = page.cursor
                if cursor is None:
                    break
                await store.cancel(seen[-1], None, None)
            assert seen == wanted

    @pytest.mark.parametrize("is_oldest_first", [True, False])
    async def test_every_choice_of_states_is_listed(self, store: Store, is_oldest_first: bool) -> None:
        new: dict[str, RunState] = {}
        for _ in range(2):
            new |= {(await brought_to(store, state)).id: state for state in RunState}
        for size in (1, 2, 3):
            for states in itertools.combinations(RunState, size):
                page = await store.list(RunFilter(state=states), limit=50, cursor=None, is_oldest_first=is_oldest_first)
                wanted = sorted((id for id, state in new.items() if state in states), reverse=not is_oldest_first)
                assert [run.id for run in page] == wanted
                assert page.cursor is None
                counts = await store.count_by_state(RunFilter(state=states))
                assert {state: count for state, count in counts.items() if count} == dict.fromkeys(states, 2)

    async def test_how_many_go_first(self, store: Store, travel: Travel) -> None:
        urgent, early = await accepted(store, envelope(priority=9, queue="q"), envelope(queue="q"))
        await travel(1)
        [late] = await accepted(store, envelope(queue="q"))
        await accepted(store, envelope(priority=9, queue="q", delay=60), envelope(priority=9, queue="other"))
        await accepted(store, envelope(priority=0, queue="q"))
        for id, ahead in ((urgent, 0), (early, 1), (late, 2)):
            assert await store.ahead(await store.get(id), 100) == ahead
        assert await store.ahead(await store.get(late), 1) == 1
        await take(store, queue="q", limit=1)
        assert await store.ahead(await store.get(late), 100) == 1

    async def test_marks_tell_that_something_has_happened(self, store: Store, foreign: Store) -> None:
        await brought_to(foreign, RunState.QUEUED)
        runs = {state: await brought_to(store, state) for state in RunState}
        old = runs[RunState.SUCCEEDED].id
        newest = await accepted(store, *(envelope() for _ in range(3)))
        seen = {mark.run_id: mark for mark in await store.marks([old, run_id(), "garbage"], 100)}
        assert seen.keys() == {*newest, *(run.id for run in runs.values())}
        assert {seen[run.id].state for run in runs.values()} == set(RunState)
        few = {mark.run_id for mark in await store.marks([old], 1)}
        assert {old, newest[-1], runs[RunState.RUNNING].id} <= few
        assert len(few) <= 4
        for change in (store.cancel, store.reopen, store.cancel):
            await change(newest[0], None, None)
            [now] = [mark for mark in await store.marks([], 100) if mark.run_id == newest[0]]
            assert now != seen[newest[0]]
            seen[newest[0]] = now
        running = runs[RunState.RUNNING].id
        await store.cancel(running, None, None)
        [asked] = [mark for mark in await store.marks([running], 1) if mark.run_id == running]
        assert (asked.is_asked, seen[running].is_asked) == (True, False)

    async def test_the_time_of_the_store(self, store: Store, travel: Travel, clock: Clock) -> None:
        assert await store.now() == clock.now()
        await travel(5)
        assert await store.now() == clock.now()

    # attempts and history

    async def test_attempts_are_in_order_and_the_running_one_is_shown(self, store: Store) -> None:
        [new] = await accepted(store, envelope(max_attempts=9, queue="q"))
        assert list(await store.attempts(new)) == []
        outcomes = [Outcome.FAILED, Outcome.LOST, Outcome.SNOOZED, Outcome.TIMED_OUT]
        for outcome in outcomes:
            [claim] = await take(store, queue="q")
            assert [one.outcome for one in await store.attempts(new)][-1] is Outcome.RUNNING
            await end(store, claim, outcome)
        [claim] = await take(store, "worker-2", queue="q")
        attempts = await store.attempts(new)
        assert [one.number for one in attempts] == [1, 2, 3, 4, 5]
        assert [one.outcome for one in attempts] == [*outcomes, Outcome.RUNNING]
        assert attempts[-1].worker == "worker-2"
        assert attempts[-1].started_at == claim.claimed_at
        await store.cancel(new, None, None)
        await end(store, claim, Outcome.CANCELED)
        assert [one.outcome for one in await store.attempts(new)] == [*outcomes, Outcome.CANCELED]

    @pytest.mark.parametrize("pause", [1.0, 0.0], ids=["time passes", "all in one instant"])
    async def test_history_tells_everything_in_order(
        self, store: Store, travel: Travel, clock: Clock, pause: float
    ) -> None:
        begun = clock.now()
        [new] = await accepted(store, envelope(max_attempts=2, queue="q", delay=pause))
        await travel(pause)
        await store.reschedule(new, clock.now(), "ann")
        await travel(pause)
        [claim] = await take(store, queue="q")
        await travel(pause)
        await end(store, claim, Outcome.FAILED, error='{"name":"ValueError","message":"no"}', started_after=pause / 2)
        await travel(pause)
        [claim] = await take(store, "worker-2", queue="q")
        await travel(pause)
        await store.cancel(new, "user left", "bob")
        await store.cancel(new, "again", "bob")
        await travel(pause)
        await end(store, claim, Outcome.INTERRUPTED)
        await travel(pause)
        await store.reopen(new, "came back", "ann")
        await travel(pause)
        await store.cancel(new, None, None)
        await travel(pause)
        await store.reopen(new, None, "ann")
        await travel(pause)
        [claim] = await take(store, "worker-3", queue="q")
        history = list(await store.history(new))
        steps = [(entry.event, entry.state, entry.attempt) for entry in history]
        S = RunState
        assert steps == [
            ("accepted", S.QUEUED, 0),
            ("rescheduled", S.SCHEDULED, 0),
            ("started", S.RUNNING, 1),
            ("failed", S.RETRYING, 1),
            ("started", S.RUNNING, 2),
            ("cancel_requested", S.RUNNING, 2),
            ("interrupted", S.CANCELED, 2),
            ("reopened", S.QUEUED, 2),
            ("canceled", S.CANCELED, 2),
            ("reopened", S.QUEUED, 2),
            ("started", S.RUNNING, 3),
        ]
        passed = [round((entry.at - begun).total_seconds() / (pause or 1), 6) for entry in history]
        assert passed == ([0, 1, 2.5, 3, 4, 5, 6, 7, 8, 9, 10] if pause else [0] * 11)
        assert [dict(entry.detail) for entry in history if entry.event not in ("accepted", "started")] == [
            {"reason": f"due {later(begun, pause).isoformat()}", "by": "ann"},
            {"worker": OWNER, "error": "ValueError", "message": "no"},
            {"reason": "user left", "by": "bob"},
            {"worker": "worker-2"},
            {"reason": "came back", "by": "ann"},
            {},
            {"by": "ann"},
        ]

    async def test_history_ends_where_the_run_stands(self, store: Store) -> None:
        for state in RunState:
            run = await brought_to(store, state)
            history = await store.history(run.id)
            first = RunState.SCHEDULED if state is RunState.SCHEDULED else RunState.QUEUED
            assert history[0] == HistoryEntry(at=run.inserted_at, event="accepted", state=first, attempt=0)
            assert (history[-1].state, history[-1].attempt) == (run.state, run.attempt)
            assert run.finished_at in (None, history[-1].at)

    @pytest.mark.parametrize("outcome", [Outcome.SUCCEEDED, Outcome.CANCELED])
    async def test_history_knows_that_a_run_was_accepted_for_later(
        self, store: Store, travel: Travel, outcome: Outcome
    ) -> None:
        await accepted(store, envelope(delay=5, queue="q"))
        await travel(5)
        [claim] = await take(store, queue="q")
        run = await end(store, claim, outcome)
        assert (await store.history(run.id))[0].state is RunState.SCHEDULED

    async def test_history_still_knows_of_an_expiry_after_the_reopening(self, store: Store, travel: Travel) -> None:
        run = await brought_to(store, RunState.EXPIRED)
        await travel(1)
        await store.reopen(run.id, None, None)
        assert [entry.event for entry in await store.history(run.id)] == ["accepted", "expired", "reopened"]

    # replays

    async def test_an_envelope_for_a_replay_asks_for_the_same_again(self, store: Store) -> None:
        asked = envelope(
            version=3,
            payload={"text": NASTY},
            constructor_args={"locale": "de"},
            tenant="acme",
            traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            tracestate="vendor=1",
            baggage="user=7",
            max_attempts=7,
            retry={"attempts": 7},
            timeout=12.5,
            retention=86400.0,
            parent=run_id(),
            delay=5,
            expires_in=100,
            priority=9,
            idempotency_key="key",
            tags=("a", "b"),
            meta={"page": 2},
            script="app.jobs:send",
        )
        await accepted(store, asked)
        again = await store.envelope(asked.id)
        assert again.id != asked.id
        gone = {"delay": None, "expires_in": None, "idempotency_key": None, "parent": None}
        assert again == asked.model_copy(update=gone | {"id": again.id, "replay_of": asked.id})
        await accepted(store, again)
        assert (await store.get(again.id)).replay_of == asked.id

    async def test_every_run_can_be_replayed(self, store: Store) -> None:
        for state in RunState:
            run = await brought_to(store, state, max_attempts=3)
            again = await store.envelope(run.id)
            await accepted(store, again)
            copy = await store.get(again.id)
            assert (copy.state, copy.attempt, copy.failures, copy.errors) == (RunState.QUEUED, 0, 0, ())
            assert (copy.job, copy.queue, copy.payload) == (JOB, run.queue, run.payload)

    async def test_what_runs_is_read_as_running(self, store: Store) -> None:
        claim = await taken(store)
        run = await store.get(claim.run_id)
        assert run.attempted_at == run.claimed_at == claim.claimed_at
        assert run.finished_at is None
