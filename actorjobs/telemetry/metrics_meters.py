"""The instruments of a meter provider, made from the list of metrics.

Counters are numbers of our own that the SDK reads when it exports: what an instrument's `add` would cost for each run
is paid once per export. Gauges are read the same way, from values that lie ready: no callback waits for anything.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Final, TypeAlias
from weakref import WeakKeyDictionary

from opentelemetry.metrics import CallbackOptions, Histogram, Meter, MeterProvider, Observation, get_meter_provider

from actorjobs.telemetry.conventions import SCHEMA_URL, SCOPE
from actorjobs.telemetry.metrics import METRICS, Kind, Metric

__all__ = ["MeterProvider", "Meters", "Reading", "Values", "meters_of"]

MOST_SERIES: Final = 2000
"""Of each metric, as the SDK has it by default; what comes then is told of together."""

Values: TypeAlias = tuple[str | None, ...]
"""The values of a metric's attributes, in their order; None leaves one out."""

Attributes: TypeAlias = dict[str, str | bool]

Reading: TypeAlias = Mapping[Metric, Mapping[Values, float]]
"""What gauges and sums stand at."""


class _Series:
    """The attributes of a metric's series, each made once."""

    def __init__(self, metric: Metric) -> None:
        self._names = metric.attributes
        self._known: dict[Values | None, Attributes] = {None: {"otel.metric.overflow": True}}

    def attributes(self, values: Values | None) -> Attributes:
        """`None` stands for all series that there is no room for."""
        found = self._known.get(values)
        if found is None:
            if values is None or len(self._known) > MOST_SERIES:
                return self._known[None]
            pairs = zip(self._names, values, strict=True)
            found = self._known[values] = {name: value for name, value in pairs if value is not None}
        return found


class _Count:
    def __init__(self, metric: Metric) -> None:
        self._series = _Series(metric)
        self._lock = threading.Lock()
        self._counts: dict[Values | None, int] = {}

    def add(self, values: Values, count: int) -> None:
        with self._lock:  # dispatches of a transaction are counted in their callers' threads
            key = values if values in self._counts or len(self._counts) < MOST_SERIES else None
            self._counts[key] = self._counts.get(key, 0) + count

    def read(self, _options: CallbackOptions) -> Iterable[Observation]:
        with self._lock:
            counts = list(self._counts.items())
        return [Observation(count, self._series.attributes(values)) for values, count in counts]


class _Durations:
    def __init__(self, metric: Metric, histogram: Histogram) -> None:
        self._series = _Series(metric)
        self._histogram = histogram

    def record(self, seconds: float, values: Values) -> None:
        self._histogram.record(seconds, self._series.attributes(values))


class Meters:
    """All instruments of one meter provider, for every runtime that reports to it: made twice, the SDK would read only
    the first."""

    def __init__(self, meter: Meter) -> None:
        self._counts: dict[Metric, _Count] = {}
        self._durations: dict[Metric, _Durations] = {}
        self._sources: list[Callable[[], Reading]] = []
        for metric in METRICS:
            self._make(meter, metric)

    def _make(self, meter: Meter, metric: Metric) -> None:
        name, about = metric.name, metric.about
        match metric.kind:
            case Kind.HISTOGRAM:
                histogram = meter.create_histogram(
                    name, metric.unit, about, explicit_bucket_boundaries_advisory=metric.bounds
                )
                self._durations[metric] = _Durations(metric, histogram)
            case Kind.COUNTER:
                count = self._counts[metric] = _Count(metric)
                meter.create_observable_counter(name, [count.read], metric.unit, about)
            case Kind.SUM:
                meter.create_observable_up_down_counter(name, [self._reader(metric, _add)], metric.unit, about)
            case Kind.GAUGE:
                meter.create_observable_gauge(name, [self._reader(metric, max)], metric.unit, about)

    def count(self, metric: Metric, values: Values, count: int = 1) -> None:
        self._counts[metric].add(values, count)

    def record(self, metric: Metric, seconds: float, values: Values = ()) -> None:
        self._durations[metric].record(seconds, values)

    def attach(self, source: Callable[[], Reading]) -> None:
        """Have gauges and sums read from here. Called in the thread that exports, it must have its answer ready."""
        self._sources.append(source)

    def detach(self, source: Callable[[], Reading]) -> None:
        if source in self._sources:
            self._sources.remove(source)

    def _reader(
        self, metric: Metric, merge: Callable[[float, float], float]
    ) -> Callable[[CallbackOptions], Iterable[Observation]]:
        series = _Series(metric)

        def read(_options: CallbackOptions) -> Iterable[Observation]:
            merged: dict[Values, float] = {}
            for source in tuple(self._sources):
                for values, number in source().get(metric, {}).items():
                    merged[values] = merge(merged[values], number) if values in merged else number
            return [Observation(number, series.attributes(values)) for values, number in merged.items()]

        return read


def _add(one: float, other: float) -> float:
    return one + other


_lock = threading.Lock()
_meters: WeakKeyDictionary[MeterProvider, Meters] = WeakKeyDictionary()


def meters_of(provider: MeterProvider | None) -> Meters | None:
    """The instruments of this provider, or of the global one; None where nothing would be measured: without an SDK, or
    with one that is switched off. Asked once, when a runtime is opened."""
    provider = provider or get_meter_provider()
    with _lock:
        if provider not in _meters:
            meter = provider.get_meter(SCOPE, _version(), schema_url=SCHEMA_URL)
            if type(meter).__module__.startswith("opentelemetry.metrics"):
                return None  # the API's own: one that does nothing, or the stand-in for one that nobody has set
            _meters[provider] = Meters(meter)
        return _meters[provider]


def _version() -> str | None:
    try:
        return version("actorjobs")
    except PackageNotFoundError:
        return None
