"""A real OTLP receiver: the collector `rotel`, which prints every span, or metric, that it takes."""

from __future__ import annotations

import importlib.util
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.rabbit.ports import free_port


@dataclass
class Received:
    """A span as the receiver printed it; `links` are the ids of the spans that it links to."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    kind: str
    status: str
    service: str
    attributes: dict[str, str] = field(default_factory=dict[str, str])
    events: list[str] = field(default_factory=list[str])
    links: list[str] = field(default_factory=list[str])


class Receiver:
    """Takes spans and metrics over gRPC and HTTP."""

    def __init__(self, log: Path, ports: dict[str, int]) -> None:
        self._log = log
        self._ports = ports

    def variables(self, protocol: str, *, metrics: bool = False) -> dict[str, str]:
        """What tells an SDK to send its spans here, by `grpc` or `http/protobuf`, and its metrics if wanted."""
        return {
            "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{self._ports[protocol]}",
            "OTEL_METRICS_EXPORTER": "otlp" if metrics else "none",
        }

    @property
    def metrics(self) -> set[str]:
        """The names of the metrics that came."""
        parts = self._log.read_text().split("ResourceMetrics #")[1:]
        return {name for part in parts for name in re.findall(r"-> Name: ([\w.]+)", part)}

    @property
    def spans(self) -> list[Received]:
        return [span for part in self._log.read_text().split("ResourceSpans #")[1:] for span in _spans_of(part)]


def program() -> Path | None:
    """The receiver's program, if it is installed."""
    found = importlib.util.find_spec("rotel")
    path = None if found is None or found.origin is None else Path(found.origin).with_name("rotel-agent")
    return path if path is not None and path.exists() else None


@contextmanager
def receiving(folder: Path, shows: str = "traces") -> Iterator[Receiver]:
    """A receiver on free ports, until the end of the block, that `shows` what it gets of traces or of metrics."""
    ports = {"grpc": free_port(), "http/protobuf": free_port()}
    log, agent = folder / "rotel.log", program()
    assert agent is not None
    command = [str(agent), "start", "--pid-file", str(folder / "rotel.pid"), "--exporter", "blackhole"]
    command += ["--debug-log", shows, "--debug-log-verbosity", "detailed"]
    command += ["--otlp-grpc-endpoint", f"127.0.0.1:{ports['grpc']}"]
    command += ["--otlp-http-endpoint", f"127.0.0.1:{ports['http/protobuf']}"]
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
        try:
            for port in ports.values():
                wait_for_port(port)
            yield Receiver(log, ports)
        finally:
            process.kill()


def wait_for_port(port: int, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            assert time.monotonic() < deadline, f"nobody listens on port {port}"
            time.sleep(0.05)


def _spans_of(part: str) -> Iterator[Received]:
    head, *bodies = re.split(r"^Span #\d+$", part, flags=re.MULTILINE)
    service = re.search(r"-> service\.name: Str\((.*)\)", head)
    for body in bodies:
        own, _, links = body.partition("\nLinks:\n")
        own, _, events = own.partition("\nEvents:\n")
        yield Received(
            name=_value(own, "Name"),
            trace_id=_value(own, "Trace ID"),
            span_id=_value(own, "ID"),
            parent_id=_value(own, "Parent ID"),
            kind=_value(own, "Kind").removeprefix("SPAN_KIND_"),
            status=_value(own, "Status code").removeprefix("STATUS_CODE_"),
            service="" if service is None else service[1],
            attributes=dict(re.findall(r"^ +-> ([\w.]+): \w+\((.*)\)$", own, re.MULTILINE)),
            events=re.findall(r"-> Name: (.*)", events),
            links=re.findall(r"-> ID: (\w+)", links),
        )


def _value(text: str, name: str) -> str:
    found = re.search(rf"^ +{name} +: ?(.*)$", text, re.MULTILINE)
    return "" if found is None else found[1].strip()
