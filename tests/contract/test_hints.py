"""Hints where others are at work on the same rows: what is held is passed over, and nobody waits in a ring."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from random import Random

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from actorjobs.model import Outcome
from actorjobs.ports import Bid, Claim, Hint, Refusal, Refused
from actorjobs.stores import SqlStore, outbox
from actorjobs.stores.pooled import PooledDatabase
from actorjobs.testing.store_suite.hinting import bid_for, got, hint, published
from actorjobs.testing.store_suite.setting import JOB, QUEUE, accepted, ending, envelope
from tests.contract.databases import Stores, admin_engine, read_outbox


@pytest.fixture(params=["postgres_url", "mariadb_url"])
def url(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(request.param))


@pytest.fixture
async def store(stores: Stores, url: str) -> SqlStore:
    return await stores.opened(url, has_outbox=True)


@pytest.fixture
async def admin(url: str) -> AsyncGenerator[AsyncEngine]:
    """A way into the database past the store."""
    engine = admin_engine(url, isolation_level="READ COMMITTED")
    yield engine
    await engine.dispose()


@asynccontextmanager
async def held(admin: AsyncEngine, *ids: str) -> AsyncGenerator[None]:
    """Somebody's open transaction that has these rows."""
    async with admin.begin() as connection:
        for one in ids:
            await connection.execute(text("SELECT 1 FROM actorjobs_runs WHERE id = :id FOR UPDATE"), {"id": one})
        yield


async def test_a_run_that_somebody_holds_is_undecided(store: SqlStore, admin: AsyncEngine) -> None:
    locked, free, early, ended = await accepted(store, envelope(), envelope(), envelope(delay=60), envelope())
    await store.cancel(ended, None, None)
    async with held(admin, locked, early, ended), asyncio.timeout(2):
        assert got(await bid_for(store, locked, free, early, ended)) == ["locked", free, "early", "stale"]
        assert got(await bid_for(store, Bid(run_id=locked, seq=2))) == ["stale"]
    assert got(await bid_for(store, locked)) == [locked]


async def test_hints_of_runs_that_somebody_holds_are_passed_over(store: SqlStore, admin: AsyncEngine) -> None:
    asked = [envelope(), envelope()]
    await store.insert(asked, publish_in=0.0)
    locked, free = (one.id for one in asked)
    async with held(admin, locked), asyncio.timeout(2):
        assert [one.run_id for one in await store.stage(10)] == [free]
        await published(store, locked, free)
    assert [one.run_id for one in await store.stage(10)] == [locked]
    await published(store, locked)
    await store.note_queue(QUEUE, is_absent=True)
    async with held(admin, locked), asyncio.timeout(2):
        assert await store.restage_lost(QUEUE, {}, 10) == 1
        assert await store.restage_lost(QUEUE, {}, 10) == 0
    assert await store.restage_lost(QUEUE, {}, 10) == 1
    await store.publish_later([hint(locked), hint(free)], 60, doubling_to=60)
    async with held(admin, locked), asyncio.timeout(2):
        assert await store.publish_now(QUEUE, [JOB]) == 1
    assert await store.publish_now(QUEUE, [JOB]) == 1


