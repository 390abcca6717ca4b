"""Mailbox: the queue in front of one actor, or of all the actors of a pool.

A message leaves the mailbox only in the turn in which its getter runs. A getter that is woken and cancelled in the same
turn has therefore taken nothing: it passes its wake-up on, and the next getter finds the message where it was.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from typing import Generic, TypeVar

from actorjobs.errors import ActorJobsError, InvalidOption

M = TypeVar("M")

_Waiters = deque[asyncio.Future[None]]


class MailboxFull(ActorJobsError):
    """The mailbox holds as many messages as it may."""


class MailboxClosed(ActorJobsError):
    """The mailbox takes no more messages, and has none left to give."""


class Mailbox(Generic[M]):
    """First in, first out; bounded to `capacity` messages, or unbounded (None).

    It belongs to one event loop: from another thread go through `loop.call_soon_threadsafe`.
    """

    def __init__(self, *, capacity: int | None = None) -> None:
        if capacity is not None and capacity < 1:
            raise InvalidOption(f"a mailbox holds at least 1 message; capacity is {capacity!r}")
        self._capacity = capacity
        self._messages: deque[M] = deque()
        self._getters: _Waiters = deque()
        self._putters: _Waiters = deque()
        self._is_closed = False

    def __len__(self) -> int:
        """How many messages wait."""
        return len(self._messages)

    def __bool__(self) -> bool:
        """A mailbox is something, even an empty one."""
        return True

    @property
    def capacity(self) -> int | None:
        """How many messages it holds at most; None when there is no bound."""
        return self._capacity

    @property
    def oldest(self) -> M | None:
        """The message that is taken next; None when there is none."""
        return self._messages[0] if self._messages else None

    @property
    def is_full(self) -> bool:
        return self._capacity is not None and len(self._messages) >= self._capacity

    @property
    def is_closed(self) -> bool:
        return self._is_closed

    @property
    def waiting(self) -> int:
        """How many getters wait for a message that is not there yet."""
        return sum(not getter.done() for getter in self._getters)

    def put_nowait(self, message: M) -> None:
        """Append `message`. Raises MailboxFull or MailboxClosed, and then has not taken it."""
        if self._is_closed:
            raise MailboxClosed("the mailbox is closed")
        if self._capacity is not None and len(self._messages) >= self._capacity:
            raise MailboxFull(f"the mailbox holds {self._capacity} messages, which is its capacity")
        self._messages.append(message)
        if self._getters:
            _wake_one(self._getters)

    async def put(self, message: M) -> None:
        """Append `message` once there is room. Raises MailboxClosed, and then has not taken it."""
        while self.is_full and not self._is_closed:
            await _wait_among(self._putters)
        self.put_nowait(message)

    async def get(self) -> M:
        """Take the oldest message, waiting for one. Raises MailboxClosed once it is closed and empty."""
        while not self._messages:
            if self._is_closed:
                raise MailboxClosed("the mailbox is closed and empty")
            await _wait_among(self._getters)
        return self.get_nowait()

    def get_nowait(self) -> M:
        """Take the oldest message. Raises LookupError when there is none."""
        message = self._messages.popleft()
        if self._putters:
            _wake_one(self._putters)
        return message

    def drain(self) -> list[M]:
        """Take every message at once, oldest first."""
        messages = list(self._messages)
        self._messages.clear()
        _wake_all(self._putters)
        return messages

    def close(self) -> None:
        """Take no more messages; those inside can still be taken. Waiting putters get MailboxClosed. Idempotent."""
        self._is_closed = True
        _wake_all(self._getters)
        _wake_all(self._putters)

    def __repr__(self) -> str:
        closed = ", closed" if self._is_closed else ""
        return f"Mailbox({len(self)}/{self._capacity or '∞'}, waiting={self.waiting}{closed})"


def _wake_one(waiters: _Waiters) -> None:
    while waiters:
        waiter = waiters.popleft()
        if not waiter.done():
            waiter.set_result(None)
            return


def _wake_all(waiters: _Waiters) -> None:
    while waiters:
        _wake_one(waiters)


async def _wait_among(waiters: _Waiters) -> None:
    """Wait for one's turn; whoever is cancelled after having been woken wakes the next instead."""
    waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    waiters.append(waiter)
    try:
        await waiter
    except asyncio.CancelledError:
        with suppress(ValueError):
            waiters.remove(waiter)
        if not waiter.cancelled():
            _wake_one(waiters)
        raise
