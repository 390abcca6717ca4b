"""Mailbox: order, bounds, closing, and cancellation in the turn of a hand-over."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actorjobs.actors import Mailbox, MailboxClosed, MailboxFull
from actorjobs.errors import ActorJobsError, InvalidOption
from tests.actors.stress import loop_turns

pytestmark = pytest.mark.usefixtures("nothing_left")


def test_its_errors_are_in_the_one_tree() -> None:
    assert issubclass(MailboxFull, ActorJobsError)
    assert issubclass(MailboxClosed, ActorJobsError)


async def test_first_in_first_out() -> None:
    mailbox = Mailbox[int]()
    for number in range(3):
        mailbox.put_nowait(number)
    assert len(mailbox) == 3
    assert [await mailbox.get() for _ in range(3)] == [0, 1, 2]
    assert len(mailbox) == 0


async def test_is_true_even_when_empty() -> None:
    assert Mailbox[int]()


async def test_a_getter_waits_for_a_message() -> None:
    mailbox = Mailbox[str]()
    getter = asyncio.create_task(mailbox.get())
    await loop_turns(2)
    assert mailbox.waiting == 1
    mailbox.put_nowait("m")
    assert await getter == "m"
    assert mailbox.waiting == 0


async def test_getters_are_served_in_the_order_they_came() -> None:
    mailbox = Mailbox[int]()
    getters = [asyncio.create_task(mailbox.get()) for _ in range(3)]
    await loop_turns(2)
    for number in range(3):
        mailbox.put_nowait(number)
    assert await asyncio.gather(*getters) == [0, 1, 2]


@pytest.mark.parametrize("capacity", [0, -1])
def test_a_capacity_below_one_is_refused(capacity: int) -> None:
    with pytest.raises(InvalidOption, match="capacity"):
        Mailbox[int](capacity=capacity)


async def test_a_full_mailbox_refuses_put_nowait() -> None:
    mailbox = Mailbox[int](capacity=2)
    fullness = [mailbox.is_full]
    for number in (1, 2):
        mailbox.put_nowait(number)
        fullness.append(mailbox.is_full)
    assert fullness == [False, False, True]
    with pytest.raises(MailboxFull, match="2"):
        mailbox.put_nowait(3)
    assert mailbox.drain() == [1, 2]


async def test_put_waits_for_room_and_putters_keep_their_order() -> None:
    mailbox = Mailbox[int](capacity=1)
    await mailbox.put(0)
    putters = [asyncio.create_task(mailbox.put(number)) for number in (1, 2)]
    await loop_turns(3)
    assert not any(putter.done() for putter in putters)
    assert [await mailbox.get() for _ in range(3)] == [0, 1, 2]
    await asyncio.gather(*putters)


async def test_drain_takes_everything_and_makes_room() -> None:
    mailbox = Mailbox[int](capacity=2)
    mailbox.put_nowait(1)
    mailbox.put_nowait(2)
    putters = [asyncio.create_task(mailbox.put(number)) for number in (3, 4)]
    await loop_turns(2)
    assert mailbox.drain() == [1, 2]
    await asyncio.gather(*putters)
    assert mailbox.drain() == [3, 4]
    assert mailbox.drain() == []


async def test_a_closed_mailbox_gives_what_it_has_and_takes_nothing() -> None:
    mailbox = Mailbox[int]()
    mailbox.put_nowait(1)
    mailbox.close()
    mailbox.close()
    assert mailbox.is_closed
    with pytest.raises(MailboxClosed):
        mailbox.put_nowait(2)
    with pytest.raises(MailboxClosed):
        await mailbox.put(2)
    assert await mailbox.get() == 1
    with pytest.raises(MailboxClosed):
        await mailbox.get()


async def test_closing_wakes_all_who_wait() -> None:
    empty, full = Mailbox[int](), Mailbox[int](capacity=1)
    full.put_nowait(1)
    waiters: list[asyncio.Task[Any]] = [asyncio.create_task(empty.get()) for _ in range(2)]
    waiters += [asyncio.create_task(full.put(2)) for _ in range(2)]
    await loop_turns(2)
    empty.close()
    full.close()
    ends = await asyncio.gather(*waiters, return_exceptions=True)
    assert [type(end) for end in ends] == [MailboxClosed] * 4
    assert full.drain() == [1]


async def test_get_nowait_of_an_empty_mailbox_is_a_lookup_error() -> None:
    with pytest.raises(LookupError):
        Mailbox[int]().get_nowait()


async def test_a_getter_cancelled_in_the_turn_of_the_hand_over_loses_nothing() -> None:
    mailbox = Mailbox[str]()
    first, second = asyncio.create_task(mailbox.get()), asyncio.create_task(mailbox.get())
    await loop_turns(2)
    mailbox.put_nowait("m")  # wakes the first
    first.cancel()
    assert await second == "m"
    assert first.cancelled()


async def test_a_getter_cancelled_alone_leaves_the_message() -> None:
    mailbox = Mailbox[str]()
    getter = asyncio.create_task(mailbox.get())
    await loop_turns(2)
    mailbox.put_nowait("m")
    getter.cancel()
    await loop_turns(2)
    assert getter.cancelled()
    assert mailbox.drain() == ["m"]


async def test_a_cancelled_getter_no_longer_waits() -> None:
    mailbox = Mailbox[str]()
    getter = asyncio.create_task(mailbox.get())
    await loop_turns(2)
    getter.cancel()
    assert mailbox.waiting == 0
    await loop_turns(2)
    assert mailbox.waiting == 0


async def test_cancelled_getters_and_putters_are_forgotten() -> None:
    mailbox = Mailbox[int](capacity=1)
    waiters: list[asyncio.Task[Any]] = [asyncio.create_task(mailbox.get()) for _ in range(3)]
    await loop_turns(2)
    await _cancel(waiters)
    mailbox.put_nowait(1)
    waiters = [asyncio.create_task(mailbox.put(2)) for _ in range(3)]
    await loop_turns(2)
    await _cancel(waiters)
    assert not mailbox._getters  # pyright: ignore[reportPrivateUsage]
    assert not mailbox._putters  # pyright: ignore[reportPrivateUsage]


async def _cancel(tasks: list[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def test_a_putter_cancelled_in_the_turn_of_its_turn_passes_it_on() -> None:
    mailbox = Mailbox[int](capacity=1)
    mailbox.put_nowait(0)
    first, second = asyncio.create_task(mailbox.put(1)), asyncio.create_task(mailbox.put(2))
    await loop_turns(2)
    assert mailbox.get_nowait() == 0  # wakes the first
    first.cancel()
    await second
    assert mailbox.drain() == [2]


async def test_repr_shows_its_state() -> None:
    mailbox = Mailbox[int](capacity=3)
    mailbox.put_nowait(1)
    assert repr(mailbox) == "Mailbox(1/3, waiting=0)"
    mailbox.close()
    assert repr(mailbox) == "Mailbox(1/3, waiting=0, closed)"


class Exchange:
    """A mailbox with getters and putters that are cancelled at any time, and the books of what went in and out."""

    def __init__(self, capacity: int | None) -> None:
        self.mailbox = Mailbox[int](capacity=capacity)
        self.tasks: list[asyncio.Task[None]] = []
        self.accepted: list[int] = []
        self.taken: list[int] = []
        self._next = iter(range(1_000_000))

    async def get(self) -> None:
        try:
            self.taken.append(await self.mailbox.get())
        except MailboxClosed:
            assert self.mailbox.is_closed

    async def put(self) -> None:
        number = next(self._next)
        try:
            await self.mailbox.put(number)
        except MailboxClosed:
            assert self.mailbox.is_closed
        else:
            self.accepted.append(number)

    def put_nowait(self) -> None:
        number = next(self._next)
        try:
            self.mailbox.put_nowait(number)
        except (MailboxFull, MailboxClosed):
            assert self.mailbox.is_full or self.mailbox.is_closed
        else:
            self.accepted.append(number)

    async def do(self, verb: str, which: int) -> None:
        match verb:
            case "get":
                self.tasks.append(asyncio.create_task(self.get()))
            case "put":
                self.tasks.append(asyncio.create_task(self.put()))
            case "put_nowait":
                self.put_nowait()
            case "cancel":
                for task in self.tasks[which : which + 1]:
                    task.cancel()
            case "drain":
                self.taken += self.mailbox.drain()
            case "close":
                self.mailbox.close()
            case _:
                await loop_turns(1)

    async def settle(self) -> None:
        await loop_turns(10 + 2 * len(self.tasks))
        assert not (len(self.mailbox) and self.mailbox.waiting), "a getter waits beside a message"
        pending = [task for task in self.tasks if not task.done()]
        assert self.mailbox.is_full or len(pending) == self.mailbox.waiting, "a putter waits beside room"
        assert not (self.mailbox.is_closed and pending), "somebody waits at a closed mailbox"
        for task in pending:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        assert self.taken + self.mailbox.drain() == self.accepted, "lost, doubled or out of order"


async def _exchange(capacity: int | None, ops: list[tuple[str, int]]) -> None:
    exchange = Exchange(capacity)
    for verb, which in ops:
        await exchange.do(verb, which)
    await exchange.settle()


_verbs = st.sampled_from(["get", "get", "put", "put_nowait", "put_nowait", "cancel", "cancel", "turn", "drain"])
_ops = st.lists(st.tuples(_verbs, st.integers(0, 12)), max_size=60)
_closing = st.lists(st.tuples(st.one_of(_verbs, st.just("close")), st.integers(0, 12)), max_size=60)


class TestFuzz:
    """No message is lost, doubled or overtaken, whoever is cancelled when; and nobody waits beside a message."""

    @settings(max_examples=400, deadline=None)
    @given(capacity=st.one_of(st.none(), st.integers(1, 3)), ops=st.one_of(_ops, _closing))
    def test_messages_are_conserved(self, capacity: int | None, ops: list[tuple[str, int]]) -> None:
        asyncio.run(_exchange(capacity, ops))
