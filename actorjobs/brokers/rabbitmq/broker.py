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
from contextvars import Context
from datetime import timedelta
from random import Random

from actorjobs.brokers.rabbitmq import control
from actorjobs.brokers.rabbitmq.address import Address
from actorjobs.brokers.rabbitmq.consumer import ACK_WITHIN_SECONDS, ClaimRuns, RabbitConsumer
from actorjobs.brokers.rabbitmq.declaring import Declarer, OnMismatch, count_ready
from actorjobs.brokers.rabbitmq.drains import Drain
from actorjobs.brokers.rabbitmq.link import ChannelRefused, Link, close_channel, connected
from actorjobs.brokers.rabbitmq.publisher import CAPACITY, Publisher
from actorjobs.brokers.rabbitmq.session import Session
from actorjobs.brokers.rabbitmq.topology import Topology
from actorjobs.brokers.rabbitmq.writer import Writer
from actorjobs.brokers.suspects import SuspectSeat
from actorjobs.clock import Clock
from actorjobs.errors import BrokerUnavailable, StoreUnavailable, TopologyMismatch
from actorjobs.model import new_id
from actorjobs.ports import BrokerFacts, Claim, Hint, Store, Sweep

logger = logging.getLogger("actorjobs.broker")

RELAY_SECONDS = 1.0
RELAY_HINTS = 1000
CONFIRMS_LATE_SECONDS = 2.0
LOST_SECONDS = 10.0
LOST_HINTS = 5000
"""Hints given up as lost and published again at once, per queue and second."""
OVERTAKEN_BY = timedelta(seconds=60)
SILENT_SECONDS = 20.0
"""A consumer that has room, whose queue has messages ready, and which got none for so long, is begun anew."""
SILENCE_SECONDS = 2.0
TICK_SECONDS = 0.25
LAST_CHANCE_SECONDS = 5.0
CONSUME_AGAIN_SECONDS = 0.5


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
        self.publisher = Publisher(
            store=store,
            declarer=(declarer := Declarer(self.topology, may_declare=may_declare, on_mismatch=on_mismatch)),
            clock=clock,
        )
        self._declarer = declarer
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
        self._publishing = self._session("publish", self._publish)
        self._consuming = self._session("consume", self._consume)
        self._controlling = self._session("control", self._control)
        self._writer = Writer(store=store, clock=clock)
        self._ticking: asyncio.Task[None] | None = None

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
        return {f"broker {one.role}": problem for one in sessions if (problem := one.health) is not None}

    @property
    def sweeps(self) -> Sequence[Sweep]:
        return (
            Sweep(name="relay", seconds=RELAY_SECONDS, fn=self.relay),
            Sweep(name="lost hints", seconds=LOST_SECONDS, fn=self.find_lost),
        )

    @property
    def is_taking(self) -> bool:
        return not self.publisher.is_full

    # opening and closing

    async def open(self) -> None:
        """Begin to publish. Waits for nobody: a broker that is down fails no dispatch."""
        self._publishing.start()
        if self._ticking is None:
            self._ticking = asyncio.get_running_loop().create_task(
                self._tick(), name="actorjobs-broker-tick", context=Context()
            )

    async def start_delivering(self, wake: Callable[[str], None]) -> None:
        """Begin to deliver. Waits for the first try to connect: `BrokerRefused` and `TopologyMismatch` end it."""
        self._wake = wake
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
        if self._ticking is not None:
            self._ticking.cancel()
            with suppress(asyncio.CancelledError):
                await self._ticking
            self._ticking = None
        await self._publishing.stop()

    # what the runtime asks for

    def publish(self, hints: Sequence[Hint]) -> None:
        if any(hint.seq is None for hint in hints):
            self._wake("relay")
        self.publisher.put(hints)

    def signal(self) -> None:
        self.publisher.signal()

    async def facts(self, queues: Sequence[str]) -> BrokerFacts:
        """By a connection of its own, so that a doctor needs no worker."""
        async with connected(self.address, name=f"actorjobs:facts:{self._name}") as link:
            ready = {queue: await _ready(link, self.topology.work_queue(queue)) for queue in queues}
            declarer = Declarer(self.topology, may_declare=self._may_declare)
            differences = await declarer.verify(link, [queue for queue in queues if ready[queue] is not None])
            return BrokerFacts(
                version=link.version,
                ready=ready,
                dead=await _ready(link, self.topology.dead),
                unrouted=await _ready(link, self.topology.unrouted),
                differences=[str(difference) for difference in differences],
            )

    async def repair(self, queues: Sequence[str]) -> int:
        await self._publishing.tried()
        ready = (await self.facts(queues)).ready
        for queue in queues:
            if not ready[queue]:
                await self._store.note_queue(queue, is_absent=ready[queue] is None)
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
        await self._declarer.base(link)
        await control.listen(link, self.topology, lambda: self._wake("control"), self._controlling.ready)

    async def _consume(self, link: Link) -> None:
        """A task for each queue and each drain; the first that fails ends the connection, and with it the others."""
        await self._declarer.base(link)
        logger.info("broker: connected to RabbitMQ %s at %s", link.version, link.host)
        self._consuming.ready()
        drains = [
            Drain(name=name, store=self._store, store_id=self._store_id, clock=self._clock)
            for name in (self.topology.dead, self.topology.unrouted)
        ]
        tasks: set[asyncio.Future[object]] = {asyncio.ensure_future(self._keep_draining(link, one)) for one in drains}
        arrival: asyncio.Future[object] = asyncio.Future()
        kept: set[RabbitConsumer] = set()
        try:
            while True:
                if arrival not in tasks:
                    self._is_new.clear()
                    arrival = asyncio.ensure_future(self._new_one())
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
            await asyncio.wait(tasks)

    async def _new_one(self) -> object:
        return await self._is_new.wait()

    async def _keep_consuming(self, link: Link, consumer: RabbitConsumer) -> None:
        while not consumer.is_stopped:
            await self._ensure(link, consumer.queue)
            try:
                await consumer.consume(link)
            except ChannelRefused as error:
                logger.warning("queue %s: the broker ended the consumer: %s", consumer.queue, error)
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
            with suppress(StoreUnavailable):
                await self._store.note_queue(queue, is_absent=True)
            self._wake("lost hints")
        with suppress(StoreUnavailable):  # what others did not know, this process may
            await self._store.publish_now(queue, list(self._consumers[queue].jobs))

    async def _tick(self) -> None:
        while True:
            link = self._publishing.link
            is_blocked = link is not None and await link.is_blocked()
            self._publishing.is_blocked = is_blocked
            self.publisher.note_blocked(is_blocked=is_blocked)
            with suppress(StoreUnavailable):
                await self.publisher.look_after()
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
        hints = await self._store.stage(min(RELAY_HINTS, CAPACITY))
        self.publisher.put(hints)
        if hints:
            self._active_at = self._clock.monotonic()
        return len(hints) == RELAY_HINTS

    async def find_lost(self) -> bool:
        """Have the hints published again that must be lost, of the queues that are served here."""
        link = self._consuming.link
        if link is None:
            return False
        has_more = False
        for consumer in list(self._consumers.values()):
            await self._look_at(link, consumer)
            overtaken = {priority: moment - OVERTAKEN_BY for priority, moment in consumer.overtaken.items()}
            await self._store.publish_now(consumer.queue, list(consumer.jobs))
            found = await self._store.restage_lost(consumer.queue, overtaken, LOST_HINTS)
            if found:
                logger.warning("queue %s: %d hints were lost and are published again", consumer.queue, found)
                self._wake("relay")
            has_more |= found == LOST_HINTS
        if has_more:
            await self._clock.sleep(1.0)
        return has_more

    async def _look_at(self, link: Link, consumer: RabbitConsumer) -> None:
        try:
            ready = await _ready(link, consumer.name)
        except BrokerUnavailable:
            return
        if ready is None:
            consumer.consume_again()  # the queue is gone: that makes it anew, and notes it
        elif ready == 0:
            await self._store.note_queue(consumer.queue, is_absent=False)
        elif consumer.is_starving(SILENT_SECONDS):
            logger.warning("queue %s: %d messages ready and none delivered: consuming anew", consumer.queue, ready)
            consumer.consume_again()


async def _ready(link: Link, name: str) -> int | None:
    """How many messages of the queue are ready; None when there is no such queue. `BrokerUnavailable`."""
    channel = await link.channel()
    try:
        return await count_ready(channel, name)
    except ChannelRefused:
        return None
    finally:
        await close_channel(channel)
