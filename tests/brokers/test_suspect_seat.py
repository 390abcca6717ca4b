"""A process has one place for suspects, and gets it back whatever becomes of the message."""

from __future__ import annotations

from typing import Any

import pytest

from actorjobs.brokers.rabbitmq.consumer import RabbitConsumer
from actorjobs.brokers.rabbitmq.settling import Held, Settler
from actorjobs.brokers.suspects import SuspectSeat
from actorjobs.clock import SystemClock
from actorjobs.ports import Hint, Refusal, Refused


@pytest.mark.parametrize("end", ["the channel is lost", "nobody has room"])
async def test_a_suspect_that_waits_to_be_asked_for_gives_its_place_back(end: str) -> None:
    seat, unused = SuspectSeat(), None
    given: dict[str, Any] = dict.fromkeys(("claim", "sink"), unused)
    consumer = RabbitConsumer(
        queue="work", name="q", store_id="s", jobs={}, owner=str, suspects=seat, clock=SystemClock(), **given
    )
    channel: Any = None
    settler = Settler(channel)
    settler.received(1)
    held = Held(Hint(run_id="r", seq=1, job="j", queue="work"), 1, settler, since=0.0)
    consumer._refused(held, Refusal(why=Refused.SUSPECT))
    consumer._unpark(held)
    assert not seat.is_free
    if end == "the channel is lost":
        consumer._forget(settler)
    else:
        consumer._look_after(now=1e12)
    assert seat.is_free
