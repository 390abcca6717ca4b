"""Topologies of tests: each has a namespace of its own on the one server, and leaves nothing there."""

from __future__ import annotations

from collections.abc import Iterable

from actorjobs.brokers.rabbitmq import Topology, connected, parse_address
from actorjobs.brokers.rabbitmq.link import guarded

QUEUES = ("work", "b", "a.b")


async def forget(url: str, namespace: str, queues: Iterable[str] = QUEUES) -> None:
    """Delete whatever that namespace has on the server."""
    topology = Topology(namespace)
    async with connected(parse_address(url), name="test:forget") as link:
        channel = await link.channel()
        for parts in (topology.base(), *map(topology.of_queue, queues)):
            for queue in parts.queues:
                await guarded(channel.queue_delete(queue.name))
            for exchange in parts.exchanges:
                await guarded(channel.exchange_delete(exchange.name))
