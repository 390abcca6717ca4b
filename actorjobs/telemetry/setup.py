"""Setting up OpenTelemetry's SDK, for processes that are ours from the start: `actorjobs worker` and the like.

The library itself only uses what the application has set up. Nothing is done here unless the environment names a
collector or an exporter (a worker without one is not to log failed connections for ever), and never over a provider
that is there already, so that `opentelemetry-instrument actorjobs worker` works too. To be called in each process,
after its fork or spawn: exporters have threads.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Final, Self

from opentelemetry import metrics, trace

from actorjobs.telemetry import conventions as names

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import MetricReader
    from opentelemetry.sdk.resources import Resource

logger = logging.getLogger("actorjobs.telemetry")

FLUSH_SECONDS: Final = 5.0
"""How long the end of a process waits for its last spans and metrics to be taken."""

_PROTOCOLS: Final = {"grpc": "otlp_proto_grpc", "http/protobuf": "otlp_proto_http"}

MISSING_SDK: Final = "telemetry is asked for (OTEL_*), but %s is not installed: pip install 'actorjobs[otel]'"


class Telemetry:
    """What was set up in this process; `close` it at the end, or put what it is to tell of in `async with`."""

    def __init__(self, shutdowns: Sequence[Callable[[], object]]) -> None:
        self._shutdowns = shutdowns

    def __bool__(self) -> bool:
        """Whether anything was set up."""
        return bool(self._shutdowns)

    def close(self, seconds: float = FLUSH_SECONDS) -> bool:
        """Hand over what is left, for so many seconds at most; False if that was not enough. Blocks."""
        ends = [threading.Thread(target=shutdown, daemon=True, name="telemetry") for shutdown in self._shutdowns]
        for end in ends:
            end.start()
        deadline = time.monotonic() + seconds
        for end in ends:
            end.join(max(0.0, deadline - time.monotonic()))
        return not any(end.is_alive() for end in ends)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *raised: object) -> None:
        """Close it, in a thread; what was not taken in time is a line in the log."""
        if self and not await asyncio.to_thread(self.close):
            logger.warning("the last spans and metrics were not taken in time")


def configure(*, service_name: str = names.SCOPE, readers: Sequence[MetricReader] = ()) -> Telemetry:
    """Set up traces and metrics as `OTEL_*` variables say, with further readers of metrics if given.

    A missing package, an unknown exporter or a wrong setting is one line in the log: a worker works without telemetry.
    """
    return _set_up(lambda: _traces(service_name), lambda: _metrics(service_name, readers))


def configure_child(service_name: str) -> Telemetry:
    """The same for a child process of a worker, whose handlers may make spans: its worker has the metrics."""
    return _set_up(lambda: _traces(service_name))


def service_name_here() -> str | None:
    """The service that traces were set up for in this process, here and by nobody else; None otherwise."""
    return _service_name


_service_name: str | None = None


def _set_up(*parts: Callable[[], list[Callable[[], object]]]) -> Telemetry:
    shutdowns: list[Callable[[], object]] = []
    if is_disabled():
        return Telemetry(shutdowns)
    for part in parts:
        try:
            shutdowns += part()
        except ModuleNotFoundError as error:
            logger.warning(MISSING_SDK, error.name)
            break
        except Exception as error:
            logger.warning("telemetry cannot be set up: %s: %s", type(error).__name__, error)
    return Telemetry(shutdowns)


def is_disabled() -> bool:
    """Whether `OTEL_SDK_DISABLED` turns everything off."""
    return os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"


def _traces(service_name: str) -> list[Callable[[], object]]:
    if not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        return []
    exporters = _exporters("traces")
    if not exporters:
        return []
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=_resource(service_name), shutdown_on_exit=False)
    for exporter in exporters:
        provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    global _service_name
    _service_name = service_name
    return [provider.shutdown]


def _metrics(service_name: str, readers: Sequence[MetricReader]) -> list[Callable[[], object]]:
    if not type(metrics.get_meter_provider()).__module__.startswith("opentelemetry.metrics"):
        return []
    exporters = _exporters("metrics")
    if not (exporters or readers):
        return []
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

    periodic = [PeriodicExportingMetricReader(exporter) for exporter in exporters]
    resource = _resource(service_name)
    provider = MeterProvider(resource=resource, metric_readers=[*readers, *periodic], shutdown_on_exit=False)
    metrics.set_meter_provider(provider)
    return [provider.shutdown]


def _asked_for(signal: str) -> list[str]:
    """The exporters that the environment asks for; none unless it names one, or where a collector is."""
    own = f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT"
    has_endpoint = bool(os.environ.get(own) or os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"))
    asked = os.environ.get(f"OTEL_{signal.upper()}_EXPORTER") or ("otlp" if has_endpoint else "none")
    return [name for name in (part.strip() for part in asked.split(",")) if name and name != "none"]


def _exporters(signal: str) -> list[Any]:
    """Those asked for that can be had; what is wrong with one is no reason to go without the others."""
    exporters: list[Any] = []
    for name in _asked_for(signal):
        try:
            exporters.append(_exporter(signal, name))
        except ModuleNotFoundError:
            raise
        except Exception as error:
            logger.warning("telemetry without the exporter %r of %s: %s: %s", name, signal, type(error).__name__, error)
    return exporters


def _exporter(signal: str, name: str) -> Any:
    """A new exporter of that name, from whichever package offers it; `otlp` by the protocol that is set, else gRPC."""
    if name == "otlp":
        own = os.environ.get(f"OTEL_EXPORTER_OTLP_{signal.upper()}_PROTOCOL")
        protocol = own or os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL") or "grpc"
        if protocol not in _PROTOCOLS:
            raise ValueError(f"OTEL_EXPORTER_OTLP_PROTOCOL is grpc or http/protobuf, not {protocol!r}")
        name = _PROTOCOLS[protocol]
    if name == "prometheus":
        raise ValueError("Prometheus fetches metrics: use `actorjobs worker --metrics-port`")
    for found in entry_points(group=f"opentelemetry_{signal}_exporter", name=name):
        return found.load()()
    if name.startswith("otlp"):
        raise ModuleNotFoundError(name=f"the exporter {name!r}")
    raise ValueError("there is no exporter of that name")


def _resource(service_name: str) -> Resource:
    """Who reports: what the environment says (`OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES`) comes first."""
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource

    own = {
        names.SERVICE_NAME: service_name,
        names.SERVICE_INSTANCE_ID: f"{socket.gethostname()}:{os.getpid()}",
    }
    given = OTELResourceDetector().detect().attributes
    return Resource.create({name: value for name, value in own.items() if name not in given})
