"""A runtime in an aiohttp application: its cleanup context, and the tenant and trace of each request.

    app = web.Application(middlewares=[trace_middleware, tenant_middleware(resolve)])
    app.cleanup_ctx.append(cleanup_ctx(runtime))

Needs `actorjobs[aiohttp]`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

try:
    from aiohttp import web
    from aiohttp.typedefs import Handler, Middleware
except ModuleNotFoundError as missing:
    raise ImportError("this needs aiohttp: pip install 'actorjobs[aiohttp]'") from missing

from actorjobs.errors import InvalidOption
from actorjobs.integrations.resolving import Resolve, tenant_of
from actorjobs.runtime import Runtime
from actorjobs.telemetry.requests import within_trace_of
from actorjobs.tenancy import tenant

__all__ = ["cleanup_ctx", "tenant_middleware", "trace_middleware"]


def cleanup_ctx(runtime: Runtime, *, embed: bool = False) -> Callable[[web.Application], AsyncIterator[None]]:
    """Opens the runtime with the application: to dispatch, or with `embed` to perform in its own process too.

    The server's shutdown drains: it lasts until running work has ended or been handed back.
    """

    async def opened(app: web.Application) -> AsyncIterator[None]:
        async with runtime if embed else runtime.client():
            yield

    return opened


@web.middleware
async def trace_middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Has what a request dispatches belong to the trace that its `traceparent` header names.

    For applications without an instrumentation of OpenTelemetry; beside one it does nothing, if it is the inner one.
    """
    with within_trace_of(request.headers):
        return await handler(request)


def tenant_middleware(resolve: Resolve[web.Request]) -> Middleware:
    """Has each request dispatch, read and manage for the tenant that `resolve` finds in it.

    `resolve` takes the request and gives the tenant's name or None, or a coroutine of either. It may raise aiohttp's
    HTTP exceptions; a name that no tenant can have is answered with 400.
    """

    @web.middleware
    async def within_tenant(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            name = await tenant_of(request, resolve)
        except InvalidOption as error:
            raise web.HTTPBadRequest(text=str(error)) from None
        with tenant(name):
            return await handler(request)

    return within_tenant
