"""Orders over HTTP with aiohttp, confirmed by the same process, each for its own tenant.

Run it: python examples/web_aiohttp.py, and in another terminal
    curl -X POST localhost:8000/orders -H 'x-tenant: acme' -d '{"number": 7}'
"""

import asyncio
import os
from collections.abc import AsyncIterator

from aiohttp import web
from aiohttp.typedefs import Handler
from pydantic import BaseModel, ValidationError

import actorjobs as aj
from actorjobs.integrations.aiohttp import cleanup_ctx, tenant_middleware, trace_middleware
from actorjobs.telemetry.setup import configure


class Order(BaseModel):
    number: int
    seconds: float = 0.0


@aj.job("orders:confirm")
async def confirm(order: Order, ctx: aj.JobContext) -> str:
    await asyncio.sleep(order.seconds)  # what others need for it
    return f"order {order.number} of {ctx.tenant} is confirmed"


async def take(request: web.Request) -> web.Response:
    run = await confirm.dispatch(Order.model_validate_json(await request.read()))
    return web.json_response({"run": run.id}, status=202)


async def take_in_thread(request: web.Request) -> web.Response:
    """aiohttp has no plain handlers: code that blocks goes to a thread, with the tenant and trace of the request."""
    run = await asyncio.to_thread(confirm.dispatch_sync, Order.model_validate_json(await request.read()))
    return web.json_response({"run": run.id}, status=202)


async def show(request: web.Request) -> web.Response:
    """Whoever knows the id sees the run: forbid it by Runtime(policy=...), or compare run.tenant with the caller."""
    run = await runtime.runs.get(request.match_info["id"])
    return web.json_response({"state": run.state, "tenant": run.tenant, "trace": run.trace_id, "result": run.result})


@web.middleware
async def refuse(request: web.Request, handler: Handler) -> web.StreamResponse:
    """What was wrong with the request, for whoever sent it."""
    try:
        return await handler(request)
    except (ValidationError, aj.PayloadInvalid) as error:
        raise web.HTTPUnprocessableEntity(text=str(error)) from None
    except aj.RunNotFound as error:
        raise web.HTTPNotFound(text=str(error)) from None


def tenant_of(request: web.Request) -> str | None:
    """The caller's word, for the sake of the example: take it from what the request has proved instead."""
    return request.headers.get("x-tenant")


async def telemetry(app: web.Application) -> AsyncIterator[None]:
    """OpenTelemetry where OTEL_* variables ask for it, from before the runtime opens until it has drained."""
    async with configure(service_name="orders-web"):
        yield


runtime = aj.Runtime(jobs=[confirm])
app = web.Application(middlewares=[trace_middleware, tenant_middleware(tenant_of), refuse])
app.add_routes(
    [
        web.post("/orders", take),
        web.post("/orders/in-thread", take_in_thread),
        web.get("/runs/{id}", show),
    ]
)
# In this order, and left in the other. Without embed= it only dispatches: workers elsewhere perform.
app.cleanup_ctx.extend([telemetry, cleanup_ctx(runtime, embed=True)])

if __name__ == "__main__":
    web.run_app(app, port=int(os.environ.get("PORT", "8000")))
