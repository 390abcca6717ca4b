"""Benches on the shared servers, and on nodes of the tests' own.

Tests marked `faults` take minutes together: they are left out unless `-m` names the mark (`make faults`).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from uuid import uuid4

import pytest

from tests.brokers.topologies import forget
from tests.faults.bench import Bench
from tests.rabbit.conftest import cluster, cluster_of_module, node, node_of_module
from tests.rabbit.nodes import Node
from tests.rabbit.proxy import Proxy

__all__ = ["cluster", "cluster_of_module", "node", "node_of_module"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here) and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(300 if item.get_closest_marker("faults") else 120))


@pytest.fixture
def namespace() -> str:
    return f"faults-{uuid4().hex[:12]}"


@pytest.fixture
async def stack() -> AsyncGenerator[AsyncExitStack]:
    """What a test has opened; closed before its topology is deleted and its database emptied."""
    async with AsyncExitStack() as stack:
        yield stack


OpenBench = Callable[..., Awaitable[Bench]]


@pytest.fixture
async def bench(postgres_url: str, rabbitmq_server: str, namespace: str, tmp_path: Path) -> AsyncGenerator[Bench]:
    """On the shared servers, with a client."""
    async with AsyncExitStack() as stack:
        bench = Bench(store=postgres_url, broker=rabbitmq_server, namespace=namespace, folder=tmp_path, stack=stack)
        await bench.open_client()
        yield bench
    await forget(rabbitmq_server, namespace)


@pytest.fixture
async def proxy(rabbitmq_server: str) -> AsyncGenerator[Proxy]:
    """A way to the shared RabbitMQ on which faults happen on demand."""
    async with Proxy(rabbitmq_server) as proxy:
        yield proxy


@pytest.fixture
async def store_proxy(postgres_url: str) -> AsyncGenerator[Proxy]:
    """A way to PostgreSQL on which faults happen on demand."""
    async with Proxy(postgres_url) as proxy:
        yield proxy


@pytest.fixture
async def own_bench(postgres_url: str, node: Node, namespace: str, tmp_path: Path) -> AsyncGenerator[Bench]:
    """On a RabbitMQ node of the test's own, with a client."""
    async with AsyncExitStack() as stack:
        bench = Bench(store=postgres_url, broker=node.url, namespace=namespace, folder=tmp_path, stack=stack)
        await bench.open_client()
        yield bench
        node.resume()
        await node.start()
        await node.set_alarm(False)
    await forget(node.url, namespace)
