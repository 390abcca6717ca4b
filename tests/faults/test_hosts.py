"""Two hosts: worker processes in network namespaces of their own, one of which is cut off from everything."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from secrets import token_hex
from urllib.parse import urlsplit

import pytest

import actorjobs as aj
from tests.faults.app import Work
from tests.faults.bench import Bench, becomes, canceled, end, until

pytestmark = [
    pytest.mark.faults,
    pytest.mark.system,
    pytest.mark.skipif(os.geteuid() != 0 or shutil.which("ip") is None, reason="network namespaces need root and ip"),
]


async def ip(*arguments: str) -> None:
    process = await asyncio.create_subprocess_exec("ip", *arguments, stderr=asyncio.subprocess.PIPE)
    _, error = await process.communicate()
    if process.returncode != 0:
        raise OSError(f"ip {' '.join(arguments)}: {error.decode()}")


class Host:
    """A network namespace that reaches `gateway`, an address of this host, and nothing else."""

    def __init__(self, number: int) -> None:
        self.gateway, self._address = f"10.211.{number}.1", f"10.211.{number}.2"
        self.name = f"aj-{token_hex(3)}"
        self._outside, self._inside = f"{self.name}o", f"{self.name}i"
        self._exits = AsyncExitStack()

    @property
    def prefix(self) -> tuple[str, ...]:
        return ("ip", "netns", "exec", self.name)

    async def __aenter__(self) -> Host:
        try:
            await ip("netns", "add", self.name)
            self._exits.push_async_callback(ip, "netns", "del", self.name)
            await ip("link", "add", self._outside, "type", "veth", "peer", "name", self._inside, "netns", self.name)
            await ip("addr", "add", f"{self.gateway}/30", "dev", self._outside)
            await ip("link", "set", self._outside, "up")
            await ip("-n", self.name, "addr", "add", f"{self._address}/30", "dev", self._inside)
            for device in ("lo", self._inside):
                await ip("-n", self.name, "link", "set", device, "up")
        except OSError as error:
            await self._exits.aclose()
            pytest.skip(f"no network namespaces here: {error}")
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self._exits.aclose()

    async def cut_off(self) -> None:
        await ip("link", "set", self._outside, "down")

    async def connect(self) -> None:
        await ip("link", "set", self._outside, "up")

    @asynccontextmanager
    async def way_to(self, url: str) -> AsyncGenerator[str]:
        """The address, as seen from there, of a server that listens on this host's 127.0.0.1."""
        parts = urlsplit(url)
        assert parts.port is not None

        async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with suppress(OSError):
                while chunk := await reader.read(65536):
                    writer.write(chunk)
                    await writer.drain()
            writer.close()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            from_server, to_server = await asyncio.open_connection("127.0.0.1", parts.port)
            async with asyncio.TaskGroup() as group:
                group.create_task(carry(reader, to_server))
                group.create_task(carry(from_server, writer))

        async with await asyncio.start_server(serve, self.gateway, 0) as server:
            port = server.sockets[0].getsockname()[1]
            login = parts.netloc.rpartition("@")[0]
            yield parts._replace(netloc=f"{login}@{self.gateway}:{port}").geturl()


async def worker_on(bench: Bench, host: Host, stack: AsyncExitStack) -> asyncio.subprocess.Process:
    store = await stack.enter_async_context(host.way_to(bench.store))
    broker = await stack.enter_async_context(host.way_to(bench.broker))
    return await bench.process(*host.prefix, ACTORJOBS_STORE_URL=store, ACTORJOBS_BROKER_URL=broker)


async def are_there(bench: Bench, number: int) -> bool:
    return len(await bench.client.store.workers()) == number


async def are_rescued(bench: Bench, runs: list[str]) -> bool:
    attempts = [await bench.client.runs.attempts(run_id) for run_id in runs]
    return all(one[0].outcome is aj.Outcome.LOST for one in attempts)


async def test_runs_of_a_host_that_is_cut_off_are_rescued_by_another(bench: Bench) -> None:
    async with AsyncExitStack() as stack:
        one, other = [await stack.enter_async_context(Host(number)) for number in (17, 18)]
        lonely = await worker_on(bench, one, stack)
        runs = [await bench.dispatch(Work(seconds=34)) for _ in range(5)]
        await bench.started(runs)
        rescuer = await worker_on(bench, other, stack)
        await becomes(lambda: are_there(bench, 2))
        await asyncio.sleep(17)  # until the other has lived long enough to judge
        await one.cut_off()
        began = time.monotonic()
        await becomes(lambda: are_rescued(bench, runs), within=25)
        print(f"\nrescued {time.monotonic() - began:.1f} s after the cut", end="")
        # The broker may have given their new hints to the dead one, until it misses three heartbeats.
        await until(lambda: all(2 in bench.effects()[run_id] for run_id in runs), within=25)
        print(f", at work again {time.monotonic() - began:.1f} s after it")
        assert set(canceled(bench.effects())) == set(runs)
        await asyncio.sleep(max(0.0, 25 - (time.monotonic() - began)))
        await one.connect()
        await bench.dispatch_many(100, Work(seconds=0.5))
        await bench.judge(120)
        for run_id in runs:
            outcomes = [attempt.outcome for attempt in await bench.client.runs.attempts(run_id)]
            assert outcomes == [aj.Outcome.LOST, aj.Outcome.SUCCEEDED]
        assert lonely.returncode is None
        for process in (lonely, rescuer):
            await end(process)
