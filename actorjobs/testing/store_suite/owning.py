"""Leases: who works, who died, and whose runs are lost with them."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from actorjobs.clock import Clock
from actorjobs.lifecycle import Ending, Standing, decide
from actorjobs.model import Outcome, RunState
from actorjobs.ports import Claim, LostRun, Settlement, Store
from actorjobs.testing.store_suite.setting import (
    NASTY,
    OWNER,
    StoreSetting,
    Travel,
    accepted,
    end,
    ending,
    envelope,
    settle,
    take,
    taken,
    worker,
)


class Owning(StoreSetting):
    async def test_a_worker_that_joins_is_listed(self, store: Store, twin: Store, foreign: Store, clock: Clock) -> None:
        joined = await store.join(worker(host=NASTY, boot_id="b" * 36, pid=2**31 - 1, lock_path=f"/tmp/{NASTY}"))
        assert abs(joined - clock.now()) < timedelta(0 if clock.is_virtual else 1, 1)
        [listed] = await twin.workers()
        assert listed == worker(
            host=NASTY,
            boot_id="b" * 36,
            pid=2**31 - 1,
            lock_path=f"/tmp/{NASTY}",
            started_at=joined,
            beat_at=joined,
        )
        assert await foreign.workers() == []

    async def test_workers_are_listed_by_age(self, store: Store, travel: Travel) -> None:
        for owner in ("c", "a", "b"):
            await store.join(worker(owner))
            await travel(1)
        assert [one.id for one in await store.workers()] == ["c", "a", "b"]

    async def test_a_beat_renews_the_lease(self, store: Store, travel: Travel, clock: Clock) -> None:
        joined = await store.join(worker())
        await travel(5)
        assert await store.beat(OWNER) == clock.now()
        [listed] = await store.workers()
        assert (listed.started_at, listed.beat_at) == (joined, clock.now())

    async def test_nobody_beats_for_a_stranger(self, store: Store) -> None:
        assert await store.beat("nobody") is None
        assert await store.workers() == []

    async def test_a_worker_that_leaves_is_gone(self, store: Store) -> None:
        await store.join(worker())
        await store.join(worker("worker-2"))
        await store.leave(OWNER)
        await store.leave("nobody")
        assert [one.id for one in await store.workers()] == ["worker-2"]
        assert await store.beat(OWNER) is None

    async def test_the_silent_are_declared_dead_once(self, store: Store, twin: Store, travel: Travel) -> None:
        for owner in ("silent", "beating", "also-silent"):
            await store.join(worker(owner))
        await travel(10)
        await store.beat("beating")
        await travel(5)
        assert list(await twin.declare_dead(15)) == []
        await travel(0.000_001)
        assert list(await twin.declare_dead(15)) == ["also-silent", "silent"]
        assert list(await store.declare_dead(15)) == []
        assert {one.id: one.is_dead for one in await store.workers()} == {
            "silent": True,
            "beating": False,
            "also-silent": True,
        }

    async def test_the_dead_do_not_beat_again(self, store: Store, travel: Travel) -> None:
        await store.join(worker())
        await travel(20)
        await store.declare_dead(15)
        assert await store.beat(OWNER) is None
        assert [one.is_dead for one in await store.workers()] == [True]

    async def test_a_worker_known_dead_is_declared_so_at_once(self, store: Store, foreign: Store) -> None:
        for owner in ("worker-1", "worker-2"):
            await store.join(worker(owner))
        await foreign.join(worker("theirs"))
        assert list(await store.declare_dead(1e9, ["worker-2", "theirs", "nobody"])) == ["worker-2"]
        assert await store.beat("worker-1") is not None
        assert await store.beat("worker-2") is None
        assert await foreign.beat("theirs") is not None

    async def test_another_namespaces_silence_is_not_ours(self, store: Store, foreign: Store, travel: Travel) -> None:
        await foreign.join(worker("theirs"))
        await travel(100)
        assert list(await store.declare_dead(15)) == []
        assert await foreign.beat("theirs") is not None

    async def test_two_that_declare_at_once_declare_once(self, store: Store, twin: Store, travel: Travel) -> None:
        for number in range(10):
            await store.join(worker(f"worker-{number}"))
        await travel(20)
        declared = await asyncio.gather(*(one.declare_dead(15) for one in (store, twin, store, twin)))
        assert sorted(owner for owners in declared for owner in owners) == sorted(f"worker-{n}" for n in range(10))

    async def test_the_dead_are_forgotten_after_a_while_unless_they_still_own_runs(
        self, store: Store, travel: Travel
    ) -> None:
        await taken(store, "owner-of-a-run")
        for owner in ("owner-of-a-run", "owner-of-nothing"):
            await store.join(worker(owner))
        await travel(20)
        await store.declare_dead(15)
        await travel(86400 * 3)
        await store.declare_dead(15)
        assert [one.id for one in await store.workers()] == ["owner-of-a-run"]

    async def test_blame_is_shown(self, store: Store, twin: Store) -> None:
        await store.join(worker())
        await store.join(worker("worker-2"))
        claim = await taken(store)
        await store.blame(OWNER, claim.run_id)
        await store.blame("nobody", claim.run_id)
        assert {one.id: one.blamed for one in await twin.workers()} == {OWNER: claim.run_id, "worker-2": None}

    # lost runs

    async def test_runs_of_the_dead_are_lost(self, store: Store, twin: Store, foreign: Store, travel: Travel) -> None:
        await store.join(worker())
        await store.join(worker("worker-2"))
        await foreign.join(worker("theirs"))
        lost = await taken(store, max_attempts=3)
        await taken(store, "worker-2")
        await taken(foreign, "theirs")
        finished = await taken(store)
        await end(store, finished)
        assert list(await twin.lost_runs(10)) == []
        await travel(20)
        await store.beat("worker-2")
        assert list(await twin.lost_runs(10)) == []
        await store.declare_dead(15)
        assert list(await twin.lost_runs(10)) == [_lost(lost, failures=0, losses=0, max_attempts=3)]

    async def test_runs_of_those_who_left_are_lost(self, store: Store) -> None:
        await store.join(worker())
        claim = await taken(store)
        await store.leave(OWNER)
        assert [run.fence for run in await store.lost_runs(10)] == [claim.fence]

    async def test_runs_of_those_who_never_joined_are_lost(self, store: Store) -> None:
        claim = await taken(store, "unheard-of")
        assert [run.fence for run in await store.lost_runs(10)] == [claim.fence]

    async def test_the_oldest_claims_come_first(self, store: Store, travel: Travel) -> None:
        claims: list[Claim] = []
        for number in (3, 1, 2):
            claims.append(await taken(store, f"worker-{number}"))
            await travel(1)
        assert [run.fence for run in await store.lost_runs(2)] == [claim.fence for claim in claims[:2]]
        assert len(await store.lost_runs(10)) == 3

    async def test_a_lost_run_has_the_figures_that_decide(self, store: Store) -> None:
        await accepted(store, envelope(max_attempts=7, queue="q"))
        for outcome in (Outcome.FAILED, Outcome.LOST):
            [claim] = await take(store, queue="q")
            await end(store, claim, outcome)
        [claim] = await take(store, queue="q")
        assert list(await store.lost_runs(10)) == [_lost(claim, failures=1, losses=1, max_attempts=7)]

    async def test_two_that_rescue_at_once_rescue_once(self, store: Store, twin: Store) -> None:
        claims = [await taken(store, "gone") for _ in range(8)]

        async def rescue(one: Store) -> list[RunState | None]:
            return list(await settle(one, *map(_rescue, await one.lost_runs(100))))

        answers = await asyncio.gather(*(rescue(one) for one in (store, twin, store, twin)))
        assert {state for states in answers for state in states} == {RunState.RETRYING}
        for claim in claims:
            run = await store.get(claim.run_id)
            assert (run.state, run.losses, run.attempt) == (RunState.RETRYING, 1, 1)
            assert len(await store.attempts(claim.run_id)) == 1
        assert list(await store.lost_runs(100)) == []

    async def test_a_zombie_is_refused_after_its_rescue(self, store: Store, twin: Store) -> None:
        claim = await taken(store, "gone")
        await settle(twin, *map(_rescue, await twin.lost_runs(100)))
        assert list(await settle(store, ending(claim))) == [None]
        assert not await store.save_progress(claim.fence, "{}")
        assert (await store.get(claim.run_id)).state is RunState.RETRYING


def _lost(claim: Claim, *, failures: int, losses: int, max_attempts: int) -> LostRun:
    return LostRun(
        fence=claim.fence,
        hint=claim.hint,
        failures=failures,
        losses=losses,
        max_attempts=max_attempts,
        tenant=claim.tenant,
        parent=claim.parent,
        claimed_at=claim.claimed_at,
    )


def _rescue(lost: LostRun) -> Settlement:
    standing = Standing(failures=lost.failures, max_attempts=lost.max_attempts, losses=lost.losses)
    decision = decide(standing, Ending(outcome=Outcome.LOST))
    return Settlement(fence=lost.fence, hint=lost.hint, outcome=Outcome.LOST, decision=decision)
