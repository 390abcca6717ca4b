"""A TCP proxy that can be told to misbehave, on a port that stays the same meanwhile."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from tests.rabbit.ports import free_port

CHUNK = 65536
RESET = struct.pack("ii", 1, 0)
"""SO_LINGER of no time: closing sends RST and drops what was not sent."""


@dataclass
class _Direction:
    """Bytes on their way to one side, of all connections."""

    is_open: asyncio.Event = field(default_factory=asyncio.Event)
    delay: float = 0.0

    def __post_init__(self) -> None:
        self.is_open.set()


@dataclass(eq=False)
class _Connection:
    client: asyncio.StreamWriter
    server: asyncio.StreamWriter | None = None
    is_half_open: bool = False

    def reset(self) -> None:
        _reset(self.client)
        if self.server is not None:
            _reset(self.server)


class Proxy:
    """`async with Proxy(url) as proxy`: what connects to `proxy.url` reaches the server of that url.

    Faults last until `heal()`, except `reset()` and `half_open()`, which happen once. They may be combined.
    """

    def __init__(self, target: str) -> None:
        parts = urlsplit(target)
        self._target = (parts.hostname or "127.0.0.1", parts.port or 5672)
        self.port = free_port()
        credentials, at, _ = parts.netloc.rpartition("@")
        self.url = parts._replace(netloc=f"{credentials}{at}127.0.0.1:{self.port}").geturl()
        self.accepted: list[float] = []
        """When each connection came in, by the clock of `time.monotonic`."""
        self._to_server = _Direction()
        self._to_client = _Direction()
        self._connections: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._listener: socket.socket | None = None
        self._acceptor: asyncio.Task[None] | None = None
        self._placeholder: socket.socket | None = None

    @property
    def connections(self) -> int:
        """How many are open on either side."""
        return len(self._connections)

    async def __aenter__(self) -> Self:
        self._listen()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.refuse()
        self.reset()
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks)
        assert self._placeholder is not None
        self._placeholder.close()

    # --- faults -------------------------------------------------------------------------------------------------

    def heal(self) -> None:
        """Pass everything again. What a black hole held is delivered now, as TCP would send it again."""
        for direction in (self._to_server, self._to_client):
            direction.delay = 0.0
            direction.is_open.set()
        if self._listener is None:
            self._listen()

    def black_hole(self, *, to_server: bool = True, to_client: bool = True) -> None:
        """Take bytes, also the end of a connection, and forward none in that direction; new connections as well."""
        for direction, is_held in ((self._to_server, to_server), (self._to_client, to_client)):
            if is_held:
                direction.is_open.clear()

    def delay(self, seconds: float, *, to_server: bool = True, to_client: bool = True) -> None:
        """Deliver what arrives that much later; the throughput stays."""
        for direction, is_slow in ((self._to_server, to_server), (self._to_client, to_client)):
            if is_slow:
                direction.delay = seconds

    def reset(self) -> None:
        """RST to both sides of every connection. New ones are let in."""
        for connection in self._connections:
            connection.reset()

    def half_open(self) -> None:
        """RST to the clients alone: the server believes in connections that nobody has any more."""
        for connection in self._connections:
            connection.is_half_open = True
            _reset(connection.client)

    def refuse(self) -> None:
        """Refuse new connections; those that are there go on."""
        if self._listener is None or self._acceptor is None:
            return
        self._acceptor.cancel()
        self._listener.close()
        self._listener = None
        # Bound and not listening: connecting is refused, and nobody else gets the port.
        self._placeholder = _bound(self.port)

    # --- the way through ----------------------------------------------------------------------------------------

    def _listen(self) -> None:
        if self._placeholder is not None:
            self._placeholder.close()
            self._placeholder = None
        self._listener = _bound(self.port)
        self._listener.listen(100)
        self._listener.setblocking(False)
        self._acceptor = self._started(self._accept(self._listener))

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            accepted, _ = await loop.sock_accept(listener)
            self.accepted.append(time.monotonic())
            self._started(self._serve(accepted))

    def _started(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _serve(self, accepted: socket.socket) -> None:
        from_client, client = await asyncio.open_connection(sock=accepted)
        connection = _Connection(client)
        self._connections.add(connection)
        try:
            from_server, connection.server = await asyncio.open_connection(*self._target)
            async with asyncio.TaskGroup() as group:
                group.create_task(_carry(from_client, connection.server, self._to_server, connection))
                group.create_task(_carry(from_server, client, self._to_client, connection))
        except OSError:  # the server is not there
            pass
        finally:
            self._connections.discard(connection)
            connection.reset()


async def _carry(
    source: asyncio.StreamReader, sink: asyncio.StreamWriter, direction: _Direction, connection: _Connection
) -> None:
    arrived: asyncio.Queue[tuple[float, bytes | None]] = asyncio.Queue()
    async with asyncio.TaskGroup() as group:
        group.create_task(_receive(source, arrived))
        group.create_task(_deliver(arrived, sink, direction, connection))


async def _receive(source: asyncio.StreamReader, arrived: asyncio.Queue[tuple[float, bytes | None]]) -> None:
    """Read until the end, which is b"", or a reset, which is None."""
    chunk: bytes | None = b"-"
    while chunk:
        try:
            chunk = await source.read(CHUNK)
        except OSError:
            chunk = None
        arrived.put_nowait((asyncio.get_running_loop().time(), chunk))


async def _deliver(
    arrived: asyncio.Queue[tuple[float, bytes | None]],
    sink: asyncio.StreamWriter,
    direction: _Direction,
    connection: _Connection,
) -> None:
    """What a sink that is gone does not take is dropped: its source may still believe in it."""
    chunk: bytes | None = b"-"
    while chunk:
        at, chunk = await arrived.get()
        await asyncio.sleep(at + direction.delay - asyncio.get_running_loop().time())
        await direction.is_open.wait()
        if sink.is_closing():
            continue
        if chunk:
            with suppress(OSError):
                sink.write(chunk)
                await sink.drain()
        elif sink is connection.server and connection.is_half_open:
            return
        elif chunk is None:
            _reset(sink)
        else:
            with suppress(OSError):
                sink.write_eof()


def _bound(port: int) -> socket.socket:
    bound = socket.socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind(("127.0.0.1", port))
    return bound


def _reset(writer: asyncio.StreamWriter) -> None:
    if not writer.is_closing():
        with suppress(OSError):
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        writer.transport.abort()
