"""A server whose one endpoint dispatches after a while: `python -m tests.integrations.slow_app starlette|aiohttp`."""

from __future__ import annotations

import asyncio
import os
import sys

import uvicorn
from aiohttp import web
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

import actorjobs as aj
from actorjobs.integrations.aiohttp import cleanup_ctx
from actorjobs.integrations.starlette import lifespan

PORT = int(os.environ.get("PORT", "8000"))


@aj.job("slow:echo")
async def echo(text: str) -> str:
    return text


async def dispatched(seconds: str) -> str:
    await asyncio.sleep(float(seconds))
    return (await echo.dispatch("late")).id


async def by_starlette(request: Request) -> PlainTextResponse:
    return PlainTextResponse(await dispatched(request.query_params["seconds"]))


async def by_aiohttp(request: web.Request) -> web.Response:
    return web.Response(text=await dispatched(request.query["seconds"]))


def main(framework: str) -> None:
    runtime = aj.Runtime(jobs=[echo])
    if framework == "starlette":
        app = Starlette(routes=[Route("/slow", by_starlette)], lifespan=lifespan(runtime))
        uvicorn.run(app, port=PORT)
    else:
        server = web.Application()
        server.router.add_get("/slow", by_aiohttp)
        server.cleanup_ctx.append(cleanup_ctx(runtime))
        web.run_app(server, port=PORT)


if __name__ == "__main__":
    main(sys.argv[1])
