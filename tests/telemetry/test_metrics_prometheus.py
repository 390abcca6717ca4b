"""A real Prometheus scrapes real worker processes, and every panel has something to show."""

from __future__ import annotations

import asyncio
import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from opentelemetry.sdk.metrics import MeterProvider

from actorjobs.errors import InvalidOption
from actorjobs.telemetry import metrics_prometheus
from actorjobs.telemetry.metrics import METRICS, RETRIES
from actorjobs.telemetry.metrics_meters import meters_of
from tests.brokers.topologies import forget
from tests.telemetry import promql
from tests.telemetry.prometheus import Programs, Prometheus, fetch, free_port, running
from tests.telemetry.test_metrics_dashboards import NAMES, RULES, expressions, in_force

ROOT = Path(__file__).parents[2]
OF_OTHERS = ("python_", "process_", "target_info")
SELDOM = {"actorjobs_settles_stale_total", "actorjobs_leases_lost_total", "actorjobs_observations_dropped_total"}
"""What nothing is done about here: they stay at 0, where they begin."""


class Fleet:
    """Two worker processes on PostgreSQL and RabbitMQ, kept busy by a job that dispatches others."""

    def __init__(self, environment: dict[str, str], ports: list[int]) -> None:
        self._environment = environment
        self.ports = ports

    def run(self, *arguments: str) -> None:
        done = subprocess.run(
            self._command(*arguments), env=self._environment, capture_output=True, text=True, cwd=ROOT
        )
        assert done.returncode == 0, done.stderr

    def start(self, log: Path) -> subprocess.Popen[bytes]:
        options = ("--processes", str(len(self.ports)), "--metrics-port", str(self.ports[0]))
        with log.open("w") as output:
            command = self._command("worker", "tests.telemetry.fleet:runtime", *options)
            return subprocess.Popen(command, env=self._environment, stdout=output, stderr=output, cwd=ROOT)

    def _command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "actorjobs", *arguments]


@pytest.fixture
def fleet(postgres_url: str, rabbitmq_server: str, tmp_path: Path) -> Iterator[Fleet]:
    namespace = f"metrics-{uuid4().hex[:12]}"
    known = {k: v for k, v in os.environ.items() if not k.startswith(("ACTORJOBS_", "OTEL_"))}
    known |= {"ACTORJOBS_STORE_URL": postgres_url, "ACTORJOBS_BROKER_URL": rabbitmq_server}
    known["ACTORJOBS_NAMESPACE"] = namespace
    fleet = Fleet(known, two_free_ports())
    fleet.run("dispatch", "fleet:feed", json.dumps({"n": 0}), "--app", "tests.telemetry.fleet:runtime")
    process = fleet.start(tmp_path / "workers.log")
    try:
        yield fleet
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
        asyncio.run(forget(rabbitmq_server, namespace, ("emails", "reports")))


def two_free_ports() -> list[int]:
    while True:
        first = free_port()
        with socket.socket() as probe:
            if first < 65535 and probe.connect_ex(("127.0.0.1", first + 1)) != 0:
                return [first, first + 1]


def has_data(prometheus: Prometheus, expression: str) -> bool:
    """Whether it has a sample that is a number."""
    values = [float(sample["value"][1]) for sample in prometheus.query(in_force(expression))]
    return any(math.isfinite(value) for value in values)


def wait_for(is_so: Callable[[], bool], within: float) -> bool:
    deadline = time.monotonic() + within
    while not (answer := is_so()) and time.monotonic() < deadline:
        time.sleep(0.5)
    return answer


