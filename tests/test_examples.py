"""Every example runs as a user would run it, and says what it promises to say."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from tests.brokers.topologies import forget

EXAMPLES = Path(__file__).parents[1] / "examples"

WEB = {"web_starlette", "web_fastapi", "web_aiohttp"}
"""Servers: tests/integrations has them answer requests."""

PROMISES = {
    "welcome_mail": ("sent: succeeded", "refused before dispatch: payload.title", "without a mailer: run"),
    "reports_generate": ("made: pdf:16", "made: csv:0", "for good:", "too late:", "'dead_lettered'"),
    "process_user": ("email_sent=True user_id=1 language='de'", "attempt 3 by True: ValueError: unknown action: dance"),
    "deliver_webhook": (
        "one run for one key: True True",
        "conflict with: True",
        "delivered: 204 after 4 attempts",
        "canceled before it started: canceled",
        "replayed: 204 True",
    ),
    "send_digests": (
        "five requests, one run: True",
        "ada@x.org: 5 mentions, mail 1",
        "alan@x.org: 2 mentions, mail 2",
        "connections opened: 2",
    ),
    "resize_images": (
        "denied: the application's policy does not allow to enqueue",
        "cat.png for painters",
        "failed: ProcessDied: the child process was killed by SIGSEGV",
        "failed: AttemptTimedOut",
        "attempt 1 of images:resize is over",
        "explained: dead_lettered",
    ),
    "typed_inline": (
        "inline: ['Welcome -> ada@example.org'] ['mail:welcome: no address']",
        "recorded: [('mail:welcome', {'email': 'alan@example.org'})]",
        "called directly: grace@example.org ['Welcome -> grace@example.org']",
    ),
}


def test_every_example_is_tested() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(PROMISES) | WEB


def perform(command: list[str], folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("ACTORJOBS_")}
    return subprocess.run(
        [sys.executable, "-W", "error", *command],
        cwd=folder,
        env=environment | variables,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def keeps_its_promises(name: str, done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, done.stderr
    for promise in PROMISES[name]:
        assert promise in done.stdout, done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", sorted(PROMISES))
def test_example(name: str, tmp_path: Path) -> None:
    path = EXAMPLES / f"{name}.py"
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 80
    keeps_its_promises(name, perform([str(path)], tmp_path))


@pytest.fixture
def servers(postgres_url: str, rabbitmq_server: str) -> Iterator[dict[str, str]]:
    """PostgreSQL and RabbitMQ as a user would name them, in a namespace of the test's own."""
    namespace = f"examples-{uuid4().hex[:12]}"
    yield {
        "ACTORJOBS_STORE_URL": postgres_url,
        "ACTORJOBS_BROKER_URL": rabbitmq_server,
        "ACTORJOBS_NAMESPACE": namespace,
    }
    asyncio.run(forget(rabbitmq_server, namespace, ("default", "smtp", "mail", "reports")))


@pytest.mark.parametrize("name", sorted(PROMISES))
def test_example_on_servers_gives_the_same_results(name: str, servers: dict[str, str], tmp_path: Path) -> None:
    keeps_its_promises(name, perform([str(EXAMPLES / f"{name}.py")], tmp_path, **servers))


@pytest.mark.slow
@pytest.mark.parametrize("on", ["embedded", "servers"])
def test_demo(on: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """It holds the record against what its servers received, and fails where they differ."""
    variables = request.getfixturevalue("servers") if on == "servers" else {}
    done = perform(["-m", "actorjobs", "demo"], tmp_path, PYTHONPATH=str(EXAMPLES.parent), **variables)
    for namespace in set(re.findall(r"demo-\d{8}-\d{6}", done.stdout)) if variables else ():
        asyncio.run(forget(variables["ACTORJOBS_BROKER_URL"], namespace, ("mail", "webhooks")))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "NOT AS IT MUST BE" not in done.stdout
    assert "Traceback" not in done.stderr
