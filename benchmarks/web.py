"""What a dispatch adds to a web request: two endpoints of one server, of which one dispatches, asked in turn.

    python -m benchmarks.web [--frameworks starlette fastapi aiohttp] [--on sqlite postgresql rabbitmq+postgresql]
                             [--in-thread] [--rate 200] [--seconds 3] [--windows 7]

Each endpoint is asked `rate` times a second, at fixed times, however long the answers take. A window gives the median
and the 99th percentile of both; shown are the medians of all windows, in milliseconds, and of those in which the
machine was quiet: the endpoint that does nothing had a 99th percentile of 2 ms at most. Nothing performs the runs.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from benchmarks import servers
from benchmarks.command import at_least_one, parse, positive
from benchmarks.systems import POSTGRESQL, RABBITMQ
from benchmarks.web_server import FRAMEWORKS
from benchmarks.workloads import quantile

STARTS_WITHIN_SECONDS = 30.0
WARM_UP_SECONDS = 1.0
QUIET_MILLISECONDS = 2.0
HEADERS = {"x-tenant": "acme", "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
"""What the middleware reads."""
STORES = ("sqlite", "postgresql", "rabbitmq+postgresql")


@dataclass(frozen=True, slots=True)
class Window:
    """Milliseconds of the endpoint without a dispatch, and of the one with it."""

    plain: list[float]
    dispatching: list[float]

    def added(self, q: float) -> float:
        return quantile(self.dispatching, q) - quantile(self.plain, q)

    @property
    def is_quiet(self) -> bool:
        """Whether the machine had nothing else to do: the endpoint that does nothing was fast throughout."""
        return quantile(self.plain, 0.99) <= QUIET_MILLISECONDS


@asynccontextmanager
async def serving(framework: str, settings: Mapping[str, str]) -> AsyncGenerator[str]:
    """A server in a process of its own, with these `ACTORJOBS_*` settings; its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("ACTORJOBS_")}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.web_server", framework, str(port)),
        env={**inherited, **settings},
        cwd=Path(__file__).parents[1],
    )
    try:
        await _until_it_listens(process, port)
        yield f"http://127.0.0.1:{port}"
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def _until_it_listens(process: asyncio.subprocess.Process, port: int) -> None:
    deadline = time.monotonic() + STARTS_WITHIN_SECONDS
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            if process.returncode is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the server does not listen (exit status {process.returncode})") from None
            await asyncio.sleep(0.1)
        else:
            writer.close()
            return


async def measure(url: str, *, rate: float, seconds: float, windows: int, in_thread: bool = False) -> list[Window]:
    """Ask both endpoints in turn, `rate` times a second each."""
    suffix = "-thread" if in_thread else ""
    paths = (f"{url}/plain{suffix}", f"{url}/dispatch{suffix}")
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), headers=HEADERS) as http:
        await _window(http, paths, rate, WARM_UP_SECONDS)
        return [await _window(http, paths, rate, seconds) for _ in range(windows)]


async def _window(http: aiohttp.ClientSession, paths: tuple[str, str], rate: float, seconds: float) -> Window:
    async def one(path: str) -> float:
        began = time.perf_counter()
        async with http.get(path) as answer:
            await answer.read()
            answer.raise_for_status()
        return (time.perf_counter() - began) * 1000

    loop = asyncio.get_running_loop()
    began, asked = loop.time(), list[asyncio.Task[float]]()
    for number in range(round(rate * seconds) * 2):
        await asyncio.sleep(began + number / rate / 2 - loop.time())
        asked.append(asyncio.create_task(one(paths[number % 2])))
    took = await asyncio.gather(*asked)
    return Window(plain=sorted(took[::2]), dispatching=sorted(took[1::2]))


def added(windows: list[Window], q: float) -> float:
    """Milliseconds that a dispatch adds to that quantile: the median, so that one bad second decides nothing."""
    return statistics.median(window.added(q) for window in windows)


def _of_quiet(windows: list[Window]) -> str:
    """How many windows were quiet, and what a dispatch added to the p99 in those."""
    quiet = [window for window in windows if window.is_quiet]
    return f"{len(quiet)}: {added(quiet, 0.99):.2f}" if quiet else "none"


@asynccontextmanager
async def _settings(on: str, folder: str) -> AsyncGenerator[dict[str, str]]:
    if on == "sqlite":
        yield {"ACTORJOBS_STORE_URL": f"sqlite:///{folder}/runs.db"}
        return
    broker = servers.address(RABBITMQ) if RABBITMQ in on else None
    if reason := servers.missing([POSTGRESQL, *([RABBITMQ] if RABBITMQ in on else [])]):
        raise SystemExit(f"{on}: {reason}")
    url = await servers.server_store(POSTGRESQL)
    assert url is not None
    namespace = f"bench-web-{os.getpid()}"
    settings = {"ACTORJOBS_STORE_URL": url, "ACTORJOBS_NAMESPACE": namespace}
    try:
        yield settings if broker is None else {**settings, "ACTORJOBS_BROKER_URL": broker}
    finally:
        await servers.drop_database(url)
        if broker is not None:
            await servers.delete_namespace(broker, namespace, ["default"])


async def main(asked: argparse.Namespace) -> None:
    print(f"{'':32} plain p50    p99   dispatching p50    p99   added to p99   quiet windows")
    for on in asked.on:
        for framework in asked.frameworks:
            with tempfile.TemporaryDirectory() as folder:
                async with _settings(on, folder) as settings, serving(framework, settings) as url:
                    windows = await measure(
                        url,
                        rate=asked.rate,
                        seconds=asked.seconds,
                        windows=asked.windows,
                        in_thread=asked.in_thread,
                    )
            plain = [statistics.median(quantile(one.plain, q) for one in windows) for q in (0.5, 0.99)]
            dispatching = [statistics.median(quantile(one.dispatching, q) for one in windows) for q in (0.5, 0.99)]
            print(
                f"{f'{framework} on {on}':32} {plain[0]:9.2f} {plain[1]:6.2f} {dispatching[0]:17.2f} "
                f"{dispatching[1]:6.2f} {added(windows, 0.99):14.2f} {_of_quiet(windows):>15}",
                flush=True,
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.web", description=__doc__)
    parser.add_argument("--frameworks", nargs="+", choices=FRAMEWORKS, default=FRAMEWORKS)
    parser.add_argument("--on", nargs="+", choices=STORES, default=("sqlite",))
    parser.add_argument("--in-thread", action="store_true", help="plain functions, which call dispatch_sync")
    parser.add_argument("--rate", type=positive, default=200.0)
    parser.add_argument("--seconds", type=positive, default=3.0)
    parser.add_argument("--windows", type=at_least_one, default=7)
    asyncio.run(main(parse(parser)))