async def test_what_is_put_off_is_waited_for_but_not_for_long(
    store: SqlStore, admin: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hint is forgotten when it is put off: a row that somebody holds for a moment is not to be passed over."""
    monkeypatch.setattr(outbox, "LOCK_WAIT_SECONDS", 1)
    locked, free = await accepted(store, envelope(), envelope())
    before = await read_outbox(store, locked)
    async with held(admin, locked):
        waiting = asyncio.create_task(store.publish_later([hint(locked), hint(free)], 60))
        await asyncio.sleep(0.3)
        assert not waiting.done()
    await waiting
    after = await read_outbox(store, locked)
    assert before.publish_after is not None
    assert after.publish_after is not None
    assert after.publish_after > before.publish_after
    async with held(admin, locked):
        began = time.monotonic()
        await store.publish_later([hint(locked), hint(free)], 3600)
        assert time.monotonic() - began < 5
    assert await read_outbox(store, locked) == after
    late = (await read_outbox(store, free)).publish_after
    assert late is not None
    assert late - after.publish_after > timedelta(minutes=50)


def _retries(some: list[SqlStore], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Notes each transaction of these stores that the database has broken off."""
    retried: list[str] = []
    for store in some:
        database = store._database
        assert isinstance(database, PooledDatabase)

        def judged(error: DBAPIError, judge: Callable[[DBAPIError], bool] = database._is_to_be_tried_again) -> bool:
            if judge(error):
                retried.append(f"{error.orig}: {error.statement}")
            return judge(error)

        monkeypatch.setattr(database, "_is_to_be_tried_again", judged)
    return retried


async def test_groups_of_hints_at_once_never_lock_each_other_out(
    stores: Stores, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same runs staged, marked, put off, given back, claimed, settled and moved in different orders."""
    some = [await stores.opened(url, has_outbox=True) for _ in range(3)]
    retried = _retries(some, monkeypatch)
    ids = await accepted(some[0], *(envelope(max_attempts=10_000) for _ in range(60)))
    hints: list[Hint] = [hint(id) for id in ids]
    done: Counter[str] = Counter()
    acted = ("staged", "claimed", "hurried", "restaged")
    began = time.monotonic()

    def goes_on() -> bool:
        """For three seconds, and on a busy machine until each act has done something."""
        seconds = time.monotonic() - began
        return seconds < 3 or (seconds < 30 and not all(done[name] for name in acted))

    def learn(more: list[Hint], random: Random) -> None:
        hints.extend(more)
        random.shuffle(hints)
        del hints[:-200]

    async def relay(store: SqlStore, random: Random) -> None:
        staged = list(await store.stage(20))
        done["staged"] += len(staged)
        learn(staged, random)
        await store.mark_published(random.sample(hints, min(len(hints), 30)))

    async def work(store: SqlStore, random: Random) -> None:
        wanted = [Bid(run_id=one.run_id, seq=one.seq or 0, takes_suspect=True) for one in random.sample(hints, 20)]
        answers = await store.claim(wanted, {JOB: 1}, f"worker-{random.random()}")
        claims = [answer for answer in answers if isinstance(answer, Claim)]
        done["claimed"] += len(claims)
        done["locked"] += sum(isinstance(one, Refusal) and one.why is Refused.LOCKED for one in answers)
        random.shuffle(claims)
        ends = [ending(claim, random.choice([Outcome.FAILED, Outcome.INTERRUPTED])) for claim in claims]
        assert None not in await store.settle(ends)

    async def sweep(store: SqlStore, random: Random) -> None:
        await store.note_queue(QUEUE, is_absent=random.random() < 0.5)
        done["restaged"] += await store.restage_lost(QUEUE, {4: await store.now()}, 30)
        await store.publish_later(
            random.sample(hints, 30), random.choice([0, 60]), doubling_to=random.choice([None, 60])
        )
        done["hurried"] += await store.publish_now(QUEUE, [JOB])

    async def manage(store: SqlStore, random: Random) -> None:
        await store.reschedule(random.choice(ids), await store.now(), None)
        await store.cancel_many(random.sample(ids, 3), None, None)
        await store.reopen_many(random.sample(ids, 10), None, None)
        await store.expire(10)

    async def repeat(act: Callable[[SqlStore, Random], Awaitable[None]], store: SqlStore, seed: int) -> None:
        random = Random(seed)
        while goes_on():
            try:
                await act(store, random)
            except Exception as error:
                if "running" not in str(error) and "cannot" not in str(error):
                    raise
            await asyncio.sleep(0.001)

    acts = [relay, work, sweep, manage, work, relay]
    await asyncio.gather(*(repeat(act, some[n % 3], n) for n, act in enumerate(acts)))
    assert min(done[name] for name in acted) > 0, done
    assert done["claimed"] > 20
    assert not retried
