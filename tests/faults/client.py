"""A process that dispatches so many runs, one after the other, and says so after each."""

from __future__ import annotations

import asyncio
import sys

from tests.faults.app import Work, make_runtime, work


async def main(count: int) -> None:
    async with make_runtime(queues={}).client() as runtime:
        for _ in range(count):
            handle = await runtime.dispatch(work, Work())
            print(handle.id, flush=True)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
