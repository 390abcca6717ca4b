"""The broker: three connections (publish, consume, control), each with a session of its own, and the sweeps that hold
what RabbitMQ has against what the store says.

    publish   hints out, confirmed                consume   hints in, the two drains
    control   "look now" from other processes     sweeps    relay, lost hints
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from random import Random
from typing import Any

from aio_pika.abc import AbstractConnection

from actorjobs.actors import Background
from actorjobs.brokers.rabbitmq import control
from actorjobs.brokers.rabbitmq.address import Address
from actorjobs.brokers.rabbitmq.consumer import ACK_WITHIN_SECONDS, ClaimRuns, RabbitConsumer
from actorjobs.brokers.rabbitmq.declaring import Declarer, OnMismatch
from actorjobs.brokers.rabbitmq.drains import Drain
from actorjobs.brokers.rabbitmq.drift import LOST_HINTS, facts_of, find_lost_of, in_force, note_if_gone
from actorjobs.brokers.rabbitmq.link import ChannelRefused, Link, connected
from actorjobs.brokers.rabbitmq.publisher import Publisher
from actorjobs.brokers.rabbitmq.session import Session
from actorjobs.brokers.rabbitmq.topology import Topology
from actorjobs.brokers.rabbitmq.writer import Writer
from actorjobs.brokers.suspects import SuspectSeat
from actorjobs.clock import Clock
from actorjobs.errors import BrokerUnavailable, StoreUnavailable, TopologyMismatch
from actorjobs.model import new_id
from actorjobs.ports import PUBLISH_GRACE_SECONDS, BrokerFacts, BrokerFigures, Claim, Hint, Store, Sweep

logger = logging.getLogger("actorjobs.broker")

RELAY_SECONDS = 1.0
RELAY_HINTS = 1000
CONFIRMS_LATE_SECONDS = 2.0
LOST_SECONDS = 10.0
SILENCE_SECONDS = PUBLISH_GRACE_SECONDS + 1.5
"""After so much of it nothing is left: what another process could not publish has come by way of the relay."""
TICK_SECONDS = 0.25
LAST_CHANCE_SECONDS = 5.0
CONSUME_AGAIN_SECONDS = 0.5
MISMATCH_SECONDS = 10.0


class RabbitBroker:
    """RabbitMQ behind the port: see `actorjobs.ports.Broker`."""

    def __init__(
        self,
        *,
        address: Address,
        namespace: str,
        store: Store,
        claim: ClaimRuns,
        clock: Clock,
        random: Random,
        may_declare: bool = True,
        on_mismatch: OnMismatch = "use",
        ack_within: float = ACK_WITHIN_SECONDS,
    ) -> None:
        """`claim` claims the runs of hints for an owner; `may_declare` off is for a user who may not configure."""
        self.address = address
        self.topology = Topology(namespace)
        self._declarer = Declarer(
            self.topology, may_declare=may_declare, on_mismatch=on_mismatch, on_absent=self._note_absent
        )
        self.publisher = Publisher(store=store, declarer=self._declarer, clock=clock)
        self._may_declare = may_declare
        self._store = store
        self._claim = claim
        self._clock = clock
        self._random = random
        self._ack_within = ack_within
        self._store_id = ""
        self._active_at = clock.monotonic()
        self._name = new_id()[-12:]
        self._suspects = SuspectSeat()
        self._consumers: dict[str, RabbitConsumer] = {}
        self._is_new = asyncio.Event()
        self._wake: Callable[[str], None] = lambda _name: None
        self._to_check: list[str] = []
        """Queues that a start must find, or make, as they should be."""
        self._publishing = self._session("publish", self._publish)
        self._consuming = self._session("consume", self._consume)
        self._controlling = self._session("control", self._control)
        self._writer = Writer(store=store, clock=clock)
        self._ticking = Background(name="actorjobs-broker-tick", work=self._tick)

    def _session(self, role: str, work: Callable[[Link], Awaitable[None]]) -> Session:
        return Session(
            role=role, address=self.address, name=self._name, work=work, clock=self._clock, random=self._random
        )

    def __repr__(self) -> str:
        return f"RabbitBroker({self.address}, queues={sorted(self._consumers)})"

    @property
    def is_idle(self) -> bool:
        """True after a while of silence on a connection that stands: what a broker holds, nobody else can tell."""
        lasts = [consumer.last_delivery for consumer in self._consumers.values()]
        is_silent = self._clock.monotonic() - max([self._active_at, *lasts]) > SILENCE_SECONDS
        is_connected = not self._consumers or self._consuming.health is None
        is_resting = self.publisher.is_idle and all(consumer.is_idle for consumer in self._consumers.values())
        return is_silent and is_connected and is_resting

    @property
    def health(self) -> Mapping[str, str]:
        sessions = [self._publishing]
        if self._consumers:
            sessions += [self._consuming, *([self._controlling] if self._may_declare else [])]
        wrong = {f"broker {one.role}": problem for one in sessions if (problem := one.health) is not None}
        wrong |= {f"queue {queue}": "RabbitMQ does not confirm its messages" for queue in self.publisher.stalled}
        consumers = self._consumers.values()
        return wrong | {f"queue {one.queue}": one.problem for one in consumers if one.problem is not None}

    @property
    def connection(self) -> AbstractConnection | None:
        link = self._publishing.link
        return None if link is None else link.connection

    def statistics(self) -> dict[str, Any]:
        """Figures since the start: hints out and in, connections, and what is on its way now."""
        sessions = (self._publishing, self._consuming, self._controlling)
        return {
            "publisher": {"on_their_way": len(self.publisher), **asdict(self.publisher.counts)},
            "connections": {one.role: one.connections for one in sessions},
            "is_blocked": self._publishing.is_blocked,
            "consumers": {queue: consumer.statistics() for queue, consumer in sorted(self._consumers.items())},
        }

    @property
    def sweeps(self) -> Sequence[Sweep]:
        return (
            Sweep(name="relay", seconds=RELAY_SECONDS, fn=self.relay),
            Sweep(name="lost hints", seconds=LOST_SECONDS, fn=self.find_lost),
        )

    @property
    def is_taking(self) -> bool:
        return not self.publisher.is_full

    @property
    def figures(self) -> BrokerFigures:
        counts = self.publisher.counts
        return BrokerFigures(
            is_connected=self._publishing.link is not None,
            is_blocked=self._publishing.is_blocked,
            on_their_way=len(self.publisher),
            hints={
                "confirmed": counts.confirmed,
                "returned": counts.returned,
                "refused": counts.refused,
                "timed_out": counts.let_go,
            },
        )

    # opening and closing

    async def open(self) -> None:
        """Begin to publish. Waits for nobody: a broker that is down fails no dispatch."""
        self._publishing.start()
        self._ticking.start()

    async def start_delivering(self, queues: Sequence[str], wake: Callable[[str], None]) -> None:
        """Begin to deliver. Waits for the first try to connect: `BrokerRefused` and `TopologyMismatch` end it."""
        self._wake, self._to_check = wake, list(queues)
        self._active_at = self._clock.monotonic()
        self._store_id = await self._store.identity()
        try:
            self._writer.start()
            self._consuming.start()
            if self._may_declare:
                self._controlling.start()
            await self._consuming.tried()
            await self._publishing.tried()
        except BaseException:
            await self.stop_delivering()
            raise

    async def stop_delivering(self) -> None:
        for consumer in self._consumers.values():
            consumer.stop()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._all_settled(), LAST_CHANCE_SECONDS)
        await self._controlling.stop()
        await self._consuming.stop()
        await self._writer.stop()
        self._consumers.clear()

    async def _all_settled(self) -> None:
        while self._consuming.link is not None and any(one.is_consuming for one in self._consumers.values()):
            await self._clock.sleep(0.01)

    async def close(self) -> None:
        """Give what is on its way a last chance, then disconnect."""
        if not self.publisher.is_idle:
            # A process that dispatches one run and ends has not had the time to connect yet.
            with suppress(TimeoutError, BrokerUnavailable, TopologyMismatch):
                await asyncio.wait_for(self._publishing.tried(), LAST_CHANCE_SECONDS)
        if self._publishing.link is not None:
            await self.publisher.drained(LAST_CHANCE_SECONDS)
        with suppress(StoreUnavailable):
            await self.publisher.hand_over()
        await self._ticking.stop()
        await self._publishing.stop()

    # what the runtime asks for

    def publish(self, hints: Sequence[Hint]) -> None:
        if any(hint.seq is None for hint in hints):
            self._wake("relay")
        self.publisher.put(hints)

    def signal(self) -> None:
        self.publisher.signal()

    async def facts(self, queues: Sequence[str]) -> BrokerFacts:
        name = f"actorjobs:facts:{self._name}"
        return await facts_of(self.address, self._declarer, queues, name=name)

    async def repair(self, queues: Sequence[str]) -> int:
        await self._publishing.tried()
        async with connected(self.address, name=f"actorjobs:repair:{self._name}") as link:
            for queue in queues:
                await note_if_gone(self._store, link, queue, self.topology.work_queue(queue))
        for queue in queues:
            while await self._store.restage_lost(queue, {}, LOST_HINTS) == LOST_HINTS:
                pass
        before = self.publisher.counts.confirmed
        while await self.relay():
            pass
        await self.publisher.drained(LAST_CHANCE_SECONDS)
        return self.publisher.counts.confirmed - before

    def consume(self, queue: str, jobs: Mapping[str, int], owner: Callable[[], str | None]) -> RabbitConsumer:
        consumer = RabbitConsumer(
            queue=queue,
            name=self.topology.work_queue(queue),
            store_id=self._store_id,
            jobs=jobs,
            owner=owner,
            claim=self._claim,
            sink=self._writer,
            suspects=self._suspects,
            clock=self._clock,
            on_claimed=self._claimed,
            ack_within=self._ack_within,
        )
        self._consumers[queue] = consumer
        self._is_new.set()
        return consumer

    def _claimed(self, claim: Claim) -> None:
        self.publisher.claimed(claim.run_id)

    # the connections' work

    async def _publish(self, link: Link) -> None:
        await self.publisher.work(link, self._publishing.ready)

    async def _control(self, link: Link) -> None:
        await self._declarer.broadcasts(link)
        await control.listen(link, self.topology, lambda: self._wake("control"), self._controlling.ready)

    async def _consume(self, link: Link) -> None:
        """A task for each queue and each drain; the first that fails ends the connection, and with it the others."""
        await self._declarer.base(link)
        for queue in self._to_check:
            await self._ensure(link, queue)
        self._to_check = []
        logger.info("broker: connected to %s", in_force(link, self._declarer))
        self._consuming.ready()
        drains = [
            Drain(name=name, store=self._store, store_id=self._store_id, clock=self._clock)
            for name in (self.topology.dead, self.topology.unrouted)
        ]
        tasks: set[asyncio.Future[Any]] = {asyncio.ensure_future(self._keep_draining(link, one)) for one in drains}
        arrival: asyncio.Future[Any] = asyncio.Future()
        kept: set[RabbitConsumer] = set()
        try:
            while True:
                if arrival not in tasks:
                    self._is_new.clear()
                    arrival = asyncio.ensure_future(self._is_new.wait())
                    tasks.add(arrival)
                for consumer in set(self._consumers.values()) - kept:
                    kept.add(consumer)
                    tasks.add(asyncio.ensure_future(self._keep_consuming(link, consumer)))
                done, tasks = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _keep_consuming(self, link: Link, consumer: RabbitConsumer) -> None:
        while not consumer.is_stopped:
            try:
                await self._ensure(link, consumer.queue)
                with suppress(StoreUnavailable):  # what others did not know, this process may
                    await self._store.publish_now(consumer.queue, list(consumer.jobs))
                consumer.problem = None
                await consumer.consume(link)
            except ChannelRefused as error:
                logger.warning("queue %s: the broker ended the consumer: %s", consumer.queue, error)
            except TopologyMismatch as error:  # the other queues go on
                consumer.problem = str(error)
                logger.error("queue %s: %s", consumer.queue, error)
                await self._clock.sleep(MISMATCH_SECONDS)
            await self._clock.sleep(self._random.uniform(0.1, CONSUME_AGAIN_SECONDS))

    async def _keep_draining(self, link: Link, drain: Drain) -> None:
        while True:
            try:
                await drain.work(link)
            except ChannelRefused:
                await self._declarer.base(link)
            await self._clock.sleep(CONSUME_AGAIN_SECONDS)

    async def _ensure(self, link: Link, queue: str) -> None:
        if await self._declarer.queue(link, queue):
            self._wake("lost hints")

    async def _note_absent(self, queue: str) -> None:
        with suppress(StoreUnavailable):  # that its hints are lost is seen in other ways too, later
            await self._store.note_queue(queue, is_absent=True)

    async def _tick(self) -> None:
        while True:
            link = self._publishing.link
            is_blocked = link is not None and await link.is_blocked()
            if is_blocked and not self._publishing.is_blocked:
                logger.warning("broker: it takes nothing any more, for want of memory or disk: runs wait in the store")
            self._publishing.is_blocked = is_blocked
            self.publisher.note_blocked(is_blocked=is_blocked)
            try:
                await self.publisher.look_after()
            except StoreUnavailable:
                pass  # what it has to write can wait
            except Exception:  # without this task nothing is put off or marked any more, and nobody would notice
                logger.exception("broker: what has been published cannot be noted: it is tried again")
            await self._clock.sleep(TICK_SECONDS)

    # sweeps

    async def relay(self) -> bool:
        """Publish what nobody has published yet, or nobody any more. True when there is more."""
        if self._publishing.link is None or self.publisher.is_blocked:
            return False
        if self.publisher.oldest_seconds > CONFIRMS_LATE_SECONDS:
            return False
        if not await self.publisher.room_for(RELAY_HINTS, CONFIRMS_LATE_SECONDS):
            return False
        await self.publisher.mark()
        hints = await self._store.stage(RELAY_HINTS)
        left = self.publisher.put(hints)
        if left:
            # Others have had the room meanwhile, or their queue confirms nothing just now. They were promised for
            # half a minute, which nobody is to wait.
            await self._store.publish_later(left, RELAY_SECONDS)
        if hints:
            self._active_at = self._clock.monotonic()
        return len(hints) == RELAY_HINTS and len(left) < len(hints)

    async def find_lost(self) -> bool:
        """Have the hints published again that must be lost, of the queues that are served here."""
        link = self._consuming.link
        if link is None:
            return False
        if await self._declarer.mend(link, list(self._consumers)):
            logger.warning("broker: the exchange that delays end in was gone: it has been made again")
        found = [await find_lost_of(self._store, link, consumer) for consumer in list(self._consumers.values())]
        if any(found):
            self._wake("relay")
        if LOST_HINTS not in found:
            return False
        await self._clock.sleep(1.0)
        return True
