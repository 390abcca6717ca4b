"""What must exist in the broker: exchanges, queues and bindings, as data. One set for RabbitMQ 3.10 to 4.x.

Arguments hold only what correctness needs; lengths and time-outs are left to an operator's policies. A change of an
argument is a new version in the names, because a queue cannot be changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from actorjobs.brokers.rabbitmq import delays

QUORUM = {"x-queue-type": "quorum"}
DELIVERY_LIMIT = 20
"""A fuse. Who starts too often without coming to an end is counted in the store."""
MOST_UNROUTED = 100_000


@dataclass(frozen=True, slots=True)
class Exchange:
    """A durable exchange."""

    name: str
    kind: str
    arguments: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True)
class Queue:
    """A durable queue."""

    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Binding:
    """What an exchange passes on, to a queue or to another exchange."""

    source: str
    target: str
    key: str
    is_to_queue: bool = True


@dataclass(frozen=True, slots=True)
class Parts:
    """Some of a topology, in an order in which it can be declared."""

    exchanges: Sequence[Exchange] = ()
    queues: Sequence[Queue] = ()
    bindings: Sequence[Binding] = ()

    @property
    def named(self) -> list[Exchange | Queue]:
        """What has a name of its own, and arguments that can differ."""
        return [*self.exchanges, *self.queues]

    @property
    def all(self) -> list[Exchange | Queue | Binding]:
        return [*self.named, *self.bindings]


class Topology:
    """The names and parts of one namespace. A namespace never holds a colon, so no two of them share a name."""

    def __init__(self, namespace: str) -> None:
        self.prefix = f"aj.v1:{namespace}:"
        self.unrouted = self.prefix + "unrouted"
        self.dead = self.prefix + "dead"
        self.control = self.prefix + "control"
        self.delay_out = self.prefix + "delay.out"

    def work_queue(self, queue: str) -> str:
        return f"{self.prefix}q.{queue}"

    def delay(self, level: int) -> str:
        """The exchange and the queue of one level of the ladder."""
        return f"{self.prefix}delay.{level:02d}"

    @property
    def broadcasts(self) -> Exchange:
        return Exchange(self.control, "fanout")

    def base(self) -> Parts:
        """All that does not depend on a queue of the application's."""
        # Where nothing would match, a message goes to `unrouted` instead of being stuck for minutes in its queue.
        alternate = {"alternate-exchange": self.unrouted}
        levels = range(delays.LEVELS)
        return Parts(
            exchanges=[
                Exchange(self.unrouted, "fanout"),
                Exchange(self.dead, "fanout"),
                self.broadcasts,
                Exchange(self.delay_out, "topic", alternate),
                *(Exchange(self.delay(level), "topic", alternate) for level in levels),
            ],
            queues=[
                Queue(self.unrouted, {**QUORUM, "x-max-length": MOST_UNROUTED}),
                Queue(self.dead, QUORUM),
                *(self._level(level) for level in levels),
            ],
            bindings=[
                Binding(self.unrouted, self.unrouted, ""),
                Binding(self.dead, self.dead, ""),
                *(Binding(self.delay(level), self.delay(level), delays.waits_here(level)) for level in levels),
                *(
                    Binding(self.delay(level), self._below(level), delays.passes_by(level), is_to_queue=False)
                    for level in levels
                ),
            ],
        )

    def of_queue(self, queue: str) -> Parts:
        """The work queue, and the way to it out of the ladder."""
        arguments = {
            **QUORUM,
            "x-delivery-limit": DELIVERY_LIMIT,
            "x-dead-letter-exchange": self.dead,
            "x-dead-letter-strategy": "at-least-once",
            "x-overflow": "reject-publish",
            "x-queue-leader-locator": "balanced",
        }
        name = self.work_queue(queue)
        return Parts(
            queues=[Queue(name, arguments)], bindings=[Binding(self.delay_out, name, delays.arrives_at(queue))]
        )

    def _level(self, level: int) -> Queue:
        arguments = {
            **QUORUM,
            "x-message-ttl": delays.UNIT_MS << level,
            "x-dead-letter-exchange": self._below(level),
            "x-dead-letter-strategy": "at-least-once",
            "x-overflow": "reject-publish",
        }
        return Queue(self.delay(level), arguments)

    def _below(self, level: int) -> str:
        return self.delay(level - 1) if level else self.delay_out
