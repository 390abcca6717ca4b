"""Observers do nothing to each other, nor to the event loop, whatever one of them does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Any, cast

import pytest

import actorjobs as aj
from actorjobs.errors import RunNotFound
from actorjobs.jobs.hooks import Observer
from actorjobs.worker import observing
from actorjobs.worker.observing import Observers


class Known:
    """Knows every run but one, and counts how often it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def get(self, run_id: str) -> Any:
        self.asked.append(run_id)
        await asyncio.sleep(0)
        if run_id == "gone":
            raise RunNotFound(run_id)
        return _Run


class _Run:
    job, queue, tenant, attempt = "test:job", "work", "acme", 3


class Told:
    """A good observer."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def __call__(self, observation: aj.Observation) -> None:
        self.events.append(observation.event)

    async def until(self, *events: str) -> None:
        """Sooner than any observer's time is up."""
        async with asyncio.timeout(observing.ANSWER_SECONDS / 2):
            while self.events != list(events):
                await asyncio.sleep(0.001)


def tell(observers: Observers, *events: str, **facts: Any) -> None:
    for event in events:
        observers.tell(partial(aj.Observation, event=event, at=datetime.now(UTC), **facts))


@asynccontextmanager
async def told(*observers: Observer, store: Any = None) -> AsyncGenerator[Observers]:
    """Observers that are closed within a second more than that takes at most."""
    opened = Observers(observers, store=cast(Any, store))
    try:
        yield opened
    finally:
        async with asyncio.timeout(observing.CLOSE_SECONDS + observing.CANCEL_SECONDS + 1.0):
            await opened.close()


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes some of the times short."""

    def shorten(*names: str) -> None:
        for name in names:
            monkeypatch.setattr(observing, f"{name}_SECONDS", 0.05)

    return shorten


async def hangs(_observation: aj.Observation) -> None:
    await asyncio.Event().wait()


class Stubborn:
    """Takes no cancellation for an answer."""

    def __init__(self) -> None:
        self.may_end = asyncio.Event()
        self.events: list[str] = []

    async def __call__(self, observation: aj.Observation) -> None:
        self.events.append(observation.event)
        while not self.may_end.is_set():
            try:
                await self.may_end.wait()
            except asyncio.CancelledError:
                continue


async def test_one_that_hangs_leaves_the_others_alone(short: Callable[..., None]) -> None:
    short("CLOSE")
    good = Told()
    async with told(hangs, good) as observers:
        tell(observers, "one", "two", "three")
        await good.until("one", "two", "three")


async def test_one_that_hangs_is_canceled_and_told_of_the_next(
    short: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    short("ANSWER")
    begun: list[str] = []

    async def slow(observation: aj.Observation) -> None:
        begun.append(observation.event)
        await asyncio.Event().wait()

    async with told(slow) as observers:
        tell(observers, "one", "two")
    assert begun == ["one", "two"]
    assert "an observer failed on 'two': " in caplog.text
    assert "took longer than 0.05 s" in caplog.text
    assert observers.dropped == 0


async def test_one_that_ignores_its_cancellation_is_left_behind(
    short: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    short("ANSWER", "CANCEL")
    stubborn, good = Stubborn(), Told()
    try:
        async with told(stubborn, good) as observers:
            tell(observers, "one", "two", "three")
            async with asyncio.timeout(5):
                while observers.dropped < 2:  # what waited for it
                    await asyncio.sleep(0.001)
            tell(observers, "four")
            assert observers.dropped == 3
            assert good.events[:3] == ["one", "two", "three"]
            assert stubborn.events == ["one"]
            assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == [
                "the observer Stubborn was canceled and went on regardless: it is told nothing until it has ended"
            ]

            stubborn.may_end.set()
            await asyncio.sleep(0.01)
            tell(observers, "five")
        assert stubborn.events == ["one", "five"]
        assert good.events == ["one", "two", "three", "four", "five"]
        assert observers.dropped == 3
    finally:
        stubborn.may_end.set()


async def test_closing_leaves_behind_what_ignores_its_cancellation(
    short: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    short("CLOSE", "CANCEL")
    stubborn, good = Stubborn(), Told()
    try:
        async with told(stubborn, hangs, good) as observers:
            tell(observers, "one", "two")
        assert good.events == ["one", "two"]
        assert "the observer Stubborn was canceled and went on regardless" in caplog.text
    finally:
        stubborn.may_end.set()


@pytest.mark.parametrize("kind", [asyncio.CancelledError, SystemExit, KeyboardInterrupt, GeneratorExit, BaseException])
async def test_an_error_of_any_kind_ends_one_call(kind: type[BaseException], caplog: pytest.LogCaptureFixture) -> None:
    calls: list[str] = []
    good = Told()

    def plain(observation: aj.Observation) -> None:
        calls.append(f"plain {observation.event}")
        raise kind

    async def later(observation: aj.Observation) -> None:
        await asyncio.sleep(0)
        calls.append(f"later {observation.event}")
        raise kind

    async with told(plain, later, good) as observers:
        tell(observers, "one", "two")
    assert sorted(calls) == ["later one", "later two", "plain one", "plain two"]
    assert good.events == ["one", "two"]
    assert len([record for record in caplog.records if "an observer failed on" in record.getMessage()]) == 4


async def test_one_that_cancels_itself_is_told_of_the_next() -> None:
    calls: list[str] = []

    async def cancels(observation: aj.Observation) -> None:
        calls.append(observation.event)
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)

    async with told(cancels) as observers:
        tell(observers, "one", "two")
    assert calls == ["one", "two"]


async def test_a_plain_one_that_blocks_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    def blocks(_told: Sequence[str], _observation: aj.Observation) -> None:
        time.sleep(0.11)

    async with told(partial(blocks, ["a secret"]), hangs_never) as observers:
        tell(observers, "one", "two")
    [record] = [record for record in caplog.records if ".blocks held up the event loop for" in record.getMessage()]
    assert record.levelname == "WARNING"
    assert "secret" not in record.getMessage()


async def hangs_never(_observation: aj.Observation) -> None:
    """Nor does it hold up the loop, however long it takes."""
    await asyncio.sleep(0.15)


async def test_slow_plain_ones_let_others_have_their_turn() -> None:
    good, seen = Told(), list[int]()

    def slow(_observation: aj.Observation) -> None:
        seen.append(len(good.events))
        time.sleep(2 * observing.TURN_SECONDS)

    async with told(slow, good) as observers:
        tell(observers, *"abcde")
    assert (seen[0], seen[-1]) == (0, 5)


async def test_the_facts_of_a_run_are_read_once_for_all() -> None:
    store, seen = Known(), list[aj.Observation]()

    async def later(observation: aj.Observation) -> None:
        seen.append(observation)

    async with told(seen.append, later, store=store) as observers:
        tell(observers, "expired", run_id="run")
        tell(observers, "expired", run_id="gone")
        tell(observers, "queue_paused")
    assert store.asked == ["run", "gone"]
    assert len(seen) == 6
    assert {(one.run_id, one.job, one.queue, one.tenant, one.attempt) for one in seen} == {
        ("run", "test:job", "work", "acme", 3),
        ("gone", None, None, None, 0),
        (None, None, None, None, 0),
    }


async def test_what_a_full_queue_drops_is_counted_for_each(
    monkeypatch: pytest.MonkeyPatch, short: Callable[..., None]
) -> None:
    monkeypatch.setattr(observing, "MOST_WAITING", 2)
    short("CLOSE")
    good = Told()
    async with told(hangs, good) as observers:
        for event in "abcde":
            tell(observers, event)
            await good.until(*"abcde"[: "abcde".index(event) + 1])
        assert observers.dropped == 2  # the first is with it, two wait
