"""A process that dispatches so many runs, one after the other, and says so after each; then it stays for a second."""

from __future__ import annotations

import asyncio
import sys

from tests.faults.app import Work, make_runtime, work


async def main(count: int) -> None:
    async with make_runtime(queues={}).client() as runtime:
        for _ in range(count):
            handle = await runtime.dispatch(work, Work())
            print(handle.id, flush=True)
        await asyncio.sleep(1)  # what it is to die of may come after the last of them


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
