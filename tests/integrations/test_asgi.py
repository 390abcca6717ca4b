"""Starlette and FastAPI applications in this process: what the examples do not show."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import httpx
import pytest
from fastapi import Depends, FastAPI, Query
from opentelemetry import baggage, trace
from opentelemetry.context import attach, detach
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

import actorjobs as aj
from actorjobs.integrations.fastapi import within_tenant
from actorjobs.integrations.starlette import TenantMiddleware, TraceMiddleware, lifespan
from tests.worker.conftest import MakeRuntime, make_runtime

__all__ = ["make_runtime"]

TRACE = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = f"00-{TRACE}-b7ad6b7169203331-01"


@aj.job("web:echo", queue="web")
async def echo(text: str) -> str:
    return text


async def in_task(request: Request) -> JSONResponse:
    return JSONResponse((await echo.dispatch("from a task")).id)


def in_thread(request: Request) -> JSONResponse:
    return JSONResponse(echo.dispatch_sync("from a thread").id)


async def over_socket(socket: WebSocket) -> None:
    await socket.accept()
    await socket.send_text((await echo.dispatch("over a socket")).id)
    await socket.close()


ROUTES = [Route("/task", in_task), Route("/thread", in_thread), WebSocketRoute("/socket", over_socket)]


async def by_query(request: HTTPConnection) -> str | None:
    """Coroutines may look it up somewhere; this one knows whom to refuse."""
    name = request.query_params.get("tenant")
    if name == "stranger":
        raise HTTPException(401, "who are you?", headers={"www-authenticate": "Bearer"})
    return name


def app_of(runtime: aj.Runtime, *, embed: bool = False) -> Starlette:
    middleware = [Middleware(TraceMiddleware), Middleware(TenantMiddleware, resolve=by_query)]
    return Starlette(routes=ROUTES, middleware=middleware, lifespan=lifespan(runtime, embed=embed))


@asynccontextmanager
async def asking(app: Starlette) -> AsyncGenerator[httpx.AsyncClient]:
    """The application within its lifespan, in this very loop."""
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as http,
    ):
        yield http


@pytest.mark.parametrize("path", ["/task", "/thread"])
async def test_the_whole_trace_context_goes_along(make_runtime: MakeRuntime, path: str) -> None:
    runtime = make_runtime(echo)
    headers = {"traceparent": TRACEPARENT, "tracestate": "vendor=1", "baggage": "customer=7"}
    async with asking(app_of(runtime)) as http:
        id = (await http.get(path, headers=headers)).json()
        [envelope] = [one async for one in envelopes(runtime)]
    assert envelope["id"] == id
    assert {name: envelope[name] for name in headers} == headers


async def envelopes(runtime: aj.Runtime) -> AsyncGenerator[Mapping[str, Any]]:
    """The rows of all runs."""
    async with runtime.store.engine.connect() as connection:
        for row in (await connection.exec_driver_sql("SELECT * FROM actorjobs_runs")).mappings():
            yield row


async def test_a_span_that_is_current_is_left_alone(make_runtime: MakeRuntime) -> None:
    """As an instrumentation around the application has it."""
    seen: list[int] = []

    class Instrumentation:
        def __init__(self, app: ASGIApp) -> None:
            self._app = app

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            own = trace.SpanContext(trace_id=7, span_id=7, is_remote=False)
            token = attach(trace.set_span_in_context(trace.NonRecordingSpan(own)))
            try:
                await self._app(scope, receive, send)
            finally:
                detach(token)

    async def look(request: Request) -> JSONResponse:
        seen.append(trace.get_current_span().get_span_context().trace_id)
        return JSONResponse(baggage.get_baggage("customer"))

    headers = {"traceparent": TRACEPARENT, "baggage": "customer=7"}
    for middleware, expected in (
        ([TraceMiddleware], (int(TRACE, 16), "7")),
        ([Instrumentation, TraceMiddleware], (7, None)),
    ):
        app = Starlette(routes=[Route("/", look)], middleware=[Middleware(one) for one in middleware])
        async with asking(app) as http:
            answer = await http.get("/", headers=headers)
        assert (seen.pop(), answer.json()) == expected
    assert not trace.get_current_span().get_span_context().is_valid


async def test_whom_the_application_refuses_gets_its_answer(make_runtime: MakeRuntime) -> None:
    runtime = make_runtime(echo)
    async with asking(app_of(runtime)) as http:
        refused = await http.get("/task", params={"tenant": "stranger"})
        assert (refused.status_code, refused.text) == (401, "who are you?")
        assert refused.headers["www-authenticate"] == "Bearer"
        impossible = await http.get("/task", params={"tenant": "a\nb"})
        assert impossible.status_code == 400
        assert "tenant" in impossible.text
        assert not await runtime.runs.list()


async def test_sockets_have_tenant_and_trace_too(make_runtime: MakeRuntime) -> None:
    runtime = make_runtime(echo)
    app = app_of(runtime)
    async with asking(app):
        accepted, answer, *_ = await socket_of(app, b"tenant=acme")
        assert accepted["type"] == "websocket.accept"
        run = await runtime.runs.get(answer["text"])
        assert (run.tenant, run.trace_id) == ("acme", TRACE)
        [refused] = await socket_of(app, b"tenant=stranger")
        assert (refused["type"], refused["code"], refused["reason"]) == ("websocket.close", 1008, "who are you?")


async def socket_of(app: Starlette, query: bytes) -> list[Message]:
    """What the application sends to a WebSocket that connects and says nothing, as a server would see it."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        sent.append(message)

    headers = [(b"host", b"test"), (b"traceparent", TRACEPARENT.encode())]
    scope = {"type": "websocket", "path": "/socket", "query_string": query, "headers": headers, "subprotocols": []}
    await app(scope, receive, send)
    return sent


