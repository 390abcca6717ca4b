"""Delivering: take, progress, checkpoints, and what is running."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from datetime import UTC, datetime

import pytest

from actorjobs.clock import Clock
from actorjobs.lifecycle import LOSSES_UNTIL_SUSPECT
from actorjobs.model import Outcome, RunState
from actorjobs.ports import Claim, Demand, Fence, Store
from actorjobs.testing.store_suite.setting import (
    JOB,
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
    run_id,
    settle,
    take,
    taken,
)

ANY = Demand(queue=QUEUE, jobs={JOB: 1}, limit=10)


def ids(claims: Sequence[Claim]) -> list[str]:
    return [claim.run_id for claim in claims]


class Delivering(StoreSetting):
    async def test_a_newer_version_waits_for_one_who_knows_it(self, store: Store) -> None:
        old, new = await accepted(store, envelope(version=1), envelope(version=3))
        assert ids(await take(store, jobs={JOB: 2})) == [old]
        assert ids(await take(store, jobs={JOB: 3})) == [new]

    async def test_a_claim_has_all_that_performing_needs(self, store: Store, clock: Clock) -> None:
        asked = envelope(
            version=3,
            payload={"b": [1, NASTY]},
            constructor_args={"locale": "de"},
            tenant="acme",
            traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            tracestate="vendor=1",
            baggage="user=7",
            max_attempts=7,
            retry={"attempts": 7},
            timeout=12.5,
            parent=run_id(),
            priority=0,
        )
        await accepted(store, asked)
        [claim] = await take(store, jobs={JOB: 3})
        run = await store.get(asked.id)
        assert claim == Claim(
            run_id=asked.id,
            seq=claim.seq,
            owner=OWNER,
            job=JOB,
            version=3,
            queue=QUEUE,
            tenant="acme",
            priority=0,
            payload=claim.payload,
            constructor_args='{"locale":"de"}',
            attempt=1,
            failures=0,
            losses=0,
            max_attempts=7,
            timeout=12.5,
            retry='{"attempts":7}',
            checkpoint=None,
            traceparent=asked.traceparent,
            tracestate="vendor=1",
            baggage="user=7",
            parent=asked.parent,
            inserted_at=run.inserted_at,
            available_at=run.available_at,
            claimed_at=claim.claimed_at,
        )
        assert claim.seq > 0
        assert claim.payload == '{"b":[1,' + json.dumps(NASTY, ensure_ascii=False) + "]}"
        assert claim.claimed_at >= run.inserted_at
        assert (run.state, run.attempt, run.claimed_by) == (RunState.RUNNING, 1, OWNER)
        assert run.claimed_at == run.attempted_at == claim.claimed_at
        if clock.is_virtual:
            assert claim.claimed_at == clock.now()

    async def test_a_run_is_taken_once(self, store: Store, twin: Store) -> None:
        await accepted(store, envelope(), envelope())
        assert len(await take(store, limit=1)) == 1
        assert len(await take(twin, "worker-2")) == 1
        assert await take(store) == []
        assert await take(twin) == []

    async def test_only_what_is_due_is_taken(self, store: Store, travel: Travel) -> None:
        now, soon, later = await accepted(store, envelope(), envelope(delay=1), envelope(delay=2))
        assert ids(await take(store)) == [now]
        await travel(0.999_999)
        assert await take(store) == []
        await travel(0.000_001)
        assert ids(await take(store)) == [soon]
        await travel(1)
        assert ids(await take(store)) == [later]

    async def test_runs_that_wait_for_later_hide_nothing(self, store: Store) -> None:
        await accepted(store, *(envelope(delay=60, priority=n % 10) for n in range(50)))
        [due] = await accepted(store, envelope())
        assert ids(await take(store, limit=5)) == [due]

    async def test_higher_priority_first_then_the_longest_due(self, store: Store, travel: Travel) -> None:
        asked = [envelope(priority=priority, delay=delay) for delay in (3, 1, 2) for priority in (0, 9, 4)]
        await accepted(store, *asked)
        await travel(5)
        wanted = [one.id for one in sorted(asked, key=lambda one: (-one.priority, one.delay))]
        assert ids(await take(store, limit=4)) == wanted[:4]
        assert ids(await take(store, limit=4)) == wanted[4:8]
        assert ids(await take(store, limit=4)) == wanted[8:]

    async def test_every_priority_is_served(self, store: Store) -> None:
        asked = [envelope(priority=priority) for priority in range(10)]
        await accepted(store, *asked)
        assert ids(await take(store)) == [one.id for one in reversed(asked)]

    async def test_never_more_than_the_limit(self, store: Store) -> None:
        await accepted(store, *(envelope(priority=n % 10) for n in range(30)))
        assert [len(await take(store, limit=limit)) for limit in (0, 1, 7, 100)] == [0, 1, 7, 22]

    async def test_jobs_that_a_process_does_not_know_are_left(self, store: Store) -> None:
        [unknown] = await accepted(store, envelope(job="suite:unknown", priority=9))
        [known] = await accepted(store, envelope())
        assert ids(await take(store, limit=1)) == [known]
        assert await take(store, jobs={}) == []
        assert ids(await take(store, jobs={"suite:unknown": 1, JOB: 1})) == [unknown]

    async def test_other_queues_and_namespaces_are_left(self, store: Store, foreign: Store) -> None:
        await accepted(foreign, envelope())
        await accepted(store, envelope(queue="other"))
        assert await take(store) == []
        assert len(await take(store, queue="other")) == 1
        assert len(await take(foreign)) == 1

    async def test_demands_are_answered_in_their_order(self, store: Store) -> None:
        asked = {queue: envelope(queue=queue) for queue in ("a", "b", "c")}
        await accepted(store, *asked.values())
        wanted = ("c", "empty", "a")
        answers = await store.take([Demand(queue=queue, jobs={JOB: 1}, limit=5) for queue in wanted], OWNER)
        assert [ids(answer.claims) for answer in answers] == [[asked["c"].id], [], [asked["a"].id]]

    async def test_two_demands_of_one_group_never_share_a_run(self, store: Store) -> None:
        new = await accepted(store, *(envelope() for _ in range(6)))
        answers = await store.take([Demand(queue=QUEUE, jobs={JOB: 1}, limit=2)] * 4, OWNER)
        assert [len(answer.claims) for answer in answers] == [2, 2, 2, 0]
        assert sorted(claim.run_id for answer in answers for claim in answer.claims) == sorted(new)

    async def test_nothing_starts_in_a_paused_queue(self, store: Store, twin: Store) -> None:
        await accepted(store, envelope(), envelope(queue="other"), envelope(delay=9))
        await twin.set_queue(QUEUE, is_paused=True)
        [answer] = await store.take([ANY], OWNER)
        assert (list(answer.claims), answer.next_due, answer.suspects_due) == ([], None, False)
        assert len(await take(store, queue="other")) == 1
        await twin.set_queue(QUEUE, is_paused=False)
        assert len(await take(store)) == 1

    async def test_another_namespaces_pause_is_not_ours(self, store: Store, foreign: Store) -> None:
        await accepted(store, envelope())
        await foreign.set_queue(QUEUE, is_paused=True)
        assert len(await take(store)) == 1

    async def test_a_held_run_does_not_start(self, store: Store) -> None:
        held, free = await accepted(store, envelope(priority=9), envelope())
        await self.hold(store, held, "limited")
        assert ids(await take(store)) == [free]
        run = await store.get(held)
        assert (run.state, run.hold) == (RunState.QUEUED, "limited")

    async def test_a_run_past_its_expiry_does_not_start(self, store: Store, travel: Travel) -> None:
        late, just, endless = await accepted(store, envelope(expires_in=5), envelope(expires_in=5.000_001), envelope())
        await travel(5)
        assert sorted(ids(await take(store))) == sorted([just, endless])
        assert (await store.get(late)).state is RunState.QUEUED

    async def test_a_run_starts_only_when_it_waits_and_is_due(self, store: Store) -> None:
        for state in set(RunState) - {RunState.QUEUED}:
            run = await brought_to(store, state)
            assert await take(store, "worker-2", queue=run.queue) == []
            assert await take(store, "worker-2", queue=run.queue, suspects=True) == []
            assert await store.get(run.id) == run

    async def test_attempt_numbers_only_grow(self, store: Store, twin: Store) -> None:
        await accepted(store, envelope(max_attempts=9))
        outcomes = [Outcome.FAILED, Outcome.SNOOZED, Outcome.INTERRUPTED, Outcome.TIMED_OUT, Outcome.SUCCEEDED]
        for number, outcome in enumerate(outcomes, start=1):
            [claim] = await take((store, twin)[number % 2], f"worker-{number}")
            assert (claim.attempt, claim.owner) == (number, f"worker-{number}")
            run = await end(store, claim, outcome)
            assert run.attempt == number
        assert await take(store) == []

    async def test_every_claimable_generation_has_its_own_seq(self, store: Store) -> None:
        [new] = await accepted(store, envelope(max_attempts=9))
        seen: list[int] = []
        for outcome in (Outcome.FAILED, Outcome.SNOOZED, Outcome.INTERRUPTED):
            [claim] = await take(store)
            seen.append(claim.seq)
            await end(store, claim, outcome)
        await store.reschedule(new, datetime(2001, 1, 1, tzinfo=UTC), None)
        [claim] = await take(store)
        seen.append(claim.seq)
        await end(store, claim, Outcome.CANCELED)
        await store.reopen(new, None, None)
        [claim] = await take(store)
        seen.append(claim.seq)
        # One more each time the run became claimable: moving a run that waits counts too.
        assert [seq - seen[0] for seq in seen] == [0, 1, 2, 4, 5]

    # when to ask again

    async def test_next_due_is_when_the_next_run_falls_due(self, store: Store, travel: Travel) -> None:
        await accepted(store, envelope(delay=30), envelope(delay=10, priority=0), envelope(delay=2, queue="other"))
        [answer] = await store.take([ANY], OWNER)
        assert answer.next_due == pytest.approx(10)
        await travel(4)
        [answer] = await store.take([ANY], OWNER)
        assert answer.next_due == pytest.approx(6)
        await travel(7)
        [answer] = await store.take([ANY], OWNER)
        assert len(answer.claims) == 1
        assert answer.next_due == pytest.approx(19)

    async def test_next_due_is_none_when_none_waits(self, store: Store) -> None:
        await taken(store)
        [answer] = await store.take([ANY], OWNER)
        assert (list(answer.claims), answer.next_due) == ([], None)

    async def test_next_due_is_now_when_there_may_be_more(self, store: Store) -> None:
        await accepted(store, *(envelope() for _ in range(10)), envelope(delay=60))
        [answer] = await store.take([ANY], OWNER)
        assert (len(answer.claims), answer.next_due) == (10, 0.0)

    async def test_what_may_not_start_now_is_no_reason_to_ask_again(self, store: Store) -> None:
        await accepted(store, envelope(job="suite:unknown"))
        [held] = await accepted(store, envelope())
        await self.hold(store, held, "limited")
        [answer] = await store.take([ANY], OWNER)
        assert (list(answer.claims), answer.next_due) == ([], None)

    # runs that were lost with their worker

    async def test_a_run_lost_twice_is_taken_only_as_a_suspect(self, store: Store, travel: Travel) -> None:
        [innocent] = await accepted(store, envelope(delay=100))
        suspect = await self._suspect(store, travel)
        await travel(1000)
        [answer] = await store.take([ANY], OWNER)
        assert ids(answer.claims) == [innocent]
        assert answer.suspects_due
        [answer] = await store.take([Demand(queue=QUEUE, jobs={JOB: 1}, limit=10, suspects=True)], OWNER)
        [claim] = answer.claims
        assert (claim.run_id, claim.losses) == (suspect, LOSSES_UNTIL_SUSPECT)
        assert not answer.suspects_due
        [answer] = await store.take([ANY], OWNER)
        assert not answer.suspects_due

    async def test_a_suspect_waits_out_its_backoff(self, store: Store, travel: Travel) -> None:
        suspect = await self._suspect(store, travel)
        run = await store.get(suspect)
        [answer] = await store.take([ANY], OWNER)
        assert not answer.suspects_due
        assert answer.next_due is not None
        assert answer.next_due > 0
        assert await take(store, suspects=True) == []
        await travel(answer.next_due)
        assert ids(await take(store, suspects=True)) == [suspect]
        assert run.state is RunState.RETRYING

    async def test_ordinary_runs_are_not_taken_as_suspects(self, store: Store) -> None:
        await accepted(store, envelope())
        [answer] = await store.take([Demand(queue=QUEUE, jobs={JOB: 1}, limit=10, suspects=True)], OWNER)
        assert (list(answer.claims), answer.suspects_due) == ([], False)

    async def _suspect(self, store: Store, travel: Travel) -> str:
        """A run that was lost with its worker as often as makes it a suspect."""
        [new] = await accepted(store, envelope())
        for _ in range(LOSSES_UNTIL_SUSPECT):
            [claim] = await take(store)
            await end(store, claim, Outcome.LOST)
        return new

    # many at once

    async def test_many_takers_never_get_the_same_run(self, store: Store, twin: Store) -> None:
        new = [id for _ in range(6) for id in await accepted(store, *(envelope(priority=n % 3) for n in range(50)))]
        got: list[str] = []

        async def work(number: int) -> None:
            while len(got) < len(new):
                claims = await take((store, twin)[number % 2], f"worker-{number}", limit=1 + number)
                assert all(claim.attempt == 1 for claim in claims)
                got.extend(ids(claims))

        await asyncio.wait_for(asyncio.gather(*(work(number) for number in range(12))), 30)
        assert sorted(got) == sorted(new)

    async def test_takers_and_enders_at_once_leave_nothing_behind(self, store: Store, twin: Store) -> None:
        """Every run fails twice and then succeeds, in the hands of whoever gets it."""
        new = await accepted(store, *(envelope(max_attempts=3) for _ in range(40)))
        succeeded: list[str] = []

        async def work(one: Store, owner: str) -> None:
            while len(succeeded) < len(new):
                claims = await take(one, owner, limit=5)
                outcomes = [Outcome.SUCCEEDED if claim.attempt == 3 else Outcome.FAILED for claim in claims]
                states = await settle(one, *map(ending, claims, outcomes))
                assert None not in states
                succeeded.extend(c.run_id for c, state in zip(claims, states, strict=True) if state == "succeeded")

        await asyncio.wait_for(asyncio.gather(*(work((store, twin)[n % 2], f"worker-{n}") for n in range(6))), 30)
        assert sorted(succeeded) == sorted(new)
        assert {(await store.get(id)).attempt for id in new} == {3}

    # while it runs

    async def test_progress_is_shown_until_the_next_attempt(self, store: Store, twin: Store) -> None:
        claim = await taken(store, queue=QUEUE)
        assert await store.save_progress(claim.fence, '{"fraction":0.5,"message":"halb \u2026 🦆"}')
        assert (await twin.get(claim.run_id)).progress == {"fraction": 0.5, "message": "halb \u2026 🦆"}
        assert await store.save_progress(claim.fence, '{"fraction":0.6}')
        run = await end(store, claim, Outcome.FAILED)
        assert run.progress == {"fraction": 0.6}
        await take(store)
        assert (await twin.get(claim.run_id)).progress is None

    async def test_a_checkpoint_is_there_for_the_next_attempt(self, store: Store, twin: Store) -> None:
        claim = await taken(store, queue=QUEUE)
        big = '{"done":"' + "x" * 200_000 + '"}'
        assert await store.save_checkpoint(claim.fence, "{}")
        assert await store.save_checkpoint(claim.fence, big)
        assert (await end(store, claim, Outcome.FAILED)).checkpoint == {"done": "x" * 200_000}
        [again] = await take(twin)
        assert again.checkpoint == big

    async def test_only_the_valid_attempt_saves(self, store: Store, twin: Store) -> None:
        old = await taken(store, queue=QUEUE)
        await end(store, old, Outcome.FAILED)
        waiting = old.fence
        [new] = await take(twin, "worker-2")
        before = await store.get(new.run_id)
        for fence in (
            waiting,
            Fence(run_id=new.run_id, attempt=new.attempt, owner=OWNER),
            Fence(run_id=new.run_id, attempt=new.attempt + 1, owner="worker-2"),
            Fence(run_id=run_id(), attempt=new.attempt, owner="worker-2"),
        ):
            assert not await store.save_progress(fence, '{"fraction":1}')
            assert not await store.save_checkpoint(fence, '{"stolen":true}')
        assert await store.get(new.run_id) == before
        await end(twin, new)
        assert not await twin.save_progress(new.fence, '{"fraction":1}')
        assert not await twin.save_checkpoint(new.fence, '{"late":true}')
        assert (await store.get(new.run_id)).checkpoint is None

    async def test_running_is_what_the_owner_has_in_hand(self, store: Store, twin: Store) -> None:
        await accepted(store, *(envelope() for _ in range(4)))
        mine, theirs = await take(store, limit=3), await take(twin, "worker-2")
        await store.save_checkpoint(mine[0].fence, '{"page":2}')
        await end(store, mine[1])
        running = {claim.run_id: claim for claim in await twin.running(OWNER)}
        assert set(running) == {mine[0].run_id, mine[2].run_id}
        assert running[mine[2].run_id] == mine[2]
        assert running[mine[0].run_id].checkpoint == '{"page":2}'
        assert await store.running("worker-2") == theirs
        assert await store.running("nobody") == []
