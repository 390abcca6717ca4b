"""Accepting: insert and insert_all."""

from __future__ import annotations

import asyncio
import os
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from actorjobs.clock import Clock
from actorjobs.errors import IdempotencyConflict, InvalidOption, PayloadInvalid
from actorjobs.model import Run, RunState
from actorjobs.ports import Accepted, Store
from actorjobs.testing.store_suite.setting import (
    EVERYTHING,
    JOB,
    NASTY,
    QUEUE,
    StoreSetting,
    Travel,
    accepted,
    brought_to,
    envelope,
    later,
    run_id,
    take,
)

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Accepting(StoreSetting):
    async def test_answers_come_in_order_and_say_what_existed(self, store: Store) -> None:
        first, second, third = envelope(), envelope(), envelope()
        await accepted(store, second)
        answers = await store.insert([first, second, third])
        assert answers == [
            Accepted(run_id=first.id, existing=False),
            Accepted(run_id=second.id, existing=True),
            Accepted(run_id=third.id, existing=False),
        ]

    async def test_nothing_to_insert_is_nothing(self, store: Store) -> None:
        assert list(await store.insert([])) == []
        assert list(await store.insert_all([])) == []

    async def test_one_envelope_twice_in_a_group_is_one_run(self, store: Store) -> None:
        one, other = envelope(), envelope()
        answers = await store.insert([one, other, one])
        assert answers[0] == Accepted(run_id=one.id, existing=False)
        assert answers[2] == Accepted(run_id=one.id, existing=True)
        assert len(await store.list(EVERYTHING, limit=10, cursor=None)) == 2

    async def test_an_envelope_dispatched_again_changes_nothing(self, store: Store, twin: Store) -> None:
        one = envelope(payload={"n": 1})
        await accepted(store, one)
        before = await store.get(one.id)
        again = await twin.insert([one.model_copy(update={"payload": {"n": 2}, "priority": 9})])
        assert again == [Accepted(run_id=one.id, existing=True)]
        assert await store.get(one.id) == before

    async def test_the_id_of_another_namespace_is_refused_alone(self, store: Store, foreign: Store) -> None:
        theirs, ours = envelope(), envelope()
        await accepted(foreign, theirs)
        refusal, answer = await store.insert([theirs, ours])
        assert isinstance(refusal, InvalidOption)
        assert answer == Accepted(run_id=ours.id, existing=False)
        assert (await foreign.get(theirs.id)).id == theirs.id

    # idempotency keys

    async def test_a_key_names_one_run(self, store: Store, twin: Store) -> None:
        [first] = await accepted(store, envelope(idempotency_key="k", payload={"a": 1, "b": 2}))
        same = envelope(idempotency_key="k", payload={"b": 2, "a": 1})
        assert await twin.insert([same]) == [Accepted(run_id=first, existing=True)]
        assert len(await store.list(EVERYTHING, limit=10, cursor=None)) == 1

    async def test_a_key_used_for_something_else_is_a_conflict_that_names_the_run(self, store: Store) -> None:
        [first] = await accepted(store, envelope(idempotency_key="k", payload={"a": 1}))
        other_payload = envelope(idempotency_key="k", payload={"a": 2})
        other_arguments = envelope(idempotency_key="k", payload={"a": 1}, constructor_args={"locale": "de"})
        unkeyed = envelope(payload={"a": 2})
        *conflicts, answer = await store.insert([other_payload, other_arguments, unkeyed])
        for conflict in conflicts:
            assert isinstance(conflict, IdempotencyConflict)
            assert conflict.run_id == first
        assert answer == Accepted(run_id=unkeyed.id, existing=False)

    async def test_one_key_twice_in_a_group_is_one_run(self, store: Store) -> None:
        one, same, other = (envelope(idempotency_key="k", payload={"n": n}) for n in (1, 1, 2))
        answers = await store.insert([one, same, other])
        winner = one.id
        assert answers[:2] == [Accepted(run_id=winner, existing=False), Accepted(run_id=winner, existing=True)]
        assert isinstance(answers[2], IdempotencyConflict)
        assert answers[2].run_id == winner

    async def test_a_key_belongs_to_namespace_tenant_and_job(self, store: Store, foreign: Store) -> None:
        scopes: list[dict[str, Any]] = [{}, {"tenant": "acme"}, {"tenant": "Acme"}, {"job": "suite:other"}]
        await accepted(store, *(envelope(idempotency_key="k", payload=scope, **scope) for scope in scopes))
        await accepted(foreign, envelope(idempotency_key="k", payload="foreign"))

    async def test_keys_are_compared_exactly(self, store: Store) -> None:
        keys = ["k", "K", "k ", " k", "é", "e\u0301", "🦆", "%", "_", "''", "\\", "k" * 255, "ß", "ss"]
        await accepted(store, *(envelope(idempotency_key=key, payload=key) for key in keys))
        for key in keys:
            [answer] = await store.insert([envelope(idempotency_key=key, payload=key)])
            assert isinstance(answer, Accepted)
            assert (await store.get(answer.run_id)).idempotency_key == key

    async def test_a_key_may_hold_for_a_time(self, store: Store, travel: Travel) -> None:
        [first] = await accepted(store, envelope(idempotency_key="k", key_expires_in=60, payload=1))
        await travel(59)
        [again] = await store.insert([envelope(idempotency_key="k", payload=1)])
        assert again == Accepted(run_id=first, existing=True)
        await travel(1)
        [second] = await accepted(store, envelope(idempotency_key="k", payload=2))
        assert (await store.get(first)).idempotency_key is None
        [again] = await store.insert([envelope(idempotency_key="k", payload=2)])
        assert again == Accepted(run_id=second, existing=True)

    async def test_of_many_at_once_one_gets_a_key_whose_time_is_over(
        self, store: Store, twin: Store, travel: Travel
    ) -> None:
        [first] = await accepted(store, envelope(idempotency_key="k", key_expires_in=1, payload=1))
        await travel(2)
        groups = await asyncio.gather(
            *(
                through.insert([envelope(idempotency_key="k", payload=2)])
                for through in (store, twin)
                for _ in range(10)
            )
        )
        ids = {answer.run_id for [answer] in groups if isinstance(answer, Accepted)}
        assert len(ids) == 1
        assert ids != {first}

    async def test_a_key_is_taken_as_long_as_its_run_exists(self, store: Store) -> None:
        for state in RunState:
            run = await brought_to(store, state, idempotency_key=state)
            again = envelope(idempotency_key=state)
            assert await store.insert([again]) == [Accepted(run_id=run.id, existing=True)]
            if state is not RunState.RUNNING:
                await store.delete(run.id)
                assert await store.insert([again]) == [Accepted(run_id=again.id, existing=False)]

    async def test_of_many_at_once_one_gets_the_key(self, store: Store, twin: Store) -> None:
        envelopes = [envelope(idempotency_key=f"k{n % 5}", payload=n % 5) for n in range(40)]
        groups = [envelopes[start : start + 8] for start in range(0, 40, 8)]
        answered = await asyncio.gather(*((store, twin)[turn % 2].insert(group) for turn, group in enumerate(groups)))
        answers = [answer for group in answered for answer in group]
        assert all(isinstance(answer, Accepted) for answer in answers), answers
        assert sum(isinstance(answer, Accepted) and not answer.existing for answer in answers) == 5
        assert len(await store.list(EVERYTHING, limit=100, cursor=None)) == 5

    # when it may start

    async def test_a_run_without_delay_is_queued(self, store: Store, clock: Clock) -> None:
        [new] = await accepted(store, envelope())
        run = await store.get(new)
        assert (run.state, run.attempt, run.expires_at) == (RunState.QUEUED, 0, None)
        assert run.available_at == run.inserted_at
        assert abs(run.inserted_at - clock.now()) < timedelta(0 if clock.is_virtual else 1, 1)
        assert run.inserted_at.utcoffset() == timedelta(0)

    async def test_a_delay_counts_from_acceptance_to_the_microsecond(self, store: Store) -> None:
        delays = (0.001, 2.3, 4.35, 60, 86400 * 365)
        new = await accepted(store, *(envelope(delay=delay) for delay in delays))
        for id, delay in zip(new, delays, strict=True):
            run = await store.get(id)
            assert run.state is RunState.SCHEDULED
            assert run.available_at == run.inserted_at + timedelta(microseconds=round(delay * 1_000_000))

    async def test_run_at_is_exact_in_any_time_zone(self, store: Store) -> None:
        at = datetime(2099, 12, 31, 23, 59, 59, 123457, tzinfo=UTC)
        moments = [at, at.astimezone(timezone(timedelta(hours=5, minutes=45)))]
        for new in await accepted(store, *(envelope(run_at=moment) for moment in moments)):
            run = await store.get(new)
            assert (run.state, run.available_at) == (RunState.SCHEDULED, at)

    async def test_a_run_at_that_has_passed_means_now(self, store: Store) -> None:
        passed = (datetime(1969, 7, 20, tzinfo=UTC), datetime(1970, 1, 1, tzinfo=UTC), datetime(2001, 1, 1, tzinfo=UTC))
        for id in await accepted(store, *(envelope(run_at=at) for at in passed)):
            run = await store.get(id)
            assert (run.state, run.available_at) == (RunState.QUEUED, run.inserted_at)

    async def test_expiry_counts_from_acceptance(self, store: Store, travel: Travel) -> None:
        await travel(5)
        [new] = await accepted(store, envelope(expires_in=2.5, delay=1))
        run = await store.get(new)
        assert run.expires_at == later(run.inserted_at, 2.5)

    # what is kept

    async def test_every_field_is_kept(self, store: Store, namespace: str) -> None:
        parent, origin = run_id(), run_id()
        asked = envelope(
            version=3,
            payload={"list": [1, None, True], "text": NASTY},
            constructor_args={"locale": "de"},
            tenant="acme",
            traceparent=TRACEPARENT,
            tracestate="vendor=1",
            baggage="user=7",
            max_attempts=7,
            retry={"attempts": 7, "backoff": {"kind": "fixed", "seconds": 5}},
            timeout=12.5,
            retention=86400,
            parent=parent,
            replay_of=origin,
            delay=10,
            expires_in=100,
            priority=9,
            idempotency_key="key",
            tags=("a", "b"),
            meta={"origin": {"page": 2}},
            script="app.jobs:send",
        )
        await accepted(store, asked)
        run = await store.get(asked.id)
        assert run == Run(
            id=asked.id,
            namespace=namespace,
            job=JOB,
            version=3,
            queue=QUEUE,
            state=RunState.SCHEDULED,
            hold=None,
            tenant="acme",
            priority=9,
            payload={"list": [1, None, True], "text": NASTY},
            constructor_args={"locale": "de"},
            result=None,
            progress=None,
            checkpoint=None,
            errors=(),
            attempt=0,
            failures=0,
            losses=0,
            max_attempts=7,
            timeout=12.5,
            inserted_at=run.inserted_at,
            available_at=later(run.inserted_at, 10),
            expires_at=later(run.inserted_at, 100),
            claimed_at=None,
            attempted_at=None,
            completed_at=None,
            failed_at=None,
            canceled_at=None,
            expired_at=None,
            claimed_by=None,
            cancel_requested_at=None,
            reason=None,
            script="app.jobs:send",
            unique_digest=None,
            uniqueness_config=None,
            idempotency_key="key",
            traceparent=TRACEPARENT,
            trace_id="0af7651916cd43dd8448eb211c80319c",
            replay_of=origin,
            parent=parent,
            tags=("a", "b"),
            meta={"origin": {"page": 2}},
        )

    async def test_any_text_is_kept_as_it_is(self, store: Store) -> None:
        texts = dict.fromkeys(("job", "queue", "tenant", "idempotency_key", "script"), NASTY[:100])
        asked = envelope(**texts, payload=[NASTY], constructor_args={NASTY: NASTY}, tags=(NASTY,), meta={NASTY: NASTY})
        await accepted(store, asked)
        run = await store.get(asked.id)
        for name, text in texts.items():
            assert getattr(run, name) == text
        assert (run.payload, run.tags) == ([NASTY], (NASTY,))
        assert run.constructor_args == run.meta == {NASTY: NASTY}
        [claim] = await take(store, queue=texts["queue"], jobs={texts["job"]: 1})
        assert (claim.job, claim.queue, claim.tenant) == (run.job, run.queue, run.tenant)

    async def test_payloads_come_back_as_they_were(self, store: Store) -> None:
        payloads: tuple[Any, ...] = (
            *(None, "", 0, False, [], {}, {"": None}, {"z": 1, "a": 2, "ä": 3}, "\u2028\u2029\ufeff\uffff"),
            [2**31, -(2**31) - 1, 2**53 + 1, 2**63 - 1, -(2**63), 2**64 - 1],
            [0.1, 1e308, -5e-324, 1.0, -0.0],
        )
        new = await accepted(store, *(envelope(payload=payload, meta={"kept": payload}) for payload in payloads))
        for id, payload in zip(new, payloads, strict=True):
            run = await store.get(id)
            assert repr(run.payload) == repr(payload)
            assert repr(run.meta["kept"]) == repr(payload)

    async def test_a_big_payload_is_kept(self, store: Store) -> None:
        payload = {"noise": os.urandom(100_000).hex(), "ducks": "🦆" * 10_000}
        [new] = await accepted(store, envelope(payload=payload))
        assert (await store.get(new)).payload == payload

    async def test_a_big_group_is_one_answer_each(self, store: Store) -> None:
        envelopes = [envelope(payload=n) for n in range(600)]
        await accepted(store, *envelopes)
        page = await store.list(EVERYTHING, limit=1000, cursor=None)
        assert [run.payload for run in page] == list(range(599, -1, -1))

    # what cannot be kept

    async def test_what_cannot_be_kept_is_refused_alone(self, store: Store) -> None:
        refused: list[tuple[type[Exception], dict[str, Any]]] = [
            *((InvalidOption, {"tenant": tenant}) for tenant in ("a\x00b", "\ud800", "t" * 129)),
            *((InvalidOption, {"idempotency_key": key}) for key in ("\x00", "\ud800", "k" * 256)),
            *((InvalidOption, {"id": id}) for id in ("", "garbage", "'; DROP TABLE actorjobs_runs; --", "x" * 36)),
            *((InvalidOption, {"priority": priority}) for priority in (-1, 10, 2**31)),
            *((InvalidOption, {"delay": delay}) for delay in (-1.0, float("inf"), float("nan"))),
            *((InvalidOption, {"expires_in": seconds}) for seconds in (-1.0, float("inf"), float("nan"))),
            *((InvalidOption, {"max_attempts": attempts}) for attempts in (-1, 2**31)),
            *((PayloadInvalid, {"payload": payload}) for payload in ("\x00", "\ud800", float("nan"), 2**64)),
            *((PayloadInvalid, {"payload": payload}) for payload in (object(), {1: 2}, b"bytes", {"set": {1}})),
            *((PayloadInvalid, {"tags": (tag,)}) for tag in ("\x00", "\ud800")),
        ]
        sound = [envelope(payload=n) for n in range(len(refused))]
        bad = [envelope().model_copy(update=fields) for _, fields in refused]
        answers = await store.insert([one for pair in zip(sound, bad, strict=True) for one in pair])
        assert list(answers[::2]) == [Accepted(run_id=one.id, existing=False) for one in sound]
        for answer, (error, fields) in zip(answers[1::2], refused, strict=True):
            assert isinstance(answer, error), fields
        for one, (error, _) in zip(bad, refused, strict=True):
            with pytest.raises(error):
                await store.insert_all([envelope(), one])
        assert len(await store.list(EVERYTHING, limit=100, cursor=None)) == len(sound)

    # all or none

    async def test_insert_all_takes_all(self, store: Store) -> None:
        old = envelope(idempotency_key="k")
        await accepted(store, old)
        new = envelope()
        answers = await store.insert_all([new, envelope(idempotency_key="k"), old])
        assert answers == [
            Accepted(run_id=new.id, existing=False),
            Accepted(run_id=old.id, existing=True),
            Accepted(run_id=old.id, existing=True),
        ]

    async def test_insert_all_takes_none_if_one_is_refused_and_says_which(self, store: Store) -> None:
        [holder] = await accepted(store, envelope(idempotency_key="k", payload=1))
        group = [envelope(), envelope(), envelope(idempotency_key="k", payload=2), envelope()]
        with pytest.raises(IdempotencyConflict, match=r"^envelope 2: ") as refusal:
            await store.insert_all(group)
        assert refusal.value.run_id == holder
        page = await store.list(EVERYTHING, limit=10, cursor=None)
        assert [run.id for run in page] == [holder]
