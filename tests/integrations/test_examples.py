"""The web examples, each as a server process that is asked over HTTP."""

from __future__ import annotations

import asyncio
import secrets
import signal
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest

import actorjobs as aj
from tests.integrations.serving import PATIENCE_SECONDS, Served, serving, started

EXAMPLES = Path(__file__).parents[2] / "examples"
FRAMEWORKS = ("starlette", "fastapi", "aiohttp")

pytestmark = [pytest.mark.system, pytest.mark.slow]


@pytest.fixture(params=FRAMEWORKS)
def framework(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
async def served(framework: str, tmp_path: Path) -> AsyncGenerator[Served]:
    """The example, on the default store in a folder of the test's own; with its worker where it has one."""
    async with AsyncExitStack() as stack:
        if framework == "fastapi":
            command = ["-m", "actorjobs", "worker", "web_fastapi:runtime"]
            variables = {"PYTHONPATH": f"{EXAMPLES}:{EXAMPLES.parent}"}
            worker = Served(await started(command, tmp_path, variables), httpx.AsyncClient())
            stack.push_async_callback(worker.stop)
        path = str(EXAMPLES / f"web_{framework}.py")
        yield await stack.enter_async_context(serving([path], tmp_path, {}))


async def order(served: Served, where: str, number: int, *, seconds: float = 0.0, **headers: str) -> httpx.Response:
    """In the path's own way: Starlette's plain functions cannot read the body."""
    return await served.http.post(
        where,
        params={"number": number},
        json={"number": number, "seconds": seconds},
        headers={name.replace("_", "-"): value for name, value in headers.items()},
    )


@pytest.mark.parametrize("where", ["/orders", "/orders/in-thread"])
async def test_each_request_dispatches_for_its_tenant_and_in_its_trace(served: Served, where: str) -> None:
    async def one(number: int) -> None:
        trace, tenant = secrets.token_hex(16), f"tenant-{number}"
        traceparent = f"00-{trace}-{secrets.token_hex(8)}-01"
        answer = await order(served, where, number, x_tenant=tenant, traceparent=traceparent)
        assert answer.status_code == 202, answer.text
        shown = await served.until(answer.json()["run"], "succeeded")
        assert shown["tenant"] == tenant
        assert shown["trace"] == trace
        assert shown["result"] == f"order {number} of {tenant} is confirmed"

    await asyncio.gather(*(one(number) for number in range(25)))


async def test_a_request_without_a_trace_gets_one_of_its_own(served: Served) -> None:
    shown = []
    for broken in ({}, {"traceparent": "00-" + "0" * 32 + "-" + "1" * 16 + "-01"}, {"traceparent": "nonsense"}):
        answer = await order(served, "/orders", 1, x_tenant="acme", **broken)
        shown.append(await served.until(answer.json()["run"], "succeeded"))
    assert all(len(one["trace"]) == 32 for one in shown)
    assert len({one["trace"] for one in shown}) == 3


async def test_a_tenant_that_cannot_be_is_refused(served: Served, framework: str) -> None:
    assert (await order(served, "/orders", 1, x_tenant="x" * 129)).status_code == 400
    without = await order(served, "/orders", 1)
    assert without.status_code == (422 if framework == "fastapi" else 202)


async def test_what_cannot_be_taken_is_refused_with_a_reason(served: Served) -> None:
    acme = {"x-tenant": "acme"}
    for where in ("/orders", "/orders/in-thread"):
        answer = await served.http.post(where, params={"number": "seven"}, json={"number": "seven"}, headers=acme)
        assert answer.status_code == 422
        assert "number" in answer.text
    answer = await served.http.post("/orders", json={"number": 10**30}, headers=acme)
    assert (answer.status_code, "64 bits" in answer.text) == (422, True)
    answer = await served.http.get("/runs/of-nobody", headers=acme)
    assert answer.status_code == 404
    assert "of-nobody" in answer.text


async def test_sigterm_lets_running_work_end(served: Served, framework: str, tmp_path: Path) -> None:
    run = (await order(served, "/orders", 7, seconds=1.5, x_tenant="acme")).json()["run"]
    await served.until(run, "running")
    # uvicorn dies of the signal, once it has done its work; aiohttp exits.
    assert await served.stop() in (0, -signal.SIGTERM), served.said
    assert "Traceback" not in served.said
    async with aj.Runtime(store=f"sqlite:///{tmp_path}/actorjobs.db").client() as client:
        ended = await client.runs.wait(run, timeout=PATIENCE_SECONDS)
        assert (ended.state, ended.attempt) == ("succeeded", 1)
