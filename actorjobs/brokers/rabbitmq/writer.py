"""What the consumers have to write about hints that bring no work: in groups, and before the hint is acknowledged."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from itertools import groupby

from actorjobs.actors import Background
from actorjobs.brokers.rabbitmq.keeping import keep
from actorjobs.clock import Clock
from actorjobs.errors import StoreUnavailable
from actorjobs.ports import Hint, Quarantined, Store

logger = logging.getLogger("actorjobs.broker")

STORE_DOWN_SECONDS = 1.0
GROUP = 500

PutOff = tuple[tuple[float, float | None], Hint, Callable[[], None]]


class Writer:
    """Puts hints off and keeps what is none; who is told `done` may acknowledge the message."""

    def __init__(self, *, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._put_off: list[PutOff] = []
        self._foreign: list[tuple[Quarantined, Callable[[], None]]] = []
        self._pending = asyncio.Event()
        self._background = Background(name="actorjobs-broker-writer", work=self._work)

    def put_off(self, hint: Hint, seconds: float, doubling_to: float | None, done: Callable[[], None]) -> None:
        """Have the relay publish the hint in so many seconds."""
        self._put_off.append(((seconds, doubling_to), hint, done))
        self._pending.set()

    def quarantine(self, what: Quarantined, done: Callable[[], None]) -> None:
        """Keep a message that is no hint."""
        self._foreign.append((what, done))
        self._pending.set()

    def start(self) -> None:
        self._background.start()

    async def stop(self) -> None:
        """What is not written by now comes again: its message was not acknowledged."""
        await self._background.stop()

    async def _work(self) -> None:
        while True:
            await self._pending.wait()
            self._pending.clear()
            try:
                await self._write()
            except Exception as error:
                # Not given up: nobody would settle their messages, and each takes a place of the prefetch.
                if not isinstance(error, StoreUnavailable):
                    logger.exception("what became of some hints cannot be written: it is tried again")
                self._pending.set()
                await self._clock.sleep(STORE_DOWN_SECONDS)

    async def _write(self) -> None:
        while self._put_off:
            group = sorted(self._put_off[:GROUP], key=lambda one: (one[0][0], one[0][1] or 0.0))
            for (seconds, doubling_to), some in groupby(group, key=lambda one: one[0]):
                await self._store.publish_later(
                    [hint for _, hint, _ in some], seconds, doubling_to=doubling_to, as_new=True
                )
            _tell([done for _, _, done in group])
            del self._put_off[: len(group)]
        while self._foreign:
            kept = self._foreign[:GROUP]
            await keep(self._store, [what for what, _ in kept])
            _tell([done for _, done in kept])
            del self._foreign[: len(kept)]


def _tell(waiting: Sequence[Callable[[], None]]) -> None:
    for done in waiting:
        done()
