"""What jobs that wait can reach at most: `python -m benchmarks.bare`.

    python -m benchmarks.bare [--concurrency 100] [--wait 0.01] [--runs 20000]

So many places in one process do nothing but wait, and then occupy the loop for so many microseconds: no broker, no
database, no library of jobs. What the timers of the loop and that work leave of the ideal is the bound of the workload
io.
"""

from __future__ import annotations

import argparse
import asyncio
import time

from actorjobs.cli.worker import run_on_uvloop
from benchmarks.command import at_least_one, parse, positive

WORK_MICROSECONDS = (0, 15, 30, 60)


async def reached(concurrency: int, wait: float, runs: int, work: float) -> float:
    """Runs per second; `wait` and `work` are seconds of each."""
    left = runs

    async def place() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await asyncio.create_task(asyncio.sleep(wait))
            _occupy(work)

    began = time.perf_counter()
    await asyncio.gather(*(place() for _ in range(concurrency)))
    return runs / (time.perf_counter() - began)


def _occupy(seconds: float) -> None:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bare", description="Bound jobs that wait.")
    parser.add_argument("--concurrency", type=at_least_one, default=100)
    parser.add_argument("--wait", type=positive, default=0.01, help="seconds that a job waits")
    parser.add_argument("--runs", type=at_least_one, default=20_000)
    asked = parse(parser)
    for microseconds in WORK_MICROSECONDS:
        rate = run_on_uvloop(reached(asked.concurrency, asked.wait, asked.runs, microseconds / 1e6))
        ideal = rate * asked.wait / asked.concurrency
        print(f"{microseconds:3} us of work a run: {rate:7,.0f}/s, {ideal:.0%} of the ideal")


if __name__ == "__main__":
    main()
