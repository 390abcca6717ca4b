"""The application that is killed: every handler writes what it does to a file of its own, behind the runtime's back."""

from __future__ import annotations

import asyncio
import json
import os
import time

from pydantic import BaseModel

import actorjobs as aj

_log = os.open(f"{os.environ.get('CRASH_EFFECTS', '/tmp')}/{os.getpid()}.jsonl", os.O_APPEND | os.O_CREAT | os.O_WRONLY)


class Work(BaseModel):
    """What to do: work so long, fail so often first, or take the whole process down."""

    kind: str
    seconds: float = 0.0
    failures: int = 0


def note(event: str, ctx: aj.JobContext) -> None:
    line = {
        "event": event,
        "run": ctx.run_id,
        "attempt": ctx.attempt,
        "pid": os.getpid(),
        "mono": time.monotonic(),
        "wall": time.time(),
    }
    os.write(_log, json.dumps(line).encode() + b"\n")


@aj.job("crash:work", queue="work", retry=aj.Retry(attempts=4, backoff=aj.Fixed(0.5)))
async def work(payload: Work, ctx: aj.JobContext) -> str:
    note("start", ctx)
    try:
        if payload.kind == "killer":
            await asyncio.sleep(0.05)
            os._exit(9)
        until = time.monotonic() + payload.seconds
        while (left := until - time.monotonic()) > 0:
            await asyncio.sleep(min(0.05, left))
            note("tick", ctx)
        if ctx.failures < payload.failures:
            raise RuntimeError("as asked")
    except asyncio.CancelledError:
        note("canceled", ctx)
        raise
    note("end", ctx)
    return f"{ctx.run_id}/{ctx.attempt}"


runtime = aj.Runtime(jobs=[work], queues={"work": 10}, grace=10)
