"""The nodes and the proxy do what they say: other tests rely on it."""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aio_pika
import aiormq
import pytest
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractIncomingMessage

from tests.rabbit.nodes import Cluster, Ctl, Node, NodeError, delete_vhost, fresh_vhost
from tests.rabbit.proxy import Proxy

SOON = 0.5
"""Long enough for what happens at once, short enough to show that something does not."""
NO_CONNECTION = (OSError, aiormq.AMQPError)


@asynccontextmanager
async def connecting(url: str, *, heartbeat: int = 60) -> AsyncGenerator[AbstractConnection]:
    connection = await aio_pika.connect(f"{url}?heartbeat={heartbeat}", timeout=10)
    try:
        yield connection
    finally:
        try:
            await asyncio.wait_for(connection.close(), 2)
        except (TimeoutError, *NO_CONNECTION):
            pass


@asynccontextmanager
async def channel_to(url: str) -> AsyncGenerator[AbstractChannel]:
    async with connecting(url) as connection:
        yield await connection.channel()


async def put(channel: AbstractChannel, queue: str, body: bytes = b"hello") -> None:
    message = aio_pika.Message(body, delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
    await channel.default_exchange.publish(message, queue)


def new_name() -> str:
    return f"q-{secrets.token_hex(4)}"


async def becomes(question: Callable[[], Awaitable[bool]], *, within: float = 20) -> None:
    deadline = time.monotonic() + within
    while not await question():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.1)


# --- the shared server -----------------------------------------------------------------------------------------------


async def test_vhost_takes_what_is_published(vhost: str) -> None:
    async with channel_to(vhost) as channel:
        queue = await channel.declare_queue(exclusive=True)
        await put(channel, queue.name)
        message = await queue.get(timeout=5)
        assert message.body == b"hello"
        await message.ack()


async def test_vhosts_are_apart_and_go_away(ctl: Ctl, vhost: str, rabbitmq_url: str) -> None:
    other = await fresh_vhost(ctl, rabbitmq_url)
    async with channel_to(vhost) as channel, channel_to(other) as stranger:
        queue = await channel.declare_queue(new_name(), exclusive=True)
        with pytest.raises(aio_pika.exceptions.ChannelNotFoundEntity):
            await stranger.declare_queue(queue.name, passive=True)
    await delete_vhost(ctl, other)
    assert other.rpartition("/")[2] not in await ctl("list_vhosts")
    assert vhost.rpartition("/")[2] in await ctl("list_vhosts")


# --- the proxy -------------------------------------------------------------------------------------------------------


async def test_proxy_passes(proxy: Proxy) -> None:
    async with channel_to(proxy.url) as channel:
        queue = await channel.declare_queue(exclusive=True)
        big = os.urandom(300_000)
        await put(channel, queue.name, big)
        message = await queue.get(timeout=5)
        assert message.body == big
        assert proxy.connections == 1
    await becomes(lambda: _is(lambda: proxy.connections == 0))


async def _is(question: Callable[[], bool]) -> bool:
    return question()


@pytest.mark.parametrize("sides", [("to_server",), ("to_client",), ("to_server", "to_client")], ids="+".join)
async def test_black_hole_holds_until_healed(proxy: Proxy, vhost: str, sides: tuple[str, ...]) -> None:
    async with channel_to(proxy.url) as channel, channel_to(vhost) as witness:
        queue = await channel.declare_queue(new_name())
        proxy.black_hole(to_server="to_server" in sides, to_client="to_client" in sides)
        publishing = asyncio.create_task(put(channel, queue.name))
        await asyncio.sleep(SOON)
        assert not publishing.done()
        seen = (await witness.declare_queue(queue.name, passive=True)).declaration_result.message_count
        assert seen == (0 if "to_server" in sides else 1)
        proxy.heal()
        await asyncio.wait_for(publishing, 5)
        seen = (await witness.declare_queue(queue.name, passive=True)).declaration_result.message_count
        assert seen == 1
        await witness.queue_delete(queue.name)


async def test_black_hole_swallows_new_connections(proxy: Proxy) -> None:
    proxy.black_hole()
    with pytest.raises((TimeoutError, *NO_CONNECTION)):
        await aio_pika.connect(proxy.url, timeout=SOON)


