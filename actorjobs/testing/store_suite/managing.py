"""Managing: cancel, reopen, reschedule, delete; and that runs move as the table says, never otherwise."""

from __future__ import annotations

import asyncio
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from actorjobs.clock import Clock
from actorjobs.errors import DuplicateRun, RunStateConflict
from actorjobs.jobs import Unique
from actorjobs.lifecycle import REOPENABLE, TABLE, TERMINAL, WAITING, Decision
from actorjobs.model import Outcome, Run, RunState, Transition
from actorjobs.ports import Fence, Hint, Settlement, Store
from actorjobs.testing.store_suite.setting import (
    NASTY,
    OWNER,
    StoreSetting,
    Travel,
    accepted,
    brought_to,
    end,
    ending,
    envelope,
    later,
    run_id,
    settle,
    take,
    taken,
)

ENDINGS = {
    Transition.SUCCEED: Outcome.SUCCEEDED,
    Transition.RETRY: Outcome.TIMED_OUT,
    Transition.SNOOZE: Outcome.SNOOZED,
    Transition.RELEASE: Outcome.INTERRUPTED,
    Transition.RESCUE: Outcome.LOST,
    Transition.DEAD_LETTER: Outcome.TIMED_OUT,
}
"""Outcomes by which a transition happens; none that the runs of these tests have on record already."""


def refused(is_possible: bool) -> AbstractContextManager[Any]:
    return nullcontext() if is_possible else pytest.raises(RunStateConflict)


