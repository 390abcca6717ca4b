"""The server that `benchmarks.web` asks: `python -m benchmarks.web_server FRAMEWORK PORT`.

Each framework has the same four endpoints: that dispatch or do not, on the event loop or in a thread. All requests go
through the middleware for tenants and traces.
"""

from __future__ import annotations

import asyncio
import sys

import uvicorn
from aiohttp import web
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

import actorjobs as aj
from actorjobs.integrations.aiohttp import cleanup_ctx, tenant_middleware, trace_middleware
from actorjobs.integrations.starlette import TenantMiddleware, TraceMiddleware, lifespan

FRAMEWORKS = ("starlette", "fastapi", "aiohttp")


@aj.job("bench:web")
async def work(address: str, title: str) -> None: ...


async def plain() -> str:
    return "nothing was dispatched, and this is as long"


async def dispatch() -> str:
    return (await work.dispatch("ada@example.org", "Welcome to the shop")).id


def plain_in_thread() -> str:
    return "nothing was dispatched, and this is as long"


def dispatch_in_thread() -> str:
    return work.dispatch_sync("ada@example.org", "Welcome to the shop").id


def tenant_of(request: HTTPConnection | web.Request) -> str | None:
    return request.headers.get("x-tenant")


ON_LOOP = {"/plain": plain, "/dispatch": dispatch}
IN_THREAD = {"/plain-thread": plain_in_thread, "/dispatch-thread": dispatch_in_thread}


def starlette_app(runtime: aj.Runtime) -> Starlette:
    async def on_loop(request: Request) -> PlainTextResponse:
        return PlainTextResponse(await ON_LOOP[request.url.path]())

    def in_thread(request: Request) -> PlainTextResponse:
        return PlainTextResponse(IN_THREAD[request.url.path]())

    routes = [*(Route(path, on_loop) for path in ON_LOOP), *(Route(path, in_thread) for path in IN_THREAD)]
    middleware = [Middleware(TraceMiddleware), Middleware(TenantMiddleware, resolve=tenant_of)]
    return Starlette(routes=routes, lifespan=lifespan(runtime), middleware=middleware)


def fastapi_app(runtime: aj.Runtime) -> FastAPI:
    app = FastAPI(lifespan=lifespan(runtime))
    app.add_middleware(TenantMiddleware, resolve=tenant_of)
    app.add_middleware(TraceMiddleware)
    for path, endpoint in {**ON_LOOP, **IN_THREAD}.items():
        app.get(path)(endpoint)
    return app


def aiohttp_app(runtime: aj.Runtime) -> web.Application:
    async def on_loop(request: web.Request) -> web.Response:
        return web.Response(text=await ON_LOOP[request.path]())

    async def in_thread(request: web.Request) -> web.Response:
        return web.Response(text=await asyncio.to_thread(IN_THREAD[request.path]))

    app = web.Application(middlewares=[trace_middleware, tenant_middleware(tenant_of)])
    app.add_routes(web.get(path, on_loop) for path in ON_LOOP)
    app.add_routes(web.get(path, in_thread) for path in IN_THREAD)
    app.cleanup_ctx.append(cleanup_ctx(runtime))
    return app


def main(framework: str, port: int) -> None:
    runtime = aj.Runtime(jobs=[work])
    if framework == "aiohttp":
        web.run_app(aiohttp_app(runtime), host="127.0.0.1", port=port, access_log=None, print=None)
    else:
        app = starlette_app(runtime) if framework == "starlette" else fastapi_app(runtime)
        uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning", access_log=False)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