def answers(port: int) -> bool:
    try:
        return "actorjobs_queue_depth" in fetch(f"http://127.0.0.1:{port}/metrics")
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.system
@pytest.mark.timeout(180)
def test_every_panel_has_data(fleet: Fleet, prometheus_programs: Programs, tmp_path: Path) -> None:
    with running(prometheus_programs, tmp_path, fleet.ports, RULES) as prometheus:
        empty = {(name, expression) for name in NAMES for expression in expressions(name)}

        def all_have_data() -> bool:
            nonlocal empty
            empty = {one for one in empty if not has_data(prometheus, one[1])}
            return not empty

        assert wait_for(all_have_data, 90), f"no data: {empty}\n{(tmp_path / 'workers.log').read_text()[-3000:]}"

        # What is shown is what happens: nothing stays where it began but what nobody provoked.
        names = {metric.in_prometheus for metric in METRICS if metric.kind == "counter"} - SELDOM
        grown = {name for name in names if float(prometheus.query(f"sum ({name})")[0]["value"][1]) > 0}
        assert grown == names
        assert float(prometheus.query("count (up == 1)")[0]["value"][1]) == 2
        telling = "count by (instance) (actorjobs_queue_depth)"
        assert wait_for(lambda: len(prometheus.query(telling)) == 1, 30)  # one tells for both
        assert float(prometheus.query("sum (actorjobs_worker_slots_limit)")[0]["value"][1]) == 2 * (5 + 3)
        assert wait_for(lambda: "ActorjobsDeadLetters" in prometheus.alerts(), 30)
        assert not {"ActorjobsBrokerLost", "ActorjobsBrokerBlocked", "ActorjobsNobodyTells"} & prometheus.alerts()

    [telling] = [port for port in fleet.ports if answers(port)]
    text = fetch(f"http://127.0.0.1:{telling}/metrics")
    served = {line.split("{")[0].split(" ")[0] for line in text.splitlines() if not line.startswith("#")}
    served = {name.removesuffix("_created") for name in served if not name.startswith(OF_OTHERS)}
    assert served <= set(promql.known_series())
    assert 'otel_scope_name="actorjobs"' in text


def test_a_port_that_is_taken_is_one_clear_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InvalidOption, match=f"metrics port {port} cannot be used: Address already in use"):
            metrics_prometheus.MetricsServer(port=port, host="127.0.0.1").start()


def test_a_provider_that_exists_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("opentelemetry.metrics._internal._METER_PROVIDER", MeterProvider())
    port = free_port()
    with pytest.raises(InvalidOption, match="has a meter provider"):
        metrics_prometheus.MetricsServer(port=port, host="127.0.0.1").start()
    with pytest.raises(OSError, match="refused"):
        fetch(f"http://127.0.0.1:{port}/metrics")


def test_a_server_serves_until_it_is_stopped() -> None:
    server = metrics_prometheus.MetricsServer(port=free_port(), host="127.0.0.1")
    reader = server.start()
    provider = MeterProvider(metric_readers=[reader])
    meters = meters_of(provider)
    assert meters is not None
    meters.count(RETRIES, ("work", "test:work"), 3)
    url = f"http://127.0.0.1:{server.port}/metrics"
    [line] = [line for line in fetch(url).splitlines() if line.startswith("actorjobs_retries_total{")]
    assert line.endswith(" 3.0")
    provider.shutdown()
    server.stop()
    server.stop()  # again does no harm
    with pytest.raises(OSError, match="refused"):
        fetch(url)


def test_names_are_those_that_the_exporter_makes() -> None:
    from opentelemetry.exporter.prometheus import PrometheusMetricReader
    from opentelemetry.sdk.metrics.export import MetricReader
    from prometheus_client import CollectorRegistry, generate_latest

    registry = CollectorRegistry()
    reader: MetricReader = PrometheusMetricReader(registry=registry)
    meters = meters_of(provider := MeterProvider(metric_readers=[reader]))
    assert meters is not None
    reading: dict[object, dict[tuple[str, ...], float]] = {}
    for metric in METRICS:
        values = tuple(f"v{n}" for n, _ in enumerate(metric.attributes))
        match metric.kind:
            case "counter":
                meters.count(metric, values)
            case "histogram":
                meters.record(metric, 0.1, values)
            case _:
                reading[metric] = {values: 1.0}
    meters.attach(lambda: reading)  # type: ignore[arg-type,return-value]
    made = {line.split("{")[0] for line in generate_latest(registry).decode().splitlines() if line[0] != "#"}
    assert {name for name in made if not name.startswith("target_info")} == set(promql.known_series())
    provider.shutdown()
