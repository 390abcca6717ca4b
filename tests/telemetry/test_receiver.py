"""One trace from a web request over RabbitMQ and a worker process to a retry that succeeds, at a real receiver."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from tests.brokers.topologies import forget
from tests.cli.conftest import Shell
from tests.rabbit.ports import free_port
from tests.telemetry.receiver import Received, Receiver, program, receiving, wait_for_port

pytestmark = [
    pytest.mark.system,
    pytest.mark.slow,
    # In CI it is to be there, as the servers are: without it these fail.
    pytest.mark.skipif(
        program() is None and os.environ.get("CI") != "true",
        reason="the receiver has no wheel for this platform: pip install rotel",
    ),
]

SHOP = """
    from opentelemetry import trace
    from pydantic import BaseModel
    import actorjobs as aj

    class Mail(BaseModel):
        email: str

    @aj.job("mail:welcome", queue="work", retry=aj.Retry(3, aj.Fixed(0.2)))
    async def welcome(mail: Mail, ctx: aj.JobContext) -> str:
        with trace.get_tracer("shop").start_as_current_span("smtp"):
            if ctx.attempt == 1:
                raise ConnectionError("the provider is down")
        return mail.email

    @aj.job("mail:check", queue="work", isolation="process")
    async def check(mail: Mail) -> None:
        with trace.get_tracer("shop").start_as_current_span("lookup"):
            pass

    runtime = aj.Runtime(jobs=[welcome, check], queues={"work": 3}, grace=20)
"""

WEB = """
    from contextlib import asynccontextmanager
    from opentelemetry import trace
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from starlette.applications import Starlette
    from starlette.responses import JSONResponse
    from starlette.routing import Route
    from shop import Mail, check, runtime, welcome
    from exporting import exporter

    @asynccontextmanager
    async def lifespan(app):
        provider = TracerProvider(resource=Resource.create({"service.name": "web"}))
        provider.add_span_processor(BatchSpanProcessor(exporter()))
        trace.set_tracer_provider(provider)
        async with runtime.client():
            yield
        provider.shutdown()

    async def signup(request):
        with trace.get_tracer("web").start_as_current_span("POST /signup", kind=trace.SpanKind.SERVER):
            job = check if request.query_params.get("check") else welcome
            run = await job.dispatch(Mail(**await request.json()))
        return JSONResponse({"id": run.id})

    app = Starlette(lifespan=lifespan, routes=[Route("/signup", signup, methods=["POST"])])
