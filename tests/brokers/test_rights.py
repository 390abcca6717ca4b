"""Users without the right to configure, imported with just the permissions that deploy/ gives them."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

import actorjobs as aj
from actorjobs.errors import TopologyMismatch
from actorjobs.model import Outcome, RunState
from tests.brokers.pools import Gate, broker_of, quick, wait
from tests.brokers.watching import until
from tests.rabbit.nodes import Node, NodeError, has_programs

DEPLOY = Path(__file__).parents[2] / "deploy"
DEFINITIONS = DEPLOY / "rabbitmq-definitions.json"
USERS = ("actorjobs-admin", "actorjobs-worker", "actorjobs-client", "actorjobs-operator")
PASSWORD = "a-password"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(120),
    pytest.mark.skipif(not has_programs(), reason="needs rabbitmq-server"),
]


@aj.job("rights:flaky", queue="work", retry=aj.Retry(attempts=3, backoff=aj.Fixed(0.4)))
async def flaky(ctx: aj.JobContext[Gate]) -> str:
    if ctx.failures < 2:
        raise RuntimeError("not yet")
    return "in the end"


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """It has imported the definitions of deploy/, and their administrator has applied the topology."""
    node = Node(tmp_path_factory.mktemp("node"))
    definitions = with_hashes(tmp_path_factory.mktemp("definitions") / "definitions.json")
    try:
        asyncio.run(_prepare(node, definitions))
        applied = actorjobs(node, "actorjobs-admin", "topology", "apply", "-Q", "work")
        assert applied.returncode == 0, applied.stderr
        yield node
    finally:
        node.close()


async def _prepare(node: Node, definitions: Path) -> None:
    await node.start()
    # As it is delivered it is refused, and no user is there whose password everybody may read.
    with pytest.raises(NodeError):
        await node.ctl("import_definitions", str(DEFINITIONS))
    assert "actorjobs-" not in await node.ctl("list_users")
    for _ in range(2):  # the second time changes nothing
        await node.ctl("import_definitions", str(definitions))


def with_hashes(copy: Path) -> Path:
    """The definitions with hashes of the password, as the README makes them."""
    definitions = json.loads(DEFINITIONS.read_text(encoding="utf-8"))
    for user in definitions["users"]:
        user["password_hash"] = hash_of(PASSWORD)
    copy.write_text(json.dumps(definitions), encoding="utf-8")
    return copy


def hash_of(password: str) -> str:
    """What the README's command prints; it reads its input where there is no terminal to ask at."""
    found = re.search(r"^python3 -c '(.*?)'$", (DEPLOY / "README.md").read_text("utf-8"), re.DOTALL | re.MULTILINE)
    assert found is not None
    command = [sys.executable, "-W", "ignore", "-c", found[1]]
    done = subprocess.run(
        command, input=f"{password}\n", capture_output=True, text=True, timeout=60, check=True, start_new_session=True
    )
    return done.stdout.strip()


def url_of(node: Node, user: str) -> str:
    return f"amqp://{user}:{PASSWORD}@127.0.0.1:{node.port}/actorjobs"


