"""An application whose workers do all that dashboards show: `actorjobs worker tests.telemetry.fleet:runtime`."""

from __future__ import annotations

import asyncio

import actorjobs as aj

QUICK = aj.Retry(attempts=2, backoff=aj.Fixed(0.1))


@aj.job("fleet:mail", queue="emails", retry=QUICK)
async def mail(ctx: aj.JobContext, n: int) -> int:
    await asyncio.sleep(0.01)
    if n % 5 == 0 and ctx.attempt == 1:
        raise ConnectionError("try again")
    return n


@aj.job("fleet:bad", queue="emails", retry=QUICK)
async def bad(n: int) -> None:
    raise ValueError(n)


@aj.job("fleet:report", queue="reports")
async def report(n: int) -> None:
    await asyncio.sleep(0.3)


@aj.job("fleet:feed", queue="reports")
async def feed(ctx: aj.JobContext, n: int) -> None:
    """Keep the fleet busy: dispatches are measured in the processes that Prometheus asks."""
    await mail.options(idempotency_key=f"mail-{n // 2}").dispatch(n // 2)
    await bad.dispatch(n)
    await report.dispatch(n)
    await report.options(delay=3600, expires_in=0.5).dispatch(n)
    await feed.options(delay=0.2).dispatch(n + 1)


runtime = aj.Runtime(jobs=[mail, bad, report, feed], queues={"emails": 5, "reports": 3}, grace=2)
