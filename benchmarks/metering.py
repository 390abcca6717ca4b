"""What metrics cost: processor time of a run from dispatch to end, without an SDK and with one, in alternating rounds.

    python -m benchmarks.metering [--runs 5000] [--rounds 5]

On SQLite in a temporary folder, in this process; a reader collects every second, as one that exports would.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from pathlib import Path

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from pydantic import BaseModel

import actorjobs as aj
from benchmarks.command import at_least_one, parse


class Nothing(BaseModel):
    n: int


@aj.job("bench:nothing", queue="work")
async def nothing(payload: Nothing) -> None:
    """An empty job."""


async def measure(runs: int, store: str, reader: InMemoryMetricReader | None) -> float:
    """Microseconds of processor time a run."""
    provider = None if reader is None else MeterProvider(metric_readers=[reader])
    async with aj.Runtime(store=store, jobs=[nothing], queues={"work": 100}, meter_provider=provider) as runtime:
        began = time.process_time()
        for start in range(0, runs, 500):
            await asyncio.gather(*(nothing.dispatch(Nothing(n=n)) for n in range(start, min(start + 500, runs))))
        while not runtime.is_at_rest:
            await asyncio.sleep(0.05)
            if reader is not None and time.monotonic() % 1 < 0.05:
                reader.get_metrics_data()
        taken = time.process_time() - began
        done = (await runtime.runs.count_by_state())[aj.RunState.SUCCEEDED]
        assert done == runs, done
    return taken / runs * 1e6


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=at_least_one, default=5000)
    parser.add_argument("--rounds", type=at_least_one, default=5)
    given = parse(parser)
    figures: dict[str, list[float]] = {"without an SDK": [], "with an SDK": []}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(given.rounds):
            for kind, found in figures.items():
                store = f"sqlite:///{Path(folder) / f'{number}-{len(kind)}.db'}"
                reader = InMemoryMetricReader() if kind == "with an SDK" else None
                found.append(await measure(given.runs, store, reader))
    for kind, found in figures.items():
        print(f"{kind:15} {statistics.median(found):6.0f} us a run ({min(found):.0f} to {max(found):.0f})")


if __name__ == "__main__":
    asyncio.run(main())
