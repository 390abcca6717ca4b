"""A RabbitMQ to test with: the shared server, with a virtual host per test, or nodes of the tests' own to break."""

from __future__ import annotations

import asyncio
import functools
import os
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pytest

from tests.rabbit.nodes import Cluster, Ctl, Node, Private, delete_vhost, fresh_vhost, has_programs, run_ctl
from tests.rabbit.proxy import Proxy

P = TypeVar("P", bound=Private)

VARIABLE = "ACTORJOBS_TEST_RABBITMQ_URL"
NO_SERVER = 'no rabbitmq to test with: scripts/services up && eval "$(scripts/services env)", then run this again'
NO_PROGRAMS = "no rabbitmq-server here to start nodes of: Debian has it in the package of that name"
SERVICE = Path(__file__).parents[2] / ".services" / "rabbitmq"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Nodes take seconds to boot, many on a busy machine."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            fixtures: list[str] = getattr(item, "fixturenames", [])
            if "node" in fixtures or "cluster" in fixtures:
                item.add_marker(pytest.mark.slow)
                if item.get_closest_marker("timeout") is None:
                    item.add_marker(pytest.mark.timeout(300))


def _missing(reason: str) -> None:
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def rabbitmq_url() -> str:
    """The address of the shared server."""
    address = os.environ.get(VARIABLE)
    if not address:
        _missing(NO_SERVER)
    return str(address)


def _ctl_of(url: str) -> Ctl | None:
    """Only a server that scripts/services started here has one."""
    program, ours = SERVICE / "ctl", SERVICE / "url"
    if not (program.exists() and os.access(ours, os.R_OK) and ours.read_text().strip() == url):
        return None
    return functools.partial(run_ctl, program, "--quiet")


@pytest.fixture(scope="session")
def ctl(rabbitmq_url: str) -> Ctl:
    """`await ctl("list_queues")`: rabbitmqctl on the shared server. Others use it too: change nothing for all."""
    ctl = _ctl_of(rabbitmq_url)
    if ctl is None:
        pytest.skip(f"the server at {VARIABLE} was not started by scripts/services of this checkout")
    return ctl


@pytest.fixture
async def vhost(rabbitmq_url: str) -> AsyncGenerator[str]:
    """The url of a virtual host of the test's own, if we may make one there, else of the server as it is given."""
    ctl = _ctl_of(rabbitmq_url)
    if ctl is None:
        yield rabbitmq_url
        return
    url = await fresh_vhost(ctl, rabbitmq_url)
    yield url
    await delete_vhost(ctl, url)


@pytest.fixture
async def proxy(vhost: str) -> AsyncGenerator[Proxy]:
    """A way to the virtual host on which faults happen on demand: connect to `proxy.url`."""
    async with Proxy(vhost) as proxy:
        yield proxy


@contextmanager
def _started(kind: Callable[[Path], P], folder: Path) -> Generator[P]:
    """One of these for the tests of a module."""
    if not has_programs():
        _missing(NO_PROGRAMS)
    private = kind(folder)
    try:
        asyncio.run(private.start())
        yield private
    finally:
        private.close()


@pytest.fixture(scope="module")
def node_of_module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with _started(Node, tmp_path_factory.mktemp("node")) as node:
        yield node


@pytest.fixture
async def node(node_of_module: Node) -> AsyncGenerator[Node]:
    """A private node, one for all tests of a module: it runs when a test gets it, but its queues and settings stay."""
    yield node_of_module
    node_of_module.resume()
    await node_of_module.start()


@pytest.fixture(scope="module")
def cluster_of_module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with _started(Cluster, tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture
async def cluster(cluster_of_module: Cluster) -> AsyncGenerator[Cluster]:
    """Three joined nodes, one cluster for all tests of a module: all run when a test gets it."""
    yield cluster_of_module
    await cluster_of_module.restore()
