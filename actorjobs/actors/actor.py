"""Actor: one task, one mailbox, one message at a time."""

from __future__ import annotations

import asyncio
import contextvars
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Generic

from actorjobs.actors.life import Ask, Life
from actorjobs.actors.mailbox import M, Mailbox, MailboxClosed
from actorjobs.actors.service import Statistics, TaskService, Watcher
from actorjobs.errors import ActorJobsError

_YIELD_EVERY = 64
"""Messages after which an actor that never has to wait lets the others of its loop run."""


class RestartActor(ActorJobsError):
    """Raised in `receive`: replace me by a fresh instance, and do not count it as a crash."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorStatistics(Statistics):
    """What an actor tells about itself, over all its lives."""

    received: int
    """Messages taken from the mailbox, the present one included."""
    mailbox_size: int
    """Messages that wait; in a shared mailbox, for all who share it."""


class Actor(TaskService, ABC, Generic[M]):
    """Takes messages from its mailbox and gives them to `receive`, one after the other.

    The mailbox outlives the actor: it may be shared, and `stop` does not close it. What `receive` raises ends the actor
    and goes to its watchers; the message it was given then is gone. A closed mailbox ends it once it is empty.
    """

    def __init__(
        self,
        *,
        name: str,
        mailbox: Mailbox[M] | None = None,
        on_exit: Watcher | None = None,
        context: contextvars.Context | None = None,
    ) -> None:
        """`context` is copied for each life; by default the actor inherits no context variable of anybody."""
        super().__init__(name=name, on_exit=on_exit, context=context)
        self.mailbox: Mailbox[M] = Mailbox() if mailbox is None else mailbox
        self._received = 0

    @abstractmethod
    async def receive(self, message: M) -> None:
        """Deal with one message. `stop` cancels it, `retire` waits for it."""

    async def stop(self, drain: bool = False) -> None:
        """Cancel `receive` and wait for the end; with `drain`, receive everything in the mailbox first.

        Raises what draining or `on_stop` raised. A plain `stop` cuts a draining one short. Called in its own `receive`
        it returns at once, and the actor ends after the present message.
        """
        await self._end(Ask.DRAIN if drain else Ask.STOP)

    def statistics(self) -> ActorStatistics:
        return ActorStatistics(
            name=self.name,
            is_running=self.is_running,
            starts=self._starts,
            received=self._received,
            mailbox_size=len(self.mailbox),
        )

    async def _run(self, life: Life) -> None:
        get, receive = self.mailbox.get, self.receive
        while not life.ask:
            life.is_resting = True
            try:
                message = await get()
            except MailboxClosed:
                return
            life.is_resting = False
            self._received += 1
            await receive(message)
            if not self._received % _YIELD_EVERY:
                await asyncio.sleep(0)

    async def _wind_down(self, life: Life) -> None:
        while life.ask is Ask.DRAIN and len(self.mailbox):
            self._received += 1
            await self.receive(self.mailbox.get_nowait())
            await asyncio.sleep(0)

    def _facts(self) -> str:
        return f"received={self._received}, {self.mailbox!r}"
