"""A runtime in a Starlette application: its lifespan, and the tenant and trace of each request.

    app = Starlette(routes=[...], lifespan=lifespan(runtime), middleware=[Middleware(TenantMiddleware, resolve=...)])

Needs `actorjobs[starlette]`. The middleware is plain ASGI and fits any other application of that kind.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypeAlias, TypeVar, overload

try:
    from starlette.exceptions import HTTPException
    from starlette.requests import HTTPConnection
    from starlette.responses import PlainTextResponse
    from starlette.types import ASGIApp, Lifespan, Receive, Scope, Send
    from starlette.websockets import WebSocketClose
except ModuleNotFoundError as missing:
    raise ImportError("this needs Starlette: pip install 'actorjobs[starlette]'") from missing

from actorjobs.errors import InvalidOption
from actorjobs.integrations.resolving import Resolve, tenant_of
from actorjobs.runtime import Runtime
from actorjobs.telemetry.requests import within_trace_of
from actorjobs.tenancy import tenant

__all__ = ["TenantMiddleware", "TraceMiddleware", "lifespan"]

A = TypeVar("A")
Opened: TypeAlias = Callable[[A], AbstractAsyncContextManager[Mapping[str, Any]]]

POLICY_VIOLATION = 1008
"""What closes a WebSocket whose request is refused."""


@overload
def lifespan(runtime: Runtime, own: None = None, *, embed: bool = False) -> Opened[Any]: ...
@overload
def lifespan(runtime: Runtime, own: Lifespan[A], *, embed: bool = False) -> Opened[A]: ...
def lifespan(runtime: Runtime, own: Lifespan[A] | None = None, *, embed: bool = False) -> Opened[A]:
    """The lifespan of an application that dispatches; with `embed`, of one that also performs in its own process.

    `own` is the application's lifespan: entered when the runtime is open, left before it closes; what it yields is the
    state of the requests. The server's shutdown drains: it lasts until running work has ended or been handed back.
    """

    @asynccontextmanager
    async def opened(app: A) -> AsyncGenerator[Mapping[str, Any]]:
        async with runtime if embed else runtime.client():
            if own is None:
                yield {}
                return
            async with own(app) as state:
                yield state or {}

    return opened


class TraceMiddleware:
    """Has what a request dispatches belong to the trace that its `traceparent` header names.

    For applications without an instrumentation of OpenTelemetry; beside one it does nothing, if it is the inner one.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        with within_trace_of(HTTPConnection(scope).headers):
            await self._app(scope, receive, send)


class TenantMiddleware:
    """Has each request dispatch, read and manage for the tenant that `resolve` finds in it.

    `resolve` takes the `HTTPConnection` and gives the tenant's name or None, or a coroutine of either. It may raise
    Starlette's `HTTPException`, which is the answer then; a name that no tenant can have is answered with 400.
    """

    def __init__(self, app: ASGIApp, resolve: Resolve[HTTPConnection]) -> None:
        self._app = app
        self._resolve = resolve

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        try:
            name = await tenant_of(HTTPConnection(scope), self._resolve)
        except InvalidOption as error:
            await _refusal(scope, HTTPException(400, str(error)))(scope, receive, send)
        except HTTPException as error:
            await _refusal(scope, error)(scope, receive, send)
        else:
            with tenant(name):
                await self._app(scope, receive, send)


def _refusal(scope: Scope, error: HTTPException) -> ASGIApp:
    """The answer to a request that is refused before it reaches the application."""
    if scope["type"] == "websocket":
        return WebSocketClose(POLICY_VIOLATION, error.detail)
    return PlainTextResponse(error.detail, error.status_code, error.headers)
