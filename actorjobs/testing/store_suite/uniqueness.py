"""Uniqueness: at most one run of a kind alive, whoever asks and how often; an index decides."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from actorjobs.errors import DuplicateRun, InvalidOption
from actorjobs.jobs import Unique
from actorjobs.lifecycle import TERMINAL, WAITING
from actorjobs.model import Envelope, Outcome, RunState
from actorjobs.ports import Accepted, RunFilter, Store
from actorjobs.testing.store_suite.setting import (
    StoreSetting,
    Travel,
    accepted,
    brought_to,
    end,
    envelope,
    take,
)

PAYLOAD = {"email": "ann@example.org", "n": 1}


def unique(rule: Unique | None = None, **fields: Any) -> Envelope:
    """An envelope of a run that is to be unique: by its whole payload, unless the rule says otherwise."""
    return envelope(**{"payload": PAYLOAD, "unique": (rule or Unique()).to_json()} | fields)


async def existing(store: Store, asked: Envelope) -> str:
    """Dispatch; the id of the run that is there already."""
    [answer] = await store.insert([asked])
    assert isinstance(answer, Accepted), answer
    assert answer.existing
    return answer.run_id


class Uniqueness(StoreSetting):
    async def test_a_twin_is_returned(self, store: Store) -> None:
        [first] = await accepted(store, unique())
        assert await existing(store, unique()) == first
        run = await store.get(first)
        assert run.unique_digest is not None
        assert run.uniqueness_config == Unique().to_json()

    async def test_a_twin_may_be_an_error_that_names_it(self, store: Store) -> None:
        rule = Unique(on_conflict="raise")
        [first] = await accepted(store, unique(rule))
        [answer] = await store.insert([unique(rule)])
        assert isinstance(answer, DuplicateRun)
        assert answer.run_id == first
        assert first in str(answer)

    async def test_of_twins_in_one_group_the_first_is_accepted(self, store: Store) -> None:
        answers = await store.insert([unique() for _ in range(4)])
        first = answers[0]
        assert isinstance(first, Accepted)
        assert [isinstance(one, Accepted) and (one.run_id, one.existing) for one in answers] == [
            (first.run_id, index > 0) for index in range(4)
        ]

    async def test_what_differs_is_no_twin(self, store: Store) -> None:
        base = Unique(("email",))
        await accepted(store, unique(base))
        assert await existing(store, unique(base, payload=PAYLOAD | {"n": 2}))
        await accepted(
            store,
            unique(base, payload=PAYLOAD | {"email": "ben@example.org"}),
            unique(base, tenant="acme"),
            unique(base, job="suite:other"),
            unique(Unique(("email", "n"))),
            unique(Unique()),
            unique(Unique(), constructor_args={"locale": "de"}),
            envelope(payload=PAYLOAD),
        )

    async def test_the_order_of_keys_makes_no_difference(self, store: Store) -> None:
        [first] = await accepted(store, unique(payload={"a": 1, "b": {"c": 2, "d": 3}}))
        assert await existing(store, unique(payload={"b": {"d": 3, "c": 2}, "a": 1})) == first

    async def test_namespaces_do_not_share_places(self, store: Store, foreign: Store) -> None:
        await accepted(store, unique())
        await accepted(foreign, unique())

    @pytest.mark.parametrize("state", list(RunState))
    async def test_a_run_counts_until_it_is_over(self, store: Store, state: RunState) -> None:
        run = await brought_to(store, state, payload=PAYLOAD, unique=Unique().to_json())
        if state in TERMINAL:
            assert run.unique_digest is None
            await accepted(store, unique())
        else:
            assert await existing(store, unique()) == run.id

    @pytest.mark.parametrize("state", list(RunState))
    async def test_a_run_may_count_until_it_starts(self, store: Store, state: RunState) -> None:
        rule = Unique(while_="queued")
        run = await brought_to(store, state, payload=PAYLOAD, unique=rule.to_json())
        if state in (RunState.SCHEDULED, RunState.QUEUED):
            assert await existing(store, unique(rule)) == run.id
        else:
            assert run.unique_digest is None
            await accepted(store, unique(rule))

    async def test_within_a_period_there_is_one_whatever_becomes_of_it(self, store: Store, travel: Travel) -> None:
        rule = Unique(period=3600)
        run = await brought_to(store, RunState.SUCCEEDED, payload=PAYLOAD, unique=rule.to_json())
        assert await existing(store, unique(rule)) == run.id
        await travel(3600)
        [second] = await accepted(store, unique(rule))
        assert await existing(store, unique(rule)) == second

    async def test_a_replaced_twin_takes_the_new_content(self, store: Store) -> None:
        rule = Unique(("email",), on_conflict="replace")
        [first] = await accepted(store, unique(rule, tags=("old",), delay=60))
        newer = unique(rule, payload=PAYLOAD | {"n": 2}, tags=("new",), meta={"who": 2}, priority=9, max_attempts=2)
        assert await existing(store, newer) == first
        run = await store.get(first)
        assert (run.payload, run.tags, run.meta) == (PAYLOAD | {"n": 2}, ("new",), {"who": 2})
        assert (run.priority, run.max_attempts, run.state) == (9, 2, RunState.SCHEDULED)
        assert "replaced" in [entry.event for entry in await store.history(first)]
        [claim] = await take(store)
        assert (claim.run_id, claim.attempt) == (first, 1)

    async def test_debouncing_starts_the_wait_anew(self, store: Store, travel: Travel) -> None:
        rule = Unique(("email",), while_="queued", on_conflict="replace")
        [first] = await accepted(store, unique(rule, delay=10))
        for n in (2, 3):
            await travel(8)
            assert await existing(store, unique(rule, payload=PAYLOAD | {"n": n}, delay=10)) == first
        await travel(9)
        assert await take(store) == []
        await travel(1.5)
        [claim] = await take(store)
        assert claim.run_id == first
        assert claim.payload == '{"email":"ann@example.org","n":3}'

    async def test_keeping_the_latest_lets_one_wait_behind_the_one_that_runs(self, store: Store) -> None:
        rule = Unique(("email",), while_="queued", on_conflict="replace")
        await accepted(store, unique(rule))
        [running] = await take(store)
        [waiting] = await accepted(store, unique(rule, payload=PAYLOAD | {"n": 2}))
        assert await existing(store, unique(rule, payload=PAYLOAD | {"n": 3})) == waiting
        assert (await end(store, running)).state is RunState.SUCCEEDED
        assert (await store.get(waiting)).payload["n"] == 3

    @pytest.mark.parametrize("state", [state for state in RunState if state not in (*WAITING, *TERMINAL)])
    async def test_a_twin_that_runs_is_not_replaced(self, store: Store, state: RunState) -> None:
        rule = Unique(("email",), on_conflict="replace")
        run = await brought_to(store, state, payload=PAYLOAD, unique=rule.to_json())
        assert await existing(store, unique(rule, payload=PAYLOAD | {"n": 2})) == run.id
        assert (await store.get(run.id)).payload == PAYLOAD

    async def test_a_retry_keeps_the_place(self, store: Store) -> None:
        [first] = await accepted(store, unique())
        [claim] = await take(store)
        await end(store, claim, Outcome.FAILED)
        assert await existing(store, unique()) == first

    async def test_a_reopened_run_takes_its_place_again(self, store: Store) -> None:
        run = await brought_to(store, RunState.DEAD_LETTERED, payload=PAYLOAD, unique=Unique().to_json())
        again = await store.reopen(run.id, None, None)
        assert again.unique_digest is not None
        assert await existing(store, unique()) == run.id

    async def test_a_run_whose_place_is_taken_cannot_be_reopened(self, store: Store) -> None:
        run = await brought_to(store, RunState.CANCELED, payload=PAYLOAD, unique=Unique().to_json())
        [newer] = await accepted(store, unique())
        with pytest.raises(DuplicateRun) as refusal:
            await store.reopen(run.id, None, None)
        assert refusal.value.run_id == newer
        assert (await store.get(run.id)).state is RunState.CANCELED

    async def test_a_replay_is_not_unique(self, store: Store) -> None:
        [first] = await accepted(store, unique())
        assert (await store.envelope(first)).unique is None

    async def test_all_or_none_with_a_twin(self, store: Store) -> None:
        rule = Unique(on_conflict="raise")
        await accepted(store, unique(rule))
        with pytest.raises(DuplicateRun, match="envelope 1"):
            await store.insert_all([envelope(job="suite:alone"), unique(rule)])
        assert len(await store.list(RunFilter(job="suite:alone"), limit=10, cursor=None)) == 0

    async def test_nothing_is_replaced_by_a_group_that_is_refused(self, store: Store) -> None:
        keep, strict = Unique(("email",), on_conflict="replace"), Unique(("n",), on_conflict="raise")
        first, _ = await accepted(store, unique(keep), unique(strict, job="suite:strict"))
        for begin in (None, *self.transactions(store).values()):
            newer = [unique(keep, payload=PAYLOAD | {"n": 8}), unique(strict, job="suite:strict")]
            if begin is None:
                with pytest.raises(DuplicateRun, match="envelope 1"):
                    await store.insert_all(newer)
            else:
                async with begin() as transaction:
                    with pytest.raises(DuplicateRun, match="envelope 1"):
                        await store.insert_all(newer, transaction.tx)
                    await transaction.commit()
            assert (await store.get(first)).payload == PAYLOAD

    async def test_a_group_may_replace(self, store: Store) -> None:
        rule = Unique(("email",), on_conflict="replace")
        [first] = await accepted(store, unique(rule))
        newer = [unique(rule, payload=PAYLOAD | {"n": n}) for n in (2, 3)]
        answers = await store.insert_all(newer)
        assert list(answers) == [Accepted(run_id=first, existing=True, replaced=True)] * 2
        run = await store.get(first)
        assert run.payload["n"] == 3

    async def test_a_key_that_would_replace_twice_is_refused(self, store: Store) -> None:
        [answer] = await store.insert([unique(Unique(on_conflict="replace"), idempotency_key="k")])
        assert isinstance(answer, InvalidOption)

    async def test_a_key_goes_before_a_place(self, store: Store) -> None:
        [first] = await accepted(store, unique(idempotency_key="k"))
        assert await existing(store, unique(Unique(on_conflict="raise"), idempotency_key="k")) == first

    async def test_many_callers_get_one_run(self, store: Store, twin: Store) -> None:
        async def ask(through: Store) -> str:
            [answer] = await through.insert([unique()])
            assert isinstance(answer, Accepted), answer
            return answer.run_id

        ids = await asyncio.gather(*(ask(through) for through in (store, twin) for _ in range(15)))
        assert len(set(ids)) == 1

    async def test_what_stands_in_the_way_may_end_meanwhile(self, store: Store, twin: Store) -> None:
        """Dispatches race with the ends of the runs that they meet: each is answered by a run, none by an error."""

        async def finish() -> None:
            for _ in range(30):
                for claim in await take(twin):
                    await end(twin, claim)

        async def ask() -> None:
            for _ in range(30):
                [answer] = await store.insert([unique()])
                assert isinstance(answer, Accepted), answer

        await asyncio.gather(finish(), ask(), ask())
