"""The consumer: hints of one queue come in, are claimed, and go on as deliveries to the queue's pool.

A hint is acknowledged when its run is settled, or a minute after it was claimed: short work keeps the broker's exact
flow control, and long work holds no message. The prefetch follows the free places of the pool.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, Protocol

from aiormq.abc import AbstractChannel

from actorjobs.brokers.rabbitmq import delays, message
from actorjobs.brokers.rabbitmq.hot import Delivered
from actorjobs.brokers.rabbitmq.link import Link, close_channel, consume, guarded, on_end
from actorjobs.brokers.rabbitmq.settling import Held, Settler, quarantined
from actorjobs.brokers.suspects import SuspectSeat
from actorjobs.clock import Clock
from actorjobs.errors import StoreUnavailable
from actorjobs.lifecycle import LOSSES_UNTIL_SUSPECT
from actorjobs.ports import Bid, Claim, Delivery, Hint, Quarantined, Refusal, Refused

logger = logging.getLogger("actorjobs.broker")

ACK_WITHIN_SECONDS = 60.0
EARLY_SECONDS = delays.EARLIEST_SECONDS + 0.1
"""A hint that is early by no more waits here, besides the prefetch; an earlier one goes back to the relay."""
FEW_EARLY = 64
MOST_EARLY = 1024
"""So many more than the places are fetched, at once, because of early ones: those behind them may be due now. But a
crowd that is due at one moment is to be had by others, too."""
LOCKED_FIRST_SECONDS = 0.02
LOCKED_LAST_SECONDS = 1.0
PARKED_SECONDS = 1.0
UNKNOWN_FIRST_SECONDS = 1.0
UNKNOWN_LAST_SECONDS = 60.0
"""A worker that knows the job sees to it sooner."""
UNWANTED_SECONDS = 1.0
"""How long a hint may lie here that nobody has room for, before it goes back to be had by others."""
FEWER_SECONDS = 1.0
MORE_SECONDS = 0.1
"""How long there must have been fewer places, or more, before the broker is told."""
QUICK_SECONDS = 0.05
"""Where a run takes less, more hints than places are fetched, so that no place waits for the next one."""
QUICK_EXTRA = 16
BRISK_SECONDS = 1.0
NO_LEASE_SECONDS = 0.25
STORE_DOWN_SECONDS = 1.0
TICK_SECONDS = 0.25
MOST_BIDS = 200
OVERTAKERS = 10
"""So many younger hints claimed before an old one mean that the old one is lost."""

ClaimRuns = Callable[[Sequence[Bid], Mapping[str, int], str], Awaitable[Sequence[Claim | Refusal | BaseException]]]


class Sink(Protocol):
    """What a consumer hands on besides deliveries."""

    def put_off(self, hint: Hint, seconds: float, doubling_to: float | None, done: Callable[[], None]) -> None:
        """Have the relay publish the hint later; `done` once that is committed."""
        ...

    def quarantine(self, what: Quarantined, done: Callable[[], None]) -> None:
        """Keep a message that is no hint; `done` once that is committed."""
        ...


class RabbitDelivery:
    """A run that was claimed for a hint."""

    __slots__ = ("_consumer", "claim", "claimed_at", "held", "is_detached")

    def __init__(self, claim: Claim, held: Held, consumer: RabbitConsumer, claimed_at: float) -> None:
        self.claim = claim
        self.held = held
        self.claimed_at = claimed_at
        self.is_detached = False
        self._consumer = consumer

    @property
    def hint(self) -> Hint:
        return self.held.hint

    def ended(self) -> None:
        self._consumer.ended(self)

    def ack(self) -> None:
        self.held.ack()
        self._consumer.settled(self)


class RabbitConsumer:
    """One queue's deliveries for one pool, over all the connections and channels there will be."""

    def __init__(
        self,
        *,
        queue: str,
        name: str,
        store_id: str,
        jobs: Mapping[str, int],
        owner: Callable[[], str | None],
        claim: ClaimRuns,
        sink: Sink,
        suspects: SuspectSeat,
        clock: Clock,
        on_claimed: Callable[[Claim], None] = lambda _claim: None,
        ack_within: float = ACK_WITHIN_SECONDS,
    ) -> None:
        self.queue = queue
        self.name = name
        self.jobs = jobs
        self._store_id = store_id
        self._owner = owner
        self._claim = claim
        self._sink = sink
        self._suspects = suspects
        self._on_claimed = on_claimed
        self._clock = clock
        self._ack_within = ack_within
        self._ready: deque[Held] = deque()
        self._parked: set[Held] = set()
        self._free = 0
        self._bidding = 0
        self._bids = set[asyncio.Task[None]]()
        self._claimed: list[RabbitDelivery] = []
        self._in_hand: set[RabbitDelivery] = set()
        self._attached: dict[RabbitDelivery, None] = {}
        """Those whose messages are not settled yet, the oldest first."""
        self._detached = 0
        self._arrived = asyncio.Event()
        self._changed = asyncio.Event()
        self._is_stopped = False
        self._is_recalled = False
        self._is_asking = False
        self._asked_at = 0.0
        self._capacity = 0
        self._pace = 1.0
        self._is_careful = False
        """Hints had to be given back: no more are fetched than there are free places."""
        self._raised_at = 0.0
        self._before = 0
        """The newest delivery that is not counted against the prefetch."""
        self._newest: dict[int, list[datetime]] = {}
        self.prefetch = 0
        """What the broker was told; 0 while it delivers nothing."""
        self.last_delivery = self._consuming_since = clock.monotonic()
        self.is_consuming = False
        self.problem: str | None = None
        """Why nothing can be consumed, where a person has to mend it."""
        self.refusals: dict[Refused, int] = dict.fromkeys(Refused, 0)
        self._is_over = False

    def __repr__(self) -> str:
        return (
            f"RabbitConsumer({self.queue!r}, prefetch={self.prefetch}, ready={len(self._ready)}, "
            f"parked={len(self._parked)}, in_hand={len(self._in_hand)}, detached={self._detached})"
        )

    @property
    def is_idle(self) -> bool:
        return not self._ready and not self.owes

    def statistics(self) -> dict[str, Any]:
        """Figures of this queue: what was refused since the start, and what is here now."""
        refused = {why.value: count for why, count in self.refusals.items()}
        here = {"prefetch": self.prefetch, "in_hand": len(self._in_hand), "without_message": self._detached}
        return {"refused": refused, "undecided": len(self._ready) + len(self._parked), **here}

    @property
    def is_stopped(self) -> bool:
        return self._is_stopped

    def is_starving(self, seconds: float) -> bool:
        """Whether there is room for more, and nothing has come for so long."""
        has_room = self.prefetch > len(self._in_hand) - self._detached + len(self._ready) + len(self._parked)
        return has_room and self._clock.monotonic() - max(self.last_delivery, self._consuming_since) > seconds

    @property
    def overtaken(self) -> dict[int, datetime]:
        """By priority, the moment that ten claimed hints are younger than."""
        return {priority: times[0] for priority, times in self._newest.items() if len(times) == OVERTAKERS}

    # what the pool asks for

    @property
    def owes(self) -> bool:
        return bool(self._bidding or self._claimed)

    async def receive(self, limit: int) -> Sequence[Delivery]:
        capacity = limit + len(self._in_hand) - len(self._claimed)
        if not self.prefetch or capacity != self._capacity:
            self._changed.set()
        self._capacity, self._free, self._is_asking, self._is_recalled = capacity, limit, limit > 0, False
        try:
            while not self._claimed and not self._is_recalled and (self._bidding or (limit and not self._is_stopped)):
                self._arrived.clear()
                owner = None if self._is_stopped else self._owner()
                if owner is not None:
                    self._bid(self._free - self._bidding, owner)
                await self._arrival(None if owner is not None or self._is_stopped else NO_LEASE_SECONDS)
            claimed, self._claimed = self._claimed, []
            return claimed
        finally:
            if limit > 0:
                # Who is called away is back at once, or wants nothing for a while.
                self._asked_at = -UNWANTED_SECONDS if self._is_recalled else self._clock.monotonic()
            self._is_asking = False

    def _next(self, limit: int) -> list[Held]:
        """Hints to bid for; but for one suspect at a time."""
        chosen: list[Held] = []
        while self._ready and len(chosen) < min(limit, MOST_BIDS):
            held = self._ready.popleft()
            if not held.is_void:
                chosen.append(held)
        return chosen

    async def _arrival(self, seconds: float | None) -> None:
        if seconds is None:
            await self._arrived.wait()
        else:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._arrived.wait(), seconds)

    def _bid(self, limit: int, owner: str) -> None:
        """Begin to claim what lies ready; others may follow before this is answered."""
        held = self._next(limit)
        if held:
            self._bidding += len(held)
            task = asyncio.get_running_loop().create_task(self._claim_all(held, owner))
            self._bids.add(task)
            task.add_done_callback(self._bids.discard)

    async def _claim_all(self, held: list[Held], owner: str) -> None:
        try:
            bids = [self._bid_for(one) for one in held]
            answers = await self._claim(bids, self.jobs, owner)
        finally:
            self._bidding -= len(held)
            self._arrived.set()
        now = self._clock.monotonic()
        for one, answer in zip(held, answers, strict=True):
            if isinstance(answer, Claim):
                self._claimed.append(self._take(answer, one, now))
                continue
            self._no_suspect(one)
            if isinstance(answer, Refusal):
                self._refused(one, answer)
                continue
            if not isinstance(answer, StoreUnavailable):
                logger.error("run %s cannot be claimed, it is tried again: %r", one.hint.run_id, answer)
            self._park(one, STORE_DOWN_SECONDS)

    def _bid_for(self, held: Held) -> Bid:
        assert held.hint.seq is not None
        return Bid(run_id=held.hint.run_id, seq=held.hint.seq, takes_suspect=held.takes_suspect, queue=self.queue)

    def _take(self, claim: Claim, held: Held, now: float) -> RabbitDelivery:
        delivery = RabbitDelivery(claim, held, self, now)
        self._in_hand.add(delivery)
        if held.is_void:  # since it was asked for
            self._detach(delivery)
        else:
            self._attached[delivery] = None
        self._on_claimed(claim)
        times = self._newest.setdefault(claim.priority, [])
        moment = max(claim.inserted_at, claim.available_at)
        if len(times) < OVERTAKERS:
            heapq.heappush(times, moment)
        else:
            heapq.heappushpop(times, moment)
        if claim.losses < LOSSES_UNTIL_SUSPECT:
            self._no_suspect(held)
        return delivery

    def _no_suspect(self, held: Held) -> None:
        if held.takes_suspect:
            held.takes_suspect = False
            self._suspects.leave(held)

    def _refused(self, held: Held, refusal: Refusal) -> None:
        self.refusals[refusal.why] += 1
        match refusal.why:
            case Refused.STALE:
                held.ack()
            case Refused.EARLY if refusal.seconds <= EARLY_SECONDS:
                held.is_early = True
                self._changed.set()
                self._park(held, refusal.seconds)
            case Refused.EARLY:
                self._sink.put_off(held.hint, 0.0, None, held.ack)
            case Refused.LOCKED:
                self._park(held, min(LOCKED_FIRST_SECONDS * 2**held.tries, LOCKED_LAST_SECONDS))
                held.tries = min(held.tries + 1, 10)
            case Refused.SUSPECT:
                if self._suspects.take(held):
                    held.takes_suspect = True
                    self._park(held, 0.0)
                else:
                    self._park(held, PARKED_SECONDS)
            case Refused.UNKNOWN:
                self._sink.put_off(held.hint, UNKNOWN_FIRST_SECONDS, UNKNOWN_LAST_SECONDS, held.ack)
            case Refused.PAUSED:
                self._park(held, PARKED_SECONDS)

    def _park(self, held: Held, seconds: float) -> None:
        """Ask again for this one after so many seconds."""
        self._parked.add(held)
        self._clock.call_later(seconds, lambda: self._unpark(held))

    def _unpark(self, held: Held) -> None:
        if held in self._parked:
            self._parked.discard(held)
            held.is_early = False
            if held.is_void:
                self._no_suspect(held)
            else:
                self._ready.append(held)
                self._arrived.set()

    def ended(self, delivery: RabbitDelivery) -> None:
        """The delivery's place is free."""
        if delivery not in self._in_hand:
            return
        self._in_hand.discard(delivery)
        self._free += 1
        if self._ready:
            self._arrived.set()
        self._pace += 0.1 * (self._clock.monotonic() - delivery.claimed_at - self._pace)
        if delivery.is_detached:
            self._detached -= 1
            self._changed.set()

    def settled(self, delivery: RabbitDelivery) -> None:
        """The delivery's run is settled."""
        self.ended(delivery)
        self._attached.pop(delivery, None)
        self._no_suspect(delivery.held)

    def recall(self) -> None:
        self._is_recalled = True
        self._arrived.set()

    def stop(self) -> None:
        self._is_stopped = True
        self._arrived.set()
        self._changed.set()

    # what the broker sends

    async def consume(self, link: Link) -> None:
        """Have the broker deliver on a channel of this connection, until that ends. `BrokerUnavailable`,
        `ChannelRefused`."""
        channel = await link.channel()
        settler = Settler(channel)
        link.deliver(channel, lambda delivered: self._received(delivered, settler))
        self._is_over, self.is_consuming = False, True
        self._consuming_since = self._clock.monotonic()
        ended = on_end(channel, self._end)
        settling = asyncio.ensure_future(settler.work())
        settling.add_done_callback(self._end)
        try:
            await self._follow_places(channel, settler)
        finally:
            self.prefetch, self.is_consuming = 0, False
            ended.cancel()
            settling.remove_done_callback(self._end)
            settling.cancel()
            await asyncio.wait({settling})
            self._forget(settler)
            await close_channel(channel)

    def _end(self, _cause: object = None) -> None:
        """The channel has gone, or the broker has ended the consumer: begin anew."""
        self._is_over = True
        self._changed.set()

    def consume_again(self) -> None:
        """Begin anew on another channel: the broker has messages ready and delivers none."""
        self._end()

    async def _follow_places(self, channel: AbstractChannel, settler: Settler) -> None:
        """Keep the prefetch at what the pool has room for."""
        tag: str | None = None
        self._before = 0
        differs_since: float | None = None
        while not self._is_over:
            wanted, now = self._wanted(settler.open_after(self._before)), self._clock.monotonic()
            if wanted == self.prefetch:
                differs_since = None
            elif differs_since is None:
                differs_since = now
            patience = FEWER_SECONDS
            if wanted > self.prefetch:
                patience = 0.0 if self._beside_early else MORE_SECONDS
            is_steady = differs_since is not None and now - differs_since >= patience
            if wanted != self.prefetch and (is_steady or not self.prefetch or self._is_stopped):
                if wanted > self.prefetch:
                    self._note_raise(now)
                tag = await self._consume_again(channel, settler, tag, self._wanted(0))
                differs_since = None
            self._look_after(now)
            if self._is_stopped and not len(settler):
                await settler.flush()
                return
            until_steady = TICK_SECONDS if differs_since is None else differs_since + patience - now
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), min(TICK_SECONDS, max(0.0, until_steady)))
            self._changed.clear()

    async def _consume_again(
        self, channel: AbstractChannel, settler: Settler, tag: str | None, prefetch: int
    ) -> str | None:
        """A prefetch holds for consumers that begin after it; what the old one has unsettled counts no more."""
        if tag is not None:
            await guarded(channel.basic_cancel(tag))
        self._before = settler.newest
        self.prefetch = prefetch
        if not prefetch:
            return None
        await guarded(channel.basic_qos(prefetch_count=prefetch))
        return await consume(channel, self.name)

    def _wanted(self, counted: int) -> int:
        """The right prefetch: how many unsettled deliveries this consumer is good for, where the broker counts so many
        against it."""
        if self._is_stopped:
            return 0
        at_work = max(counted - len(self._ready), 0)
        is_asking = self._is_asking or self._clock.monotonic() - self._asked_at < UNWANTED_SECONDS
        if not is_asking or not self._may_claim:
            return at_work  # nobody asks: the queue is paused, or every place is taken for long
        if self._is_careful:
            return at_work + max(self._capacity - len(self._in_hand), 0)
        places = max(self._capacity - self._detached, 0)
        if self._pace <= QUICK_SECONDS and not self._detached:
            places += max(places, QUICK_EXTRA)
        return places + self._beside_early

    @property
    def _beside_early(self) -> int:
        """How many more are to be fetched for those that wait to be due. A power of two: not a new figure with each."""
        early = sum(held.is_early for held in self._parked)
        return min(max(FEW_EARLY, 1 << early.bit_length()), MOST_EARLY) if early else 0

    def _note_raise(self, now: float) -> None:
        """Places that become free time and again have use for hints that lie ready."""
        self._is_careful = self._is_careful and now - self._raised_at >= BRISK_SECONDS
        self._raised_at = now

    @property
    def _may_claim(self) -> bool:
        """Whether this process has a lease to claim under."""
        return self._owner() is not None

    def _received(self, delivered: Delivered, settler: Settler) -> None:
        if settler.is_void:
            return  # the broker delivers it again, on another channel
        tag = delivered.tag
        now = self._clock.monotonic()
        self.last_delivery = now
        settler.received(tag)
        decoded = message.decode(delivered.body, store=self._store_id, queue=self.queue)
        if isinstance(decoded, Hint):
            self._ready.append(Held(decoded, tag, settler, now))
            self._arrived.set()
            return
        logger.error("queue %s: a message %s: it goes into quarantine", self.queue, decoded.reason)
        self._sink.quarantine(
            quarantined(delivered, self.name, decoded.reason), lambda: settler.settle(tag, is_done=True)
        )

    def _look_after(self, now: float) -> None:
        """Acknowledge what has been running for long; give back what nobody has room for."""
        while (oldest := next(iter(self._attached), None)) and now - oldest.claimed_at >= self._ack_within:
            del self._attached[oldest]
            if oldest in self._in_hand:
                self._detach(oldest)
            oldest.held.ack()
        patience = 0.0 if self._is_stopped else UNWANTED_SECONDS
        is_wanted = self._is_asking and self._may_claim
        if not is_wanted and self._ready and now - self._ready[0].since >= patience:
            self._is_careful = True
            for held in self._ready:
                self._give_back(held)
            self._ready.clear()
        longest = 0.0 if self._is_stopped else self._ack_within
        for held in [held for held in self._parked if now - held.since >= longest]:
            self._parked.discard(held)
            self._give_back(held)

    def _give_back(self, held: Held) -> None:
        """Let others have the hint."""
        self._no_suspect(held)
        held.nack()

    def _detach(self, delivery: RabbitDelivery) -> None:
        """From now on its place is taken by a run without a message."""
        delivery.is_detached = True
        self._detached += 1
        self._attached.pop(delivery, None)

    def _forget(self, settler: Settler) -> None:
        """The channel is gone: the broker delivers again whatever was unsettled on it. What runs goes on."""
        settler.void()
        for delivery in self._in_hand:
            if delivery.held.settler is settler and not delivery.is_detached:
                self._detach(delivery)
        for held in [held for held in (*self._ready, *self._parked) if held.settler is settler]:
            self._parked.discard(held)
            self._no_suspect(held)
        self._ready = deque(held for held in self._ready if held.settler is not settler)
