"""Hints: claims by bids, the outbox of what a broker has yet to be told, lost hints, and messages that are none."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio

from actorjobs.clock import Clock
from actorjobs.errors import InvalidOption
from actorjobs.jobs import Unique
from actorjobs.lifecycle import LOSSES_UNTIL_SUSPECT, TERMINAL
from actorjobs.model import Outcome, RunState
from actorjobs.ports import (
    LOST_AFTER_SECONDS,
    PROMISED_SECONDS,
    PUBLISH_AHEAD_SECONDS,
    PUBLISH_GRACE_SECONDS,
    Accepted,
    Bid,
    Claim,
    Hint,
    Quarantined,
    Refusal,
    Refused,
    Store,
)
from actorjobs.testing.store_suite.setting import (
    JOB,
    NASTY,
    OWNER,
    QUEUE,
    InOutbox,
    OpenStore,
    StoreSetting,
    Travel,
    accepted,
    brought_to,
    end,
    ending,
    envelope,
    later,
    run_id,
    take,
)

KNOWN = {JOB: 1}
GARBAGE = ["", "no-run", "x" * 5000, "\x00", "\ud800", "'; DROP TABLE actorjobs_runs", "ß" * 36]
"""What may come from a broker in the place of a run's id."""


def hint(run_id: str, seq: int | None = 1, **fields: Any) -> Hint:
    said: dict[str, Any] = {"run_id": run_id, "seq": seq, "job": JOB, "queue": QUEUE}
    return Hint(**said | fields)


async def bid_for(store: Store, *bids: str | Bid, owner: str = OWNER, jobs: Any = KNOWN) -> list[Claim | Refusal]:
    """Bid for these runs, as they are in their first generation if nothing else is said."""
    asked = [Bid(run_id=one, seq=1) if isinstance(one, str) else one for one in bids]
    return list(await store.claim(asked, jobs, owner))


def got(answers: Sequence[Claim | Refusal]) -> list[str]:
    """Of each answer the run that it brought, or why it did not."""
    return [answer.run_id if isinstance(answer, Claim) else answer.why.value for answer in answers]


async def why(store: Store, bid: str | Bid, **options: Any) -> Refused:
    """Why this bid is refused."""
    [answer] = await bid_for(store, bid, **options)
    assert isinstance(answer, Refusal), answer
    return answer.why


async def suspected(store: Store, travel: Travel, **fields: Any) -> Bid:
    """A run that was lost with its worker as often as makes it a suspect, and is due again; the bid for it."""
    [new] = await accepted(store, envelope(**fields))
    for _ in range(LOSSES_UNTIL_SUSPECT):
        [claim] = await take(store)
        await end(store, claim, Outcome.LOST)
    run = await store.get(new)
    await travel((run.available_at - await store.now()).total_seconds())
    return Bid(run_id=new, seq=1 + LOSSES_UNTIL_SUSPECT)


async def published(store: Store, *ids: str) -> None:
    """Have it marked that a broker has the hints of these runs, in their first generation."""
    await store.mark_published([hint(one) for one in ids])