"""

EXPORTING = {
    "grpc": "from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as exporter",
    "http/protobuf": "from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as exporter",
}


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    with receiving(tmp_path) as receiver:
        yield receiver


@pytest.fixture
def shop(tmp_path: Path, postgres_url: str, rabbitmq_server: str) -> Iterator[Shell]:
    for name, text in (("shop", SHOP), ("web", WEB)):
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(text), encoding="utf-8")
    shell, namespace = Shell(tmp_path), f"traces-{uuid4().hex[:12]}"
    shell.environment |= {"ACTORJOBS_STORE_URL": postgres_url, "ACTORJOBS_BROKER_URL": rabbitmq_server}
    # Nothing is sent before the end of a process: what arrives was handed over as it drained.
    shell.environment |= {"ACTORJOBS_NAMESPACE": namespace, "OTEL_BSP_SCHEDULE_DELAY": "600000"}
    yield shell
    shell.close()
    asyncio.run(forget(rabbitmq_server, namespace))


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_one_trace_from_the_request_to_the_success(shop: Shell, receiver: Receiver, protocol: str) -> None:
    shop.environment |= receiver.variables(protocol)
    (shop.folder / "exporting.py").write_text(EXPORTING[protocol], encoding="utf-8")
    worker = shop.start("worker")
    run_id = _signed_up(shop, "/signup")
    attempts = _attempts_of(shop, run_id)
    _ends(worker)
    request, send, first, second, *smtp = _in_order(receiver.spans)
    assert [one.name for one in (request, send, first, second, *smtp)] == [
        "POST /signup",
        "send mail:welcome",
        "process mail:welcome",
        "process mail:welcome",
        "smtp",
        "smtp",
    ]
    assert len({span.trace_id for span in receiver.spans}) == 1
    assert [span.parent_id for span in (send, first, second)] == [request.span_id, send.span_id, send.span_id]
    assert {span.parent_id for span in smtp} == {first.span_id, second.span_id}
    assert [span.kind for span in (request, send, first)] == ["SERVER", "PRODUCER", "CONSUMER"]
    assert [span.service for span in (request, send, first, second)] == ["web", "web", "shop", "shop"]
    assert [span.status for span in (first, second)] == ["ERROR", "UNSET"]
    assert first.events == ["exception"]
    assert first.links == [send.span_id]
    assert second.links == [send.span_id, first.span_id]
    assert first.attributes["messaging.system"] == "rabbitmq"
    assert first.attributes["actorjobs.run.id"] == run_id
    assert first.attributes["messaging.destination.name"].endswith(".work")
    assert [attempt["span_id"] for attempt in attempts] == [first.span_id, second.span_id]


def test_spans_made_in_a_child_process_arrive_too(shop: Shell, receiver: Receiver) -> None:
    shop.environment |= receiver.variables("grpc")
    (shop.folder / "exporting.py").write_text(EXPORTING["grpc"], encoding="utf-8")
    worker = shop.start("worker")
    _attempts_of(shop, _signed_up(shop, "/signup?check=1"))
    _ends(worker)
    found = {span.name: span for span in receiver.spans}
    assert found["lookup"].parent_id == found["process mail:check"].span_id
    assert found["lookup"].service == "shop"
    assert found["process mail:check"].trace_id == found["POST /signup"].trace_id == found["lookup"].trace_id


def test_a_dispatch_from_the_shell_is_sent_before_it_ends(shop: Shell, receiver: Receiver) -> None:
    done = shop("dispatch", "mail:welcome", '{"email": "ada@example.org"}', **receiver.variables("http/protobuf"))
    assert done.returncode == 0, done.stderr
    assert [span.name for span in receiver.spans] == ["send mail:welcome"]


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_metrics_of_a_worker_arrive(shop: Shell, tmp_path: Path, protocol: str) -> None:
    with receiving(tmp_path, shows="metrics") as receiver:
        variables = receiver.variables(protocol, metrics=True) | {"OTEL_TRACES_EXPORTER": "none"}
        assert shop("dispatch", "mail:check", '{"email": "ada@example.org"}', **variables).returncode == 0
        done = shop("worker", "--burst", **variables)
        assert done.returncode == 0, done.stdout + done.stderr
        assert receiver.metrics >= {
            "messaging.client.sent.messages",
            "messaging.client.operation.duration",
            "messaging.client.consumed.messages",
            "messaging.process.duration",
            "actorjobs.queue.wait.duration",
            "actorjobs.runs",
        }


def test_a_receiver_that_is_down_holds_up_no_drain_for_long(shop: Shell) -> None:
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{free_port()}", "OTEL_METRICS_EXPORTER": "none"}
    assert shop("dispatch", "mail:check", '{"email": "ada@example.org"}').returncode == 0
    began = time.monotonic()
    done = shop("worker", "--burst", **variables)
    assert done.returncode == 0, done.stdout + done.stderr
    assert time.monotonic() - began < 20
    assert "not taken in time" in done.stderr


def _signed_up(shop: Shell, path: str) -> str:
    """What a web server of its own answers; it has ended by then."""
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "web:app", "--port", str(port), "--log-level", "warning"]
    with subprocess.Popen(command, cwd=shop.folder, env=shop.environment) as web:
        try:
            wait_for_port(port)
            body = json.dumps({"email": "ada@example.org"}).encode()
            request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", body, method="POST")
            with urllib.request.urlopen(request, timeout=20) as response:
                run_id: str = json.load(response)["id"]
            web.send_signal(signal.SIGTERM)
            web.wait(timeout=30)
        finally:
            web.kill()
    return run_id


def _attempts_of(shop: Shell, run_id: str) -> list[dict[str, str]]:
    """Once the run has succeeded."""
    deadline = time.monotonic() + 60
    while True:
        told = shop.json("runs", "show", run_id)
        if told["run"]["state"] == "succeeded":
            attempts: list[dict[str, str]] = told["attempts"]
            return attempts
        assert time.monotonic() < deadline, told
        time.sleep(0.2)


def _ends(worker: subprocess.Popen[str]) -> None:
    worker.send_signal(signal.SIGTERM)
    output, _ = worker.communicate(timeout=40)
    assert worker.returncode == 0, output


def _in_order(spans: list[Received]) -> list[Received]:
    """The way of the request first; attempts by their number; then what handlers made."""
    order = ["POST /signup", "send mail:welcome", "process mail:welcome", "smtp"]
    number = "actorjobs.attempt.number"
    return sorted(spans, key=lambda span: (order.index(span.name), span.attributes.get(number, "")))
