"""What the tests of the suite stand on: the stores under test, time, and the way of a run to each of its states."""

from __future__ import annotations

import inspect
import itertools
import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime, timedelta
from typing import Any, NamedTuple, Protocol, TypeAlias

import pytest
import pytest_asyncio

from actorjobs.clock import Clock, VirtualClock
from actorjobs.lifecycle import Ending, Standing, decide
from actorjobs.model import Envelope, Outcome, Run, RunState
from actorjobs.ports import Accepted, Claim, Demand, RunFilter, Settlement, Store, Transaction, WorkerInfo

JOB, QUEUE, OWNER = "suite:job", "suite", "worker-1"
EVERYTHING = RunFilter()
NASTY = "Grüße 🦆 \"two\" 'one' back\\slash 100%_ <b>&amp; \t\n Ω \u202ertl\u202c \u200b -- ;DROP TABLE \x7f é e\u0301"
"""What people really write, to be kept as it is."""

Travel: TypeAlias = Callable[[float], Awaitable[None]]


class OpenStore(Protocol):
    """How the suite gets a store: opened, on the one database of the test, closed when the test is over. With
    `has_outbox` it is one whose runs a broker is to be told of."""

    async def __call__(self, namespace: str, clock: Clock, *, has_outbox: bool = False) -> Store: ...


class OpenTransaction(Protocol):
    """A transaction of the application's, begun on the store's database."""

    @property
    def tx(self) -> Transaction: ...

    async def commit(self) -> None: ...

    async def rollback(self) -> None: ...


class InOutbox(NamedTuple):
    """When the relay may publish a run's hint (None: not at all), when it was published, how often given back."""

    publish_after: datetime | None = None
    published_at: datetime | None = None
    republished: int = 0


class StoreSetting:
    """Fixtures. A subclass says where stores come from; everything else may stay."""

    pytestmark = pytest.mark.asyncio

    def __init_subclass__(cls, *, virtual_time: bool = True, **more: Any) -> None:
        """With `virtual_time=False` tests that let time pass are left out: give it a `clock` of the real kind."""
        super().__init_subclass__(**more)
        if not virtual_time:
            for name, test in inspect.getmembers(cls, inspect.isfunction):
                if name.startswith("test_") and "travel" in inspect.signature(test).parameters:
                    setattr(cls, name, None)

    @pytest.fixture
    def open_store(self) -> OpenStore:
        raise NotImplementedError("a store's tests give the suite a fixture `open_store`: see OpenStore")

    def transactions(self, store: Store) -> Mapping[str, Callable[[], AbstractAsyncContextManager[OpenTransaction]]]:
        """By their names, the kinds of transactions that `tx=` takes; none where the store is part of none."""
        return {}

    async def hold(self, store: Store, run_id: str, reason: str | None) -> None:
        """Write `reason` as the hold of a waiting run: no verb of a store does, it is for what limits runs."""
        raise NotImplementedError("a store's tests give the suite a method `hold`")

    async def outbox_of(self, store: Store, run_id: str) -> InOutbox:
        """What the run's row says of its hint: no verb of a store tells."""
        raise NotImplementedError("a store's tests give the suite a method `outbox_of`")

    @pytest.fixture
    def clock(self) -> Clock:
        return VirtualClock()

    @pytest.fixture
    def travel(self, clock: Clock) -> Travel:
        """Let so many seconds pass."""
        assert isinstance(clock, VirtualClock)
        return clock.advance

    @pytest.fixture
    def namespace(self) -> str:
        return f"suite-{os.urandom(6).hex()}"

    @pytest_asyncio.fixture
    async def store(self, open_store: OpenStore, namespace: str, clock: Clock) -> Store:
        """The store under test."""
        return await open_store(namespace, clock)

    @pytest_asyncio.fixture
    async def twin(self, open_store: OpenStore, namespace: str, clock: Clock) -> Store:
        """Another process's store on the same database, in the same namespace."""
        return await open_store(namespace, clock)

    @pytest_asyncio.fixture
    async def foreign(self, open_store: OpenStore, namespace: str, clock: Clock) -> Store:
        """A store on the same database in another namespace."""
        return await open_store(f"not-{namespace}", clock)


