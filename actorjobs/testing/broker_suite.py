"""The conformance suite of brokers: whatever delivers, on whatever store, a run gets the same treatment.

    class TestMyPair(BrokerSuite):
        @pytest.fixture
        def pair(self, my_store_url, my_broker_url) -> Pair:
            return Pair(store=my_store_url, broker=my_broker_url)

Everything goes through `Runtime`, in real time. Needs pytest and pytest-asyncio.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any, ClassVar

import pytest
import pytest_asyncio
from pydantic import BaseModel

from actorjobs.errors import Snooze
from actorjobs.jobs import JobContext, JobRef, Queue, RunHandle, job
from actorjobs.model import Outcome, RunState
from actorjobs.retry import Fixed, Retry
from actorjobs.runtime import Runtime

LATE_SECONDS = 1.0
"""A run that starts later than this after its time is late, on a machine that does other things too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A store and the broker that delivers from it."""

    store: str
    broker: str
    namespace: str = "default"


class Work(BaseModel):
    """What a handler of the suite is to do."""

    fail: int = 0
    snooze: int = 0
    last: float = 0.0


@dataclass
class Seen:
    """What handlers were seen to do, past the runtime."""

    starts: dict[str, list[datetime]] = field(default_factory=lambda: defaultdict(list))
    at_once: int = 0
    most_at_once: int = 0


@job("suite:work", queue="work", retry=Retry(attempts=3, backoff=Fixed(0.4)))
async def work(payload: Work, ctx: JobContext[Seen]) -> str:
    """Do as the payload says, and be seen."""
    seen = ctx.app
    seen.starts[ctx.run_id].append(datetime.now(UTC))
    seen.at_once += 1
    seen.most_at_once = max(seen.most_at_once, seen.at_once)
    try:
        if payload.last:
            await asyncio.sleep(payload.last)
        if ctx.attempt <= payload.snooze:
            raise Snooze(0.3)
        if ctx.failures < payload.fail:
            raise RuntimeError("as asked")
    finally:
        seen.at_once -= 1
    return f"attempt {ctx.attempt}"


@job("suite:newer", queue="work")
async def newer(payload: Work, ctx: JobContext[Seen]) -> str:
    """A job that older workers do not know."""
    return "known now"


Open = Callable[..., Awaitable[Runtime]]


class BrokerSuite:
    """Everything that a broker must do, whatever the store."""

    pytestmark = pytest.mark.asyncio
    JOBS: ClassVar[list[Any]] = [work]

    @pytest.fixture
    def pair(self) -> Pair:
        raise NotImplementedError("a subclass says which store and broker")

    @pytest.fixture
    def seen(self) -> Seen:
        return Seen()

    @pytest_asyncio.fixture
    async def serve(self, pair: Pair, seen: Seen) -> AsyncGenerator[Open]:
        """Opens a runtime with pools: a worker, as far as the others can tell."""
        async with AsyncExitStack() as stack:

            async def serve(*, jobs: list[Any] | None = None, at_once: int = 10, grace: float = 5.0) -> Runtime:
                queues: dict[str, int | Queue] = {"work": at_once, "b": 5, "a.b": 5}
                runtime = Runtime(
                    store=pair.store,
                    broker=pair.broker,
                    namespace=pair.namespace,
                    jobs=self.JOBS if jobs is None else jobs,
                    queues=queues,
                    context=lambda: nullcontext(seen),
                    grace=grace,
                )
                await runtime.open()
                stack.push_async_callback(runtime.close)
                return runtime

            yield serve

    @pytest_asyncio.fixture
    async def client(self, pair: Pair) -> AsyncGenerator[Runtime]:
        """A process that only dispatches and manages."""
        runtime = Runtime(
            store=pair.store,
            broker=pair.broker,
            namespace=pair.namespace,
            jobs=[*self.JOBS, newer],
            queues={"b": 1, "a.b": 1},
        )
        async with runtime.client():
            yield runtime

    async def test_what_another_process_dispatches_is_performed_once(
        self, serve: Open, client: Runtime, seen: Seen
    ) -> None:
        await serve()
        await serve()
        handles = [await client.dispatch(work, Work()) for _ in range(20)]
        handles += await client.dispatch_many([client.envelope("suite:work", {}) for _ in range(180)])
        assert {await handle.result(timeout=20) for handle in handles} == {"attempt 1"}
        assert Counter(len(times) for times in seen.starts.values()) == {1: 200}

    async def test_no_more_at_once_than_the_queue_allows(self, serve: Open, client: Runtime, seen: Seen) -> None:
        await serve(at_once=3)
        handles = [await client.dispatch(work, Work(last=0.05)) for _ in range(30)]
        for handle in handles:
            await handle.result(timeout=20)
        assert seen.most_at_once == 3

    async def test_a_start_comes_soon_after_the_dispatch(self, serve: Open, client: Runtime, seen: Seen) -> None:
        await serve()
        await (await client.dispatch(work, Work())).result(timeout=20)
        took: list[float] = []
        for _ in range(10):
            began = time.monotonic()
            await (await client.dispatch(work, Work())).result(timeout=20)
            took.append(time.monotonic() - began)
        assert sorted(took)[5] < LATE_SECONDS

    async def test_failures_are_retried_and_never_early(self, serve: Open, client: Runtime, seen: Seen) -> None:
        await serve()
        handle = await client.dispatch(work, Work(fail=2))
        lost = await client.dispatch(work, Work(fail=9))
        assert await handle.result(timeout=20) == "attempt 3"
        attempts = await client.runs.attempts(handle.id)
        assert [one.outcome for one in attempts] == [Outcome.FAILED, Outcome.FAILED, Outcome.SUCCEEDED]
        for before, after in pairwise(attempts):
            assert before.ended_at is not None
            assert after.started_at is not None
            waited = (after.started_at - before.ended_at).total_seconds()
            assert 0.4 <= waited < 0.4 + LATE_SECONDS
        assert (await client.runs.wait(lost.id, timeout=20)).state is RunState.DEAD_LETTERED

    async def test_delays_are_kept_and_none_waits_behind_another(
        self, serve: Open, client: Runtime, seen: Seen
    ) -> None:
        await serve()
        first = await client.dispatch(work, Work(), delay=600)
        delays = [0.03, 0.1, 0.25, 0.5, 0.77, 1.0, 1.5]
        handles = {delay: await client.dispatch(work, Work(), delay=delay) for delay in reversed(delays)}
        for delay, handle in handles.items():
            run = await client.runs.wait(handle.id, timeout=20)
            assert run.claimed_at is not None
            late = (run.claimed_at - run.available_at).total_seconds()
            assert 0 <= late < LATE_SECONDS, (delay, late)
            assert abs((run.available_at - run.inserted_at).total_seconds() - delay) < 0.001
        assert (await first.run()).state is RunState.SCHEDULED

    async def test_a_moment_may_be_given_and_moved(self, serve: Open, client: Runtime, seen: Seen) -> None:
        await serve()
        sooner = await client.dispatch(work, Work(), delay=600)
        later = await client.dispatch(work, Work(), run_at=datetime.now(UTC) + timedelta(seconds=0.5))
        await client.runs.reschedule(sooner.id, datetime.now(UTC) + timedelta(seconds=0.3))
        await client.runs.reschedule(later.id, datetime.now(UTC) + timedelta(seconds=600))
        assert await sooner.result(timeout=20) == "attempt 1"
        await asyncio.sleep(0.5)
        assert later.id not in seen.starts
        await client.runs.reschedule(later.id, datetime.now(UTC))
        assert await later.result(timeout=20) == "attempt 1"

    async def test_what_is_canceled_while_it_waits_never_starts(self, serve: Open, client: Runtime, seen: Seen) -> None:
        await serve()
        handle = await client.dispatch(work, Work(), delay=0.5)
        assert (await handle.cancel()).state is RunState.CANCELED
        await asyncio.sleep(1.0)
        assert handle.id not in seen.starts
        await client.runs.retry(handle.id)
        assert await handle.result(timeout=20) == "attempt 1"

    async def test_what_runs_elsewhere_is_canceled_within_a_second(
        self, serve: Open, client: Runtime, seen: Seen
    ) -> None:
        await serve()
        handle = await client.dispatch(work, Work(last=30))
        await _until(lambda: handle.id in seen.starts)
        began = time.monotonic()
        await handle.cancel(reason="enough")
        run = await client.runs.wait(handle.id, timeout=20)
        assert (run.state, run.reason) == (RunState.CANCELED, "enough")
        assert time.monotonic() - began < 2.0

    async def test_a_paused_queue_starts_nothing_until_it_is_resumed(
        self, serve: Open, client: Runtime, seen: Seen
    ) -> None:
        await serve()
        await client.queues.pause("work", reason="maintenance")
        await asyncio.sleep(0.6)
        handles = [await client.dispatch(work, Work()) for _ in range(5)]
        await asyncio.sleep(0.8)
        assert not seen.starts
        expiring = await client.dispatch(work, Work(), expires_in=0.2)
        assert (await client.runs.wait(expiring.id, timeout=20)).state is RunState.EXPIRED
        await client.queues.resume("work")
        assert [await handle.result(timeout=20) for handle in handles] == ["attempt 1"] * 5
        assert expiring.id not in seen.starts

    async def test_a_queue_is_scaled(self, serve: Open, client: Runtime, seen: Seen) -> None:
        await serve(at_once=1)
        await client.queues.scale("work", 4)
        await asyncio.sleep(0.8)
        handles = [await client.dispatch(work, Work(last=0.5)) for _ in range(4)]
        for handle in handles:
            await handle.result(timeout=20)
        assert seen.most_at_once == 4

    async def test_a_snooze_uses_no_attempt(self, serve: Open, client: Runtime, seen: Seen) -> None:
        await serve()
        handle = await client.dispatch(work, Work(snooze=2))
        assert await handle.result(timeout=20) == "attempt 3"
        assert (await handle.run()).failures == 0

    async def test_what_a_stopping_worker_hands_back_goes_on_elsewhere(
        self, serve: Open, client: Runtime, seen: Seen
    ) -> None:
        first = await serve(grace=0.0)
        handle = await client.dispatch(work, Work(last=1.0))
        await _until(lambda: handle.id in seen.starts)
        await first.close()
        run = await handle.run()
        assert (run.state, run.failures) == (RunState.QUEUED, 0)
        await serve()
        assert await handle.result(timeout=20) == "attempt 2"
        assert [one.outcome for one in await client.runs.attempts(handle.id)] == [
            Outcome.INTERRUPTED,
            Outcome.SUCCEEDED,
        ]

    async def test_a_job_that_no_worker_knows_is_kept_for_one_that_does(
        self, serve: Open, client: Runtime, seen: Seen
    ) -> None:
        older = await serve()
        handle = await client.dispatch(newer, Work())
        plain = await client.dispatch(work, Work())
        assert await plain.result(timeout=20) == "attempt 1"
        await asyncio.sleep(0.5)
        run = await handle.run()
        assert run.state is RunState.QUEUED
        assert run.attempt == 0
        await older.close()
        await serve(jobs=[work, newer])
        assert await handle.result(timeout=20) == "known now"

    async def test_names_of_queues_that_end_alike_are_not_mixed_up(
        self, serve: Open, client: Runtime, seen: Seen
    ) -> None:
        await serve()
        handles = [
            await client.dispatch(work, Work(), queue=queue, delay=delay)
            for queue in ("b", "a.b")
            for delay in (0.0, 0.3)
        ]
        for handle in handles:
            await handle.result(timeout=20)
        assert Counter(len(times) for times in seen.starts.values()) == {1: 4}

    async def test_a_key_names_one_run_however_often_it_is_dispatched(
        self, serve: Open, client: Runtime, seen: Seen
    ) -> None:
        await serve()
        handles = await asyncio.gather(
            *(client.dispatch(work, Work(), idempotency_key="the one", delay=0.2) for _ in range(20))
        )
        assert len({handle.id for handle in handles}) == 1
        assert await handles[0].result(timeout=20) == "attempt 1"
        assert len(seen.starts[handles[0].id]) == 1

    async def test_a_dispatch_in_a_transaction_is_performed_once_that_commits(
        self, serve: Open, client: Runtime, seen: Seen
    ) -> None:
        await serve()
        async with client.store.engine.connect() as connection:
            await connection.begin()
            kept = await client.dispatch(work, Work(), tx=connection)
            await asyncio.sleep(0.2)
            assert kept.id not in seen.starts
            await connection.commit()
            await connection.begin()
            gone = await client.dispatch(work, Work(), tx=connection)
            await connection.rollback()
        assert await kept.result(timeout=20) == "attempt 1"
        assert gone.id not in seen.starts

    async def test_dead_letters_are_retried_and_finished_runs_replayed(
        self, serve: Open, client: Runtime, seen: Seen
    ) -> None:
        await serve()
        dead = await client.dispatch(work, Work(fail=3))
        done = await client.dispatch(work, Work())
        assert (await client.runs.wait(dead.id, timeout=20)).state is RunState.DEAD_LETTERED
        await done.result(timeout=20)
        await client.runs.retry(dead.id)
        again = await client.runs.replay(done.id)
        assert await dead.result(timeout=20) == "attempt 4"
        assert await again.result(timeout=20) == "attempt 1"

    async def test_work_waits_for_a_worker(self, serve: Open, client: Runtime, seen: Seen) -> None:
        handles = [await client.dispatch(work, Work()) for _ in range(10)]
        later = await client.dispatch(work, Work(), delay=0.3)
        await asyncio.sleep(0.5)
        await serve()
        for handle in [*handles, later]:
            assert await handle.result(timeout=20) == "attempt 1"

    async def test_an_unknown_name_is_dispatched_all_the_same(self, serve: Open, client: Runtime, seen: Seen) -> None:
        await serve()
        ref: JobRef[Work, str] = JobRef("suite:work", Work, str, queue="work")
        handle: RunHandle[str] = await client.dispatch(ref, Work())
        assert await handle.result(timeout=20) == "attempt 1"


async def _until(is_so: Callable[[], bool], within: float = 15.0) -> None:
    deadline = time.monotonic() + within
    while not is_so():
        assert time.monotonic() < deadline, "it did not come to that"
        await asyncio.sleep(0.005)
