"""The topology on a real server: made, held against what is there, used as it is or refused."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import uuid4

import pytest

from actorjobs.brokers.rabbitmq import Declarer, Topology, connected, described, parse_address
from actorjobs.brokers.rabbitmq.link import ChannelRefused, Link, guarded
from actorjobs.errors import TopologyMismatch
from tests.brokers.topologies import forget


@pytest.fixture
async def link(rabbitmq_server: str) -> AsyncIterator[Link]:
    async with connected(parse_address(rabbitmq_server), name="test:topology") as link:
        yield link


@pytest.fixture
async def topology(rabbitmq_server: str) -> AsyncIterator[Topology]:
    namespace = f"topology-{uuid4().hex[:12]}"
    yield Topology(namespace)
    await forget(rabbitmq_server, namespace)


async def test_it_is_made_once_and_then_found(link: Link, topology: Topology) -> None:
    declarer = Declarer(topology, on_mismatch="error")
    for was_absent in (True, False):
        await declarer.base(link)
        assert await declarer.queue(link, "work") is was_absent
    assert await declarer.verify(link, ["work"]) == []


async def test_what_is_missing_is_named_and_not_made(link: Link, topology: Topology) -> None:
    missing = await Declarer(topology).verify(link, ["work"])
    parts = [*topology.base().named, *topology.of_queue("work").named]
    assert {difference.problem for difference in missing} == {"missing"}
    assert len(missing) == len(parts)
    assert str(missing[0]) == f"exchange {topology.unrouted} is missing"
    assert len(await Declarer(topology).verify(link, ["work"])) == len(parts)


async def test_a_difference_names_the_argument_and_both_values(link: Link, topology: Topology) -> None:
    await _wrong_queue(link, topology)
    await Declarer(topology).base(link)
    [difference] = await Declarer(topology).verify(link, ["work"])
    assert (difference.argument, difference.wanted, difference.found) == ("x-delivery-limit", "20", "5")
    name = topology.work_queue("work")
    assert str(difference) == f"queue {name}: x-delivery-limit is 5 there and should be 20"


async def test_a_different_queue_is_used_with_a_warning_or_refused(
    link: Link, topology: Topology, caplog: pytest.LogCaptureFixture
) -> None:
    await _wrong_queue(link, topology)
    lenient = Declarer(topology, on_mismatch="use")
    await lenient.base(link)
    assert await lenient.queue(link, "work") is False
    assert "x-delivery-limit is 5 there and should be 20; it is used as it is" in caplog.text
    with pytest.raises(TopologyMismatch, match=r"x-delivery-limit is 5.*delete it when it is empty"):
        await Declarer(topology, on_mismatch="error").queue(link, "work")


async def test_who_may_not_declare_looks_only(link: Link, topology: Topology) -> None:
    looker = Declarer(topology, may_declare=False)
    with pytest.raises(TopologyMismatch, match=r"is missing; .*topology apply"):
        await looker.base(link)
    await Declarer(topology).base(link)
    await Declarer(topology).queue(link, "work")
    await looker.base(link)
    assert await looker.queue(link, "work") is False


async def test_a_refusal_leaves_the_connection_alone(link: Link) -> None:
    channel = await link.channel()
    with pytest.raises(ChannelRefused):
        await guarded(channel.queue_declare(f"no-such-{uuid4()}", passive=True))
    assert not link.is_lost
    assert (await link.channel()).number


async def _wrong_queue(link: Link, topology: Topology) -> None:
    """The work queue with another delivery limit, as somebody else has made it."""
    await Declarer(topology).base(link)
    [queue] = topology.of_queue("work").queues
    channel = await link.channel()
    arguments = {**queue.arguments, "x-delivery-limit": 5}
    await guarded(channel.queue_declare(queue.name, durable=True, arguments=arguments))
    await guarded(channel.queue_bind(queue.name, topology.delay_out, topology.of_queue("work").bindings[0].key))


def test_it_can_be_shown_without_a_server() -> None:
    lines = list(described(Topology("shop").of_queue("emails")))
    assert lines[0].startswith("queue aj.v1:shop:q.emails {'x-queue-type': 'quorum'")
    assert lines[1].startswith("binding aj.v1:shop:delay.out -> queue aj.v1:shop:q.emails [*.*.")
