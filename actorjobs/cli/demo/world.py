"""The world around the demo: a real SMTP server that refuses some for a while, a web server that is down and recovers.

Both run in threads of their own on free ports of this machine, and keep what reached them.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from zlib import crc32

from aiosmtpd.controller import UnthreadedController
from aiosmtpd.smtp import SMTP, Envelope, Session

GREYLISTED_SECONDS = 4.0
DOWN_SECONDS = 3.0
GREYLISTED_SHARE = 5
GONE_SHARE = 40


class PostOffice:
    """Accepts mail, but tells every fifth recipient to come back later for some seconds."""

    def __init__(self) -> None:
        self.delivered: Counter[str] = Counter()
        self.refused = 0
        self._opens_at = time.monotonic() + GREYLISTED_SECONDS

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if time.monotonic() < self._opens_at and crc32(address.encode()) % GREYLISTED_SHARE == 0:
            self.refused += 1
            return "451 4.7.1 Greylisted, try again later"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        self.delivered.update(envelope.rcpt_tos)
        return "250 Message accepted"


class WebHooks(ThreadingHTTPServer):
    """Takes webhooks; answers 503 for some seconds first, and 410 for those who have unsubscribed."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Hook)
        self.accepted: Counter[str] = Counter()
        self.refused = 0
        self.lock = threading.Lock()
        self.opens_at = time.monotonic() + DOWN_SECONDS

    def answer(self, email: str) -> int:
        with self.lock:
            if time.monotonic() < self.opens_at:
                self.refused += 1
                return 503
            if crc32(email.encode()) % GONE_SHARE == 0:
                return 410
            self.accepted[email] += 1
            return 204


class _Hook(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: WebHooks  # pyright: ignore[reportIncompatibleVariableOverride] - the one that made it

    def do_POST(self) -> None:
        body: dict[str, Any] = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(self.server.answer(body["email"]))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """The demo has a view of its own."""


class World:
    """Both servers, for the length of a `with` block."""

    def __init__(self) -> None:
        self.post_office = PostOffice()
        self.web_hooks = WebHooks()
        self.smtp_port = 0

    @property
    def web_port(self) -> int:
        return int(self.web_hooks.server_address[1])

    def __enter__(self) -> World:
        started = threading.Event()
        self._mail_thread = threading.Thread(target=self._serve_mail, args=(started,), daemon=True)
        self._web_thread = threading.Thread(target=self.web_hooks.serve_forever, daemon=True)
        self._mail_thread.start()
        self._web_thread.start()
        started.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self.web_hooks.shutdown()
        self.web_hooks.server_close()
        self._mail_loop.call_soon_threadsafe(self._mail_loop.stop)
        self._mail_thread.join(5)

    def _serve_mail(self, started: threading.Event) -> None:
        self._mail_loop = asyncio.new_event_loop()
        controller: Any = UnthreadedController(self.post_office, hostname="127.0.0.1", port=0, loop=self._mail_loop)
        controller.begin()
        server: Any = controller.server
        self.smtp_port = server.sockets[0].getsockname()[1]
        started.set()
        self._mail_loop.run_forever()
        controller.end()
        self._mail_loop.close()
