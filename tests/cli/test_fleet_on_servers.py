"""`actorjobs worker --processes 2` on PostgreSQL and RabbitMQ: both perform, and one SIGTERM drains both."""

from __future__ import annotations

import asyncio
import json
import signal
import textwrap
import time
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import pytest

from tests.brokers.topologies import forget
from tests.cli.conftest import Shell

APP = """
    import asyncio, os
    import actorjobs as aj

    @aj.job("fleet:where", queue="work")
    async def where(seconds: float) -> int:
        await asyncio.sleep(seconds)
        return os.getpid()

    runtime = aj.Runtime(jobs=[where], queues={"work": 3}, grace=20)
"""


@pytest.fixture
def served(shell: Shell, postgres_url: str, rabbitmq_server: str) -> Iterator[Shell]:
    namespace = f"fleet-{uuid4().hex[:12]}"
    (shell.folder / "shop.py").write_text(textwrap.dedent(APP), encoding="utf-8")
    shell.environment |= {"ACTORJOBS_STORE_URL": postgres_url, "ACTORJOBS_BROKER_URL": rabbitmq_server}
    shell.environment["ACTORJOBS_NAMESPACE"] = namespace
    yield shell
    asyncio.run(forget(rabbitmq_server, namespace))


def dispatch(shell: Shell, number: int, seconds: float) -> None:
    lines = "".join(json.dumps({"seconds": seconds}) + "\n" for _ in range(number))
    (shell.folder / "work.jsonl").write_text(lines, encoding="utf-8")
    done = shell("dispatch", "fleet:where", "--file", "work.jsonl")
    assert done.returncode == 0, done.stderr


def runs(shell: Shell, state: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = shell.json("runs", "list", "--state", state, "--limit", "100")["runs"]
    return found


def wait_for(is_so: Callable[[], bool], within: float = 40.0) -> None:
    deadline = time.monotonic() + within
    while not is_so():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.system
def test_both_processes_perform_and_drain(served: Shell) -> None:
    parent = served.start("worker", "--processes", "2")
    try:
        dispatch(served, 20, 0.5)
        wait_for(lambda: len(runs(served, "succeeded")) == 20)
        dispatch(served, 6, 6.0)
        wait_for(lambda: len(runs(served, "running")) == 6)
        parent.send_signal(signal.SIGTERM)
        output, _ = parent.communicate(timeout=40)
    finally:
        parent.kill()
        parent.wait()
    assert parent.returncode == 0, output
    done = [served.json("runs", "show", run["id"])["run"] for run in runs(served, "succeeded")[:6]]
    assert len(runs(served, "succeeded")) == 26
    assert len({run["result"] for run in done}) == 2
    assert {run["attempt"] for run in done} == {1}