_milliseconds = itertools.count(time.time_ns() // 1_000_000)


def run_id() -> str:
    """A UUID version 7, later than those before it even within a millisecond."""
    digits = f"{next(_milliseconds):012x}7{os.urandom(10).hex()[:3]}8{os.urandom(10).hex()[:15]}"
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def envelope(**fields: Any) -> Envelope:
    """An envelope that says nothing but what the test is about."""
    said: dict[str, Any] = {"id": run_id(), "job": JOB, "queue": QUEUE, "payload": {"n": 1}, "priority": 4}
    return Envelope(**said | fields)


async def accepted(store: Store, *envelopes: Envelope) -> list[str]:
    """Dispatch; the ids of the runs, all of them new."""
    answers = await store.insert(envelopes)
    assert answers == [Accepted(run_id=one.id, existing=False) for one in envelopes]
    return [one.id for one in envelopes]


async def take(store: Store, owner: str = OWNER, **fields: Any) -> list[Claim]:
    """Claim what is due."""
    wanted: dict[str, Any] = {"queue": QUEUE, "jobs": {JOB: 1}, "limit": 100}
    [taken] = await store.take([Demand(**wanted | fields)], owner)
    return list(taken.claims)


async def taken(store: Store, owner: str = OWNER, **fields: Any) -> Claim:
    """A new run, claimed."""
    fields.setdefault("queue", f"queue-{os.urandom(4).hex()}")
    [new] = await accepted(store, envelope(**fields))
    [claim] = await take(store, owner, queue=fields["queue"], jobs={fields.get("job", JOB): 1})
    assert claim.run_id == new
    return claim


def ending(
    claim: Claim,
    outcome: Outcome = Outcome.SUCCEEDED,
    *,
    delay: float = 0.0,
    permanent: bool = False,
    counts: bool = True,
    **fields: Any,
) -> Settlement:
    """The end of an attempt, decided on as a worker does."""
    standing = Standing(failures=claim.failures, max_attempts=claim.max_attempts, losses=claim.losses)
    decision = decide(standing, Ending(outcome=outcome, delay=delay, permanent=permanent, counts=counts))
    return Settlement(fence=claim.fence, hint=claim.hint, outcome=outcome, decision=decision, **fields)


async def settle(store: Store, *settlements: Settlement) -> Sequence[RunState | None]:
    return await store.settle(settlements)


async def end(store: Store, claim: Claim, outcome: Outcome = Outcome.SUCCEEDED, **fields: Any) -> Run:
    """Settle; the run as it then stands."""
    [state] = await store.settle([ending(claim, outcome, **fields)])
    assert state is not None, "the fence should hold"
    return await store.get(claim.run_id)


async def brought_to(store: Store, state: RunState, **fields: Any) -> Run:
    """A new run in this state. It waits or waited for a minute, if it does at all."""
    queue = fields.setdefault("queue", f"queue-{os.urandom(4).hex()}")
    match state:
        case RunState.SCHEDULED:
            fields["delay"] = 60
        case RunState.EXPIRED:
            fields["expires_in"] = 0
        case _:
            pass
    [new] = await accepted(store, envelope(**fields))
    match state:
        case RunState.SCHEDULED | RunState.QUEUED:
            pass
        case RunState.CANCELED:
            await store.cancel(new, "not needed", "ann")
        case RunState.EXPIRED:
            assert await store.expire(10) == [new]
        case _:
            [claim] = await take(store, queue=queue, jobs={fields.get("job", JOB): 1})
            await _go_on(store, claim, state)
    run = await store.get(new)
    assert run.state is state
    return run


async def _go_on(store: Store, claim: Claim, state: RunState) -> None:
    match state:
        case RunState.RETRYING:
            await end(store, claim, Outcome.FAILED, delay=60)
        case RunState.SUCCEEDED:
            await end(store, claim, result='{"sent":true}')
        case RunState.DEAD_LETTERED:
            await end(store, claim, Outcome.FAILED, permanent=True)
        case _:
            assert state is RunState.RUNNING


def worker(owner: str = OWNER, **fields: Any) -> WorkerInfo:
    known: dict[str, Any] = {"id": owner, "host": "host-1", "boot_id": "boot-1", "pid": 4711}
    return WorkerInfo(**known | fields)


def later(at: datetime, seconds: float) -> datetime:
    return at + timedelta(seconds=seconds)
