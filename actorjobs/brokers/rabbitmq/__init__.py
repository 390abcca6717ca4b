"""RabbitMQ as the broker: every queue a RabbitMQ queue, every delay a climb down a ladder of TTL'd ones."""

from actorjobs.brokers.rabbitmq.address import Address, parse_address
from actorjobs.brokers.rabbitmq.broker import RabbitBroker
from actorjobs.brokers.rabbitmq.topology import Topology

__all__ = ["Address", "RabbitBroker", "Topology", "parse_address"]
