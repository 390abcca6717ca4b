"""What tracing costs: the same runs without an SDK, with one that records every span in batches and drops them, and
with one whose batches go to a collector by OTLP: of every trace, and of one in ten.

    python -m benchmarks.tracing [--runs 5000] [--repeat 3] [--wait 0.01] [--store URL] [--endpoint http://127.0.0.1:4317]

`--wait` is how many seconds a job waits, as for a database; without it jobs are empty. Alternating runs, each in a
process of its own, with the event loop and the garbage collector of `actorjobs worker`; the store is a SQLite file
unless one is named. Without an endpoint the collector `rotel` is started, which shares the machine. `dispatch` is one
by one, a hundred at a time; `drain` is one worker performing what waits. Medians; the ratio is the one of these.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import actorjobs as aj
from actorjobs.cli.worker import run_on_uvloop, spare_the_collector
from actorjobs.telemetry.setup import configure
from benchmarks import spans
from benchmarks.command import at_least_one, not_negative, parse

TOGETHER = 100
GRPC_PORT = 14317
KINDS = ("no SDK", "recording", "exporting", "one in ten")


@aj.job("bench:traced")
async def traced(wait: float) -> None:
    if wait:
        await asyncio.sleep(wait)


async def measured(store: str, runs: int, wait: float) -> dict[str, float]:
    """Runs per second, of dispatches and of a worker that performs them."""
    each = -(-runs // TOGETHER)
    telemetry = configure(service_name="bench")
    spare_the_collector()
    async with aj.Runtime(store=store, jobs=[traced]).client():
        began = time.perf_counter()
        await asyncio.gather(*(_dispatch(each, wait) for _ in range(TOGETHER)))
        dispatch = time.perf_counter() - began
    began = time.perf_counter()
    async with aj.Runtime(store=store, jobs=[traced], queues={"default": 100}) as runtime:
        calm = 0
        while calm < 3:
            await asyncio.sleep(0.02)
            calm = calm + 1 if runtime.is_at_rest else 0
        drain = time.perf_counter() - began
    telemetry.close()
    count = each * TOGETHER
    return {"dispatch": count / dispatch, "drain": count / drain, "end to end": count / (dispatch + drain)}


async def _dispatch(count: int, wait: float) -> None:
    for _ in range(count):
        await traced.dispatch(wait)


def in_child(kind: str, store: str, asked: argparse.Namespace, endpoint: str) -> dict[str, float]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    if kind == "one in ten":
        environment |= {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.1"}
    if kind in ("exporting", "one in ten"):
        environment |= {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint}
        environment |= {"OTEL_METRICS_EXPORTER": "none"}
    command = [sys.executable, "-m", "benchmarks.tracing", "--child", kind, "--store", store]
    command += ["--runs", str(asked.runs), "--wait", str(asked.wait)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


@contextmanager
def collector() -> Generator[str]:
    """The address of one that takes spans and forgets them."""
    found = importlib.util.find_spec("rotel")
    if found is None or found.origin is None:
        raise SystemExit("name a collector with --endpoint, or pip install rotel")
    with tempfile.TemporaryDirectory() as folder:
        command = [str(Path(found.origin).with_name("rotel-agent")), "start", "--exporter", "blackhole"]
        command += ["--pid-file", f"{folder}/pid", "--otlp-grpc-endpoint", f"127.0.0.1:{GRPC_PORT}"]
        command += ["--otlp-http-endpoint", f"127.0.0.1:{GRPC_PORT + 1}"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
            time.sleep(1)
            yield f"http://127.0.0.1:{GRPC_PORT}"
            process.terminate()


def main(asked: argparse.Namespace) -> None:
    if asked.child:
        if asked.child == "recording":
            spans.record()
        print(json.dumps(run_on_uvloop(measured(asked.store, asked.runs, asked.wait))))
        return
    figures: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
    with tempfile.TemporaryDirectory() as folder, nullcontext(asked.endpoint) if asked.endpoint else collector() as to:
        for repeat in range(asked.repeat):
            for kind in KINDS:
                store = asked.store or f"sqlite:///{folder}/{repeat}-{kind.replace(' ', '-')}.db"
                figures[kind].append(in_child(kind, store, asked, to))
                told = "  ".join(f"{what} {value:7,.0f}/s" for what, value in figures[kind][-1].items())
                print(f"{repeat + 1} {kind:10}: {told}", flush=True)
    for what in figures[KINDS[0]][0]:
        medians = {kind: statistics.median(one[what] for one in figures[kind]) for kind in KINDS}
        told = "  ".join(f"{kind} {value:7,.0f}/s {value / medians[KINDS[0]]:4.0%}" for kind, value in medians.items())
        print(f"{what:10}: {told}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=at_least_one, default=5000)
    parser.add_argument("--repeat", type=at_least_one, default=3)
    parser.add_argument("--wait", type=not_negative, default=0.0, help="seconds that a job waits")
    parser.add_argument("--store", help="the address of a database of its own; its runs are left in it")
    parser.add_argument("--endpoint", help="of a collector that takes OTLP over gRPC")
    parser.add_argument("--child", choices=KINDS, help=argparse.SUPPRESS)
    main(parse(parser))
