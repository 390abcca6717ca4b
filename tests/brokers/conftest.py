from __future__ import annotations

from collections.abc import AsyncGenerator
from uuid import uuid4

import pytest

pytest.register_assert_rewrite("actorjobs.testing.broker_suite")

from actorjobs.brokers.rabbitmq import Declarer, Topology, connected, parse_address  # noqa: E402
from actorjobs.brokers.rabbitmq.link import Link  # noqa: E402
from tests.brokers.topologies import forget  # noqa: E402


@pytest.fixture
async def namespace(rabbitmq_server: str) -> AsyncGenerator[str]:
    """A namespace of the test's own on the shared server; nothing is left of it."""
    name = f"brokers-{uuid4().hex[:12]}"
    yield name
    await forget(rabbitmq_server, name)


@pytest.fixture
async def link(rabbitmq_server: str) -> AsyncGenerator[Link]:
    """A connection past the product."""
    async with connected(parse_address(rabbitmq_server), name="test:link") as link:
        yield link


@pytest.fixture
async def topology(link: Link, namespace: str) -> Topology:
    """What one queue `work` needs, declared."""
    topology = Topology(namespace)
    declarer = Declarer(topology)
    await declarer.base(link)
    await declarer.queue(link, "work")
    return topology
