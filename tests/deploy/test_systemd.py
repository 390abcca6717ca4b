"""The systemd unit: as systemd reads it, and its command as systemd starts it."""

from __future__ import annotations

import asyncio
import configparser
import itertools
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import actorjobs as aj
from tests.deploy.notified_app import block, inherited

DEPLOY = Path(__file__).parents[2] / "deploy"
UNIT = DEPLOY / "actorjobs-worker.service"
INSTALLED = "/opt/actorjobs/bin/actorjobs"
COMMAND = str(Path(sys.executable).parent / "actorjobs")
WATCHDOG_SECONDS = 0.4
NO_SYSTEMD = "no systemd-analyze here: it comes with systemd itself, which containers do without"


def unit() -> configparser.ConfigParser:
    """Repeated keys: the last one counts here."""
    parser = configparser.ConfigParser(strict=False, interpolation=None, delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(UNIT, encoding="utf-8")
    return parser


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason=NO_SYSTEMD)
def test_systemd_finds_nothing_to_say(tmp_path: Path) -> None:
    """It only warns of a key that it does not know, and exits with 0."""
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text(encoding="utf-8").replace(INSTALLED, COMMAND), encoding="utf-8")
    assert verify(copy) == (0, "")
    copy.write_text(copy.read_text(encoding="utf-8").replace("WatchdogSec=", "WatchDogSec="), encoding="utf-8")
    assert "WatchDogSec" in verify(copy)[1]


def verify(path: Path) -> tuple[int, str]:
    done = subprocess.run(["systemd-analyze", "verify", str(path)], capture_output=True, text=True, check=False)
    return done.returncode, done.stderr


def test_its_times_fit_the_runtimes() -> None:
    service = unit()["Service"]
    assert service["Type"] == "notify"
    assert float(service["TimeoutStopSec"]) >= aj.Runtime().settings.grace + 5 + 15
    assert float(service["WatchdogSec"]) > 300, "the worker's own end of a stuck loop comes first: it leaves a stack"


@dataclass
class Told:
    """What the service has said, with the moment of each datagram."""

    line: socket.socket
    words: list[tuple[float, str]] = field(default_factory=list)
    port: int = 0

    def hear(self) -> list[str]:
        while True:
            try:
                self.words.append((time.monotonic(), self.line.recv(4096).decode()))
            except BlockingIOError:
                return [text for _, text in self.words]

    async def until(self, word: str, *, times: int = 1) -> float:
        """The moment when it was said; the last one of several."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            self.hear()
            moments = [moment for moment, text in self.words if word in text.split("\n")]
            if len(moments) >= times:
                return moments[-1]
            await asyncio.sleep(0.02)
        raise AssertionError(f"{word} was not said {times} times: {self.words}")


@asynccontextmanager
async def service(
    folder: Path, told: Told, *more: str, watchdog_of: int | None = None
) -> AsyncGenerator[asyncio.subprocess.Process]:
    """The unit's ExecStart with systemd's variables, on a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        told.port = probe.getsockname()[1]
    words = shlex.split(unit()["Service"]["ExecStart"])
    assert words[0] == INSTALLED
    address = told.line.getsockname()
    variables = {
        "ACTORJOBS_APP": "tests.deploy.notified_app:runtime",
        "ACTORJOBS_STORE_URL": f"sqlite:///{folder}/actorjobs.db",
        "PYTHONPATH": str(DEPLOY.parent),
        "NOTIFY_SOCKET": address if isinstance(address, str) else "@" + address[1:].decode(),
        "WATCHDOG_USEC": str(round(WATCHDOG_SECONDS * 1_000_000)),
    }
    if watchdog_of is not None:
        variables["WATCHDOG_PID"] = str(watchdog_of)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ACTORJOBS_")}
    process = await asyncio.create_subprocess_exec(
        *(COMMAND, *[str(told.port) if word == "8081" else word for word in words[1:]], *more),
        cwd=folder,
        env=kept | variables,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def listening(port: int, told: Told) -> None:
    """Until then what is told is heard: a full socket takes no more."""
    deadline = time.monotonic() + 30
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            assert time.monotonic() < deadline
            told.hear()
            await asyncio.sleep(0.1)
        else:
            writer.close()
            return


@pytest.fixture(params=["path", "abstract"])
def told(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Told]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as line:
        line.bind(f"{tmp_path}/notify" if request.param == "path" else f"\0actorjobs-{os.urandom(6).hex()}")
        yield Told(line)


pytestmark = pytest.mark.system


async def test_it_says_when_it_is_up_alive_and_about_to_end(told: Told, tmp_path: Path) -> None:
    async with service(tmp_path, told) as process:
        began = await told.until("READY=1")
        assert await told.until("STATUS=performing runs of unit")
        await told.until("WATCHDOG=1", times=10)
        beats = [moment for moment, text in told.words if text == "WATCHDOG=1" and moment > began]
        apart = sorted(later - earlier for earlier, later in itertools.pairwise(beats))
        assert apart[len(apart) // 2] < WATCHDOG_SECONDS * 0.75
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
        assert await told.until("STOPPING=1") > began


async def test_a_loop_that_stands_still_does_not_feed_the_watchdog(told: Told, tmp_path: Path) -> None:
    async with service(tmp_path, told) as process:
        await told.until("READY=1")
        async with aj.Runtime(store=f"sqlite:///{tmp_path}/actorjobs.db", jobs=[block, inherited]).client():
            handle = await block.dispatch(3.0)
            await handle.result(timeout=30)
            assert await (await inherited.dispatch()).result(timeout=30) == []
        told.hear()
        beats = [moment for moment, text in told.words if text == "WATCHDOG=1"]
        assert max(later - earlier for earlier, later in itertools.pairwise(beats)) > 2.5
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0


async def test_a_watchdog_of_another_process_is_not_fed(told: Told, tmp_path: Path) -> None:
    async with service(tmp_path, told, watchdog_of=1):
        await told.until("READY=1")
        await asyncio.sleep(2 * WATCHDOG_SECONDS)
        assert "WATCHDOG=1" not in told.hear()


async def test_of_several_processes_the_parent_speaks(told: Told, tmp_path: Path) -> None:
    async with service(tmp_path, told, "--processes", "2") as process:
        await told.until("WATCHDOG=1", times=5)
        ready = [text for text in told.hear() if text.startswith("READY=1")]
        assert ready == ["READY=1\nSTATUS=keeping 2 worker processes"]
        for port in (told.port, told.port + 1):  # a process that only begins to load dies of the signal
            await listening(port, told)
        told.hear()
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
        await told.until("STOPPING=1")


async def test_a_socket_that_is_gone_is_no_reason_to_end(tmp_path: Path) -> None:
    line = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    line.bind(f"{tmp_path}/notify")
    told = Told(line)
    async with service(tmp_path, told) as process:
        await told.until("READY=1")
        (tmp_path / "notify").unlink()
        line.close()
        await asyncio.sleep(2 * WATCHDOG_SECONDS)
        assert process.returncode is None
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
