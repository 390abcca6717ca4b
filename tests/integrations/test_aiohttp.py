"""aiohttp applications on a server in this process: what the example does not show."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

import actorjobs as aj
from actorjobs.integrations.aiohttp import cleanup_ctx, tenant_middleware, trace_middleware
from tests.integrations.test_asgi import TRACE, TRACEPARENT, echo, envelopes
from tests.worker.conftest import MakeRuntime, make_runtime

__all__ = ["make_runtime"]


async def in_task(request: web.Request) -> web.Response:
    return web.json_response((await echo.dispatch("from a task")).id)


async def in_thread(request: web.Request) -> web.Response:
    return web.json_response((await asyncio.to_thread(echo.dispatch_sync, "from a thread")).id)


async def by_query(request: web.Request) -> str | None:
    name = request.query.get("tenant")
    if name == "stranger":
        raise web.HTTPUnauthorized(text="who are you?")
    return name


def app_of(runtime: aj.Runtime, *, embed: bool = False) -> web.Application:
    app = web.Application(middlewares=[trace_middleware, tenant_middleware(by_query)])
    app.router.add_get("/task", in_task)
    app.router.add_get("/thread", in_thread)
    app.cleanup_ctx.append(cleanup_ctx(runtime, embed=embed))
    return app


@pytest.mark.parametrize("path", ["/task", "/thread"])
async def test_tenant_and_trace_go_along(make_runtime: MakeRuntime, path: str) -> None:
    runtime = make_runtime(echo)
    headers = {"traceparent": TRACEPARENT, "tracestate": "vendor=1", "baggage": "customer=7"}
    async with TestClient(TestServer(app_of(runtime))) as http:
        await (await http.get(path, params={"tenant": "acme"}, headers=headers)).json()
        [envelope] = [one async for one in envelopes(runtime)]
    assert {name: envelope[name] for name in headers} == headers
    assert envelope["tenant"] == "acme"
    assert not runtime.is_open


async def test_whom_the_application_refuses_gets_its_answer(make_runtime: MakeRuntime) -> None:
    runtime = make_runtime(echo)
    async with TestClient(TestServer(app_of(runtime))) as http:
        refused = await http.get("/task", params={"tenant": "stranger"})
        assert (refused.status, await refused.text()) == (401, "who are you?")
        assert (await http.get("/task", params={"tenant": "a\nb"})).status == 400
        assert not await runtime.runs.list()


async def test_an_embedded_runtime_performs_what_its_requests_dispatch(make_runtime: MakeRuntime) -> None:
    runtime = make_runtime(echo)
    async with TestClient(TestServer(app_of(runtime, embed=True))) as http:
        id = await (await http.get("/thread", headers={"traceparent": TRACEPARENT})).json()
        run = await runtime.runs.wait(id, timeout=10)
        assert (run.result, run.trace_id) == ("from a thread", TRACE)