def actorjobs(node: Node, user: str, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ACTORJOBS_")}
    environment = {**kept, "ACTORJOBS_BROKER_URL": url_of(node, user), **more}
    command = [sys.executable, "-m", "actorjobs", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def without_declaring(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACTORJOBS_BROKER_DECLARE", "false")


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def options(sqlite_url: str, gate: Gate) -> dict[str, Any]:
    jobs: list[Any] = [wait, quick, flaky]
    return {"store": sqlite_url, "jobs": jobs, "queues": {"work": 5}, "context": lambda: nullcontext(gate), "grace": 1}


@pytest.fixture
async def client(node: Node, options: dict[str, Any], without_declaring: None) -> AsyncGenerator[aj.Runtime]:
    async with aj.Runtime(broker=url_of(node, "actorjobs-client"), **options).client() as client:
        yield client


@pytest.fixture
async def worker(node: Node, options: dict[str, Any], without_declaring: None) -> AsyncGenerator[aj.Runtime]:
    async with aj.Runtime(broker=url_of(node, "actorjobs-worker"), **options) as worker:
        yield worker


async def test_jobs_are_dispatched_performed_and_retried(client: aj.Runtime, worker: aj.Runtime) -> None:
    handles = [await client.dispatch(quick) for _ in range(20)]
    handles.append(await client.dispatch(quick.options(delay=0.5)))
    for handle in handles:
        assert await handle.result(timeout=20) == "done"
    retried = await client.dispatch(flaky)
    assert await retried.result(timeout=20) == "in the end"
    attempts = await client.runs.attempts(retried.id)
    assert [one.outcome for one in attempts] == [Outcome.FAILED, Outcome.FAILED, Outcome.SUCCEEDED]
    assert broker_of(client).publisher.counts.confirmed == 22
    assert broker_of(worker).publisher.counts.confirmed >= 2
    assert broker_of(client).publisher.counts.returned == 0


async def test_nothing_is_wrong_with_their_health(client: aj.Runtime, worker: aj.Runtime) -> None:
    await until(lambda: not worker.health)
    await until(lambda: not client.health)
    findings = await client.examine()
    assert not [one for one in findings if one.level != "ok" and ("topology" in one.check or "broker" in one.check)]


async def test_what_runs_is_canceled_within_a_second(client: aj.Runtime, worker: aj.Runtime, gate: Gate) -> None:
    handle = await client.dispatch(wait)
    await until(lambda: len(gate.started) == 1)
    began = time.monotonic()
    await handle.cancel()
    assert (await client.runs.wait(handle.id, timeout=10)).state is RunState.CANCELED
    assert time.monotonic() - began < 1.5


async def test_what_an_operator_wishes_is_broadcast(
    node: Node, options: dict[str, Any], worker: aj.Runtime, gate: Gate
) -> None:
    async with aj.Runtime(broker=url_of(node, "actorjobs-operator"), **options).client() as operator:
        handle = await operator.dispatch(wait)
        await until(lambda: len(gate.started) == 1)
        await handle.cancel()
        assert (await operator.runs.wait(handle.id, timeout=10)).state is RunState.CANCELED
        assert not operator.health
    assert "[monitoring]" in await node.ctl("list_users")


async def test_who_may_not_declare_is_told_which_right_is_missing_and_what_to_do(
    node: Node, options: dict[str, Any]
) -> None:
    with pytest.raises(TopologyMismatch) as refused:
        async with aj.Runtime(broker=url_of(node, "actorjobs-worker"), **options):
            pass
    said = str(refused.value)
    for words in ("right to configure aj.v1:default:", "actorjobs-worker", "ACTORJOBS_BROKER_DECLARE=false", "apply"):
        assert words in said


async def test_a_topology_that_nobody_has_applied_is_said_to_be_missing(
    node: Node, options: dict[str, Any], without_declaring: None
) -> None:
    with pytest.raises(TopologyMismatch, match="topology apply"):
        async with aj.Runtime(broker=url_of(node, "actorjobs-worker"), namespace="other", **options):
            pass


def test_verify_needs_no_right_to_configure(node: Node) -> None:
    given = {"ACTORJOBS_BROKER_DECLARE": "false"}
    done = actorjobs(node, "actorjobs-client", "topology", "verify", "-Q", "work", **given)
    assert done.returncode == 0, done.stdout + done.stderr
    done = actorjobs(node, "actorjobs-client", "topology", "verify", "-Q", "work", "-Q", "absent", **given)
    assert done.returncode == 1
    assert "q.absent is missing" in done.stdout


async def test_a_worker_that_declares_needs_no_more_than_the_administrator(node: Node, options: dict[str, Any]) -> None:
    options |= {"queues": {"work": 5, "new": 5}}
    async with aj.Runtime(broker=url_of(node, "actorjobs-admin"), **options) as worker:
        handle = await worker.dispatch(flaky.options(queue="new"))
        assert await handle.result(timeout=20) == "in the end"
        assert not worker.health


def test_the_readme_gives_the_same_permissions() -> None:
    table = (DEPLOY / "README.md").read_text(encoding="utf-8").replace("\\|", "|")
    definitions = json.loads(DEFINITIONS.read_text(encoding="utf-8"))
    given = definitions["permissions"]
    assert [one["user"] for one in given] == [one["name"] for one in definitions["users"]] == list(USERS)
    assert {one["vhost"] for one in given} == {one["name"] for one in definitions["vhosts"]} == {"actorjobs"}
    for one in given:
        for right in ("configure", "write", "read"):
            re.compile(one[right])
            assert f"`{one[right]}`" in table
