"""What nobody could deliver: hints that came too often without being acknowledged, and hints whose queue was not there.

Neither says anything about a run, so each is only sent again. What is no hint goes into quarantine.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from actorjobs.brokers.rabbitmq import message
from actorjobs.brokers.rabbitmq.hot import Delivered
from actorjobs.brokers.rabbitmq.keeping import keep
from actorjobs.brokers.rabbitmq.link import Link, close_channel, consume, guarded, on_end
from actorjobs.brokers.rabbitmq.settling import Settler, quarantined
from actorjobs.clock import Clock
from actorjobs.errors import StoreUnavailable
from actorjobs.ports import Hint, Store

logger = logging.getLogger("actorjobs.broker")

GROUP = 200
RESENT_FIRST_SECONDS = 1.0
RESENT_LAST_SECONDS = 60.0
STORE_DOWN_SECONDS = 1.0


class Drain:
    """Empties one of the two queues."""

    def __init__(self, *, name: str, store: Store, store_id: str, clock: Clock) -> None:
        self.name = name
        self._store = store
        self._store_id = store_id
        self._clock = clock

    async def work(self, link: Link) -> None:
        """Empty it as long as the connection lasts. `BrokerUnavailable`, `ChannelRefused`."""
        channel = await link.channel()
        settler = Settler(channel)
        arrived: asyncio.Queue[Delivered | None] = asyncio.Queue()
        link.deliver(channel, arrived.put_nowait)
        ended = on_end(channel, lambda: arrived.put_nowait(None))
        try:
            await guarded(channel.basic_qos(prefetch_count=GROUP))
            await consume(channel, self.name)
            while True:
                group = [await arrived.get()]
                while not arrived.empty() and len(group) < GROUP:
                    group.append(arrived.get_nowait())
                messages = [one for one in group if one is not None]
                await self._handle(messages)
                for one in messages:
                    settler.received(one.tag)
                    settler.settle(one.tag, is_done=True)
                await settler.flush()
                if len(messages) < len(group):
                    return
        finally:
            ended.cancel()
            await close_channel(channel)

    async def _handle(self, messages: Sequence[Delivered]) -> None:
        """Written before they are acknowledged; tried again for as long as the store does not answer."""
        decoded = [(one, message.decode(one.body, store=self._store_id, queue="")) for one in messages]
        hints = [what for _, what in decoded if isinstance(what, Hint)]
        foreign = [quarantined(one, self.name, what.reason) for one, what in decoded if not isinstance(what, Hint)]
        while True:
            try:
                if hints:
                    await self._store.publish_later(
                        hints, RESENT_FIRST_SECONDS, doubling_to=RESENT_LAST_SECONDS, as_new=True
                    )
                    hints = []
                if foreign:
                    await keep(self._store, foreign)
                break
            except StoreUnavailable:
                await self._clock.sleep(STORE_DOWN_SECONDS)
        if messages:
            logger.warning("broker: %d messages came out of %s", len(messages), self.name)
