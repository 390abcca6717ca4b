"""Making the broker that the settings name. The driver of RabbitMQ is imported here, and only when it is needed."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from actorjobs.clock import Clock
from actorjobs.config import Settings
from actorjobs.errors import InvalidOption
from actorjobs.ports import Store

if TYPE_CHECKING:
    from actorjobs.brokers.rabbitmq import RabbitBroker
    from actorjobs.brokers.rabbitmq.consumer import ClaimRuns

MISSING_DRIVER = "RabbitMQ needs a driver: pip install 'actorjobs[rabbitmq]'"


def open_broker(settings: Settings, *, store: Store, claim: ClaimRuns, clock: Clock, random: Random) -> RabbitBroker:
    """The broker at the address in the settings, not yet connected. `InvalidOption`."""
    try:
        from actorjobs.brokers import rabbitmq
    except ModuleNotFoundError as error:
        if error.name not in ("aio_pika", "aiormq", "pamqp"):
            raise
        raise InvalidOption(MISSING_DRIVER) from None
    return rabbitmq.RabbitBroker(
        address=rabbitmq.parse_address(settings.broker_url),
        namespace=settings.namespace,
        store=store,
        claim=claim,
        clock=clock,
        random=random,
        may_declare=settings.broker_declare,
        on_mismatch=settings.broker_on_mismatch,
    )
