"""The names are those of the semantic conventions, and spans use no name besides."""

from __future__ import annotations

from typing import Any

import pytest

from actorjobs.telemetry import conventions
from tests.telemetry.conftest import Traces
from tests.telemetry.test_span_trees import Mail, broken

NAMES = {name: value for name, value in vars(conventions).items() if name.isupper()}


def test_they_are_those_of_the_package_that_has_them() -> None:
    messaging: Any = pytest.importorskip("opentelemetry.semconv._incubating.attributes.messaging_attributes")
    metrics: Any = pytest.importorskip("opentelemetry.semconv._incubating.metrics.messaging_metrics")
    code: Any = pytest.importorskip("opentelemetry.semconv._incubating.attributes.code_attributes")
    from opentelemetry.semconv.attributes import error_attributes, exception_attributes, server_attributes
    from opentelemetry.semconv.schemas import Schemas

    theirs: dict[str, Any] = {}
    for module in (messaging, metrics, code, error_attributes, exception_attributes, server_attributes):
        theirs |= vars(module)
    shared = [name for name in NAMES if name in theirs]
    assert len(shared) >= 18
    assert {name: NAMES[name] for name in shared} == {name: theirs[name] for name in shared}
    assert Schemas.V1_44_0.value == conventions.SCHEMA_URL
    operations = {one.value for one in messaging.MessagingOperationTypeValues}
    assert {conventions.CREATE, conventions.SEND, conventions.PROCESS} <= operations
    assert messaging.MessagingSystemValues.RABBITMQ.value == conventions.RABBITMQ


async def test_no_span_uses_another_name(traces: Traces, sqlite_url: str) -> None:
    async with traces.runtime(sqlite_url, broken) as runtime:
        run = await broken.dispatch(Mail(), tenant="acme")
        await runtime.runs.wait(run.id, timeout=10)
    used = {key for span in traces.spans for key in span.attributes or {}}
    used |= {key for span in traces.spans for event in span.events for key in event.attributes or {}}
    assert used <= set(NAMES.values())
    assert not any(name.startswith("messaging.") for key, name in NAMES.items() if not key.startswith("MESSAGING_"))
