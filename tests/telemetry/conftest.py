from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import actorjobs as aj
from tests.telemetry.trees import tree


@dataclass(frozen=True)
class Traces:
    """A provider of the test's own, and what was recorded with it."""

    provider: TracerProvider
    exporter: InMemorySpanExporter

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        return self.exporter.get_finished_spans()

    @property
    def tree(self) -> list[str]:
        return tree(self.spans)

    def runtime(self, url: str, *jobs: Any, **options: Any) -> aj.Runtime:
        return aj.Runtime(**{"store": url, "jobs": jobs, "grace": 2, "tracer_provider": self.provider, **options})


@pytest.fixture
def traces() -> Iterator[Traces]:
    provider, exporter = TracerProvider(), InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    yield Traces(provider, exporter)
    provider.shutdown()
