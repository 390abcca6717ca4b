"""Traces through RabbitMQ: what a message carries, and that nobody else's spans stand beside ours."""

from __future__ import annotations

import asyncio
import importlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import aio_pika
import pytest
from opentelemetry import baggage, context

import actorjobs as aj
from actorjobs.brokers.rabbitmq import Topology
from tests.brokers.topologies import forget
from tests.telemetry.conftest import Traces
from tests.telemetry.measured import Measured


@aj.job("twice", queue="work", retry=aj.Retry(2, aj.Fixed(0.1)))
async def twice(ctx: aj.JobContext) -> None:
    if ctx.attempt == 1:
        raise ValueError


@pytest.fixture
async def namespace(rabbitmq_server: str) -> AsyncIterator[str]:
    name = f"traced-{uuid4().hex[:12]}"
    yield name
    await forget(rabbitmq_server, name)


TREE = [
    "send twice",
    "  process twice #1 failed/retrying ERROR(ValueError) [creation: send twice]",
    "  process twice #2 succeeded/succeeded [creation: send twice, previous_attempt: process twice #1]",
]


@pytest.mark.parametrize("is_relayed", [False, True])
async def test_a_message_carries_the_context_of_its_row(
    traces: Traces, sqlite_url: str, rabbitmq_server: str, namespace: str, is_relayed: bool
) -> None:
    options = {"broker": rabbitmq_server, "namespace": namespace}
    async with traces.runtime(sqlite_url, twice, **options).client() as runtime:
        token = context.attach(baggage.set_baggage("plan", "gold"))
        if is_relayed:
            async with runtime.store.engine.begin() as tx:
                run = await twice.options(trace="link", tx=tx).dispatch()
            while not await runtime.broker.repair(["work"]):
                await asyncio.sleep(0.05)
        else:
            run = await twice.options(trace="link").dispatch()
        context.detach(token)
        asked = await runtime.store.envelope(run.id)
        async with asyncio.timeout(10):
            while not (found := await runtime.broker.facts(["work"])) or not found.ready["work"]:
                await asyncio.sleep(0.02)
        connection = await aio_pika.connect(rabbitmq_server)
        async with connection, connection.channel() as channel:
            queue = await channel.get_queue(Topology(namespace).work_queue("work"), ensure=False)
            message = await queue.get()
    [send] = traces.spans
    carried = {name: value for name, value in message.headers.items() if not name.startswith("x-")}
    assert carried == {
        "traceparent": f"00-{send.context.trace_id:032x}-{send.context.span_id:016x}-{send.context.trace_flags:02x}",
        "tracestate": "actorjobs=link",
        "baggage": "plan=gold",
    }
    assert (asked.traceparent, asked.tracestate, asked.baggage) == tuple(
        carried[name] for name in ("traceparent", "tracestate", "baggage")
    )
    assert (send.attributes or {})["messaging.destination.name"] == queue.name
    assert (send.attributes or {})["messaging.rabbitmq.destination.routing_key"] == queue.name
    assert (send.attributes or {})["messaging.system"] == "rabbitmq"
    assert {"server.address", "server.port"} <= (send.attributes or {}).keys()


async def test_metrics_speak_of_the_same_place_as_spans(
    traces: Traces, sqlite_url: str, rabbitmq_server: str, namespace: str
) -> None:
    measured = Measured()
    options = {"broker": rabbitmq_server, "namespace": namespace, "meter_provider": measured.provider}
    async with traces.runtime(sqlite_url, twice, **options):
        run = await twice.dispatch()
        await run.result(timeout=20)
    place = (traces.spans[0].attributes or {})["messaging.destination.name"]
    assert place == Topology(namespace).work_queue("work")
    server = (traces.spans[0].attributes or {})["server.address"], (traces.spans[0].attributes or {})["server.port"]
    for name in ("client.sent.messages", "client.consumed.messages", "client.operation.duration", "process.duration"):
        assert set(measured.values(f"messaging.{name}", "messaging.destination.name")) == {place}, name
        assert set(measured.values(f"messaging.{name}", "server.address", "server.port")) == {server}, name
    kinds = "messaging.operation.name", "messaging.operation.type"
    assert set(measured.values("messaging.client.operation.duration", *kinds)) == {("send",) * 2, ("settle",) * 2}


async def test_no_message_goes_by_what_the_instrumentor_of_aio_pika_wraps(
    traces: Traces, sqlite_url: str, rabbitmq_server: str, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    went: list[str] = []
    for kind, name in ((aio_pika.Exchange, "publish"), (aio_pika.Queue, "consume"), (aio_pika.Queue, "iterator")):
        monkeypatch.setattr(kind, name, lambda *_arguments, _name=name, **_options: went.append(_name))
    async with traces.runtime(sqlite_url, twice, broker=rabbitmq_server, namespace=namespace):
        run = await twice.dispatch()
        await run.result(timeout=20)
    assert went == []
    assert traces.tree == TREE


@pytest.fixture
def instrumentor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """That of aio-pika. Its releases pin another version of the SDK than the SDK's own: with what it needs it goes into
    a folder of its own, and its pins are passed over."""
    packages = ("opentelemetry-instrumentation-aio-pika", "opentelemetry-instrumentation", "wrapt<3", "packaging")
    command = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps"]
    done = subprocess.run([*command, "--target", tmp_path, *packages], capture_output=True, text=True, check=False)
    if done.returncode:
        assert os.environ.get("CI") != "true", done.stderr
        pytest.skip("the instrumentor of aio-pika cannot be had: no package index")
    monkeypatch.syspath_prepend(str(tmp_path))
    module = importlib.import_module("opentelemetry.instrumentation.aio_pika")
    return module.AioPikaInstrumentor()


async def test_beside_the_instrumentor_of_aio_pika(
    traces: Traces, sqlite_url: str, rabbitmq_server: str, namespace: str, instrumentor: Any
) -> None:
    instrumentor.instrument(tracer_provider=traces.provider)
    try:
        async with traces.runtime(sqlite_url, twice, broker=rabbitmq_server, namespace=namespace):
            run = await twice.dispatch()
            await run.result(timeout=20)
        assert traces.tree == TREE
        connection = await aio_pika.connect(rabbitmq_server)
        async with connection, connection.channel() as channel:
            await channel.default_exchange.publish(aio_pika.Message(b""), routing_key="nobody")
        assert len(traces.spans) == len(TREE) + 1  # it is on: a message of aio-pika's own does have a span
    finally:
        instrumentor.uninstrument()
