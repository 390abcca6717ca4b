"""The publisher: hints go out in pipelined batches with confirms, and nobody waits for it.

Whatever it cannot get rid of it lets go: the run's row says when the relay may publish the hint instead.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from actorjobs.brokers.rabbitmq import delays, message
from actorjobs.brokers.rabbitmq.declaring import Declarer
from actorjobs.brokers.rabbitmq.link import Link, close_channel
from actorjobs.brokers.rabbitmq.pipeline import Answer, Message, Pipeline, has_ended
from actorjobs.clock import Clock
from actorjobs.errors import BrokerUnavailable, TopologyMismatch
from actorjobs.ports import PUBLISH_AHEAD_SECONDS, PUBLISH_GRACE_SECONDS, Hint, Store
from actorjobs.retry import LADDER_UNIT_SECONDS

logger = logging.getLogger("actorjobs.broker")

CAPACITY = 2000
"""Hints held at most, confirms included. More are left to the relay at once."""
BATCH = 100
SURPRISED_SECONDS = 0.5
"""Hints that find no room so soon after there was some were stored with the grace of those that would find it."""
MOST_TURNED_AWAY = 10_000
WINDOW = 400
"""Hints that wait for their confirm at most: the broker is the one who says how fast."""
REDATE_AFTER_SECONDS = 3.0
LET_GO_AFTER_SECONDS = 30.0
STALLED_SECONDS = 2.0
"""A queue whose confirms take longer, as one without a leader, gets no more hints until it has confirmed those."""
REFUSALS = 3
REFUSED_SECONDS = 0.1
MARK_AFTER_SECONDS = 1.0
"""A run that was claimed meanwhile needs no mark."""
MOST_UNMARKED = 5000
"""The relay publishes faster than runs are claimed: those behind so many others are marked at once."""


@dataclass(slots=True, eq=False)
class Pending:
    """A hint on its way. Times are the clock's monotonic seconds."""

    hint: Hint
    since: float
    due: float
    redated: float = 0.0
    refusals: int = 0
    sent: float = 0.0
    is_over: bool = False


@dataclass(slots=True)
class Counts:
    """What has become of hints so far."""

    confirmed: int = 0
    returned: int = 0
    refused: int = 0
    let_go: int = 0


