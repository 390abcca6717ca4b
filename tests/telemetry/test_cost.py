"""Where nobody records, a dispatch costs what it did: as a ratio, since machines differ."""

from __future__ import annotations

import timeit
from collections.abc import Callable

from opentelemetry.sdk.trace import TracerProvider

from actorjobs.model import Envelope, new_traceparent
from actorjobs.ports import Destination
from actorjobs.telemetry.tracing import Tracing, open_tracing

ROUNDS = 3000
ENVELOPE = {"job": "mail", "queue": "emails", "payload": {"to": "ada"}, "traceparent": new_traceparent()}


def _seconds(work: Callable[[], object]) -> float:
    return min(timeit.repeat(work, number=ROUNDS, repeat=5))


def _sending(tracing: Tracing, envelope: Envelope) -> Callable[[], object]:
    def send() -> None:
        with tracing.sending((envelope,)) as sending:
            assert sending.envelopes
            sending.answered(())

    return send


def test_a_dispatch_that_nobody_records_costs_less_than_its_envelope() -> None:
    nowhere = Destination(system="actorjobs", name=str)
    envelope = Envelope(**ENVELOPE)
    silent = open_tracing(None, destination=nowhere, definition_of=lambda _job: None)
    assert not silent.is_on
    making = _seconds(lambda: Envelope(**ENVELOPE))
    assert _seconds(_sending(silent, envelope)) < making
    # And the comparison can fail: with an SDK it costs many times as much.
    loud = open_tracing(TracerProvider(), destination=nowhere, definition_of=lambda _job: None)
    assert loud.is_on
    assert _seconds(lambda: _start(loud, envelope)) > 2 * making


def _start(tracing: Tracing, envelope: Envelope) -> None:
    tracing.sending((envelope,)).__exit__(None, None, None)
