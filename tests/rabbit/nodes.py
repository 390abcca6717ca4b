"""RabbitMQ nodes of the tests' own, to be killed, paused and wiped.

What takes time is async and bound to no event loop: a fixture may start a node for tests that have loops of their own.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote, urlencode, urlsplit

from tests.rabbit.certificates import Pair
from tests.rabbit.ports import free_port

PROGRAMS = Path("/usr/lib/rabbitmq/bin")
USER = "actorjobs"
BOOT_SECONDS = 90
CTL_SECONDS = 60
TICK_SECONDS = 10
"""Nodes of a cluster give up on one that is silent for about that long (RabbitMQ's default is a minute)."""

Ctl = Callable[..., Awaitable[str]]
"""Takes the arguments of `rabbitmqctl`, gives what it prints."""


class NodeError(Exception):
    """A node does not start, or a command on one failed."""


def has_programs() -> bool:
    return (PROGRAMS / "rabbitmq-server").exists() and shutil.which("epmd") is not None


async def run_ctl(program: Path, *arguments: str, environment: Mapping[str, str] | None = None) -> str:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(program, *arguments, env=environment, stdout=pipe, stderr=pipe)
    try:
        out, err = await asyncio.wait_for(process.communicate(), CTL_SECONDS)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        raise NodeError(f"rabbitmqctl {' '.join(arguments)}: {(err or out).decode().strip()}")
    return out.decode().strip()


async def fresh_vhost(ctl: Ctl, url: str) -> str:
    """Make a virtual host for the user of that url; its url. One command, as each takes half a second."""
    name = f"aj-{secrets.token_hex(6)}"
    user = urlsplit(url).username
    await ctl(
        "eval",
        f'ok = rabbit_vhost:add(<<"{name}">>, <<"tests">>), ok = rabbit_auth_backend_internal:set_permissions('
        f'<<"{user}">>, <<"{name}">>, <<".*">>, <<".*">>, <<".*">>, <<"tests">>).',
    )
    return at_vhost(url, name)


async def delete_vhost(ctl: Ctl, url: str) -> None:
    await ctl("delete_vhost", urlsplit(url).path.removeprefix("/"))


def at_vhost(url: str, name: str) -> str:
    return urlsplit(url)._replace(path=f"/{quote(name, safe='')}").geturl()


class Host:
    """What nodes that may join each other share: an Erlang cookie (by HOME) and an epmd on a port of its own."""

    def __init__(self, home: Path) -> None:
        home.mkdir(parents=True, exist_ok=True)
        cookie = home / ".erlang.cookie"
        cookie.write_text(secrets.token_hex(24))
        cookie.chmod(0o400)
        self._home = home
        self._epmd_port = free_port()
        self._epmd: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "LC_ALL": "C.UTF-8",
            "HOME": str(self._home),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(self._epmd_port),
        }

    async def open(self) -> None:
        for _ in range(5):
            if self._epmd is not None and self._epmd.poll() is None:
                return
            self._epmd_port = free_port()
            self._epmd = _spawn("epmd", "-port", str(self._epmd_port), environment=self.environment)
            while self._epmd.poll() is None and not _answers(self._epmd_port):
                await asyncio.sleep(0.02)
        raise NodeError("epmd does not start")

    def close(self) -> None:
        if self._epmd is not None:
            self._epmd.kill()
            self._epmd.wait()


class Private(ABC):
    """What runs as long as the block that it is entered in, and leaves nothing."""

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @abstractmethod
    async def start(self) -> None: ...

    @abstractmethod
    def close(self) -> None: ...


