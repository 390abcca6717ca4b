"""Sessions: how a connection is tried again, which failures end a worker, and that closing leaves nothing behind."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import suppress
from random import Random
from typing import Any
from urllib.parse import quote, urlsplit

import aio_pika
import pytest

import actorjobs as aj
from actorjobs.brokers.rabbitmq import parse_address
from actorjobs.brokers.rabbitmq.link import Link
from actorjobs.brokers.rabbitmq.session import FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, Session, Work
from actorjobs.clock import SystemClock
from actorjobs.errors import BrokerUnavailable
from tests.brokers.pools import broker_of, consumer_of, quick
from tests.brokers.watching import until
from tests.rabbit.proxy import Proxy

NOBODY = "amqp://somebody:s3cr3t-w0rd@127.0.0.1:1/"


class Impatient(SystemClock):
    """Sleeps a moment only, and remembers what was asked for."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        await asyncio.sleep(0)


async def stay(link: Link) -> None:
    await asyncio.Event().wait()


def session(url: str, work: Work = stay, *, clock: SystemClock | None = None, seed: int = 1) -> Session:
    return Session(
        role="test",
        address=parse_address(url),
        name="test",
        work=work,
        clock=clock or SystemClock(),
        random=Random(seed),
    )


@pytest.fixture
async def proxy(rabbitmq_server: str) -> AsyncGenerator[Proxy]:
    async with Proxy(rabbitmq_server) as proxy:
        yield proxy


@pytest.fixture
def options(sqlite_url: str, namespace: str) -> dict[str, Any]:
    return {"store": sqlite_url, "namespace": namespace, "jobs": [quick], "queues": {"work": 2}, "grace": 1.0}


def others() -> set[str]:
    return {task.get_name() for task in asyncio.all_tasks() if task is not asyncio.current_task()}


async def nothing_is_left(before: set[str]) -> None:
    """No task of ours outlives a close; the proxy's own connections take a moment to end."""
    await until(lambda: not [name for name in others() - before if "actorjobs" in name], within=0.5)


# --- how it is tried again -------------------------------------------------------------------------------------------


async def test_pauses_double_up_to_a_bound_and_no_two_are_alike() -> None:
    found: list[list[float]] = []
    for seed in (1, 2):
        clock = Impatient()
        one = session(NOBODY, clock=clock, seed=seed)
        one.start()
        await until(lambda clock=clock: len(clock.slept) >= 20)
        await one.stop()
        for number, pause in enumerate(clock.slept):
            longest = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2**number)
            assert longest / 4 <= pause <= longest
        found.append(clock.slept[:20])
    assert not set(found[0]) & set(found[1])
    assert max(found[0] + found[1]) > LONGEST_PAUSE_SECONDS / 2


async def test_a_host_that_answers_is_found_among_dead_ones(rabbitmq_server: str) -> None:
    login, _, host = rabbitmq_server.rpartition("@")
    for seed in range(5):
        one = session(f"{login}@127.0.0.1:1,127.0.0.1:2,{host}", seed=seed)
        one.start()
        await until(lambda one=one: one.link is not None)
        assert one.connections == 1
        await one.stop()


async def test_a_refusal_names_every_host_and_no_password() -> None:
    one = session("amqp://u:s3cr3t-w0rd@127.0.0.1:1,127.0.0.1:2/")
    one.start()
    await one.tried()
    health = one.health or ""
    assert "127.0.0.1:1" in health
    assert "127.0.0.1:2" in health
    assert "s3cr3t" not in health + repr(one)
    await one.stop()


async def test_work_is_done_anew_on_each_connection(proxy: Proxy) -> None:
    seen: list[Link] = []

    async def work(link: Link) -> None:
        seen.append(link)
        one.ready()
        await asyncio.Event().wait()

    one = session(proxy.url, work)
    one.start()
    for number in (1, 2, 3):
        await until(lambda number=number: len(seen) == number and one.health is None)
        proxy.reset()
        await until(lambda: one.health is not None)
    await one.stop()
    assert len(set(map(id, seen))) == len(seen)


async def test_work_that_fails_ends_its_connection_and_no_more(
    rabbitmq_server: str, caplog: pytest.LogCaptureFixture
) -> None:
    tries = 0

    async def work(_link: Link) -> None:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise ZeroDivisionError("a slip")
        one.ready()
        await asyncio.Event().wait()

    one = session(rabbitmq_server, work, clock=Impatient())
    one.start()
    await until(lambda: tries == 3)
    assert caplog.text.count("ZeroDivisionError: a slip") >= 2
    await one.stop()


async def test_a_stop_while_a_connection_is_just_closing_is_not_lost(
    rabbitmq_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_closing, close = asyncio.Event(), Link.close

    async def closing(link: Link) -> None:
        is_closing.set()
        await close(link)

    async def fail(_link: Link) -> None:
        raise BrokerUnavailable("at once")

    monkeypatch.setattr(Link, "close", closing)
    for _ in range(3):
        is_closing.clear()
        one = session(rabbitmq_server, fail, clock=Impatient())
        one.start()
        await is_closing.wait()
        await asyncio.wait_for(one.stop(), 5)


# --- starting a worker -----------------------------------------------------------------------------------------------


def with_password(url: str, password: str) -> str:
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=f"{quote(parts.username or 'guest')}:{password}@{host}").geturl()


async def test_a_wrong_password_refuses_to_start_and_leaves_nothing(
    rabbitmq_server: str, options: dict[str, Any]
) -> None:
    before = others()
    runtime = aj.Runtime(broker=with_password(rabbitmq_server, "s3cr3t-w0rd"), **options)
    with pytest.raises(BrokerUnavailable, match="does not let user") as refused:
        await runtime.open()
    assert "s3cr3t" not in str(refused.value)
    await nothing_is_left(before)


