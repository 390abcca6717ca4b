"""Making the broker that the settings name. The driver of RabbitMQ is imported here, and only when it is needed."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from types import ModuleType
from typing import TYPE_CHECKING

from actorjobs.clock import Clock
from actorjobs.config import EMBEDDED, Settings
from actorjobs.errors import InvalidOption
from actorjobs.jobs import check_queue_name
from actorjobs.ports import Destination, Store
from actorjobs.telemetry import conventions

if TYPE_CHECKING:
    from actorjobs.brokers.rabbitmq import RabbitBroker
    from actorjobs.brokers.rabbitmq.consumer import ClaimRuns
    from actorjobs.brokers.rabbitmq.declaring import Difference

MISSING_DRIVER = "RabbitMQ needs a driver: pip install 'actorjobs[rabbitmq]'"


class OpenTopology:
    """What RabbitMQ needs for some queues of a namespace: to be shown, made, or held against what there is."""

    def __init__(self, settings: Settings, queues: Sequence[str]) -> None:
        for queue in queues:
            check_queue_name(queue)
        self._rabbitmq = _driver()
        self._address = self._rabbitmq.parse_address(settings.broker_url)
        self.queues = list(queues)
        self._topology = self._rabbitmq.Topology(settings.namespace)
        self._may_declare = settings.broker_declare
        self.namespace = settings.namespace

    def parts(self) -> list[str]:
        """Every part in a line of words."""
        parts = [self._topology.base(), *map(self._topology.of_queue, self.queues)]
        return [line for some in parts for line in self._rabbitmq.described(some)]

    async def apply(self) -> None:
        """Make what is missing. `TopologyMismatch` for what exists with other arguments, `BrokerUnavailable`."""
        async with self._rabbitmq.connected(self._address, name="actorjobs:topology") as link:
            declarer = self._rabbitmq.Declarer(self._topology, on_mismatch="error")
            await declarer.base(link)
            for queue in self.queues:
                await declarer.queue(link, queue)

    async def verify(self) -> list[Difference]:
        """What is missing or has another argument. Changes nothing. `BrokerUnavailable`."""
        async with self._rabbitmq.connected(self._address, name="actorjobs:topology") as link:
            declarer = self._rabbitmq.Declarer(self._topology, may_declare=self._may_declare)
            found: list[Difference] = await declarer.verify(link, self.queues)
            return found


def open_topology(settings: Settings, queues: Sequence[str]) -> OpenTopology:
    """The topology of the broker in the settings. `InvalidOption`."""
    return OpenTopology(settings, queues)


def _driver() -> ModuleType:
    """The package that knows RabbitMQ; `InvalidOption` where its driver is not installed."""
    try:
        from actorjobs.brokers import rabbitmq
    except ModuleNotFoundError as error:
        if error.name not in ("aio_pika", "aiormq", "pamqp"):
            raise
        raise InvalidOption(MISSING_DRIVER) from None
    return rabbitmq


def destination_of(settings: Settings) -> Destination:
    """Where the runs of these settings go. Of a cluster, the first host. `InvalidOption`."""
    if settings.broker_url == EMBEDDED:
        return Destination(system=conventions.EMBEDDED, name=str)
    rabbitmq = _driver()
    host, port = rabbitmq.parse_address(settings.broker_url).hosts[0]
    name = rabbitmq.Topology(settings.namespace).work_queue
    return Destination(system=conventions.RABBITMQ, name=name, host=host, port=port)


def open_broker(settings: Settings, *, store: Store, claim: ClaimRuns, clock: Clock, random: Random) -> RabbitBroker:
    """The broker at the address in the settings, not yet connected. `InvalidOption`."""
    rabbitmq = _driver()
    broker: RabbitBroker = rabbitmq.RabbitBroker(
        address=rabbitmq.parse_address(settings.broker_url),
        namespace=settings.namespace,
        store=store,
        claim=claim,
        clock=clock,
        random=random,
        may_declare=settings.broker_declare,
        on_mismatch=settings.broker_on_mismatch,
    )
    return broker
