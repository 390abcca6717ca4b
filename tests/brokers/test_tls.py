"""TLS: the broker's certificate is checked unless the address says not to."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

import actorjobs as aj
from actorjobs.brokers.rabbitmq import connected, parse_address
from actorjobs.errors import BrokerUnavailable
from tests.brokers.pools import quick
from tests.rabbit.certificates import Authority, has_openssl
from tests.rabbit.nodes import Node, has_programs

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not (has_programs() and has_openssl()), reason="needs rabbitmq-server and openssl"),
]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[Node]:
    """Its certificate is good for 127.0.0.1, not for localhost."""
    node = Node(tmp_path_factory.mktemp("node"), certified=authority.issue("127.0.0.1"))
    try:
        asyncio.run(node.start())
        yield node
    finally:
        node.close()


async def version_at(url: str) -> str:
    async with connected(parse_address(url), name="test:tls") as link:
        return link.version


async def refusal(url: str) -> str:
    with pytest.raises(BrokerUnavailable) as refused:
        await version_at(url)
    return str(refused.value)


async def test_a_server_of_the_given_authority_is_trusted(node: Node, authority: Authority) -> None:
    assert (await version_at(node.tls_url(cafile=str(authority.file)))).startswith("3.")


async def test_jobs_are_performed_over_tls(node: Node, authority: Authority, sqlite_url: str) -> None:
    options: dict[str, Any] = {"store": sqlite_url, "namespace": f"tls-{uuid4().hex[:8]}", "jobs": [quick]}
    async with aj.Runtime(broker=node.tls_url(cafile=str(authority.file)), **options) as worker:
        handle = await worker.dispatch(quick)
        assert await handle.result(timeout=20) == "done"
        assert not worker.health


async def test_an_authority_that_is_not_known_is_refused(node: Node, tmp_path: Path) -> None:
    for given in ({}, {"cafile": str(Authority(tmp_path).file)}):
        said = await refusal(node.tls_url(**given))
        assert "CERTIFICATE_VERIFY_FAILED" in said
        assert "certificate" in said
        assert f"127.0.0.1:{node.tls_url().rpartition(':')[2].partition('/')[0]}" in said


async def test_a_certificate_for_another_name_is_refused(node: Node, authority: Authority) -> None:
    said = await refusal(node.tls_url("localhost", cafile=str(authority.file)))
    assert "localhost" in said
    assert "Hostname mismatch" in said


async def test_checking_can_be_given_up_in_so_many_words(node: Node) -> None:
    assert await version_at(node.tls_url(no_verify_ssl="1"))
    assert await version_at(node.tls_url("localhost", no_verify_ssl="1"))


async def test_checking_is_not_given_up_by_a_zero(node: Node) -> None:
    assert "CERTIFICATE_VERIFY_FAILED" in await refusal(node.tls_url(no_verify_ssl="0"))


async def test_a_worker_says_why_it_cannot_trust_its_broker(node: Node, sqlite_url: str) -> None:
    with pytest.raises(BrokerUnavailable, match="CERTIFICATE_VERIFY_FAILED"):
        async with aj.Runtime(broker=node.tls_url(), store=sqlite_url, jobs=[quick]):
            pass


async def test_a_file_that_is_not_there_is_named(node: Node) -> None:
    assert "/not/there.crt" in await refusal(node.tls_url(cafile="/not/there.crt"))


async def test_a_server_without_tls_is_said_to_have_none(node: Node) -> None:
    plain = node.url.replace("amqp://", "amqps://")
    assert "SSL" in await refusal(plain + "?no_verify_ssl=1")
