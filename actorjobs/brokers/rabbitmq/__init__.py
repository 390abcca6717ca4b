"""RabbitMQ as the broker: every queue a RabbitMQ queue, every delay a climb down a ladder of TTL'd ones."""

from actorjobs.brokers.rabbitmq.address import Address, parse_address
from actorjobs.brokers.rabbitmq.broker import RabbitBroker
from actorjobs.brokers.rabbitmq.declaring import Declarer, Difference, described
from actorjobs.brokers.rabbitmq.link import connected
from actorjobs.brokers.rabbitmq.topology import Topology

__all__ = [
    "Address",
    "Declarer",
    "Difference",
    "RabbitBroker",
    "Topology",
    "connected",
    "described",
    "parse_address",
]
