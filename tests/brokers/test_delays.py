"""The ladder as a calculation: a small machine that binds, routes and waits as the broker would."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actorjobs.brokers.rabbitmq import Topology, delays
from actorjobs.brokers.rabbitmq.topology import Binding

LONGEST = (1 << delays.LEVELS) - 1


def matches(pattern: str, key: str) -> bool:
    """Whether a topic exchange passes this key on: `*` is one word, `#` at the end any number of them."""
    wanted, words = pattern.split("."), key.split(".")
    if wanted[-1] == "#":
        wanted.pop()
        words = words[: len(wanted)] if len(words) >= len(wanted) else []
    return len(wanted) == len(words) and all(w in ("*", word) for w, word in zip(wanted, words, strict=True))


class Ladder:
    """Where a message goes, and how long that takes."""

    def __init__(self, *queues: str) -> None:
        self.topology = topology = Topology("test")
        parts = [topology.base(), *map(topology.of_queue, queues)]
        self.bindings = [binding for some in parts for binding in some.bindings]
        self.queues = {queue.name: queue for some in parts for queue in some.queues}

    def send(self, units: int, queue: str) -> tuple[list[str], int]:
        """Where a hint comes out in the end, and after how many milliseconds."""
        key = delays.routing_key(units, queue)
        return self._through(self.topology.delay(delays.level_of(units)), key)

    def _through(self, exchange: str, key: str) -> tuple[list[str], int]:
        ends: list[str] = []
        milliseconds = 0
        for binding in self._from(exchange, key):
            if not binding.is_to_queue:
                found, waited = self._through(binding.target, key)
            elif "x-message-ttl" in self.queues[binding.target].arguments:
                arguments = self.queues[binding.target].arguments
                found, waited = self._through(arguments["x-dead-letter-exchange"], key)
                waited += arguments["x-message-ttl"]
            else:
                found, waited = [binding.target], 0
            ends += found
            milliseconds += waited
        return ends, milliseconds

    def _from(self, exchange: str, key: str) -> list[Binding]:
        return [one for one in self.bindings if one.source == exchange and matches(one.key, key)]


@given(st.integers(1, LONGEST), st.sampled_from(["b", "a.b", "x.a.b"]))
def test_a_hint_arrives_once_at_its_queue_after_its_delay(units: int, queue: str) -> None:
    ladder = Ladder("b", "a.b", "x.a.b")
    assert ladder.send(units, queue) == ([ladder.topology.work_queue(queue)], units * delays.UNIT_MS)


def test_a_hint_for_a_queue_that_is_not_there_arrives_nowhere() -> None:
    assert Ladder("b").send(5, "a")[0] == []


@given(st.integers(0, 900_000).map(lambda milliseconds: milliseconds / 1000))
def test_a_hint_leaves_the_ladder_a_little_early(seconds: float) -> None:
    early = seconds - delays.units_of(seconds) * delays.UNIT_MS / 1000
    assert min(seconds, 0.48) <= round(early, 6) < delays.EARLIEST_SECONDS == pytest.approx(0.64)


@given(st.integers(32, LONGEST))
def test_of_all_such_delays_the_ladder_has_the_one_of_fewest_digits(units: int) -> None:
    possible = range(units - 31, units - 23)
    chosen = delays.units_of(units * delays.UNIT_MS / 1000)
    assert chosen in possible
    assert chosen.bit_count() == min(one.bit_count() for one in possible)


@pytest.mark.parametrize(
    ("seconds", "units"), [(-1.0, 0), (0.0, 0), (0.499, 0), (0.64, 8), (1.0, 24), (20.96, 1024), (1e9, 65504)]
)
def test_a_delay_in_units(seconds: float, units: int) -> None:
    assert delays.units_of(seconds) == units


def test_every_exchange_has_somewhere_else_for_what_matches_nothing() -> None:
    topology = Topology("test")
    topics = [exchange for exchange in topology.base().exchanges if exchange.kind == "topic"]
    assert len(topics) == delays.LEVELS + 1
    assert {exchange.arguments["alternate-exchange"] for exchange in topics} == {topology.unrouted}


def test_no_two_namespaces_or_queues_share_a_name() -> None:
    names = [
        part.name
        for namespace in ("a", "a.q", "a.q.b")
        for queue in ("b", "q.b", "q.q.b")
        for part in Topology(namespace).of_queue(queue).queues
    ]
    assert len(set(names)) == len(names)
    assert all(len(Topology("n" * 64).work_queue("q" * 100).encode()) <= 255 for _ in (0,))


def test_each_queue_says_of_what_type_it_is() -> None:
    parts = [Topology("x").base(), Topology("x").of_queue("q")]
    assert {queue.arguments["x-queue-type"] for some in parts for queue in some.queues} == {"quorum"}
    known = {"x-queue-type", "x-message-ttl", "x-max-length", "x-delivery-limit", "x-dead-letter-exchange"}
    known |= {"x-dead-letter-strategy", "x-overflow", "x-queue-leader-locator"}
    assert {name for some in parts for queue in some.queues for name in queue.arguments} <= known
