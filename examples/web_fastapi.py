"""Orders over HTTP with FastAPI, confirmed by workers: this process only dispatches.

Run both in this folder (where the default store, a file, is made), each in a terminal, then order something:
    python web_fastapi.py
    actorjobs worker web_fastapi:runtime
    curl -X POST localhost:8000/orders -H 'x-tenant: acme' -H 'content-type: application/json' -d '{"number": 7}'
"""

import asyncio
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import uvicorn
from fastapi import Depends, FastAPI, Header, HTTPException, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel

import actorjobs as aj
from actorjobs.integrations.fastapi import TraceMiddleware, lifespan, within_tenant
from actorjobs.telemetry.setup import configure


class Order(BaseModel):
    number: int
    seconds: float = 0.0


@aj.job("orders:confirm")
async def confirm(order: Order, ctx: aj.JobContext) -> str:
    await asyncio.sleep(order.seconds)  # what others need for it
    return f"order {order.number} of {ctx.tenant} is confirmed"


def tenant_of(x_tenant: Annotated[str, Header()]) -> str:
    """The caller's word, for the sake of the example: take it from what the request has proved instead."""
    return x_tenant


runtime = aj.Runtime(jobs=[confirm])


@asynccontextmanager
async def life(app: FastAPI) -> AsyncGenerator[None]:
    """OpenTelemetry where OTEL_* variables ask for it, from before the runtime opens until it has drained."""
    async with configure(service_name="orders-web"), lifespan(runtime)(app):
        yield


app = FastAPI(lifespan=life, dependencies=[Depends(within_tenant(tenant_of))])
app.add_middleware(TraceMiddleware)


@app.exception_handler(aj.PayloadInvalid)
async def refuse(_request: Request, error: Exception) -> JSONResponse:
    """What a model takes and no database does, such as a number of thirty digits."""
    return JSONResponse({"detail": str(error)}, status_code=422)


@app.post("/orders", status_code=202)
async def take(order: Order) -> dict[str, str]:
    run = await confirm.dispatch(order)
    return {"run": run.id}


@app.post("/orders/in-thread", status_code=202)
def take_in_thread(order: Order) -> dict[str, str]:
    """FastAPI calls plain functions in threads; what they dispatch has the same tenant and trace."""
    return {"run": confirm.dispatch_sync(order).id}


@app.get("/runs/{run_id}")
async def show(run_id: str) -> dict[str, Any]:
    """Whoever knows the id sees the run: forbid it by Runtime(policy=...), or compare run.tenant with the caller."""
    try:
        run = await runtime.runs.get(run_id)
    except aj.RunNotFound as error:
        raise HTTPException(404, str(error)) from None
    return {"state": run.state, "tenant": run.tenant, "trace": run.trace_id, "result": run.result}


if __name__ == "__main__":
    uvicorn.run(app, port=int(os.environ.get("PORT", "8000")))
