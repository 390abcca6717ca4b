"""Health over HTTP for orchestrators: `/live` while the loop turns, `/ready` while runs are taken. It tells no more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from actorjobs.errors import InvalidOption

REQUEST_SECONDS = 5.0
LONGEST_LINE = 1024


class HealthServer:
    """A server for two addresses, on `port` of every interface (or the one given)."""

    def __init__(self, *, port: int, is_ready: Callable[[], bool], host: str = "0.0.0.0") -> None:
        self._host = host
        self._port = port
        self._is_ready = is_ready
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """`InvalidOption` when the port is taken."""
        try:
            self._server = await asyncio.start_server(self._serve, self._host, self._port, limit=LONGEST_LINE)
        except OSError as error:
            raise InvalidOption(f"health port {self._port} cannot be used: {error.strerror or error}") from None

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, ValueError, TimeoutError, asyncio.IncompleteReadError):
            line = await asyncio.wait_for(reader.readline(), REQUEST_SECONDS)
            status, body = self._answer(line.decode("latin-1").split())
            head = f"HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\n"
            writer.write(f"{head}Connection: close\r\nCache-Control: no-store\r\n\r\n{body}".encode())
            await writer.drain()
        writer.close()

    def _answer(self, request: list[str]) -> tuple[str, str]:
        if len(request) != 3 or not request[2].startswith("HTTP/"):
            return "400 Bad Request", "bad request\n"
        method, path, _ = request
        if method not in ("GET", "HEAD"):
            return "405 Method Not Allowed", ""
        match path.split("?")[0]:
            case "/live":
                return "200 OK", "ok\n"
            case "/ready" if self._is_ready():
                return "200 OK", "ok\n"
            case "/ready":
                return "503 Service Unavailable", "not ready\n"
            case _:
                return "404 Not Found", "not found\n"
