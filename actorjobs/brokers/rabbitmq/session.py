"""A session keeps one connection to the broker alive for one role: it reconnects by itself, to any of several hosts,
and has its work done anew on each connection. A lost connection is a state here, never an error of somebody else's."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from random import Random

from actorjobs.actors import Background
from actorjobs.brokers.rabbitmq.address import Address
from actorjobs.brokers.rabbitmq.link import BrokerRefused, ChannelRefused, Link
from actorjobs.clock import Clock
from actorjobs.errors import ActorJobsError, BrokerUnavailable, TopologyMismatch

logger = logging.getLogger("actorjobs.broker")

FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 15.0
SETTLED_SECONDS = 10.0
"""A connection that has lasted so long was a good one: the next pause begins small again."""

Work = Callable[[Link], Awaitable[None]]


class Session:
    """One role's connection. `work(link)` is awaited on each connection, and canceled when that is lost."""

    def __init__(self, *, role: str, address: Address, name: str, work: Work, clock: Clock, random: Random) -> None:
        self.role = role
        self._address = address
        self._name = f"actorjobs:{role}:{name}"
        self._work = work
        self._clock = clock
        self._random = random
        self._background = Background(name=f"actorjobs-broker-{role}", work=self._run)
        self.link: Link | None = None
        self.is_blocked = False
        self.connections = 0
        self.problem: str | None = "not connected yet"
        """Why there is no connection, or why its work does not get on; None while all is well."""
        self._since = clock.monotonic()
        self._tried = asyncio.Event()
        self._refusal: ActorJobsError | None = None

    @property
    def health(self) -> str | None:
        """What is wrong, in a line; None when nothing is."""
        if self.is_blocked:
            return "the broker takes nothing for want of memory or disk (connection blocked)"
        if self.problem is None:
            return None
        return f"for {self._clock.monotonic() - self._since:.0f} s: {self.problem}"

    def __repr__(self) -> str:
        return f"Session({self.role!r}, {self.health or 'connected'}, connections={self.connections})"

    def start(self) -> None:
        self._background.start()

    async def stop(self) -> None:
        await self._background.stop()

    async def tried(self) -> None:
        """Wait for the first try to connect. `BrokerRefused`, `TopologyMismatch`: that needs somebody to do something;
        a broker that is only down does not."""
        await self._tried.wait()
        if self._refusal is not None:
            raise self._refusal

    async def _run(self) -> None:
        pauses = 0
        while True:
            began = self._clock.monotonic()
            try:
                await self._one_connection()
            except ActorJobsError as error:
                self._refusal = error if isinstance(error, BrokerRefused | TopologyMismatch) else None
                self._note(str(error))
            self._tried.set()
            if self._clock.monotonic() - began > SETTLED_SECONDS:
                pauses = 0
            longest = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2**pauses)
            pauses = min(pauses + 1, 10)
            # Anywhere in the pause: a fleet that lost its broker at once must not come back at once.
            await self._clock.sleep(self._random.uniform(longest / 4, longest))

    async def _one_connection(self) -> None:
        link = await self._connect()
        working: asyncio.Task[None] | None = None
        try:
            self.link = link
            self.connections += 1
            working = asyncio.ensure_future(self._work_on(link))
            await asyncio.wait({working, link.lost}, return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                if working.cancelled():  # not by us: the driver cancels whoever waits on what it closes
                    raise BrokerUnavailable("its work was canceled from within")
                working.result()
                raise BrokerUnavailable("its work ended")
            raise BrokerUnavailable(link.why_lost)
        finally:
            self.link = None
            self.is_blocked = False
            try:
                if working is not None:
                    working.cancel()
                    await asyncio.wait({working})
            finally:
                await link.close()

    async def _connect(self) -> Link:
        """A connection to the first host that answers, in random order. `BrokerUnavailable` naming them all."""
        hosts = list(self._address.hosts)
        self._random.shuffle(hosts)
        return await Link.to_first(self._address, hosts, name=self._name)

    async def _work_on(self, link: Link) -> None:
        """The work, whose own errors end this connection and no more."""
        try:
            await self._work(link)
        except (ActorJobsError, asyncio.CancelledError):
            raise
        except ChannelRefused as error:
            raise BrokerUnavailable(f"the broker refused: {error}") from error
        except Exception as error:
            logger.exception("the broker's %s connection failed, it will be made again", self.role)
            raise BrokerUnavailable(f"{type(error).__name__}: {error}") from error

    def ready(self) -> None:
        """Told by the work once it is under way."""
        if self.problem is not None and self.connections > 1:
            logger.info("broker: the %s connection is back", self.role)
        self.problem = None
        self._tried.set()

    def _note(self, problem: str) -> None:
        if self.problem is None or self.connections == 0:
            self._since = self._clock.monotonic()
        if problem != self.problem:
            logger.warning("broker: no %s connection: %s", self.role, problem)
        self.problem = problem