async def test_a_virtual_host_that_is_not_there_refuses_to_start(rabbitmq_server: str, options: dict[str, Any]) -> None:
    runtime = aj.Runtime(broker=urlsplit(rabbitmq_server)._replace(path="/not-there").geturl(), **options)
    with pytest.raises(BrokerUnavailable, match="not-there"):
        await runtime.open()


async def test_a_broker_that_is_down_lets_a_worker_start_which_consumes_once_it_is_there(
    proxy: Proxy, options: dict[str, Any]
) -> None:
    proxy.refuse()
    async with aj.Runtime(broker=proxy.url, **options) as worker:
        assert {"broker publish", "broker consume"} <= set(worker.health)
        handle = await quick.dispatch()
        proxy.heal()
        assert await handle.result(timeout=20) == "done"
        await until(lambda: not worker.health)


# --- closing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "state",
    [
        "refused",
        "silent",
        "connected",
        "reset",
        "with hints",
        "just reset",
        pytest.param("gone silent", marks=pytest.mark.slow),
    ],
)
async def test_closing_leaves_no_task_behind(state: str, proxy: Proxy, options: dict[str, Any]) -> None:
    before = others()
    if state == "refused":
        proxy.refuse()
    if state == "silent":
        proxy.black_hole()
    runtime = aj.Runtime(broker=proxy.url, **options)
    opening = asyncio.create_task(runtime.open())
    if state == "silent":
        await asyncio.sleep(0.3)
        opening.cancel()
        with suppress(asyncio.CancelledError):
            await opening
    else:
        await opening
    if state in ("connected", "reset", "with hints", "just reset", "gone silent"):
        await until(lambda: consumer_of(runtime).prefetch > 0)
    if state == "reset":
        proxy.refuse()
        proxy.reset()
        await until(lambda: "broker consume" in runtime.health)
    if state in ("with hints", "refused"):
        for _ in range(20):
            await quick.dispatch()
    if state == "just reset":
        proxy.reset()
    if state == "gone silent":
        proxy.black_hole()
    async with asyncio.timeout(40):
        await runtime.close()
    await nothing_is_left(before)


async def test_a_client_that_ends_at_once_leaves_no_task_behind(rabbitmq_server: str, options: dict[str, Any]) -> None:
    before = others()
    async with aj.Runtime(broker=rabbitmq_server, **options).client() as client:
        await client.dispatch(quick)
        broker = broker_of(client)
    assert broker.publisher.is_idle
    assert broker.publisher.counts.confirmed == 1
    await nothing_is_left(before)


# --- the password ----------------------------------------------------------------------------------------------------


async def test_the_password_is_in_no_line_of_the_log_and_in_no_repr(
    rabbitmq_server: str, proxy: Proxy, options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    password = urlsplit(rabbitmq_server).password or ""
    assert len(password) > 4
    with caplog.at_level(logging.DEBUG):
        async with aj.Runtime(broker=proxy.url, **options) as worker:
            broker = broker_of(worker)
            await quick.dispatch()
            proxy.refuse()
            proxy.reset()
            await until(lambda: "broker consume" in worker.health)
            said = [repr(one) for one in (worker, broker, broker.publisher, broker._consuming, broker.address)]
            said += [str(broker.address), *worker.health.values()]
        refused = aj.Runtime(broker=with_password(rabbitmq_server, "s3cr3t-w0rd"), **options)
        with pytest.raises(BrokerUnavailable) as error:
            await refused.open()
    said += [str(error.value), *(logging.Formatter().format(one) for one in caplog.records)]
    assert not [line for line in said if password in line or "s3cr3t" in line]


async def test_a_fleet_does_not_come_back_all_at_once(proxy: Proxy) -> None:
    """Forty processes lose their broker in one moment, and find it again within a few of their pauses."""
    fleet = [session(proxy.url, seed=number) for number in range(40)]
    for one in fleet:
        one.start()
    await until(lambda: all(one.link is not None for one in fleet), within=20)
    proxy.refuse()
    proxy.reset()
    await asyncio.sleep(5)
    before = len(proxy.accepted)
    proxy.heal()
    await until(lambda: all(one.link is not None for one in fleet), within=30)
    came = sorted(proxy.accepted[before:])
    for one in fleet:
        await one.stop()
    busiest = max(sum(at <= other < at + 0.25 for other in came) for at in came)
    assert len(came) >= 40
    assert busiest <= 15
    assert came[-1] - came[0] > 1.0


async def test_an_application_may_use_the_connection_too(rabbitmq_server: str, options: dict[str, Any]) -> None:
    async with aj.Runtime(broker=rabbitmq_server, **options) as runtime:
        async with asyncio.timeout(10):
            while runtime.broker.connection is None:
                await asyncio.sleep(0.01)
        channel = await runtime.broker.connection.channel()
        queue = await channel.declare_queue(exclusive=True)
        for number in range(20):
            run = await runtime.dispatch(quick)
            await channel.default_exchange.publish(aio_pika.Message(b"of mine"), routing_key=queue.name)
            await run.result(timeout=20)
            message = await queue.get(timeout=10)
            assert message.body == b"of mine", number
            await message.ack()
        await channel.close()
        run = await runtime.dispatch(quick)
        await run.result(timeout=20)
        assert runtime.health == {}
    async with aj.Runtime(**options).client() as client:
        assert client.broker.connection is None