class Node(Private):
    """A RabbitMQ node with its data below `folder`, on a port that stays the same when it starts again.

    `async with Node(folder) as node` starts it, and kills and removes it in the end.
    """

    def __init__(
        self,
        folder: Path,
        *,
        name: str = "rabbit",
        host: Host | None = None,
        password: str | None = None,
        certified: Pair | None = None,
    ) -> None:
        """`certified`: it also speaks TLS, and shows this certificate."""
        self.name = f"{name}@localhost"
        self.port = free_port()
        self.is_paused = False
        self._folder = folder
        self._is_hosted = host is not None
        self._host = host or Host(folder / "home")
        self._password = password or secrets.token_hex(12)
        self._dist_port = free_port()
        self._certified = certified
        self._tls_port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"amqp://{USER}:{self._password}@127.0.0.1:{self.port}/"

    def tls_url(self, host: str = "127.0.0.1", **options: str) -> str:
        return f"amqps://{USER}:{self._password}@{host}:{self._tls_port}/?{urlencode(options)}"

    @property
    def is_running(self) -> bool:
        """The process is there; it may be paused."""
        return self._process is not None and self._process.poll() is None

    def close(self) -> None:
        self.kill()
        if not self._is_hosted:
            self._host.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    async def start(self) -> None:
        """Start it, on its data if it has some; returns when it takes connections."""
        if self.is_running:
            return
        await self._host.open()
        is_new = self._write_config()
        for attempt in range(3 if is_new else 1):
            if attempt:  # somebody may have taken a port meanwhile, and nobody knows this one yet
                self.port, self._dist_port = free_port(), free_port()
            if await self._boot():
                return
            self.kill()
        raise NodeError(f"{self.name} does not start:\n{self._log()[-2000:]}")

    async def stop(self) -> None:
        """Stop it cleanly."""
        if self._process is None:
            return
        self.resume()
        self._process.terminate()
        deadline = time.monotonic() + 30
        while self.is_running and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        self.kill()

    def kill(self) -> None:
        """SIGKILL; returns when the process is gone and its connections are closed."""
        self.is_paused = False
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def pause(self) -> None:
        """SIGSTOP: connections stay, and nobody answers."""
        self._signal(signal.SIGSTOP)
        self.is_paused = True

    def resume(self) -> None:
        self._signal(signal.SIGCONT)
        self.is_paused = False

    async def wipe(self) -> None:
        """Kill it and start it again without its data: the broker has forgotten everything but its user."""
        self.kill()
        shutil.rmtree(self._data, ignore_errors=True)
        await self.start()

    async def ctl(self, *arguments: str) -> str:
        """Run `rabbitmqctl`; its output without headings. Raises NodeError."""
        return await run_ctl(PROGRAMS / "rabbitmqctl", "--quiet", *arguments, environment=self._environment)

    async def eval(self, erlang: str) -> str:
        """Run Erlang in the node; the expression ends with a full stop."""
        return await self.ctl("eval", erlang)

    async def set_alarm(self, is_on: bool) -> None:
        """Raise or clear the memory alarm, during which the broker takes nothing from publishers."""
        await self.ctl("set_vm_memory_high_watermark", "0.0001" if is_on else "0.4")
        while ("memory" in await self.eval("rabbit_alarm:get_alarms().")) != is_on:
            await asyncio.sleep(0.1)

    async def set_consumer_timeout(self, milliseconds: int) -> None:
        """How long channels opened from now on may leave a delivery without an answer; looked at every second."""
        await self.eval(
            f"application:set_env(rabbit, consumer_timeout, {milliseconds}), "
            "application:set_env(rabbit, channel_tick_interval, 1000)."
        )

    @property
    def _data(self) -> Path:
        return self._folder / "data"

    @property
    def _environment(self) -> dict[str, str]:
        """Nothing of the system's: neither its settings nor its plugins."""
        network = f"-kernel inet_dist_use_interface {{127,0,0,1}} -kernel net_ticktime {TICK_SECONDS}"
        return self._host.environment | {
            "RABBITMQ_NODENAME": self.name,
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self._dist_port),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": network,
            "RABBITMQ_CTL_ERL_ARGS": network,
            "RABBITMQ_MNESIA_BASE": str(self._data),
            "RABBITMQ_LOG_BASE": str(self._folder),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_PID_FILE": str(self._folder / "pid"),
            "RABBITMQ_CONFIG_FILE": str(self._folder / "rabbitmq.conf"),
            "RABBITMQ_CONFIG_FILES": str(self._folder / "conf.d"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(self._folder / "advanced.config"),
            "RABBITMQ_CONF_ENV_FILE": str(self._folder / "rabbitmq-env.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self._folder / "enabled_plugins"),
        }

    def _write_config(self) -> bool:
        """True if it was not there yet."""
        config = self._folder / "rabbitmq.conf"
        if config.exists():
            return False
        self._folder.mkdir(parents=True, exist_ok=True)
        for name in ("advanced.config", "enabled_plugins"):
            (self._folder / name).write_text("[].\n")
        config.touch(mode=0o600)
        config.write_text(
            f"default_user = {USER}\n"
            f"default_pass = {self._password}\n"
            "default_user_tags.administrator = true\n"
            "loopback_users = none\n"
            "log.console.level = warning\n"
            "vm_memory_high_watermark.relative = 0.4\n"
            "disk_free_limit.absolute = 10MB\n"
            "cluster_partition_handling = autoheal\n"
        )
        if self._certified is not None:
            with config.open("a") as more:
                more.write(
                    f"listeners.ssl.1 = 127.0.0.1:{self._tls_port}\n"
                    f"ssl_options.certfile = {self._certified.certificate}\n"
                    f"ssl_options.keyfile = {self._certified.key}\n"
                    "ssl_options.verify = verify_none\n"
                )
        return True

    async def _boot(self) -> bool:
        pid_file = self._folder / "pid"
        pid_file.unlink(missing_ok=True)
        # With "input allowed" the program becomes the server, in place of a shell that waits for it.
        environment = self._environment | {"RABBITMQ_ALLOW_INPUT": "1"}
        with (self._folder / "log").open("ab") as log:
            server = str(PROGRAMS / "rabbitmq-server")
            self._process = _spawn(server, "-noinput", environment=environment, log=log.fileno())
        deadline = time.monotonic() + BOOT_SECONDS
        while not (pid_file.exists() and pid_file.read_text()):
            if not self.is_running or time.monotonic() > deadline:
                return False
            await asyncio.sleep(0.05)
        try:
            await self.ctl("wait", "--timeout", str(CTL_SECONDS - 5), str(pid_file))
        except (NodeError, TimeoutError):
            return False
        return self.is_running

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)

    def _log(self) -> str:
        path = self._folder / "log"
        return path.read_text(errors="replace") if path.exists() else ""


