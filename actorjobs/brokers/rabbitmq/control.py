"""Control: a broadcast that says "look now". What operators wish is in rows; a broadcast that is lost does no harm."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any
from uuid import uuid4

from aiormq.abc import DeliveredMessage

from actorjobs.brokers.rabbitmq.link import Link, guarded, on_end
from actorjobs.brokers.rabbitmq.topology import Topology

QUEUE: dict[str, Any] = {"x-queue-type": "classic", "x-message-ttl": 60_000, "x-max-length": 1000}
LEAST_SECONDS_BETWEEN = 0.05
"""However many broadcasts come, and whoever sends them: one look serves all of this time."""


async def listen(link: Link, topology: Topology, look: Callable[[], None], ready: Callable[[], None]) -> None:
    """Call `look` when a broadcast comes, as long as the channel lasts. A queue of a new name on each connection: the
    server may still hold the old one for a connection that it does not know to be dead."""
    channel = await link.channel()
    heard, name = asyncio.Event(), f"{topology.control}.{uuid4()}"
    await guarded(channel.queue_declare(name, exclusive=True, auto_delete=True, arguments=dict(QUEUE)))
    await guarded(channel.queue_bind(name, topology.control))

    async def received(_delivered: DeliveredMessage) -> None:
        heard.set()

    await guarded(channel.basic_consume(name, received, no_ack=True))
    on_end(channel, heard.set)
    ready()
    look()  # for what was said while nobody listened
    while not channel.is_closed:
        await heard.wait()
        heard.clear()
        look()
        await asyncio.sleep(LEAST_SECONDS_BETWEEN)
