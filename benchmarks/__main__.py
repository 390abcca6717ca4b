"""Runs per second with full history: dispatched, executed and recorded, payload validated twice, durable commits.

    python -m benchmarks [--runs N] [--concurrency C] [--repeat R] [--stores S]

SQLite runs with `synchronous=FULL`; PostgreSQL (ACTORJOBS_TEST_POSTGRES_URL) and MariaDB (ACTORJOBS_TEST_MARIADB_URL)
with their own defaults. `rabbitmq+...` is the same store with RabbitMQ to deliver (ACTORJOBS_TEST_RABBITMQ_URL), in a
namespace of its own that is deleted afterwards. `idle start` is from the call of dispatch to the handler's first line,
one run at a time on a worker that has nothing else to do. Producer and worker share one process and one event loop.
Machines are noisy: the median of the repeats counts, and only ratios of figures of one run of this program mean
something.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import sys
import tempfile
import time
import uuid
from pathlib import Path

from pydantic import BaseModel
from sqlalchemy import make_url, text
from sqlalchemy.ext.asyncio import create_async_engine

import actorjobs as aj
from actorjobs.clock import SystemClock
from actorjobs.config import EMBEDDED
from actorjobs.stores import open_store

IDLE_DISPATCHES = 200
IDLE_STARTS = 100
IN_FLIGHT = 200


class Welcome(BaseModel):
    email: str
    title: str


PAYLOAD = Welcome(email="someone@example.org", title="a title of some length, as such titles are")
done = 0
started_at = 0.0


@aj.job("bench:noop", queue="bench")
async def noop(payload: Welcome) -> None:
    global done, started_at
    started_at = time.perf_counter()
    done += 1


async def measure(store: str, broker: str | None, runs: int, concurrency: int) -> dict[str, float]:
    """One repeat on a fresh namespace: figures per second, and milliseconds for a lone dispatch and a lone start."""
    namespace = f"bench-{uuid.uuid4().hex[:8]}"
    runtime = aj.Runtime(
        store=store, broker=broker or EMBEDDED, namespace=namespace, jobs=[noop], queues={"bench": concurrency}
    )
    try:
        return await figures_of(runtime, runs)
    finally:
        if broker is not None:
            await forget(broker, namespace)


async def figures_of(runtime: aj.Runtime, runs: int) -> dict[str, float]:
    figures: dict[str, float] = {}
    async with runtime.client():
        latencies = []
        for _ in range(IDLE_DISPATCHES):
            began = time.perf_counter()
            await noop.dispatch(PAYLOAD)
            latencies.append(time.perf_counter() - began)
        figures["idle dispatch p50 ms"] = statistics.median(latencies) * 1e3
        began = time.perf_counter()
        await dispatch(runs)
        figures["dispatch/s"] = runs / (time.perf_counter() - began)
    figures["drain/s"] = await until_done(runtime, runs + IDLE_DISPATCHES, dispatching=0)
    figures["end to end/s"] = await until_done(runtime, runs, dispatching=runs)
    figures["idle start p50 ms"] = await idle_start(runtime)
    return figures


async def idle_start(runtime: aj.Runtime) -> float:
    """Milliseconds from the dispatch of a lone run to its handler."""
    took: list[float] = []
    async with runtime:
        for _ in range(IDLE_STARTS):
            before, began = done, time.perf_counter()
            handle = await noop.dispatch(PAYLOAD)
            while done == before:
                await asyncio.sleep(0.0005)
            took.append(started_at - began)
            await handle.result()
            await asyncio.sleep(0.02)
    return statistics.median(took) * 1e3


async def forget(broker: str, namespace: str) -> None:
    """Delete what the namespace has in RabbitMQ."""
    from actorjobs.brokers.rabbitmq import Topology, connected, parse_address  # the driver may not be installed

    topology = Topology(namespace)
    async with connected(parse_address(broker), name="benchmarks") as link:
        channel = await link.channel()
        for parts in (topology.base(), topology.of_queue("bench")):
            for queue in parts.queues:
                await channel.queue_delete(queue.name)
            for exchange in parts.exchanges:
                await channel.exchange_delete(exchange.name)


async def dispatch(runs: int) -> None:
    window = asyncio.Semaphore(IN_FLIGHT)

    async def one() -> None:
        async with window:
            await noop.dispatch(PAYLOAD)

    async with asyncio.TaskGroup() as group:
        for _ in range(runs):
            group.create_task(one())


async def until_done(runtime: aj.Runtime, runs: int, *, dispatching: int) -> float:
    """Runs per second until every run is on record as succeeded; opening and closing are not counted."""
    global done
    done = 0
    async with runtime:
        already = (await runtime.runs.count_by_state())[aj.RunState.SUCCEEDED]
        began = time.perf_counter() if dispatching else None
        if dispatching:
            await dispatch(dispatching)
        while done == 0:
            await asyncio.sleep(0.001)
        began = began or time.perf_counter()
        while done < runs:
            await asyncio.sleep(0.005)
        while (await runtime.runs.count_by_state())[aj.RunState.SUCCEEDED] - already < runs:
            await asyncio.sleep(0.005)
        return runs / (time.perf_counter() - began)


SERVERS = {
    "postgresql": ("ACTORJOBS_TEST_POSTGRES_URL", "postgresql+asyncpg"),
    "mariadb": ("ACTORJOBS_TEST_MARIADB_URL", "mysql+asyncmy"),
}
BROKER = "ACTORJOBS_TEST_RABBITMQ_URL"
BROKERED = "rabbitmq+"
PAIRS = ["sqlite", f"{BROKERED}sqlite", "postgresql", f"{BROKERED}postgresql", "mariadb"]
"""Stores, alone or with RabbitMQ."""


async def server_store(kind: str) -> str | None:
    """A fresh database on the test server of that kind; None without one."""
    variable, driver = SERVERS[kind]
    server = os.environ.get(variable)
    if server is None:
        return None
    name = f"aj_bench_{uuid.uuid4().hex[:8]}"
    engine = create_async_engine(make_url(server).set(drivername=driver), isolation_level="AUTOCOMMIT")
    async with engine.connect() as connection:
        await connection.execute(text(f"CREATE DATABASE {name}"))
    await engine.dispose()
    url = make_url(server).set(database=name).render_as_string(hide_password=False)
    store = await open_store(url, namespace="bench", clock=SystemClock())
    await store.migrate()
    await store.close()
    return url


async def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks")
    parser.add_argument("--runs", type=int, default=5000)
    parser.add_argument("--concurrency", type=int, nargs="*", default=[10, 100])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--stores", nargs="*", default=PAIRS, choices=PAIRS)
    asked = parser.parse_args()
    results: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        stores: dict[str, str | None] = {"sqlite": f"sqlite:///{folder}/bench.db"}
        wanted = {pair.removeprefix(BROKERED) for pair in asked.stores}
        stores |= {kind: await server_store(kind) for kind in SERVERS if kind in wanted}
        for concurrency in asked.concurrency:
            for name in asked.stores:
                store = stores[name.removeprefix(BROKERED)]
                broker = os.environ.get(BROKER) if name.startswith(BROKERED) else None
                if store is None or (broker is None and name.startswith(BROKERED)):
                    missing = BROKER if store is not None else SERVERS[name.removeprefix(BROKERED)][0]
                    sys.stdout.write(f"{name}: skipped, {missing} is not set\n")
                    continue
                repeats = [await measure(store, broker, asked.runs, concurrency) for _ in range(asked.repeat)]
                medians = {key: statistics.median(repeat[key] for repeat in repeats) for key in repeats[0]}
                results.append({"store": name, "concurrency": concurrency, **medians})
                shown = "   ".join(
                    f"{key} {value:,.2f}" if value < 100 else f"{key} {value:,.0f}" for key, value in medians.items()
                )
                sys.stdout.write(f"{name:<19} concurrency {concurrency:<4} {shown}\n")
                sys.stdout.flush()
    machine = f"Python {platform.python_version()}, {os.cpu_count()} cores, {asked.runs} runs, median of {asked.repeat}"
    sys.stdout.write(f"({machine})\n")
    if asked.json is not None:
        asked.json.write_text(json.dumps({"machine": machine, "results": results}, indent=1), encoding="utf-8")


if __name__ == "__main__":
    asyncio.run(main())