class Cluster(Private):
    """Three nodes joined, with one user: `async with Cluster(folder) as cluster`.

    After `TICK_SECONDS` or so the others give a silent node up. It finds that out when it is back, and restarts itself
    (RabbitMQ's `autoheal`: its `pause_minority` does not notice that it was paused).
    """

    def __init__(self, folder: Path) -> None:
        password = secrets.token_hex(12)
        self._folder = folder
        self._host = Host(folder / "home")
        self.nodes: Sequence[Node] = [
            Node(folder / name, name=name, host=self._host, password=password)
            for name in ("rabbit1", "rabbit2", "rabbit3")
        ]
        self._isolated: set[Node] = set()

    @property
    def urls(self) -> list[str]:
        return [node.url for node in self.nodes]

    async def start(self) -> None:
        first, *others = self.nodes
        async with asyncio.TaskGroup() as group:
            for node in self.nodes:
                group.create_task(node.start())
        for node in others:
            await node.ctl("stop_app")
            await node.ctl("join_cluster", first.name)
            await node.ctl("start_app")

    def close(self) -> None:
        for node in self.nodes:
            node.close()
        self._host.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    async def restore(self) -> None:
        """Resume, start and join what is paused, dead or cut off; returns when all are one cluster again."""
        for node in self.nodes:
            node.resume()
        async with asyncio.TaskGroup() as group:  # all at once: one may wait for the others
            for node in self.nodes:
                group.create_task(node.start())
        await self.join()
        deadline = time.monotonic() + BOOT_SECONDS
        while not await self._is_whole():
            if time.monotonic() > deadline:
                raise NodeError("the nodes do not find each other again")
            await asyncio.sleep(0.2)

    async def leader_of(self, queue: str, *, vhost: str = "/") -> Node:
        """The node that leads the queue (a classic queue: that has it), by what a node that answers knows."""
        trusted = [node for node in self.nodes if node not in self._isolated]
        witness = next(node for node in trusted if node.is_running and not node.is_paused)
        answer = await witness.eval(
            f'{{ok, Q}} = rabbit_amqqueue:lookup(rabbit_misc:r(<<"{vhost}">>, queue, <<"{queue}">>)), '
            # What the queue's own members know comes first: the record waits for nodes that are silent.
            "case amqqueue:get_pid(Q) of {Raft, Known} -> case ra_leaderboard:lookup_leader(Raft) of "
            "{_, Leader} -> Leader; undefined -> Known end; Pid -> node(Pid) end."
        )
        return next(node for node in self.nodes if node.name == answer.strip("'"))

    async def _is_whole(self) -> bool:
        question = "rabbit:is_running() andalso {length(rabbit_nodes:all_running()), rabbit_node_monitor:partitions()}."
        whole = f"{{{len(self.nodes)},[]}}"
        try:
            return all([await node.eval(question) == whole for node in self.nodes])
        except NodeError:  # one has paused itself, or comes up again
            return False

    async def isolate(self, node: Node) -> None:
        """Cut it off from the other nodes alone: its clients still reach it, and it goes on by itself."""
        self._isolated.add(node)
        # Nodes talk to those that know their cookie, so a wrong one keeps them apart, whoever calls whom.
        await node.eval(
            "[begin erlang:set_cookie(N, wrong), erlang:disconnect_node(N) end || "
            f"N <- [{self._names()}], N =/= node()]."
        )

    async def join(self) -> None:
        """End what `isolate` began."""
        while self._isolated:
            await self._isolated.pop().eval(
                "[begin erlang:set_cookie(N, erlang:get_cookie()), net_kernel:connect_node(N) end || "
                f"N <- [{self._names()}], N =/= node()]."
            )

    def _names(self) -> str:
        return ", ".join(f"'{node.name}'" for node in self.nodes)

    @contextmanager
    def without(self, node: Node) -> Iterator[None]:
        """Cut a node off for a while, by pausing it: neither its peers nor its clients hear from it."""
        node.pause()
        try:
            yield
        finally:
            node.resume()


def _spawn(*command: str, environment: Mapping[str, str], log: int = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
    """A process that ends with this one, however this one ends, and that Ctrl-C does not reach."""
    if shutil.which("setpriv") is not None:
        command = ("setpriv", "--pdeathsig", "KILL", *command)
    return subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
    )


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
