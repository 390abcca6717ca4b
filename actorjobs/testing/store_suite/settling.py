"""Settling: how attempts end, and that only the valid one ends its run."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest

from actorjobs.clock import Clock
from actorjobs.codec import encode_error
from actorjobs.lifecycle import LOSSES_UNTIL_POISON, RESCUE_BACKOFF_SECONDS
from actorjobs.model import Attempt, ErrorInfo, Outcome, Run, RunState
from actorjobs.ports import Claim, RunFilter, Store
from actorjobs.testing.store_suite.setting import (
    NASTY,
    OWNER,
    QUEUE,
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

ENDED = [outcome for outcome in Outcome if outcome is not Outcome.RUNNING]

FINISHED_AT = {
    RunState.SUCCEEDED: "completed_at",
    RunState.DEAD_LETTERED: "failed_at",
    RunState.CANCELED: "canceled_at",
    RunState.EXPIRED: "expired_at",
}


def finish_times(run: Run) -> dict[str, Any]:
    """The times of its end that a run shows."""
    return {name: getattr(run, name) for name in FINISHED_AT.values() if getattr(run, name) is not None}


class Settling(StoreSetting):
    @pytest.mark.parametrize(
        ("outcome", "how", "state", "failures", "reason"),
        [
            (Outcome.SUCCEEDED, {}, RunState.SUCCEEDED, 0, None),
            (Outcome.FAILED, {"delay": 7.5}, RunState.RETRYING, 1, None),
            (Outcome.FAILED, {"permanent": True}, RunState.DEAD_LETTERED, 1, "permanent"),
            (Outcome.TIMED_OUT, {"delay": 2.3}, RunState.RETRYING, 1, None),
            (Outcome.CANCELED, {}, RunState.CANCELED, 0, None),
            (Outcome.INTERRUPTED, {}, RunState.QUEUED, 0, None),
            (Outcome.SNOOZED, {"delay": 30}, RunState.SCHEDULED, 0, None),
            (Outcome.LOST, {}, RunState.RETRYING, 0, None),
        ],
        ids=str,
    )
    async def test_an_outcome_leads_to_its_state(
        self,
        store: Store,
        travel: Travel,
        clock: Clock,
        outcome: Outcome,
        how: dict[str, Any],
        state: RunState,
        failures: int,
        reason: str | None,
    ) -> None:
        claim = await taken(store)
        before = await store.get(claim.run_id)
        await travel(3)
        assert list(await settle(store, ending(claim, outcome, started_after=0.25, **how))) == [state]
        run = await store.get(claim.run_id)
        assert (run.state, run.failures, run.reason) == (state, failures, reason)
        assert run.losses == (1 if outcome is Outcome.LOST else 0)
        assert (run.attempt, run.claimed_by, run.claimed_at) == (1, OWNER, claim.claimed_at)
        assert run.attempted_at == later(claim.claimed_at, 0.25)
        if state in FINISHED_AT:
            assert finish_times(run) == {FINISHED_AT[state]: clock.now()}
            assert run.available_at == before.available_at
        else:
            assert finish_times(run) == {}
            assert run.available_at == later(clock.now(), how.get("delay", 0))

    async def test_the_last_failure_is_exhausted(self, store: Store) -> None:
        await accepted(store, envelope(max_attempts=2))
        [claim] = await take(store)
        assert (await end(store, claim, Outcome.FAILED)).state is RunState.RETRYING
        [claim] = await take(store)
        assert (claim.failures, claim.max_attempts) == (1, 2)
        run = await end(store, claim, Outcome.TIMED_OUT)
        assert (run.state, run.failures, run.reason) == (RunState.DEAD_LETTERED, 2, "exhausted")

    async def test_losses_in_a_row_are_counted_and_backed_off_and_end_as_poison(
        self, store: Store, travel: Travel, clock: Clock
    ) -> None:
        [new] = await accepted(store, envelope())
        for losses in range(1, LOSSES_UNTIL_POISON):
            [claim] = await take(store) or await take(store, suspects=True)
            run = await end(store, claim, Outcome.LOST)
            backoff = 0 if losses == 1 else RESCUE_BACKOFF_SECONDS * 2 ** (losses - 2)
            assert (run.state, run.losses, run.failures) == (RunState.RETRYING, losses, 0)
            assert run.available_at == later(clock.now(), backoff)
            await travel(backoff)
        [claim] = await take(store, suspects=True)
        run = await end(store, claim, Outcome.LOST)
        assert (run.id, run.state, run.reason) == (new, RunState.DEAD_LETTERED, "poison")

    async def test_any_other_outcome_ends_the_row_of_losses(self, store: Store) -> None:
        await accepted(store, envelope())
        [claim] = await take(store)
        await end(store, claim, Outcome.LOST)
        [claim] = await take(store)
        assert claim.losses == 1
        assert (await end(store, claim, Outcome.INTERRUPTED)).losses == 0

    async def test_a_loss_that_does_not_count_costs_nothing(self, store: Store) -> None:
        claim = await taken(store)
        run = await end(store, claim, Outcome.LOST, counts=False)
        assert (run.state, run.losses) == (RunState.RETRYING, 0)

    async def test_a_result_is_kept(self, store: Store) -> None:
        for result in (None, "null", "{}", '["🦆", 9007199254740993]', '"' + "x" * 200_000 + '"'):
            run = await end(store, await taken(store), result=result)
            assert run.result == (None if result is None else json.loads(result))

    async def test_errors_are_kept_with_their_attempts(self, store: Store, travel: Travel) -> None:
        await accepted(store, envelope(max_attempts=9))
        kept: list[ErrorInfo] = []
        for number, name in enumerate(("ValueError", NASTY, "lib.Timeout"), start=1):
            await travel(1)
            [claim] = await take(store, f"worker-{number}")
            error = ErrorInfo(name=name, message=NASTY * 50, stack="Traceback\n" + NASTY)
            await end(store, claim, Outcome.FAILED, error=encode_error(error), started_after=0.5)
            started_at = later(claim.claimed_at, 0.5)
            kept.append(replace(error, attempt=number, attempt_by=f"worker-{number}", attempted_at=started_at))
        [claim] = await take(store)
        run = await end(store, claim, result="1")
        assert run.errors == tuple(kept)
        [listed] = await store.list(RunFilter(queue=QUEUE), limit=5, cursor=None)
        assert listed == run
        assert [attempt.error for attempt in await store.attempts(run.id)] == [*kept, None]

    async def test_an_attempt_is_kept_as_it_was(self, store: Store, travel: Travel, clock: Clock) -> None:
        trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        claim = await taken(store, traceparent=trace)
        [running] = await store.attempts(claim.run_id)
        wanted = Attempt(
            run_id=claim.run_id,
            number=1,
            outcome=Outcome.RUNNING,
            started_at=claim.claimed_at,
            ended_at=None,
            worker=OWNER,
            actor=None,
            error=None,
            trace_id="0af7651916cd43dd8448eb211c80319c",
            span_id=None,
        )
        assert running == wanted
        await travel(2)
        await end(store, claim, actor="emails[3]", span_id="b7ad6b7169203331", started_after=0.125)
        [ended] = await store.attempts(claim.run_id)
        assert ended == replace(
            wanted,
            outcome=Outcome.SUCCEEDED,
            started_at=later(claim.claimed_at, 0.125),
            ended_at=clock.now(),
            actor="emails[3]",
            span_id="b7ad6b7169203331",
        )

    async def test_an_attempt_may_be_in_a_trace_of_its_own(self, store: Store) -> None:
        of_run, own = "0af7651916cd43dd8448eb211c80319c", "4bf92f3577b34da6a3ce929d0e0e4736"
        claim = await taken(store, traceparent=f"00-{of_run}-b7ad6b7169203331-01")
        await end(store, claim, Outcome.SNOOZED, trace_id=own)
        await end(store, (await take(store, queue=claim.queue))[0])
        assert [attempt.trace_id for attempt in await store.attempts(claim.run_id)] == [own, of_run]

    async def test_an_attempts_outcome_is_what_happened(self, store: Store) -> None:
        for outcome in ENDED:
            claim = await taken(store)
            await end(store, claim, outcome)
            [attempt] = await store.attempts(claim.run_id)
            assert attempt.outcome is outcome

    # fencing

    async def test_an_older_attempt_loses(self, store: Store, twin: Store) -> None:
        old = await taken(store, queue=QUEUE)
        await end(twin, old, Outcome.LOST)
        [new] = await take(twin, "worker-2")
        await self._is_refused(store, new, ending(old, result='"zombie"'))
        assert (await end(twin, new, result='"good"')).result == "good"

    async def test_a_newer_attempt_loses(self, store: Store) -> None:
        claim = await taken(store)
        await self._is_refused(store, claim, ending(replace(claim, attempt=2)))

    async def test_another_owner_loses(self, store: Store) -> None:
        claim = await taken(store)
        await self._is_refused(store, claim, ending(replace(claim, owner="worker-2")))
        await self._is_refused(store, claim, ending(replace(claim, owner="")))

    async def test_an_unknown_run_is_nobodys(self, store: Store) -> None:
        claim = await taken(store)
        for unknown in (run_id(), "garbage", "'"):
            await self._is_refused(store, claim, ending(replace(claim, run_id=unknown)))

    async def _is_refused(self, store: Store, claim: Claim, settlement: Any) -> None:
        before, attempts = await store.get(claim.run_id), await store.attempts(claim.run_id)
        assert list(await settle(store, settlement)) == [None]
        assert await store.get(claim.run_id) == before
        assert await store.attempts(claim.run_id) == attempts

    async def test_what_is_not_running_does_not_end(self, store: Store) -> None:
        other = await taken(store)
        for state in RunState:
            if state is RunState.RUNNING:
                continue
            run = await brought_to(store, state)
            claim = replace(other, run_id=run.id, attempt=run.attempt, owner=run.claimed_by or OWNER)
            before = await store.attempts(run.id)
            # With an outcome that was not recorded: this one is not a settlement sent twice.
            assert list(await settle(store, ending(claim, Outcome.TIMED_OUT))) == [None]
            assert await store.get(run.id) == run
            assert await store.attempts(run.id) == before

    async def test_in_a_group_each_stands_for_itself(self, store: Store) -> None:
        claims = [await taken(store) for _ in range(5)]
        await end(store, claims[1], Outcome.FAILED)
        states = await settle(
            store,
            ending(claims[3], Outcome.SNOOZED, delay=5),
            ending(claims[1]),
            ending(claims[0], Outcome.FAILED),
            ending(replace(claims[2], owner="worker-2")),
            ending(claims[4], result='"four"'),
        )
        assert list(states) == [RunState.SCHEDULED, None, RunState.RETRYING, None, RunState.SUCCEEDED]
        found = [(run.state, run.result) for run in [await store.get(claim.run_id) for claim in claims]]
        assert found == [
            (RunState.RETRYING, None),
            (RunState.RETRYING, None),
            (RunState.RUNNING, None),
            (RunState.SCHEDULED, None),
            (RunState.SUCCEEDED, "four"),
        ]

    @pytest.mark.parametrize("is_first", [True, False])
    async def test_a_zombie_in_the_group_of_the_valid_attempt_changes_nothing(
        self, store: Store, is_first: bool
    ) -> None:
        old = await taken(store, queue=QUEUE)
        await end(store, old, Outcome.LOST)
        [new] = await take(store, "worker-2")
        zombies = [ending(old, result='"old"'), ending(replace(new, owner=OWNER), result='"stolen"')]
        valid = ending(new, result='"new"')
        group = [*zombies, valid] if is_first else [valid, *zombies]
        states = list(await store.settle(group))
        assert states == ([None, None, RunState.SUCCEEDED] if is_first else [RunState.SUCCEEDED, None, None])
        run = await store.get(new.run_id)
        assert (run.result, run.failures, run.losses) == ("new", 0, 0)
        assert [attempt.number for attempt in await store.attempts(run.id)] == [1, 2]

    async def test_of_two_ends_of_an_attempt_in_one_group_the_first_counts(self, store: Store) -> None:
        claim = await taken(store)
        first, second = ending(claim, result='"first"'), ending(claim, Outcome.FAILED)
        assert list(await settle(store, first, second)) == [RunState.SUCCEEDED, None]
        assert (await store.get(claim.run_id)).result == "first"
        assert len(await store.attempts(claim.run_id)) == 1

    async def test_of_two_ends_at_once_one_counts(self, store: Store, twin: Store) -> None:
        for _ in range(5):
            claim = await taken(store)
            outcomes = (Outcome.SUCCEEDED, Outcome.FAILED)
            answers = await asyncio.gather(
                *(settle(one, ending(claim, outcome)) for one, outcome in zip((store, twin), outcomes, strict=True))
            )
            states = [state for [state] in answers]
            assert sorted(map(str, states)) in (["None", "retrying"], ["None", "succeeded"])
            [attempt] = await store.attempts(claim.run_id)
            assert attempt.outcome is (Outcome.SUCCEEDED if states[0] else Outcome.FAILED)

    # commits whose answer was lost

    @pytest.mark.parametrize("outcome", ENDED)
    async def test_the_same_settlement_again_is_answered_as_recorded(
        self, store: Store, twin: Store, travel: Travel, outcome: Outcome
    ) -> None:
        claim, other = await taken(store, max_attempts=9), await taken(store)
        settlement = ending(claim, outcome, error=encode_error(ErrorInfo(name="E", message="m")), delay=1)
        [state] = await settle(store, settlement)
        before = await store.get(claim.run_id)
        await travel(10)
        assert list(await settle(twin, ending(other), settlement)) == [RunState.SUCCEEDED, state]
        assert await store.get(claim.run_id) == before
        assert len(await store.attempts(claim.run_id)) == 1

    async def test_it_is_so_even_while_the_next_attempt_runs(self, store: Store) -> None:
        claim = await taken(store, queue=QUEUE)
        settlement = ending(claim, Outcome.FAILED)
        await settle(store, settlement)
        [again] = await take(store)
        assert list(await settle(store, settlement)) == [RunState.RETRYING]
        assert list(await settle(store, ending(claim))) == [None]
        assert (await store.get(again.run_id)).state is RunState.RUNNING

    # cancel requests

    @pytest.mark.parametrize("outcome", ENDED)
    async def test_only_a_success_wins_over_a_cancel_request(
        self, store: Store, clock: Clock, outcome: Outcome
    ) -> None:
        claim = await taken(store)
        await store.cancel(claim.run_id, "user left", "ann")
        error = encode_error(ErrorInfo(name="E", message="m"))
        wanted = RunState.SUCCEEDED if outcome is Outcome.SUCCEEDED else RunState.CANCELED
        assert list(await settle(store, ending(claim, outcome, delay=60, error=error))) == [wanted]
        run = await store.get(claim.run_id)
        assert run.state is wanted
        assert run.reason == ("user left" if wanted is RunState.CANCELED else None)
        assert set(finish_times(run)) == {FINISHED_AT[wanted]}
        [attempt] = await store.attempts(claim.run_id)
        assert attempt.outcome is outcome

    async def test_a_cancel_request_wins_over_dead_lettering(self, store: Store) -> None:
        claim = await taken(store)
        await store.cancel(claim.run_id, "user left", None)
        run = await end(store, claim, Outcome.FAILED, permanent=True)
        assert (run.state, run.reason, run.failures) == (RunState.CANCELED, "user left", 1)

    async def test_one_cancel_request_in_a_group_concerns_one_run(self, store: Store) -> None:
        claims = [await taken(store) for _ in range(3)]
        await store.cancel(claims[1].run_id, "this one", None)
        states = await settle(store, *(ending(claim, Outcome.FAILED) for claim in claims))
        assert list(states) == [RunState.RETRYING, RunState.CANCELED, RunState.RETRYING]
        reasons = [(await store.get(claim.run_id)).reason for claim in claims]
        assert reasons == [None, "this one", None]

    async def test_nothing_to_settle_is_nothing(self, store: Store) -> None:
        assert list(await store.settle([])) == []
