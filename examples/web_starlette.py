"""Orders over HTTP with Starlette, confirmed by the same process, each for its own tenant.

Run it: python examples/web_starlette.py, and in another terminal
    curl -X POST localhost:8000/orders -H 'x-tenant: acme' -d '{"number": 7}'
"""

import asyncio
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import uvicorn
from pydantic import BaseModel, ValidationError
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse
from starlette.routing import Route

import actorjobs as aj
from actorjobs.integrations.starlette import TenantMiddleware, TraceMiddleware, lifespan
from actorjobs.telemetry.setup import configure


class Order(BaseModel):
    number: int
    seconds: float = 0.0


@aj.job("orders:confirm")
async def confirm(order: Order, ctx: aj.JobContext) -> str:
    await asyncio.sleep(order.seconds)  # what others need for it
    return f"order {order.number} of {ctx.tenant} is confirmed"


async def take(request: Request) -> JSONResponse:
    run = await confirm.dispatch(Order.model_validate_json(await request.body()))
    return JSONResponse({"run": run.id}, status_code=202)


def take_in_thread(request: Request) -> JSONResponse:
    """Starlette calls plain functions in threads; what they dispatch has the same tenant and trace."""
    run = confirm.dispatch_sync(Order.model_validate(request.query_params))
    return JSONResponse({"run": run.id}, status_code=202)


async def show(request: Request) -> JSONResponse:
    """Whoever knows the id sees the run: forbid it by Runtime(policy=...), or compare run.tenant with the caller."""
    run = await runtime.runs.get(request.path_params["id"])
    return JSONResponse({"state": run.state, "tenant": run.tenant, "trace": run.trace_id, "result": run.result})


def refuse(_request: Request, error: Exception) -> JSONResponse:
    """What was wrong with the request, for whoever sent it."""
    return JSONResponse({"error": str(error)}, status_code=404 if isinstance(error, aj.RunNotFound) else 422)


def tenant_of(request: HTTPConnection) -> str | None:
    """The caller's word, for the sake of the example: take it from what the request has proved instead."""
    return request.headers.get("x-tenant")


runtime = aj.Runtime(jobs=[confirm])


@asynccontextmanager
async def life(app: Starlette) -> AsyncGenerator[None]:
    """OpenTelemetry where OTEL_* variables ask for it, from before the runtime opens until it has drained."""
    async with configure(service_name="orders-web"), lifespan(runtime, embed=True)(app):
        yield  # without embed= it only dispatches: workers elsewhere perform


app = Starlette(
    routes=[
        Route("/orders", take, methods=["POST"]),
        Route("/orders/in-thread", take_in_thread, methods=["POST"]),
        Route("/runs/{id}", show),
    ],
    lifespan=life,
    exception_handlers={ValidationError: refuse, aj.PayloadInvalid: refuse, aj.RunNotFound: refuse},
    middleware=[Middleware(TraceMiddleware), Middleware(TenantMiddleware, resolve=tenant_of)],
)

if __name__ == "__main__":
    uvicorn.run(app, port=int(os.environ.get("PORT", "8000")))
