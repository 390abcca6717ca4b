"""Metrics for a Prometheus that fetches them. Needs the extra `otel`; only entry points call this, no library code."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING
from wsgiref.simple_server import WSGIServer

from actorjobs.errors import InvalidOption
from actorjobs.telemetry.metrics_meters import meters_of

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import MetricReader


class MetricsServer:
    """`/metrics` on a port of every interface (or of the one given), answered in a thread of its own: what is fetched
    never waits for the event loop, nor the loop for it."""

    def __init__(self, *, port: int, host: str = "0.0.0.0") -> None:
        self.port = port
        self._host = host
        self._serving: tuple[WSGIServer, threading.Thread] | None = None

    def start(self) -> MetricReader:
        """What a meter provider has to be given. `InvalidOption` when the port is taken, the extra is missing, or the
        process has a provider that measures: that one is somebody's, and takes no more readers."""
        try:
            from opentelemetry.exporter.prometheus import PrometheusMetricReader
            from prometheus_client import start_http_server
        except ModuleNotFoundError as error:
            raise InvalidOption(f"metrics for Prometheus need {error.name}: pip install 'actorjobs[otel]'") from None
        if meters_of(None) is not None:
            raise InvalidOption("this process has a meter provider: give that one a reader, and leave the port out")
        try:
            self._serving = start_http_server(self.port, self._host)
        except OSError as error:
            raise InvalidOption(f"metrics port {self.port} cannot be used: {error.strerror or error}") from None
        # Into the registry that the process has anyway: what the application itself counts there comes along.
        return PrometheusMetricReader()

    def stop(self) -> None:
        if self._serving is not None:
            (server, thread), self._serving = self._serving, None
            server.shutdown()
            server.server_close()
            thread.join(1.0)