async def test_reset_ends_connections_and_lets_new_ones_in(proxy: Proxy) -> None:
    async with connecting(proxy.url) as connection:
        closed = asyncio.Event()
        connection.close_callbacks.add(lambda *_: closed.set())
        proxy.reset()
        await asyncio.wait_for(closed.wait(), 5)
    async with channel_to(proxy.url) as channel:
        await channel.declare_queue(exclusive=True)


async def ignore(_: AbstractIncomingMessage) -> None: ...


async def test_half_open_is_seen_by_the_client_alone(proxy: Proxy, vhost: str) -> None:
    async with connecting(proxy.url) as connection, channel_to(vhost) as witness:
        closed = asyncio.Event()
        connection.close_callbacks.add(lambda *_: closed.set())
        channel = await connection.channel()
        queue = await channel.declare_queue(new_name())
        await queue.consume(ignore)
        proxy.half_open()
        await asyncio.wait_for(closed.wait(), 5)
        await asyncio.sleep(SOON)
        seen = (await witness.declare_queue(queue.name, passive=True)).declaration_result.consumer_count
        assert seen == 1
        proxy.reset()

        async def is_noticed() -> bool:
            answer = await witness.declare_queue(queue.name, passive=True)
            return answer.declaration_result.consumer_count == 0

        await becomes(is_noticed)
        await witness.queue_delete(queue.name)


async def test_refused_is_refused_until_healed(proxy: Proxy) -> None:
    async with channel_to(proxy.url) as channel:
        proxy.refuse()
        with pytest.raises(OSError, match=r"."):
            await aio_pika.connect(proxy.url, timeout=5)
        await channel.declare_queue(exclusive=True)
        proxy.heal()
        async with channel_to(proxy.url) as another:
            await another.declare_queue(exclusive=True)


async def test_delay_slows_every_answer(proxy: Proxy) -> None:
    async with channel_to(proxy.url) as channel:
        proxy.delay(SOON, to_client=False)
        began = time.monotonic()
        await channel.declare_queue(exclusive=True)
        assert time.monotonic() - began >= SOON
        proxy.heal()
        began = time.monotonic()
        await channel.declare_queue(exclusive=True)
        assert time.monotonic() - began < SOON


async def test_proxy_before_nothing_resets(unused_url: str) -> None:
    async with Proxy(unused_url) as proxy:
        with pytest.raises(NO_CONNECTION):
            await aio_pika.connect(proxy.url, timeout=5)


@pytest.fixture
def unused_url() -> str:
    return "amqp://a:b@127.0.0.1:1/"


# --- a node ----------------------------------------------------------------------------------------------------------


async def messages_in(node: Node, queue: str) -> int:
    async with channel_to(node.url) as channel:
        return (await channel.declare_queue(queue, passive=True)).declaration_result.message_count or 0


async def with_one_message(node: Node) -> str:
    name = new_name()
    async with channel_to(node.url) as channel:
        await channel.declare_queue(name, durable=True)
        await put(channel, name)
    return name


async def test_killed_node_keeps_its_data_and_its_address(node: Node) -> None:
    queue, url = await with_one_message(node), node.url
    await node.eval("mnesia:sync_log().")  # that a queue exists is written to disk a moment later than its messages
    node.kill()
    assert not node.is_running
    with pytest.raises(OSError, match=r"."):
        await aio_pika.connect(url, timeout=5)
    await node.start()
    assert node.url == url
    assert await messages_in(node, queue) == 1


async def test_stopped_node_starts_again(node: Node) -> None:
    queue = await with_one_message(node)
    await node.stop()
    assert not node.is_running
    await node.start()
    assert await messages_in(node, queue) == 1


async def test_wiped_node_has_forgotten(node: Node) -> None:
    queue = await with_one_message(node)
    await node.wipe()
    with pytest.raises(aio_pika.exceptions.ChannelNotFoundEntity):
        await messages_in(node, queue)


async def test_paused_node_is_silent_and_goes_on(node: Node) -> None:
    async with channel_to(node.url) as channel:
        node.pause()
        declaring = asyncio.create_task(channel.declare_queue(exclusive=True))
        await asyncio.sleep(SOON)
        assert not declaring.done()
        node.resume()
        await asyncio.wait_for(declaring, 10)