class Publisher:
    """Hints of this process on their way to the broker."""

    def __init__(self, *, store: Store, declarer: Declarer, clock: Clock) -> None:
        self._store = store
        self._declarer = declarer
        self._clock = clock
        self._store_id = ""
        self._numbers = itertools.count()
        self._waiting: deque[Pending] = deque()
        self._unconfirmed: set[Pending] = set()
        self._confirmed: dict[str, tuple[Hint, float]] = {}
        self._turned_away: list[Hint] = []
        self._had_room_at = 0.0
        self._put = asyncio.Event()
        self._moved = asyncio.Event()
        self._known = set[str]()
        self.stalled: set[str] = set()
        """Queues that do not confirm: the hints of the others must not wait for theirs."""
        self._is_to_signal = False
        self.is_blocked = False
        self.counts = Counts()

    def __len__(self) -> int:
        """Hints without an answer yet."""
        return len(self._waiting) + len(self._unconfirmed)

    def __repr__(self) -> str:
        return f"Publisher(waiting={len(self._waiting)}, unconfirmed={len(self._unconfirmed)}, {self.counts})"

    @property
    def is_full(self) -> bool:
        return len(self) >= CAPACITY

    @property
    def is_idle(self) -> bool:
        return not self._waiting and not self._unconfirmed

    @property
    def oldest_seconds(self) -> float:
        """For how long the oldest hint has been waiting for its confirm, stalled queues aside."""
        on_their_way = (*self._waiting, *self._unconfirmed)
        oldest = [pending.since for pending in on_their_way if pending.hint.queue not in self.stalled]
        return self._clock.monotonic() - min(oldest) if oldest else 0.0

    def put(self, hints: Sequence[Hint]) -> list[Hint]:
        """Publish these as soon as may be. What finds no room, or is due too late, is left to the relay: those."""
        left: list[Hint] = []
        now = self._clock.monotonic()
        if not self.is_full:
            self._had_room_at = now
        for hint in hints:
            if hint.seq is None or hint.delay > PUBLISH_AHEAD_SECONDS or hint.queue in self.stalled:
                left.append(hint)
            elif self.is_full:
                left.append(hint)
                if now - self._had_room_at < SURPRISED_SECONDS and len(self._turned_away) < MOST_TURNED_AWAY:
                    self._turned_away.append(hint)
            else:
                self._waiting.append(Pending(hint, since=now, due=now + hint.delay))
        self._put.set()
        return left

    def signal(self) -> None:
        """Have every worker look at once at what operators wish."""
        self._is_to_signal = True
        self._put.set()

    def note_blocked(self, *, is_blocked: bool) -> None:
        """The broker reads from the connection again, or has stopped to."""
        self.is_blocked = is_blocked
        self._moved.set()

    def claimed(self, run_id: str) -> None:
        """This run has just been claimed here: nobody needs to know that its hint was published."""
        self._confirmed.pop(run_id, None)

    async def room_for(self, count: int, within: float) -> bool:
        """Wait until so many more hints find room, for so many seconds at most."""
        deadline = self._clock.monotonic() + within
        while CAPACITY - len(self) < count:
            left = deadline - self._clock.monotonic()
            if left <= 0:
                return False
            self._moved.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._moved.wait(), left)
        return True

    async def drained(self, within: float) -> None:
        """Wait until everything is confirmed, for so many seconds at most."""
        await self.room_for(CAPACITY, within)

    # the connection's work

    async def work(self, link: Link, ready: Any) -> None:
        """Publish for as long as the connection lasts."""
        self._known = set[str]()
        self._store_id = self._store_id or await self._store.identity()
        await self._declarer.base(link)
        pipeline = await self._new_pipeline(link)
        ready()
        try:
            while True:
                await self._put.wait()
                if self._is_to_signal:
                    await self._broadcast(pipeline)
                batch = self._batch()
                if not batch:
                    self._put.clear()
                    await self._until_moved()
                    continue
                pipeline = await self._send(link, pipeline, batch)
        finally:
            for pending in self._unconfirmed:
                self._back(pending)
            self._unconfirmed.clear()
            with suppress(BrokerUnavailable):
                await close_channel(pipeline.channel)

    async def _new_pipeline(self, link: Link) -> Pipeline[Pending | None]:
        return Pipeline(await link.channel(confirms=True), link.frames, self._answered)

    async def _until_moved(self) -> None:
        """Wait for a hint, or for room in the window."""
        if self._waiting:
            self._moved.clear()
            await self._moved.wait()
            self._put.set()

    def _batch(self) -> list[Pending]:
        batch: list[Pending] = []
        in_window = len(self._unconfirmed)
        if self.stalled:
            in_window = sum(pending.hint.queue not in self.stalled for pending in self._unconfirmed)
        room = 0 if self.is_blocked else WINDOW - in_window
        while self._waiting and len(batch) < min(BATCH, room):
            pending = self._waiting.popleft()
            if not pending.is_over and pending.hint.queue not in self.stalled:
                batch.append(pending)
        return batch

    async def _send(
        self, link: Link, pipeline: Pipeline[Pending | None], batch: list[Pending]
    ) -> Pipeline[Pending | None]:
        """Write a batch. The pipeline to go on with: a new one if the broker has closed its channel."""
        now = self._clock.monotonic()
        for pending in batch:
            pending.sent = now
        self._unconfirmed.update(batch)
        missing = await self._ensure_queues(link, {pending.hint.queue for pending in batch})
        self._unconfirmed -= {pending for pending in batch if pending.hint.queue in missing}
        batch = [pending for pending in batch if pending.hint.queue not in missing]
        if not batch:
            return pipeline
        if has_ended(pipeline.channel):
            # The broker closes it when an exchange is gone: somebody has deleted a part of the topology.
            await self._declarer.base(link)
            pipeline = await self._new_pipeline(link)
        try:
            await pipeline.publish([(self._message(pending), pending) for pending in batch])
        except RuntimeError as error:  # the channel was closed just now
            raise BrokerUnavailable(str(error)) from error
        return pipeline

    async def _broadcast(self, pipeline: Pipeline[Pending | None]) -> None:
        """Lost, it does no harm: every worker looks by itself before long."""
        self._is_to_signal = False
        topology = self._declarer.topology
        words = Message(
            exchange=topology.control, key="", body=b"look", id=f"look.{next(self._numbers)}", is_mandatory=False
        )
        with suppress(RuntimeError):
            await pipeline.publish([(words, None)])

    async def _ensure_queues(self, link: Link, queues: set[str]) -> set[str]:
        """A hint whose queue is not there would come back: the first of a queue on a connection makes sure. Those that
        cannot be had: their hints are left to the relay, which tries again."""
        missing: set[str] = set()
        for queue in queues - self._known:
            try:
                await self._declarer.queue(link, queue)
            except TopologyMismatch as error:
                logger.error("queue %s: nothing can be published: %s", queue, error)
                missing.add(queue)
                continue
            self._known.add(queue)
        return missing

    def _message(self, pending: Pending) -> Message:
        hint, topology = pending.hint, self._declarer.topology
        now = self._clock.monotonic()
        # A delay of few binary digits is not to get many for the moment that it waited here.
        left = hint.delay if now - pending.since < LADDER_UNIT_SECONDS else max(0.0, pending.due - now)
        units = delays.units_of(left)
        headers = {"traceparent": hint.traceparent, "tracestate": hint.tracestate, "baggage": hint.baggage}
        return Message(
            exchange=topology.delay(delays.level_of(units)) if units else "",
            key=delays.routing_key(units, hint.queue) if units else topology.work_queue(hint.queue),
            body=message.encode(hint, self._store_id, time.time() + left),
            id=f"{hint.run_id}.{hint.seq}.{next(self._numbers)}",
            correlation_id=hint.run_id,
            priority=hint.priority,
            headers={name: value for name, value in headers.items() if value},
        )

    def _answered(self, pending: Pending | None, answer: Answer) -> None:
        """The broker has it, or will not have it, or the channel has gone."""
        if pending not in self._unconfirmed:
            return  # given up already, with the connection; or a broadcast
        self._unconfirmed.discard(pending)
        self.stalled.discard(pending.hint.queue)
        match answer:
            case Answer.CONFIRMED:
                self.counts.confirmed += 1
                if not pending.is_over:
                    self._confirmed[pending.hint.run_id] = (pending.hint, self._clock.monotonic())
            case Answer.RETURNED:
                self.counts.returned += 1
                self._known.discard(pending.hint.queue)
            case Answer.REFUSED:
                self.counts.refused += 1
                self._try_again(pending)
            case Answer.LOST:
                self._back(pending)
        self._moved.set()

    def _try_again(self, pending: Pending) -> None:
        """A queue that is just being made, or gets another leader, refuses for a moment; then it is the relay's."""
        pending.refusals += 1
        if pending.refusals <= REFUSALS:
            self._clock.call_later(REFUSED_SECONDS * pending.refusals, lambda: self._back(pending))

    def _back(self, pending: Pending) -> None:
        if not pending.is_over:
            self._waiting.appendleft(pending)
            self._put.set()

    # what goes on beside it

    async def look_after(self) -> None:
        """Mark what has been published, put off what the relay would publish too, let go of what is too old. Called a
        few times a second, with or without a connection."""
        now = self._clock.monotonic()
        late = {pending.hint.queue for pending in self._unconfirmed if now - pending.sent >= STALLED_SECONDS}
        if late != self.stalled:
            self.stalled = late
            self._moved.set()
        await self._put_off(now)
        await self._hurry()
        await self.mark()

    async def _hurry(self) -> None:
        """Have the relay take at once what there was no room for, instead of after a grace."""
        away = self._turned_away[:CAPACITY]
        if away:
            await self._store.publish_later(away, 0.0)
            del self._turned_away[: len(away)]

    async def _put_off(self, now: float) -> None:
        late = [
            pending
            for pending in (*self._waiting, *self._unconfirmed)
            if now - max(pending.since, pending.redated) >= REDATE_AFTER_SECONDS and not pending.is_over
        ]
        old = [pending for pending in late if now - pending.since >= LET_GO_AFTER_SECONDS]
        for pending in old:
            pending.is_over = True
            self._unconfirmed.discard(pending)
        self.counts.let_go += len(old)
        if old:
            self._waiting = deque(pending for pending in self._waiting if not pending.is_over)
            self._moved.set()
        held = [pending for pending in late if not pending.is_over]
        if held:
            await self._store.publish_later([pending.hint for pending in held], PUBLISH_GRACE_SECONDS)
            for pending in held:
                pending.redated = now

    async def hand_over(self) -> None:
        """Mark what has been published, and leave to the relay, from now on, what has no answer yet."""
        await self.mark(after=0.0)
        left = [pending.hint for pending in (*self._waiting, *self._unconfirmed) if not pending.is_over]
        left += self._turned_away
        if left:
            await self._store.publish_later(left, 0.0)

    async def mark(self, after: float = MARK_AFTER_SECONDS) -> None:
        """Note in the store what was confirmed so many seconds ago, or has a crowd before it."""
        now = self._clock.monotonic()
        ripe = [
            hint
            for index, (hint, at) in enumerate(self._confirmed.values())
            if index >= MOST_UNMARKED or now - at >= after
        ]
        if not ripe:
            return
        held = {hint.run_id: self._confirmed.pop(hint.run_id) for hint in ripe}
        try:
            for start in range(0, len(ripe), CAPACITY):
                marked = ripe[start : start + CAPACITY]
                await self._store.mark_published(marked)
                for hint in marked:
                    del held[hint.run_id]
        finally:
            self._confirmed = held | self._confirmed