class Hinting(StoreSetting):
    @pytest_asyncio.fixture
    async def hinted(self, open_store: OpenStore, namespace: str, clock: Clock) -> Store:
        """The store under test, with an outbox."""
        return await open_store(namespace, clock, has_outbox=True)

    @pytest_asyncio.fixture
    async def hinted_twin(self, open_store: OpenStore, namespace: str, clock: Clock) -> Store:
        return await open_store(namespace, clock, has_outbox=True)

    @pytest_asyncio.fixture
    async def hinted_foreign(self, open_store: OpenStore, namespace: str, clock: Clock) -> Store:
        return await open_store(f"not-{namespace}", clock, has_outbox=True)

    # claims by bids

    async def test_a_bid_brings_the_claim_with_all_that_performing_needs(self, hinted: Store, clock: Clock) -> None:
        asked = envelope(payload={"b": [1, NASTY]}, tenant="acme", priority=7, tracestate="vendor=1", max_attempts=3)
        await accepted(hinted, asked)
        [claim] = await bid_for(hinted, asked.id, owner="worker-2")
        run = await hinted.get(asked.id)
        assert isinstance(claim, Claim)
        assert [claim] == list(await hinted.running("worker-2"))
        assert (claim.run_id, claim.seq, claim.owner, claim.attempt) == (asked.id, 1, "worker-2", 1)
        assert (claim.tenant, claim.priority, claim.max_attempts) == ("acme", 7, 3)
        assert (run.state, run.attempt, run.claimed_by) == (RunState.RUNNING, 1, "worker-2")
        assert (claim.inserted_at, claim.available_at) == (run.inserted_at, run.available_at)
        assert run.claimed_at == claim.claimed_at >= run.inserted_at
        if clock.is_virtual:
            assert claim.claimed_at == clock.now()
        assert list(await hinted.settle([ending(claim)])) == [RunState.SUCCEEDED]

    async def test_bids_are_answered_one_by_one_in_their_order(self, hinted: Store) -> None:
        ids = await accepted(hinted, *(envelope() for _ in range(4)))
        missing = run_id()
        assert got(await bid_for(hinted, ids[3], missing, ids[0])) == [ids[3], "stale", ids[0]]
        assert got(await bid_for(hinted, *ids)) == ["stale", ids[1], ids[2], "stale"]
        assert await bid_for(hinted) == []

    async def test_of_two_bids_for_one_run_the_first_is_the_one(self, hinted: Store) -> None:
        one, two = await accepted(hinted, envelope(), envelope())
        assert got(await bid_for(hinted, one, one, two, one, two)) == [one, "stale", two, "stale", "stale"]
        [three] = await accepted(hinted, envelope(delay=60))
        assert got(await bid_for(hinted, three, three)) == ["early", "stale"]

    async def test_a_hint_of_another_generation_does_not_hide_the_right_one(self, hinted: Store) -> None:
        [new] = await accepted(hinted, envelope())
        await hinted.reschedule(new, datetime(2001, 1, 1, tzinfo=UTC), None)
        bids = [Bid(run_id=new, seq=seq) for seq in (1, 2, 3)]
        assert got(await bid_for(hinted, *bids)) == ["stale", new, "stale"]

    @pytest.mark.parametrize("seq", [-(2**70), -1, 0, 2, 2**31, 2**70])
    async def test_a_wrong_generation_is_stale(self, hinted: Store, seq: int) -> None:
        [new] = await accepted(hinted, envelope())
        assert await why(hinted, Bid(run_id=new, seq=seq)) is Refused.STALE
        assert (await hinted.get(new)).state is RunState.QUEUED

    async def test_what_does_not_wait_is_stale(self, hinted: Store) -> None:
        for state in (*TERMINAL, RunState.RUNNING):
            run = await brought_to(hinted, state)
            bids = [Bid(run_id=run.id, seq=seq, takes_suspect=True) for seq in (1, 2, 3)]
            assert got(await bid_for(hinted, *bids)) == ["stale"] * 3
            assert await hinted.get(run.id) == run

    async def test_garbage_is_stale_and_harms_nobody(self, hinted: Store) -> None:
        [new] = await accepted(hinted, envelope())
        assert got(await bid_for(hinted, *GARBAGE, new)) == [*["stale"] * len(GARBAGE), new]
        assert got(await bid_for(hinted, *GARBAGE)) == ["stale"] * len(GARBAGE)

    async def test_another_namespaces_run_is_stale(self, hinted: Store, foreign: Store) -> None:
        [theirs] = await accepted(foreign, envelope())
        assert await why(hinted, theirs) is Refused.STALE
        assert got(await bid_for(foreign, theirs)) == [theirs]

    async def test_an_early_bid_is_told_for_how_long(self, hinted: Store, travel: Travel) -> None:
        [new] = await accepted(hinted, envelope(delay=60.25))
        await travel(20)
        assert await bid_for(hinted, new) == [Refusal(why=Refused.EARLY, seconds=40.25)]
        await travel(40.249_999)
        [answer] = await bid_for(hinted, new)
        assert isinstance(answer, Refusal)
        assert answer.seconds == pytest.approx(0.000_001)
        await travel(0.000_001)
        assert got(await bid_for(hinted, new)) == [new]

    async def test_how_early_is_told_by_the_databases_time(self, hinted: Store) -> None:
        [new] = await accepted(hinted, envelope(delay=60))
        [answer] = await bid_for(hinted, new)
        assert isinstance(answer, Refusal)
        assert (answer.why, 30 < answer.seconds <= 60) == (Refused.EARLY, True)

    async def test_a_run_past_its_expiry_is_stale(self, hinted: Store, travel: Travel) -> None:
        late, just = await accepted(hinted, envelope(expires_in=5), envelope(expires_in=5.000_001))
        await travel(5)
        assert got(await bid_for(hinted, late, just)) == ["stale", just]

    async def test_nothing_is_claimed_in_a_paused_queue(self, hinted: Store, foreign: Store) -> None:
        mine, other = await accepted(hinted, envelope(), envelope(queue="other"))
        await foreign.set_queue("other", is_paused=True)
        await hinted.set_queue(QUEUE, is_paused=True)
        assert got(await bid_for(hinted, mine, other)) == ["paused", other]
        await hinted.set_queue(QUEUE, is_paused=False)
        assert got(await bid_for(hinted, mine)) == [mine]

    async def test_what_this_process_does_not_know_is_left(self, hinted: Store) -> None:
        job, new, held = await accepted(hinted, envelope(job="suite:new"), envelope(version=3), envelope())
        await self.hold(hinted, held, "limited")
        assert got(await bid_for(hinted, job, new, held, jobs={JOB: 2})) == ["unknown"] * 3
        assert got(await bid_for(hinted, job, new, held, jobs={})) == ["unknown"] * 3
        assert got(await bid_for(hinted, job, new, held, jobs={JOB: 3, "suite:new": 1})) == [job, new, "unknown"]

    async def test_a_run_lost_twice_goes_only_to_who_takes_suspects(self, hinted: Store, travel: Travel) -> None:
        bid = await suspected(hinted, travel)
        [innocent] = await accepted(hinted, envelope())
        assert got(await bid_for(hinted, bid)) == ["suspect"]
        willing = replace(bid, takes_suspect=True)
        answers = await bid_for(hinted, willing, Bid(run_id=innocent, seq=1, takes_suspect=True))
        assert got(answers) == [bid.run_id, innocent]

    async def test_the_strongest_reason_is_the_one_that_is_told(self, hinted: Store, travel: Travel) -> None:
        """They are taken away one by one."""
        suspect = await suspected(hinted, travel, queue=QUEUE)
        await hinted.reschedule(suspect.run_id, later(await hinted.now(), 60), None)
        bid = Bid(run_id=suspect.run_id, seq=suspect.seq + 1)
        await self.hold(hinted, bid.run_id, "limited")
        [expired] = await accepted(hinted, envelope(expires_in=0, delay=60))
        await hinted.set_queue(QUEUE, is_paused=True)
        assert got(await bid_for(hinted, expired, bid, jobs={})) == ["stale", "paused"]
        await hinted.set_queue(QUEUE, is_paused=False)
        assert await why(hinted, bid) is Refused.UNKNOWN
        await self.hold(hinted, bid.run_id, None)
        assert await why(hinted, bid, jobs={}) is Refused.UNKNOWN
        assert await why(hinted, bid) is Refused.EARLY
        await travel(60)
        assert await why(hinted, bid) is Refused.SUSPECT

    async def test_a_claim_gives_the_place_of_a_queued_twin_free(self, hinted: Store) -> None:
        rule = Unique(while_="queued").to_json()
        [first] = await accepted(hinted, envelope(unique=rule))
        assert got(await bid_for(hinted, first)) == [first]
        await accepted(hinted, envelope(unique=rule))

    async def test_two_owners_never_get_the_same_run(self, hinted: Store, hinted_twin: Store) -> None:
        new = [id for _ in range(4) for id in await accepted(hinted, *(envelope() for _ in range(50)))]
        claims: list[Claim] = []

        async def work(number: int) -> None:
            store = (hinted, hinted_twin)[number % 2]
            for start in range(0, len(new), 40):
                wanted = new[start : start + 40][:: 1 if number % 3 else -1]
                answers = await bid_for(store, *wanted, owner=f"worker-{number}")
                claims.extend(answer for answer in answers if isinstance(answer, Claim))
                reasons = {answer.why for answer in answers if isinstance(answer, Refusal)}
                assert reasons <= {Refused.STALE, Refused.LOCKED}

        await asyncio.wait_for(asyncio.gather(*(work(number) for number in range(6))), 30)
        assert sorted(claim.run_id for claim in claims) == sorted(new)
        assert {claim.attempt for claim in claims} == {1}

    async def test_two_thousand_hints_are_one_group(self, hinted: Store) -> None:
        new = [id for _ in range(4) for id in await accepted(hinted, *(envelope() for _ in range(500)))]
        await hinted.mark_published([hint(one) for one in [*new, "garbage", run_id()]])
        assert (await self.outbox_of(hinted, new[-1])).published_at is not None
        await hinted.publish_later([hint(one) for one in ["garbage", *new]], 60, doubling_to=60)
        assert list(await hinted.stage(10)) == []
        assert await hinted.publish_now(QUEUE, [JOB]) == 2000
        assert {one.run_id for one in await hinted.stage(2500)} == set(new)
        answers = await bid_for(hinted, *reversed(new), "garbage")
        assert got(answers) == [*reversed(new), "stale"]

    # what goes into the outbox

    async def _is_to_publish(self, store: Store, run_id: str, at: datetime) -> None:
        """In a new generation, of which no broker knows, to be published from then on."""
        assert await self.outbox_of(store, run_id) == InOutbox(at, None, 0)

    async def _marked(self, store: Store, run_id: str, seq: int = 1) -> None:
        """Published, and given back before."""
        await store.publish_later([hint(run_id, seq)], 1, doubling_to=60)
        await store.mark_published([hint(run_id, seq)])
        found = await self.outbox_of(store, run_id)
        assert (found.publish_after, found.published_at is None, found.republished) == (None, False, 1)

    @pytest.mark.parametrize(
        ("delay", "options", "seconds"),
        [
            (None, {}, PUBLISH_GRACE_SECONDS),
            (None, {"publish_in": 0.0}, 0),
            (None, {"publish_in": 30.5}, 30.5),
            (PUBLISH_AHEAD_SECONDS + 4, {}, PUBLISH_GRACE_SECONDS),
            (PUBLISH_AHEAD_SECONDS + 4, {"publish_in": 0.0}, 4),
            (86_400, {}, 86_400 - PUBLISH_AHEAD_SECONDS),
        ],
    )
    async def test_an_accepted_run_is_to_be_published(
        self, hinted: Store, delay: float | None, options: dict[str, float], seconds: float
    ) -> None:
        one = envelope(delay=delay)
        assert await hinted.insert([one], **options) == [Accepted(run_id=one.id, existing=False)]
        run = await hinted.get(one.id)
        await self._is_to_publish(hinted, one.id, later(run.inserted_at, seconds))

    async def test_what_is_accepted_together_is_published_together(self, hinted: Store) -> None:
        for accepted_run in await hinted.insert_all([envelope(), envelope()]):
            run = await hinted.get(accepted_run.run_id)
            await self._is_to_publish(hinted, run.id, later(run.inserted_at, PUBLISH_GRACE_SECONDS))

    async def test_nobody_but_the_relay_publishes_what_a_caller_commits(self, hinted: Store) -> None:
        for begin in self.transactions(hinted).values():
            async with begin() as transaction:
                [new] = await hinted.insert_all([envelope()], transaction.tx)
                await transaction.commit()
            run = await hinted.get(new.run_id)
            await self._is_to_publish(hinted, run.id, run.inserted_at)

    @pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.SNOOZED, Outcome.INTERRUPTED, Outcome.LOST])
    async def test_an_ended_attempt_whose_run_waits_again_is_to_be_published(
        self, hinted: Store, clock: Clock, outcome: Outcome
    ) -> None:
        for delay in (0, 86_400):
            [new] = await accepted(hinted, envelope())
            await self._marked(hinted, new)
            [claim] = await bid_for(hinted, new)
            assert isinstance(claim, Claim)
            before = await hinted.now()
            run = await end(hinted, claim, outcome, delay=delay)
            found = await self.outbox_of(hinted, new)
            assert (found.published_at, found.republished) == (None, 0)
            assert found.publish_after is not None
            after = max(later(before, PUBLISH_GRACE_SECONDS), later(run.available_at, -PUBLISH_AHEAD_SECONDS))
            if clock.is_virtual:
                assert found.publish_after == after
            assert timedelta(0) <= found.publish_after - after < timedelta(seconds=20)

    async def test_a_run_that_an_operator_makes_claimable_is_to_be_published_at_once(
        self, hinted: Store, clock: Clock
    ) -> None:
        moved, one, two = await accepted(hinted, envelope(), envelope(), envelope())
        for id in (moved, one, two):
            await self._marked(hinted, id)
        await hinted.cancel_many([one, two], None, None)
        before = await hinted.now()
        runs = [await hinted.reopen(one, None, None), *await hinted.reopen_many([two], None, None)]
        runs.append(await hinted.reschedule(moved, datetime(2001, 1, 1, tzinfo=UTC), None))
        for id in (one, two, moved):
            found = await self.outbox_of(hinted, id)
            assert (found.published_at, found.republished) == (None, 0)
            assert found.publish_after is not None
            assert timedelta(0) <= found.publish_after - before < timedelta(seconds=20)
            if clock.is_virtual:
                assert found.publish_after == before
        await hinted.reschedule(moved, later(before, 86_400), None)
        await self._is_to_publish(hinted, moved, later(before, 86_400 - PUBLISH_AHEAD_SECONDS))

    async def test_a_replaced_run_is_to_be_published_at_once(self, hinted: Store) -> None:
        rule = Unique(on_conflict="replace").to_json()
        [first] = await accepted(hinted, envelope(unique=rule))
        await self._marked(hinted, first)
        before = await hinted.now()
        await hinted.insert([envelope(unique=rule, delay=86_400)])
        found = await self.outbox_of(hinted, first)
        assert (found.published_at, found.republished) == (None, 0)
        run = await hinted.get(first)
        assert found.publish_after == later(run.available_at, -PUBLISH_AHEAD_SECONDS) > before

    async def test_what_a_run_ends_by_takes_it_out_of_the_outbox(self, hinted: Store) -> None:
        one, two, three = await accepted(hinted, envelope(), envelope(), envelope(expires_in=0))
        await hinted.cancel(one, None, None)
        await hinted.cancel_many([two], None, None)
        assert list(await hinted.expire(10)) == [three]
        for id in (one, two, three):
            assert await self.outbox_of(hinted, id) == InOutbox()

    async def test_a_claimed_run_is_not_in_the_outbox(self, hinted: Store) -> None:
        one, two = await accepted(hinted, envelope(), envelope(queue="other"))
        await hinted.publish_later([hint(one), hint(two)], 0, doubling_to=60)
        claims = [*await bid_for(hinted, one), *await take(hinted, queue="other")]
        for id in (one, two):
            assert await self.outbox_of(hinted, id) == InOutbox()
        assert list(await hinted.stage(10)) == []
        await hinted.cancel(two, None, None)
        outcomes = [Outcome.SUCCEEDED, Outcome.FAILED]
        ends = [ending(claim, o) for claim, o in zip(claims, outcomes, strict=True) if isinstance(claim, Claim)]
        assert list(await hinted.settle(ends)) == [RunState.SUCCEEDED, RunState.CANCELED]
        for id in (one, two):
            assert await self.outbox_of(hinted, id) == InOutbox()

    async def test_without_a_broker_to_be_told_the_outbox_stays_empty(self, store: Store) -> None:
        rule = Unique(on_conflict="replace").to_json()
        ids = [*await accepted(store, envelope(), envelope(delay=60), envelope(unique=rule, delay=3600))]
        ids += [one.run_id for one in await store.insert_all([envelope()])]
        for begin in self.transactions(store).values():
            async with begin() as transaction:
                ids += [one.run_id for one in await store.insert_all([envelope(delay=60)], transaction.tx)]
                await transaction.commit()
        await store.insert([envelope(unique=rule)], publish_in=0.0)
        for claim in await take(store):
            await end(store, claim, Outcome.FAILED)
        await store.cancel_many(ids[1:3], None, None)
        await store.reopen(ids[1], None, None)
        await store.reopen_many([ids[2]], None, None)
        await store.reschedule(ids[0], datetime(2001, 1, 1, tzinfo=UTC), None)
        for id in ids:
            assert await self.outbox_of(store, id) == InOutbox()
        assert list(await store.stage(100)) == []

    # staging

    async def test_a_hint_is_staged_when_its_time_has_come(self, hinted: Store, travel: Travel) -> None:
        asked = envelope(priority=7, traceparent="00-" + "a" * 32 + "-" + "b" * 16 + "-01", tracestate="v=1", delay=60)
        asked = asked.model_copy(update={"baggage": "plan=gold"})
        await accepted(hinted, asked)
        await travel(PUBLISH_GRACE_SECONDS - 0.000_001)
        assert list(await hinted.stage(10)) == []
        await travel(0.000_001)
        [staged] = await hinted.stage(10)
        assert staged == Hint(
            run_id=asked.id,
            seq=1,
            job=JOB,
            queue=QUEUE,
            delay=60 - PUBLISH_GRACE_SECONDS,
            priority=7,
            traceparent=asked.traceparent,
            tracestate="v=1",
            baggage="plan=gold",
        )

    async def test_a_staged_hint_is_promised_to_one(self, hinted: Store, hinted_twin: Store, travel: Travel) -> None:
        [new] = await accepted(hinted, envelope())
        await travel(10)
        assert [one.run_id for one in await hinted.stage(10)] == [new]
        await travel(PROMISED_SECONDS - 0.000_001)
        assert list(await hinted_twin.stage(10)) == []
        await travel(0.000_001)
        [again] = await hinted_twin.stage(10)
        assert (again.run_id, again.seq, again.delay) == (new, 1, 0.0)

    async def test_the_longest_overdue_goes_first(self, hinted: Store, travel: Travel) -> None:
        ids: list[str] = []
        for _ in range(5):
            ids = [*await accepted(hinted, envelope()), *ids]
            await travel(0.5)
        await travel(10)
        assert list(await hinted.stage(0)) == []
        assert [one.run_id for one in await hinted.stage(2)] == ids[:-3:-1]
        assert [one.run_id for one in await hinted.stage(10)] == ids[2::-1]

    async def test_only_ones_own_waiting_runs_are_staged(self, hinted: Store, hinted_foreign: Store) -> None:
        await hinted_foreign.insert([envelope()], publish_in=0.0)
        asked = [envelope(), envelope(delay=60)]
        await hinted.insert(asked, publish_in=0.0)
        await take(hinted)
        [staged] = await hinted.stage(10)
        assert staged.run_id == asked[1].id
        assert 30 < staged.delay <= 60

    async def test_two_relays_never_get_the_same_hint(self, hinted: Store, hinted_twin: Store) -> None:
        asked = [envelope() for _ in range(300)]
        await hinted.insert(asked, publish_in=0.0)
        staged: list[str] = []

        async def relay(store: Store) -> None:
            while len(staged) < len(asked):
                staged.extend(one.run_id for one in await store.stage(17))

        await asyncio.wait_for(asyncio.gather(*(relay(one) for one in (hinted, hinted_twin) * 2)), 30)
        assert sorted(staged) == [one.id for one in asked]

    # marking

    async def test_what_a_broker_has_leaves_the_outbox(self, hinted: Store, travel: Travel, clock: Clock) -> None:
        one, two = await accepted(hinted, envelope(), envelope())
        await travel(1)
        await hinted.mark_published([hint(one), hint(two, None)])
        assert await self.outbox_of(hinted, one) == InOutbox(None, clock.now(), 0)
        assert (await self.outbox_of(hinted, two)).publish_after is not None
        before = clock.now()
        await travel(10)
        assert [staged.run_id for staged in await hinted.stage(10)] == [two]
        await published(hinted, one)
        assert await self.outbox_of(hinted, one) == InOutbox(None, before, 0)

    async def test_a_mark_that_comes_late_changes_nothing(self, hinted: Store, hinted_foreign: Store) -> None:
        moved, running, ended, theirs = await accepted(hinted, *(envelope() for _ in range(4)))
        await hinted.reschedule(moved, datetime(2001, 1, 1, tzinfo=UTC), None)
        await bid_for(hinted, running)
        await hinted.cancel(ended, None, None)
        before = [await self.outbox_of(hinted, id) for id in (moved, running, ended, theirs)]
        await published(hinted, moved, running, ended, run_id(), *GARBAGE)
        await published(hinted_foreign, theirs)
        await hinted.mark_published([])
        assert [await self.outbox_of(hinted, id) for id in (moved, running, ended, theirs)] == before

    # publishing later and now

    async def test_publishing_is_put_off(self, hinted: Store, travel: Travel, clock: Clock) -> None:
        soon, far, other = await accepted(hinted, envelope(), envelope(delay=2000), envelope())
        await published(hinted, soon, far)
        at = clock.now()
        await travel(3)
        await hinted.publish_later([hint(soon), hint(far), hint(other, None), hint(other, 2)], 7.5)
        assert await self.outbox_of(hinted, soon) == InOutbox(later(at, 10.5), at, 0)
        assert await self.outbox_of(hinted, far) == InOutbox(later(at, 2000 - PUBLISH_AHEAD_SECONDS), at, 0)
        await self._is_to_publish(hinted, other, later(at, PUBLISH_GRACE_SECONDS))
        await travel(7.5)
        assert {one.run_id for one in await hinted.stage(10)} == {soon, other}

    async def test_putting_off_again_and_again_doubles_the_time(
        self, hinted: Store, travel: Travel, clock: Clock
    ) -> None:
        [new] = await accepted(hinted, envelope(max_attempts=9))
        for times, seconds in enumerate([2, 4, 8, 15, 15, 15], start=1):
            await travel(0.1)
            await hinted.publish_later([hint(new)], 2, doubling_to=15)
            assert await self.outbox_of(hinted, new) == InOutbox(later(clock.now(), seconds), None, times)
        for _ in range(70):
            await hinted.publish_later([hint(new)], 2, doubling_to=15)
        assert await self.outbox_of(hinted, new) == InOutbox(later(clock.now(), 15), None, 76)
        await hinted.publish_later([hint(new)], 2)
        assert await self.outbox_of(hinted, new) == InOutbox(later(clock.now(), 2), None, 76)
        [claim] = await bid_for(hinted, new)
        assert isinstance(claim, Claim)
        await end(hinted, claim, Outcome.FAILED)
        await hinted.publish_later([hint(new, 2)], 2, doubling_to=15)
        assert await self.outbox_of(hinted, new) == InOutbox(later(clock.now(), 2), None, 1)

    async def test_what_a_broker_gave_in_vain_is_put_off_in_a_new_generation(
        self, hinted: Store, travel: Travel, clock: Clock
    ) -> None:
        [new] = await accepted(hinted, envelope())
        await hinted.publish_later([hint(new)], 1, doubling_to=60, as_new=True)
        await hinted.mark_published([hint(new)])  # late news of the message that is used up
        assert await self.outbox_of(hinted, new) == InOutbox(later(clock.now(), 1), None, 1)
        await travel(1)
        assert [(one.run_id, one.seq) for one in await hinted.stage(10)] == [(new, 2)]
        await hinted.mark_published([hint(new, 2)])
        await hinted.publish_later([hint(new)], 1, as_new=True)  # a double of the old message
        await hinted.publish_later([hint(new, 2)], 1, doubling_to=60, as_new=True)
        assert await self.outbox_of(hinted, new) == InOutbox(later(clock.now(), 2), None, 2)
        assert got(await bid_for(hinted, new)) == ["stale"]

    async def test_only_what_waits_in_the_hints_generation_is_put_off(
        self, hinted: Store, hinted_foreign: Store
    ) -> None:
        running, ended, mine, new = await accepted(hinted, *(envelope() for _ in range(4)))
        await bid_for(hinted, running)
        await hinted.cancel(ended, None, None)
        before = [await self.outbox_of(hinted, id) for id in (running, ended, mine, new)]
        hints = [hint(running), hint(ended), hint(mine, 2), *map(hint, GARBAGE), hint(run_id())]
        await hinted.publish_later(hints, 60, doubling_to=900)
        await hinted_foreign.publish_later([hint(new)], 60)
        await hinted.publish_later([], 60)
        assert [await self.outbox_of(hinted, id) for id in (running, ended, mine, new)] == before

    async def test_what_was_put_off_is_published_now_for_who_knows_it(
        self, hinted: Store, hinted_foreign: Store, travel: Travel
    ) -> None:
        asked = [envelope(), envelope(job="suite:two"), envelope(job="suite:not"), envelope(queue="other")]
        asked += [envelope(delay=100), envelope()]
        ids = await accepted(hinted, *asked)
        await accepted(hinted_foreign, envelope())
        await hinted.publish_later([hint(id) for id in ids[:-1]], 60, doubling_to=60)
        await published(hinted, ids[-1])
        await accepted(hinted, envelope())  # in its grace: somebody is just publishing it
        await travel(1)
        assert await hinted.publish_now(QUEUE, [JOB, "suite:two"]) == 2
        assert {one.run_id for one in await hinted.stage(10)} == set(ids[:2])
        assert await hinted.publish_now(QUEUE, []) == 0
        assert await hinted.publish_now("nobody's", [JOB]) == 0

    # hints that were lost

    async def _lost(self, store: Store, overtaken: Any = None, *, limit: int = 100, queue: str = QUEUE) -> set[str]:
        """The runs that are given back, which are then staged at once."""
        count = await store.restage_lost(queue, overtaken or {}, limit)
        staged = await store.stage(1000)
        assert count == len(staged)
        return {one.run_id for one in staged}

    async def test_a_hint_is_not_lost_for_being_old(self, hinted: Store, travel: Travel) -> None:
        await published(hinted, *await accepted(hinted, envelope(), envelope(delay=60)))
        await travel(1e6)
        assert await self._lost(hinted) == set()

    async def test_what_was_published_before_the_queue_was_absent_is_lost(
        self, hinted: Store, hinted_twin: Store, travel: Travel
    ) -> None:
        due, delayed = await accepted(hinted, envelope(), envelope(delay=800, priority=0))
        await published(hinted, due, delayed)
        await travel(1)
        waiting, running = await accepted(hinted, envelope(), envelope())
        await bid_for(hinted, running)
        await hinted_twin.note_queue(QUEUE, is_absent=True)
        await travel(1)
        [fresh] = await accepted(hinted, envelope())
        await published(hinted, fresh)
        assert await self._lost(hinted) == {due, delayed}
        assert (await self.outbox_of(hinted, due)).republished == 1
        assert (await hinted.get(due)).state is RunState.QUEUED
        # In the outbox it is not lost.
        assert (await self.outbox_of(hinted, waiting)).republished == 0
        # The generation is the same: a hint that is merely late is a double that does no harm.
        assert got(await bid_for(hinted, due, fresh)) == [due, fresh]

    async def test_a_look_for_what_an_absent_queue_held_is_made_once(
        self, hinted: Store, open_store: OpenStore, namespace: str, clock: Clock, travel: Travel
    ) -> None:
        plain = await open_store(namespace, clock)  # its runs are in no outbox, and marked by nobody
        await accepted(plain, *(envelope(delay=60) for _ in range(3)))
        await hinted.note_queue(QUEUE, is_absent=True)
        await travel(1)
        assert [len(await self._lost(hinted, limit=2)) for _ in range(3)] == [2, 1, 0]
        # Looked at to the end: from now on nothing is lost by that sighting.
        [late] = await accepted(plain, envelope(delay=60))
        assert await self._lost(hinted) == set()
        await hinted.note_queue(QUEUE, is_absent=True)
        assert await self._lost(hinted) == {late}

    async def test_what_was_old_when_the_queue_was_empty_is_lost(self, hinted: Store, travel: Travel) -> None:
        old, delayed = await accepted(hinted, envelope(), envelope(delay=20))
        await published(hinted, old, delayed)
        await travel(0.001)
        [young] = await accepted(hinted, envelope(priority=9))
        await published(hinted, young)
        await travel(LOST_AFTER_SECONDS - 0.001)
        await hinted.note_queue(QUEUE, is_absent=False)
        await travel(1000)
        assert await self._lost(hinted) == {old}
        await published(hinted, old)
        await hinted.note_queue(QUEUE, is_absent=False)
        assert await self._lost(hinted) == {young, delayed}

    async def test_what_was_overtaken_is_lost(self, hinted: Store, travel: Travel, clock: Clock) -> None:
        start = clock.now()
        ids = await accepted(hinted, *(envelope(priority=priority) for priority in (0, 4, 9)), envelope(delay=10))
        await published(hinted, *ids)
        await travel(5)
        [late] = await accepted(hinted, envelope())
        await travel(5)
        await published(hinted, late)
        await travel(500)
        assert await self._lost(hinted, {4: start, 7: clock.now()}) == set()
        assert await self._lost(hinted, {4: later(start, 0.000_001), 0: start}) == {ids[1]}
        assert await self._lost(hinted, {4: later(start, 10)}) == set()
        assert await self._lost(hinted, {4: later(start, 10.000_001), 9: clock.now()}) == {ids[2], ids[3], late}

    async def test_a_run_is_given_back_ever_more_seldom(self, hinted: Store, travel: Travel, clock: Clock) -> None:
        [new] = await accepted(hinted, envelope())
        await published(hinted, new)
        await travel(1)
        for times, rest in enumerate([60, 120, 240, 480, 900, 900], start=1):
            assert await self._lost(hinted, {4: clock.now()}) == {new}
            await published(hinted, new)
            await travel(rest - 0.000_001)
            assert await self._lost(hinted, {4: clock.now()}) == set()
            await travel(0.000_001)
            assert (await self.outbox_of(hinted, new)).republished == times
        assert await self._lost(hinted, {4: clock.now()}) == {new}

    async def test_a_lost_hint_for_later_is_published_when_it_may_leave(self, hinted: Store, clock: Clock) -> None:
        [new] = await accepted(hinted, envelope(delay=2000))
        await published(hinted, new)
        await hinted.note_queue(QUEUE, is_absent=True)
        assert await hinted.restage_lost(QUEUE, {}, 10) == 1
        run, found = await hinted.get(new), await self.outbox_of(hinted, new)
        assert found.publish_after == later(run.available_at, -PUBLISH_AHEAD_SECONDS)

    async def test_lost_hints_are_given_back_in_portions(self, hinted: Store, travel: Travel, clock: Clock) -> None:
        ids = await accepted(hinted, *(envelope(priority=n % 10) for n in range(25)))
        await published(hinted, *ids)
        await travel(LOST_AFTER_SECONDS)
        await hinted.note_queue(QUEUE, is_absent=False)
        overtaken = dict.fromkeys(range(10), clock.now())
        found = [await self._lost(hinted, overtaken, limit=10) for _ in range(4)]
        assert [len(some) for some in found] == [10, 10, 5, 0]
        assert set().union(*found) == set(ids)

    async def test_only_ones_own_waiting_runs_are_lost(
        self, hinted: Store, hinted_foreign: Store, travel: Travel, clock: Clock
    ) -> None:
        running, ended, other = await accepted(hinted, envelope(), envelope(), envelope(queue="other"))
        theirs = await accepted(hinted_foreign, envelope())
        await published(hinted, running, ended, other)
        await published(hinted_foreign, *theirs)
        await bid_for(hinted, running)
        await hinted.cancel(ended, None, None)
        await travel(LOST_AFTER_SECONDS)
        for is_absent in (True, False):
            await hinted.note_queue(QUEUE, is_absent=is_absent)
        assert await self._lost(hinted, {4: clock.now()}) == set()
        assert await self._lost(hinted, queue="nobody's") == set()

    async def test_seeing_a_queue_makes_it_known(self, hinted: Store) -> None:
        await hinted.note_queue("new", is_absent=False)
        await hinted.note_queue("new", is_absent=True)
        await hinted.set_queue("new", concurrency=3)
        await hinted.note_queue("new", is_absent=False)
        [queue] = await hinted.queues()
        assert (queue.name, queue.concurrency, queue.is_paused) == ("new", 3, False)

    async def test_sweeps_at_once_give_a_run_back_once(self, hinted: Store, hinted_twin: Store) -> None:
        ids = await accepted(hinted, *(envelope() for _ in range(100)))
        await published(hinted, *ids)
        await hinted.note_queue(QUEUE, is_absent=True)
        counts = await asyncio.gather(*(one.restage_lost(QUEUE, {}, 1000) for one in (hinted, hinted_twin) * 2))
        assert sum(counts) == 100
        assert {(await self.outbox_of(hinted, id)).republished for id in ids} == {1}

    # identity

    async def test_a_namespace_has_an_identity_for_ever(
        self, hinted: Store, hinted_twin: Store, foreign: Store
    ) -> None:
        made = await asyncio.gather(*(one.identity() for one in (hinted, hinted_twin) * 3))
        assert len(set(made)) == 1
        assert len(made[0]) == 36
        assert await foreign.identity() != made[0]
        assert await hinted.identity() == made[0]

    # quarantine

    async def test_a_message_that_is_no_hint_is_kept(self, hinted: Store, hinted_foreign: Store) -> None:
        body = bytes(range(256)) + os.urandom(100_000) + NASTY.encode()
        properties = {"type": "x", "headers": {"n": 1, "deep": [1.5, None, True, {"k": NASTY}]}}
        sent = Quarantined(queue="aj.some", reason=NASTY, body=body, properties=properties)
        await hinted.quarantine([sent, Quarantined(queue="q", reason="", body=b"")])
        await hinted.quarantine([])
        one, two = await hinted.quarantined(10)
        assert replace(one, id=None, at=None) == sent
        assert (two.body, two.properties, two.reason) == (b"", {}, "")
        assert isinstance(one.id, str)
        assert one.at is not None
        assert abs(one.at - await hinted.now()) < timedelta(seconds=30)
        assert list(await hinted_foreign.quarantined(10)) == []

    async def test_what_cannot_be_kept_as_it_is_is_told(self, hinted: Store) -> None:
        awkward = {"at": datetime(2001, 1, 1, tzinfo=UTC), "raw": b"\xff", "nan": float("nan"), "large": 2**70}
        awkward |= {"nul": "a\x00\ud800b", "k\x00": (1, {2})}
        deep: list[Any] = []
        for _ in range(1000):
            deep = [deep]
        sent = Quarantined(queue="q\x00" * 300, reason="r\x00\ud800", body=b"", properties=awkward | {"deep": deep})
        await hinted.quarantine([sent])
        [kept] = await hinted.quarantined(10)
        assert kept.properties["at"] == repr(awkward["at"])
        assert (kept.properties["raw"], kept.properties["large"]) == (repr(b"\xff"), str(2**70))
        assert kept.properties["nan"] == "nan"
        assert kept.properties["nul"] == "a\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}b"
        assert kept.properties["k\N{REPLACEMENT CHARACTER}"] == [1, "{2}"]
        assert kept.reason == "r\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}"

    async def test_messages_are_read_and_released_in_portions(self, hinted: Store, hinted_foreign: Store) -> None:
        await hinted.quarantine([Quarantined(queue="q", reason=str(n), body=b"x") for n in range(7)])
        first = await hinted.quarantined(3)
        rest = await hinted.quarantined(10, first[-1].id)
        assert [one.reason for one in [*first, *rest]] == [str(n) for n in range(7)]
        ids = [str(one.id) for one in first]
        assert await hinted_foreign.release_quarantined(ids) == 0
        assert await hinted.release_quarantined([*ids[:2], *GARBAGE, "-1", str(2**80), "²"]) == 2
        assert await hinted.release_quarantined(ids) == 1
        assert await hinted.release_quarantined([]) == 0
        assert [one.reason for one in await hinted.quarantined(10)] == ["3", "4", "5", "6"]
        with pytest.raises(InvalidOption):
            await hinted.quarantined(10, "no id")

    async def test_quarantine_has_an_end(self, hinted: Store, hinted_foreign: Store, travel: Travel) -> None:
        message = Quarantined(queue="q", reason="old", body=b"x")
        for one in (hinted, hinted_foreign):
            await one.quarantine([message])
        await travel(86_400)
        await hinted.quarantine([replace(message, reason="young")])
        await travel(29 * 86_400)
        await hinted.purge({}, 10)
        assert len(await hinted.quarantined(10)) == 2
        await travel(0.000_001)
        await hinted.purge({}, 10)
        assert [one.reason for one in await hinted.quarantined(10)] == ["young"]
        assert len(await hinted_foreign.quarantined(10)) == 1