async def test_alarm_stops_publishers(node: Node) -> None:
    async with channel_to(node.url) as channel:
        queue = await channel.declare_queue(exclusive=True)
        await node.set_alarm(True)
        publishing = asyncio.create_task(put(channel, queue.name))
        await asyncio.sleep(SOON)
        assert not publishing.done()
        await node.set_alarm(False)
        await asyncio.wait_for(publishing, 10)


async def test_consumer_timeout_closes_the_channel(node: Node) -> None:
    await node.set_consumer_timeout(1000)
    try:
        async with channel_to(node.url) as channel:
            closed = asyncio.Event()
            channel.close_callbacks.add(lambda *_: closed.set())
            queue = await channel.declare_queue(exclusive=True)
            await put(channel, queue.name)
            await queue.get(timeout=5)  # and never acknowledge it
            await asyncio.wait_for(closed.wait(), 20)
    finally:
        await node.set_consumer_timeout(1_800_000)


async def test_command_that_fails_says_why(node: Node) -> None:
    assert await node.eval("1 + 1.") == "2"
    with pytest.raises(NodeError, match="no_such_command"):
        await node.ctl("no_such_command")


async def test_two_nodes_do_not_know_each_other(node: Node, tmp_path: Path) -> None:
    async with Node(tmp_path / "other") as other:
        assert other.name == node.name
        queue = await with_one_message(other)
        with pytest.raises(aio_pika.exceptions.ChannelNotFoundEntity):
            await messages_in(node, queue)
    assert not other.is_running
    assert not (tmp_path / "other").exists()


# --- a cluster -------------------------------------------------------------------------------------------------------


async def with_quorum_queue(cluster: Cluster) -> str:
    name = new_name()
    async with channel_to(cluster.nodes[1].url) as channel:
        await channel.declare_queue(name, durable=True, arguments={"x-queue-type": "quorum"})
        await put(channel, name)
    return name


async def test_nodes_are_joined(cluster: Cluster) -> None:
    queue = await with_quorum_queue(cluster)
    for node in cluster.nodes:
        assert await messages_in(node, queue) == 1
    assert len({await node.eval("lists:sort(rabbit_nodes:all_running()).") for node in cluster.nodes}) == 1
    assert (await cluster.leader_of(queue)) is cluster.nodes[1]


@pytest.mark.parametrize(
    "harm", [pytest.param(Node.kill, id="killed"), pytest.param(Node.pause, id="paused", marks=pytest.mark.faults)]
)
async def test_another_node_leads_when_the_leader_is_gone(cluster: Cluster, harm: Callable[[Node], None]) -> None:
    queue = await with_quorum_queue(cluster)
    leader = await cluster.leader_of(queue)
    harm(leader)

    async def is_led_by_another() -> bool:
        return await cluster.leader_of(queue) is not leader

    await becomes(is_led_by_another, within=60)
    survivor = await cluster.leader_of(queue)

    async def is_taken() -> bool:
        try:
            async with channel_to(survivor.url) as channel:
                await asyncio.wait_for(put(channel, queue), 10)
        except (TimeoutError, *NO_CONNECTION):  # refused as long as the broker believes in the old leader
            return False
        return True

    await becomes(is_taken, within=60)


async def test_a_node_that_is_isolated_goes_on_by_itself(cluster: Cluster) -> None:
    queue = await with_quorum_queue(cluster)
    lonely = await cluster.leader_of(queue)
    await cluster.isolate(lonely)
    assert await lonely.eval("nodes().") == "[]"
    async with channel_to(lonely.url) as channel:
        with pytest.raises(TimeoutError):  # it takes clients, and has no majority
            await asyncio.wait_for(put(channel, queue), 3)

    async def is_led_by_another() -> bool:
        return await cluster.leader_of(queue) is not lonely

    await becomes(is_led_by_another, within=60)
    async with channel_to((await cluster.leader_of(queue)).url) as channel:
        await asyncio.wait_for(put(channel, queue), 10)
    await cluster.restore()
    assert await messages_in(lonely, queue) >= 2


async def test_without_a_node_for_a_while(cluster: Cluster) -> None:
    with cluster.without(cluster.nodes[2]):
        assert cluster.nodes[2].is_paused
    assert await messages_in(cluster.nodes[2], await with_quorum_queue(cluster)) == 1