async def test_a_policy_sees_the_tenant_of_whoever_asks(make_runtime: MakeRuntime) -> None:
    class OwnTenantOnly:
        async def allows(self, access: aj.Access) -> bool:
            return access.caller == access.tenant == "acme"

    async def list_runs(request: Request) -> JSONResponse:
        return JSONResponse([run.id for run in await runtime.runs.list(tenant="acme")])

    runtime = make_runtime(echo, policy=OwnTenantOnly())
    app = app_of(runtime)
    app.routes.append(Route("/runs", list_runs))
    async with asking(app) as http:
        ids = [(await http.get(path, params={"tenant": "acme"})).json() for path in ("/task", "/thread")]
        assert sorted((await http.get("/runs", params={"tenant": "acme"})).json()) == sorted(ids)
        for path in ("/task", "/thread", "/runs"):
            with pytest.raises(aj.PolicyDenied):
                await http.get(path, params={"tenant": "globex"})


async def test_the_own_lifespan_lies_within_the_runtimes(make_runtime: MakeRuntime) -> None:
    order: list[str] = []
    runtime = make_runtime(echo)

    @asynccontextmanager
    async def own(app: Starlette) -> AsyncGenerator[dict[str, str]]:
        order.append(await (await echo.dispatch("at the start")).result(timeout=10))
        yield {"greeting": "hello"}
        assert runtime.is_open
        order.append("left")

    async def greet(request: Request) -> JSONResponse:
        return JSONResponse(request.state.greeting)

    app = Starlette(routes=[Route("/", greet)], lifespan=lifespan(runtime, own, embed=True))
    async with app.router.lifespan_context(app) as state:
        scope = {"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": [], "state": state}
        answer = await answer_of(app, scope)
        assert json.loads(answer) == "hello"
    assert order == ["at the start", "left"]
    assert not runtime.is_open


async def answer_of(app: Starlette, scope: Scope) -> bytes:
    """The body of the answer; what a server does, which hands the lifespan's state to each request."""
    body = bytearray()

    async def receive() -> Message:
        return {"type": "http.request", "body": b""}

    async def send(message: Message) -> None:
        body.extend(message.get("body", b""))

    await app(scope, receive, send)
    return bytes(body)


async def test_a_fastapi_dependency_gives_the_tenant_to_both_kinds_of_endpoints(make_runtime: MakeRuntime) -> None:
    async def account(token: Annotated[str, Query()]) -> str | None:
        return token if token != "nobody" else None

    runtime = make_runtime(echo)
    app = FastAPI(lifespan=lifespan(runtime))
    own = within_tenant(account)

    @app.get("/task")
    async def task(tenant: str | None = Depends(own)) -> list[str | None]:
        return [tenant, aj.current_tenant(), (await echo.dispatch("")).id]

    @app.get("/thread", dependencies=[Depends(own)])
    def thread() -> list[str | None]:
        return [aj.current_tenant(), aj.current_tenant(), echo.dispatch_sync("").id]

    async with asking(app) as http:
        for path in ("/task", "/thread"):
            for token, expected in (("acme", "acme"), ("nobody", None)):
                [given, current, id] = (await http.get(path, params={"token": token})).json()
                assert (given, current, (await runtime.runs.get(id)).tenant) == (expected,) * 3
            assert (await http.get(path, params={"token": "x" * 129})).status_code == 400
            assert (await http.get(path)).status_code == 422
        assert aj.current_tenant() is None


@pytest.mark.parametrize("framework", ["Starlette", "FastAPI", "aiohttp"])
def test_without_the_framework_the_extra_is_named(framework: str) -> None:
    name = framework.lower()
    code = f"import sys; sys.modules['{name}'] = None; import actorjobs.integrations.{name}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"this needs {framework}: pip install 'actorjobs[{name}]'" in done.stderr


def test_the_library_itself_imports_no_framework() -> None:
    code = "import sys, actorjobs; print({'starlette', 'fastapi', 'aiohttp'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path.cwd())
    assert done.stdout.strip() == "set()"
