"""When the command line sets up the SDK, and when it leaves that alone. Each case in a process of its own: what is set
up is the process's for good."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from typing import Any

import pytest

LOOK = """
    import json, logging, sys
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    {before}
    from opentelemetry import metrics, trace
    from actorjobs.telemetry.setup import configure
    telemetry = configure(service_name="shop" {arguments})
    provider = trace.get_tracer_provider()
    resource = dict(provider.resource.attributes) if hasattr(provider, "resource") else {{}}
    processors = getattr(getattr(provider, "_active_span_processor", None), "_span_processors", ())
    exporters = [type(one.span_exporter).__module__ for one in processors]
    told = dict(traces=type(provider).__module__, metrics=type(metrics.get_meter_provider()).__module__,
                is_ours=bool(telemetry), resource=resource, exporters=exporters)
    assert telemetry.close(5)
    print(json.dumps(told))
"""
SDK = "opentelemetry.sdk"
ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}


def look(before: str = "", arguments: str = "", **variables: str) -> dict[str, Any]:
    """What is there after `configure` in a new process, and what it has logged."""
    program = textwrap.dedent(LOOK).format(before=before, arguments=arguments)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment | variables, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return {**told, "log": done.stderr.splitlines()}


def is_sdk(told: dict[str, Any]) -> tuple[bool, bool]:
    return told["traces"].startswith(SDK), told["metrics"].startswith(SDK)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, (False, False)),
        (ENDPOINT, (True, True)),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:9"}, (True, False)),
        ({"OTEL_TRACES_EXPORTER": "console"}, (True, False)),
        ({"OTEL_METRICS_EXPORTER": "otlp"}, (False, True)),
        (ENDPOINT | {"OTEL_METRICS_EXPORTER": "none"}, (True, False)),
        (ENDPOINT | {"OTEL_TRACES_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "none"}, (False, False)),
        (ENDPOINT | {"OTEL_SDK_DISABLED": "True"}, (False, False)),
    ],
)
def test_only_what_the_environment_asks_for(variables: dict[str, str], expected: tuple[bool, bool]) -> None:
    told = look(**variables)
    assert is_sdk(told) == expected
    assert told["is_ours"] == any(expected)


@pytest.mark.parametrize(
    ("variables", "exporter"),
    [
        ({}, "grpc"),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, "http"),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc"}, "grpc"),
    ],
)
def test_the_protocol(variables: dict[str, str], exporter: str) -> None:
    [module] = look(**ENDPOINT, **variables, OTEL_METRICS_EXPORTER="none")["exporters"]
    assert module.startswith(f"opentelemetry.exporter.otlp.proto.{exporter}.")


def test_a_provider_that_is_there_stays() -> None:
    before = (
        "from opentelemetry.sdk.trace import TracerProvider; from opentelemetry import trace as t; "
        "mine = TracerProvider(); t.set_tracer_provider(mine)"
    )
    told = look(before, **ENDPOINT, OTEL_METRICS_EXPORTER="none")
    assert not told["is_ours"]
    assert told["exporters"] == []
    assert told["log"] == []


def test_who_reports() -> None:
    own = look(**ENDPOINT, OTEL_METRICS_EXPORTER="none")["resource"]
    assert own["service.name"] == "shop"
    assert ":" in own["service.instance.id"]
    given = look(
        **ENDPOINT,
        OTEL_METRICS_EXPORTER="none",
        OTEL_SERVICE_NAME="till",
        OTEL_RESOURCE_ATTRIBUTES="service.instance.id=one,deployment=eu",
    )["resource"]
    assert (given["service.name"], given["service.instance.id"], given["deployment"]) == ("till", "one", "eu")


def test_a_reader_of_metrics_needs_no_exporter() -> None:
    before = "from opentelemetry.sdk.metrics.export import InMemoryMetricReader"
    told = look(before, ", readers=[InMemoryMetricReader()]")
    assert is_sdk(told) == (False, True)


@pytest.mark.parametrize("blocked", ["opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.grpc.trace_exporter"])
def test_a_missing_extra_is_one_line(blocked: str) -> None:
    told = look(f"sys.modules[{blocked!r}] = None", **ENDPOINT)
    assert not told["is_ours"]
    [line] = told["log"]
    assert "pip install 'actorjobs[otel]'" in line


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"OTEL_METRICS_EXPORTER": "prometheus"}, "use `actorjobs worker --metrics-port`"),
        ({"OTEL_METRICS_EXPORTER": "bogus"}, "'bogus'"),
        ({"OTEL_METRICS_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"}, "grpc or http/protobuf"),
    ],
)
def test_an_exporter_that_cannot_be_had_takes_no_other_along(variables: dict[str, str], words: str) -> None:
    reader = ", readers=[__import__('opentelemetry.sdk.metrics.export', fromlist=['x']).InMemoryMetricReader()]"
    told = look(arguments=reader, **variables)
    assert is_sdk(told) == (False, True)
    [line] = told["log"]
    assert words in line


def test_a_propagator_that_there_is_not_is_one_line() -> None:
    before = "from actorjobs.telemetry.carrying import propagator; print(propagator().fields, file=sys.stderr)"
    warned, fields = look(before, OTEL_PROPAGATORS="bogus")["log"]
    assert "OTEL_PROPAGATORS" in warned
    assert "traceparent" in fields
    assert "baggage" in fields


def test_a_propagator_that_is_set_later_is_followed() -> None:
    before = (
        "from opentelemetry import propagate; from opentelemetry.baggage import propagation; "
        "from actorjobs.telemetry.carrying import propagator; propagator(); "
        "propagate.set_global_textmap(propagation.W3CBaggagePropagator()); "
        "print(type(propagator()).__name__, file=sys.stderr)"
    )
    assert look(before)["log"] == ["W3CBaggagePropagator"]


def test_an_exporter_that_there_is_not_is_one_line() -> None:
    told = look(OTEL_TRACES_EXPORTER="zipkin9")
    [line] = told["log"]
    assert line == "telemetry without the exporter 'zipkin9' of traces: ValueError: there is no exporter of that name"
    assert is_sdk(told) == (False, False)
