"""What a reader of metrics has read, in a form that a test can hold against what it expects."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, Metric

SHORT = {"actorjobs.queue.name": "queue", "actorjobs.job.name": "job"}


class Measured:
    """A provider of a test's own, and what it has measured."""

    def __init__(self) -> None:
        self._reader = InMemoryMetricReader()
        self.provider = MeterProvider(metric_readers=[self._reader])

    def metrics(self) -> dict[str, Metric]:
        data = self._reader.get_metrics_data()
        found = [] if data is None else [m for r in data.resource_metrics for s in r.scope_metrics for m in s.metrics]
        return {metric.name: metric for metric in found}

    def points(self, name: str) -> list[Any]:
        metric = self.metrics().get(name)
        return [] if metric is None else list(metric.data.data_points)

    def values(self, name: str, *by: str) -> dict[Any, float]:
        """The values of a metric, by those of the attributes named; of a histogram how many were recorded. Counters
        that still are where they begin, at 0, are left out."""
        found: dict[Any, float] = {}
        metric = self.metrics().get(name)
        for point in [] if metric is None else metric.data.data_points:
            key = tuple(point.attributes.get(attribute) for attribute in by)
            value = point.count if hasattr(point, "bucket_counts") else point.value
            if value == 0 and getattr(metric.data, "is_monotonic", False):
                continue
            found[key if len(by) != 1 else key[0]] = found.get(key if len(by) != 1 else key[0], 0) + value
        return found

    def total(self, name: str) -> float:
        return sum(self.values(name).values())

    def sum(self, name: str) -> float:
        """The sum of all that a histogram has recorded."""
        return sum(point.sum for point in self.points(name))

    async def until(self, is_so: Callable[[], bool], within: float = 10.0) -> None:
        """Wait for what is measured now and then."""
        async with asyncio.timeout(within):
            while not is_so():
                await asyncio.sleep(0.02)
