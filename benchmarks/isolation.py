"""What a child process costs: to start, and per run, beside the same handler performed in the worker itself.

    python -m benchmarks.isolation [--runs N]

One run at a time, on SQLite. Medians; machines are noisy.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from typing import Any

import actorjobs as aj
from benchmarks.command import at_least_one, parse


@aj.job("bench:here")
async def here(text: str) -> str:
    return text


@aj.job("bench:isolated", isolation="process")
async def isolated(text: str) -> str:
    return text


async def milliseconds(job: Any, text: str) -> float:
    began = time.perf_counter()
    await (await job.dispatch(text)).result()
    return (time.perf_counter() - began) * 1000


async def main(runs: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        starts: list[float] = []
        for _ in range(5):
            async with aj.Runtime(store=f"sqlite:///{directory}/runs.db", jobs=[here, isolated]):
                await milliseconds(here, "")
                starts.append(await milliseconds(isolated, ""))
        print(f"first run, which starts a child: {statistics.median(starts):8.1f} ms")
        async with aj.Runtime(store=f"sqlite:///{directory}/runs.db", jobs=[here, isolated]):
            for size in (10, 200_000):
                text = "x" * size
                await milliseconds(isolated, text)
                for name, job in (("here", here), ("isolated", isolated)):
                    figures = [await milliseconds(job, text) for _ in range(runs)]
                    print(f"{size:7} bytes there and back, {name:8}: {statistics.median(figures):8.2f} ms")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=at_least_one, default=300)
    asyncio.run(main(parse(parser).runs))
