"""A Prometheus of a test's own."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

UNPACKED = Path(__file__).parents[2] / ".services" / "prometheus" / "usr" / "bin"
NO_PROMETHEUS = "no prometheus to test with: run scripts/prometheus, then this again"


@dataclass(frozen=True)
class Programs:
    """Where its programs are."""

    prometheus: str
    promtool: str


def find_programs() -> Programs | None:
    """Those of the PATH, else those that scripts/prometheus has unpacked."""
    path = os.pathsep.join([os.environ.get("PATH", ""), str(UNPACKED)])
    prometheus, promtool = (shutil.which(name, path=path) for name in ("prometheus", "promtool"))
    return None if prometheus is None or promtool is None else Programs(prometheus, promtool)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def fetch(url: str) -> str:
    with urllib.request.urlopen(url, timeout=5) as answer:
        body: bytes = answer.read()
        return body.decode()


class Prometheus:
    """One that scrapes a few targets every second."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}"

    def is_ready(self) -> bool:
        try:
            return "Ready" in fetch(f"{self._url}/-/ready")
        except OSError:
            return False

    def query(self, expression: str) -> list[Any]:
        """The samples that an expression has now."""
        asked = urllib.parse.urlencode({"query": expression})
        answer = json.loads(fetch(f"{self._url}/api/v1/query?{asked}"))
        assert answer["status"] == "success", answer
        result: list[Any] = answer["data"]["result"]
        return result

    def alerts(self) -> set[str]:
        """The names of the rules that have a series, pending ones too."""
        answer = json.loads(fetch(f"{self._url}/api/v1/alerts"))
        return {alert["labels"]["alertname"] for alert in answer["data"]["alerts"]}


@contextmanager
def running(programs: Programs, folder: Path, targets: Sequence[int], rules: Path) -> Iterator[Prometheus]:
    """A Prometheus that scrapes these ports of this host and evaluates these rules."""
    port = free_port()
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(rules)],
        "scrape_configs": [
            {"job_name": "actorjobs", "static_configs": [{"targets": [f"127.0.0.1:{target}" for target in targets]}]}
        ],
    }
    (folder / "prometheus.yml").write_text(json.dumps(config))  # JSON is YAML
    with (folder / "prometheus.log").open("w") as log:
        process = subprocess.Popen(
            [
                programs.prometheus,
                f"--config.file={folder}/prometheus.yml",
                f"--storage.tsdb.path={folder}/data",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=log,
            stderr=log,
        )
    try:
        prometheus, deadline = Prometheus(port), time.monotonic() + 30
        while not prometheus.is_ready():
            assert process.poll() is None, (folder / "prometheus.log").read_text()
            assert time.monotonic() < deadline, (folder / "prometheus.log").read_text()
            time.sleep(0.1)
        yield prometheus
    finally:
        process.terminate()
        process.wait(30)
