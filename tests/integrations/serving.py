"""A web server in a process of its own, asked over HTTP."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

PATIENCE_SECONDS = 30.0


class Served:
    """A running server: `http` asks it, `stop()` sends it SIGTERM."""

    def __init__(self, process: asyncio.subprocess.Process, http: httpx.AsyncClient) -> None:
        self.process = process
        self.http = http
        self.said = ""

    async def stop(self) -> int:
        """Its exit status; what it said is in `said` then."""
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
        output, _ = await asyncio.wait_for(self.process.communicate(), PATIENCE_SECONDS)
        self.said += output.decode()
        assert self.process.returncode is not None
        return self.process.returncode

    async def until(self, run: str, *states: str) -> dict[str, Any]:
        """What the server shows of that run once it is in one of these states."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            shown: dict[str, Any] = (
                (await self.http.get(f"/runs/{run}", headers={"x-tenant": "operator"})).raise_for_status().json()
            )
            if shown["state"] in states:
                return shown
            assert time.monotonic() < deadline, shown
            await asyncio.sleep(0.05)


@asynccontextmanager
async def serving(command: list[str], folder: Path, variables: Mapping[str, str]) -> AsyncGenerator[Served]:
    """`python COMMAND` in `folder`, listening on a free port that it is told as PORT."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    process = await started(command, folder, {**variables, "PORT": str(port)})
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE_SECONDS) as http:
        served = Served(process, http)
        try:
            await _until_it_answers(served)
            yield served
        finally:
            if process.returncode is None:
                await served.stop()


async def started(command: list[str], folder: Path, variables: Mapping[str, str]) -> asyncio.subprocess.Process:
    """`python COMMAND`, its output on one pipe, without this process's settings."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("ACTORJOBS_")}
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *("-W", "error", *command),
        cwd=folder,
        env=inherited | {"PYTHONPATH": str(Path(__file__).parents[2]), **variables},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )


async def _until_it_answers(served: Served) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            await served.http.get("/")
            return
        except httpx.TransportError:
            assert served.process.returncode is None, await served.stop() or served.said
            assert time.monotonic() < deadline
            await asyncio.sleep(0.1)
