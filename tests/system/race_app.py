"""One of several processes that ask for the same run at the same moment; prints the ids that it was given."""

from __future__ import annotations

import asyncio
import json
import sys
import time

import actorjobs as aj


@aj.job("race:run", queue="race")
async def contended(n: int) -> None: ...


async def main(kind: str, callers: int, start_at: float) -> None:
    options: dict[str, dict[str, object]] = {
        "unique": {"unique": aj.Unique()},
        "replace": {"unique": aj.Unique(on_conflict="replace"), "delay": 3600},
        "period": {"unique": aj.Unique(period=86400)},
        "key": {"idempotency_key": "only one"},
    }
    target = contended.options(**options[kind])  # type: ignore[arg-type]
    runtime = aj.Runtime(jobs=[contended])
    async with runtime.client():
        print("ready", flush=True)
        await asyncio.sleep(max(0.0, start_at - time.time()))
        handles = await asyncio.gather(*(target.dispatch(7) for _ in range(callers)))
        print(json.dumps([[handle.id, handle.existing] for handle in handles]), flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))