class Managing(StoreSetting):
    @pytest.mark.parametrize("transition", list(Transition))
    async def test_runs_move_as_the_table_says_and_never_otherwise(
        self, store: Store, travel: Travel, transition: Transition
    ) -> None:
        for state in RunState:
            expires = transition is Transition.EXPIRE and state is not RunState.EXPIRED
            run = await brought_to(store, state, **({"expires_in": 3600} if expires else {}))
            is_possible = (state, transition) in TABLE
            await self._attempt(store, travel, run, transition, is_possible=is_possible)
            after = await store.get(run.id)
            if is_possible:
                assert after.state is TABLE[state, transition], state
                assert (await store.history(run.id))[-1].state is after.state, state
            else:
                assert after == run, state

    async def _attempt(
        self, store: Store, travel: Travel, run: Run, transition: Transition, *, is_possible: bool
    ) -> None:
        match transition:
            case Transition.CLAIM:
                await travel(3600)
                assert len(await take(store, "worker-2", queue=run.queue)) == is_possible
            case Transition.EXPIRE:
                await travel(3600)
                assert list(await store.expire(10)) == ([run.id] if is_possible else [])
            case Transition.CANCEL:
                await store.cancel(run.id, "no longer", "ann")
                if run.state is RunState.RUNNING:
                    await self._settle(store, run, Transition.RELEASE)
            case Transition.REOPEN:
                with refused(is_possible):
                    await store.reopen(run.id, None, None)
            case Transition.RESCHEDULE:
                with refused(is_possible):
                    await store.reschedule(run.id, later(run.available_at, 60), None)
            case _ if is_possible:
                assert await self._settle(store, run, transition) is TABLE[run.state, transition]
            case _:
                # None, or what is on record already: then it is a settlement sent twice.
                assert await self._settle(store, run, transition) in (None, run.state)

    async def _settle(self, store: Store, run: Run, transition: Transition) -> RunState | None:
        target = TABLE[RunState.RUNNING, transition]
        decision = Decision(transition=transition, state=target, delay=1.0, failures=run.failures, losses=0)
        fence = Fence(run_id=run.id, attempt=run.attempt, owner=run.claimed_by or OWNER)
        hint = Hint(run_id=run.id, seq=1, job=run.job, queue=run.queue)
        settlement = Settlement(fence=fence, hint=hint, outcome=ENDINGS[transition], decision=decision)
        [state] = await settle(store, settlement)
        return state

    # cancel

    @pytest.mark.parametrize("state", sorted(WAITING))
    async def test_a_waiting_run_is_canceled_at_once(
        self, store: Store, twin: Store, travel: Travel, clock: Clock, state: RunState
    ) -> None:
        run = await brought_to(store, state)
        await travel(1)
        canceled = await store.cancel(run.id, NASTY, "ann")
        assert canceled == await twin.get(run.id)
        assert canceled == replace(run, state=RunState.CANCELED, canceled_at=clock.now(), reason=NASTY)
        last = (await store.history(run.id))[-1]
        assert (last.event, dict(last.detail)) == ("canceled", {"reason": NASTY, "by": "ann"})
        await travel(3600)
        assert await take(store, queue=run.queue) == []

    async def test_a_running_run_is_asked_to_end_once(
        self, store: Store, twin: Store, travel: Travel, clock: Clock
    ) -> None:
        run = await brought_to(store, RunState.RUNNING)
        await travel(1)
        asked = await store.cancel(run.id, "first", "ann")
        assert asked == replace(run, cancel_requested_at=clock.now(), reason="first")
        await travel(1)
        assert await twin.cancel(run.id, "second", "bob") == asked
        assert [entry.event for entry in await store.history(run.id)] == ["accepted", "started", "cancel_requested"]

    @pytest.mark.parametrize("state", sorted(TERMINAL))
    async def test_a_run_that_is_over_stays_as_it_is(self, store: Store, travel: Travel, state: RunState) -> None:
        run = await brought_to(store, state)
        history = await store.history(run.id)
        await travel(1)
        assert await store.cancel(run.id, "too late", "ann") == run
        assert await store.history(run.id) == history

    async def test_words_of_operators_are_kept_readable(self, store: Store) -> None:
        for reason, kept in ((None, None), ("", ""), ("a\x00b", "a\ufffdb"), ("\ud800", "\ufffd")):
            run = await brought_to(store, RunState.QUEUED)
            assert (await store.cancel(run.id, reason, reason)).reason == kept
            wanted = {} if kept is None else {"reason": kept, "by": kept}
            assert dict((await store.history(run.id))[-1].detail) == wanted
        run = await brought_to(store, RunState.QUEUED)
        assert len((await store.cancel(run.id, "x" * 1_000_000, None)).reason or "") < 10_000

    async def test_a_cancel_and_a_claim_at_once_never_lose_the_request(self, store: Store, twin: Store) -> None:
        for _ in range(10):
            run = await brought_to(store, RunState.QUEUED)
            claims, canceled = await asyncio.gather(take(store, queue=run.queue), twin.cancel(run.id, "stop", None))
            if claims:
                assert canceled.cancel_requested_at is not None
                assert list(await settle(store, ending(claims[0], Outcome.FAILED))) == [RunState.CANCELED]
            assert (await store.get(run.id)).state is RunState.CANCELED

    # reopen

    @pytest.mark.parametrize("state", sorted(REOPENABLE))
    async def test_a_reopened_run_gets_one_more_attempt(
        self, store: Store, twin: Store, travel: Travel, clock: Clock, state: RunState
    ) -> None:
        run = await brought_to(store, state, max_attempts=5)
        await travel(100)
        reopened = await store.reopen(run.id, "fixed", "ann")
        assert reopened == await twin.get(run.id)
        assert reopened == replace(
            run,
            state=RunState.QUEUED,
            available_at=clock.now(),
            expires_at=None,
            failed_at=None,
            canceled_at=None,
            expired_at=None,
            reason=None,
            max_attempts=run.failures + 1,
        )
        last = (await store.history(run.id))[-1]
        assert (last.event, last.state, dict(last.detail)) == (
            "reopened",
            RunState.QUEUED,
            {"reason": "fixed", "by": "ann"},
        )
        [claim] = await take(store, queue=run.queue)
        assert claim.attempt == run.attempt + 1
        again = await end(store, claim, Outcome.FAILED)
        assert (again.state, again.failures) == (RunState.DEAD_LETTERED, run.failures + 1)

    async def test_a_succeeded_run_is_never_reopened(self, store: Store) -> None:
        run = await brought_to(store, RunState.SUCCEEDED)
        with pytest.raises(RunStateConflict, match="succeeded"):
            await store.reopen(run.id, "once more", "ann")
        assert await store.get(run.id) == run

    async def test_reopening_clears_cancel_request_losses_and_hold(self, store: Store) -> None:
        claim = await taken(store, queue="q")
        await store.cancel(claim.run_id, "stop", None)
        assert (await end(store, claim, Outcome.LOST)).losses == 1
        await self.hold(store, claim.run_id, "limited")
        run = await store.reopen(claim.run_id, None, None)
        assert (run.losses, run.hold, run.cancel_requested_at, run.reason) == (0, None, None, None)
        [again] = await take(store, queue="q")
        assert (await end(store, again)).state is RunState.SUCCEEDED

    async def test_a_checkpoint_survives_the_reopening(self, store: Store) -> None:
        claim = await taken(store, queue="q")
        await store.save_checkpoint(claim.fence, '{"page":7}')
        await end(store, claim, Outcome.FAILED, permanent=True)
        await store.reopen(claim.run_id, None, None)
        [again] = await take(store, queue="q")
        assert again.checkpoint == '{"page":7}'

    async def test_of_two_reopenings_at_once_one_happens(self, store: Store, twin: Store) -> None:
        run = await brought_to(store, RunState.CANCELED)
        answers = await asyncio.gather(
            *(one.reopen(run.id, None, None) for one in (store, twin)), return_exceptions=True
        )
        assert sorted(type(answer).__name__ for answer in answers) == ["Run", "RunStateConflict"]

    # groups

    async def test_a_group_is_canceled_like_one_by_one(self, store: Store, twin: Store, clock: Clock) -> None:
        before = [await brought_to(store, state) for state in RunState]
        ids = [run.id for run in before]
        [canceled_twice] = await store.cancel_many([ids[0]], "stop", "ann")
        assert canceled_twice is not None
        answers = await store.cancel_many([*ids, run_id()], "stop", "ann")
        changed = {run.state for run, answer in zip(before, answers, strict=False) if answer is not None}
        assert changed == {RunState.QUEUED, RunState.RETRYING, RunState.RUNNING}
        for run, answer in zip(before, answers, strict=False):
            now = await twin.get(run.id)
            assert now == (run if answer is None and run.id != ids[0] else answer or canceled_twice)
            if run.state in WAITING:
                assert (now.state, now.reason) == (RunState.CANCELED, "stop")
                last = (await store.history(run.id))[-1]
                assert (last.event, dict(last.detail)) == ("canceled", {"reason": "stop", "by": "ann"})
            if run.state is RunState.RUNNING:
                assert (now.state, now.cancel_requested_at is not None) == (RunState.RUNNING, True)
        assert set(await store.cancel_many(ids, None, None)) == {None}
        assert list(await store.cancel_many([], None, None)) == []

    async def test_a_group_is_reopened_like_one_by_one(self, store: Store, twin: Store) -> None:
        before = [await brought_to(store, state, max_attempts=3) for state in RunState]
        answers = await store.reopen_many([*(run.id for run in before), run_id(), "garbage"], "fixed", "ann")
        assert list(answers[-2:]) == [None, None]
        for run, answer in zip(before, answers, strict=False):
            now = await twin.get(run.id)
            if run.state in REOPENABLE:
                assert now == answer
                assert (now.state, now.max_attempts) == (RunState.QUEUED, run.failures + 1)
                assert (await store.history(run.id))[-1].event == "reopened"
                assert len(await take(store, queue=run.queue)) == 1
            else:
                assert (now, answer) == (run, None)

    async def test_of_a_group_only_the_run_whose_place_is_taken_is_refused(self, store: Store) -> None:
        unique: dict[str, Any] = {"unique": Unique().to_json(), "queue": "q"}
        first = await brought_to(store, RunState.CANCELED, **unique)
        other = await brought_to(store, RunState.CANCELED, queue="q")
        [holder] = await accepted(store, envelope(**unique))
        refused, reopened = await store.reopen_many([first.id, other.id], None, None)
        assert isinstance(refused, DuplicateRun)
        assert refused.run_id == holder
        assert isinstance(reopened, Run)
        assert (await store.get(first.id)) == first
        await store.cancel(holder, None, None)
        [reopened] = await store.reopen_many([first.id], None, None)
        assert isinstance(reopened, Run)
        assert reopened.unique_digest is not None

    async def test_a_group_leaves_other_namespaces_alone(self, store: Store, foreign: Store) -> None:
        waiting, over = await brought_to(foreign, RunState.QUEUED), await brought_to(foreign, RunState.CANCELED)
        assert list(await store.cancel_many([waiting.id], None, None)) == [None]
        assert list(await store.reopen_many([over.id], None, None)) == [None]
        assert (await foreign.get(waiting.id), await foreign.get(over.id)) == (waiting, over)

    async def test_two_groups_at_once_cancel_each_run_once(self, store: Store, twin: Store) -> None:
        ids = await accepted(store, *(envelope() for _ in range(20)))
        one, two = await asyncio.gather(
            store.cancel_many(ids, None, None), twin.cancel_many(list(reversed(ids)), None, None)
        )
        assert sorted(run.id for run in [*one, *two] if run is not None) == sorted(ids)

    # reschedule

    @pytest.mark.parametrize("state", sorted(WAITING))
    async def test_a_waiting_run_is_moved(self, store: Store, twin: Store, travel: Travel, state: RunState) -> None:
        run = await brought_to(store, state)
        due = later(run.inserted_at, 90.000_001)
        moved = await store.reschedule(run.id, due.astimezone(UTC), "ann")
        assert moved == await twin.get(run.id)
        wanted = RunState.RETRYING if state is RunState.RETRYING else RunState.SCHEDULED
        assert moved == replace(run, state=wanted, available_at=due)
        await travel(90)
        assert await take(store, queue=run.queue) == []
        await travel(0.000_001)
        assert len(await take(store, queue=run.queue)) == 1

    async def test_a_moment_that_has_passed_means_now(self, store: Store, travel: Travel, clock: Clock) -> None:
        run = await brought_to(store, RunState.SCHEDULED)
        await travel(1)
        moved = await store.reschedule(run.id, datetime(2001, 1, 1, tzinfo=UTC), None)
        assert moved.available_at == clock.now()
        assert len(await take(store, queue=run.queue)) == 1

    # delete

    async def test_any_run_but_a_running_one_is_deleted(self, store: Store, twin: Store) -> None:
        for state in RunState:
            run, other = await brought_to(store, state), await brought_to(store, state)
            with refused(state is not RunState.RUNNING):
                await store.delete(run.id)
            left = {run.id: state, other.id: state} if state is RunState.RUNNING else {other.id: state}
            assert await twin.states([run.id, other.id]) == left
            assert len(await store.attempts(other.id)) == (other.attempt > 0)
            assert await store.get(other.id) == other
            if state is not RunState.RUNNING:
                await accepted(store, envelope(id=run.id, delay=1))
                assert list(await store.attempts(run.id)) == []
                assert [entry.event for entry in await store.history(run.id)] == ["accepted"]

    async def test_times_are_aware_and_in_utc(self, store: Store) -> None:
        run = await brought_to(store, RunState.DEAD_LETTERED, expires_in=3600)
        [attempt] = await store.attempts(run.id)
        times = [run.inserted_at, run.available_at, run.expires_at, run.claimed_at, run.attempted_at, run.failed_at]
        times += [attempt.started_at, attempt.ended_at, *(entry.at for entry in await store.history(run.id))]
        assert {at.utcoffset() for at in times if at is not None} == {timedelta(0)}
        assert None not in times
