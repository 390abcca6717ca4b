"""What RabbitMQ has, held against what should be there: hints that were lost, queues that are gone, consumers that the
broker has forgotten; and the facts that a doctor asks for."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import timedelta

from actorjobs.brokers.rabbitmq.address import Address
from actorjobs.brokers.rabbitmq.consumer import RabbitConsumer
from actorjobs.brokers.rabbitmq.declaring import Declarer, ready_in
from actorjobs.brokers.rabbitmq.link import ChannelRefused, Link, close_channel, connected, guarded
from actorjobs.errors import BrokerUnavailable
from actorjobs.ports import BrokerFacts, Store

logger = logging.getLogger("actorjobs.broker")

LOST_HINTS = 5000
"""Hints given up as lost and published again at once, per queue and second."""
OVERTAKEN_BY = timedelta(seconds=60)
GET_SECONDS = 3.0
SILENT_SECONDS = 20.0
"""A consumer that has room, whose queue has messages ready, and which got none for so long, is begun anew."""


async def find_lost_of(store: Store, link: Link, consumer: RabbitConsumer) -> int:
    """Put back into the outbox what must be lost of a consumer's queue; how many hints."""
    await _look_at(store, link, consumer)
    overtaken = {priority: moment - OVERTAKEN_BY for priority, moment in consumer.overtaken.items()}
    await store.publish_now(consumer.queue, list(consumer.jobs))
    found = await store.restage_lost(consumer.queue, overtaken, LOST_HINTS)
    if found:
        logger.warning("queue %s: %d hints were lost and are published again", consumer.queue, found)
    return found


async def _look_at(store: Store, link: Link, consumer: RabbitConsumer) -> None:
    try:
        ready = await ready_in(link, consumer.name)
    except BrokerUnavailable:
        return
    if ready is None:
        consumer.consume_again()  # the queue is gone: that makes it anew, and notes it
    elif ready == 0:
        if await _is_empty(link, consumer.name):
            await store.note_queue(consumer.queue, is_absent=False)
    elif consumer.is_starving(SILENT_SECONDS):
        logger.warning("queue %s: %d messages ready and none delivered: consuming anew", consumer.queue, ready)
        consumer.consume_again()


async def note_if_gone(store: Store, link: Link, queue: str, name: str) -> None:
    """Note that the queue is absent, or empty, if it is. `BrokerUnavailable`."""
    ready = await ready_in(link, name)
    if ready is None or (ready == 0 and await _is_empty(link, name)):
        await store.note_queue(queue, is_absent=ready is None)


async def _is_empty(link: Link, name: str) -> bool:
    """Whether the queue itself says so: of one without a leader the broker counts no messages at all."""
    try:
        channel = await link.channel()
    except BrokerUnavailable:
        return False
    try:
        got = await guarded(channel.basic_get(name, no_ack=False), timeout=GET_SECONDS)
        tag = got.delivery_tag
        if tag is not None:
            await guarded(channel.basic_nack(tag, requeue=True))
        return tag is None
    except (BrokerUnavailable, ChannelRefused):
        return False
    finally:
        await close_channel(channel)


async def facts_of(address: Address, declarer: Declarer, queues: Sequence[str], *, name: str) -> BrokerFacts:
    """What the broker has, by a connection of its own, so that a doctor needs no worker. `BrokerUnavailable`."""
    topology = declarer.topology
    async with connected(address, name=name) as link:
        ready = {queue: await ready_in(link, topology.work_queue(queue)) for queue in queues}
        differences = await declarer.verify(link, [queue for queue in queues if ready[queue] is not None])
        return BrokerFacts(
            version=link.version,
            ready=ready,
            dead=await ready_in(link, topology.dead),
            unrouted=await ready_in(link, topology.unrouted),
            differences=[str(difference) for difference in differences],
        )


def in_force(link: Link, declarer: Declarer) -> str:
    """What was found at the start: the version, what it does where versions differ, and what is not as it should be."""
    numbers = [int(part) if part.isdigit() else 0 for part in link.version.split(".")[:2]]
    if numbers < [4, 0]:
        priorities = "priorities are ignored"
    elif numbers < [4, 3]:
        priorities = "priorities have two levels"
    else:
        priorities = "priorities are strict"
    mode = "missing parts are made" if declarer.may_declare else "nothing is declared here"
    differing = sorted(declarer.used_as_they_are)
    parts = f"with other arguments: {', '.join(differing)}" if differing else "all parts as they should be"
    return f"RabbitMQ {link.version} at {link.host}: {parts}, {mode}, {priorities} on quorum queues"
