"""Bringing a topology into being, and holding it against what there is."""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from aiormq.abc import AbstractChannel
from aiormq.exceptions import (
    ChannelAccessRefused,
    ChannelLockedResource,
    ChannelNotFoundEntity,
    ChannelPreconditionFailed,
)

from actorjobs.brokers.rabbitmq.link import ChannelRefused, Link, close_channel, guarded
from actorjobs.brokers.rabbitmq.topology import Binding, Exchange, Parts, Queue, Topology
from actorjobs.errors import BrokerUnavailable, TopologyMismatch

logger = logging.getLogger("actorjobs.broker")

OnAbsent: TypeAlias = Callable[[str], Awaitable[None]]
OnMismatch: TypeAlias = Literal["use", "error"]

_INEQUIVALENT = re.compile(
    r"inequivalent arg '(?P<argument>[^']+)'.*received (?:the value )?(?P<wanted>.*?)(?: of type '[^']+')? but current "
    r"is (?:the value )?(?P<found>.*?)(?: of type '[^']+')?$"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One part that is missing, or whose argument differs."""

    part: str
    problem: Literal["missing", "differs", "refused"]
    argument: str | None = None
    wanted: str | None = None
    found: str | None = None
    detail: str = ""

    def __str__(self) -> str:
        if self.problem == "missing":
            return f"{self.part} is missing"
        if self.argument is None:
            return f"{self.part}: {self.detail}"
        return f"{self.part}: {self.argument} is {self.found} there and should be {self.wanted}"


class _Missing(TopologyMismatch):
    """What something is to be bound to is not there."""


class Declarer:
    """Declares parts, by a mode: with `may_declare` off (a user without the right to configure) it only looks."""

    def __init__(
        self,
        topology: Topology,
        *,
        may_declare: bool = True,
        on_mismatch: OnMismatch = "use",
        on_absent: OnAbsent | None = None,
    ) -> None:
        """`on_absent` is told of a work queue that is not there."""
        self.topology = topology
        self._on_absent = on_absent or _nobody
        self.may_declare = may_declare
        self._on_mismatch = on_mismatch
        self.used_as_they_are: set[str] = set()
        """Parts that exist with other arguments."""

    async def base(self, link: Link) -> None:
        """Have everything that all queues share. `TopologyMismatch`, `BrokerUnavailable`."""
        await self._all(link, self.topology.base())

    async def broadcasts(self, link: Link) -> None:
        """Have what broadcasts need. `TopologyMismatch`, `BrokerUnavailable`."""
        await self._all(link, Parts(exchanges=[self.topology.broadcasts]))

    async def queue(self, link: Link, queue: str) -> bool:
        """Have the work queue; True when it was absent, so that all it held is lost: that is told before it is made,
        since nobody could tell afterwards."""
        parts = self.topology.of_queue(queue)
        was_absent = await ready_in(link, parts.queues[0].name) is None
        if was_absent:
            await self._on_absent(queue)
        try:
            await self._all(link, parts)
        except _Missing:
            if not self.may_declare:
                raise
            await self.base(link)  # somebody has deleted what it is bound to
            await self._all(link, parts)
        return was_absent

    async def mend(self, link: Link, queues: Iterable[str]) -> bool:
        """Have the exchange that delays end in, and what is bound to it: of its absence the broker tells nobody. True
        when it was gone. `TopologyMismatch`, `BrokerUnavailable`."""
        [end] = [one for one in self.topology.base().exchanges if one.name == self.topology.delay_out]
        if not self.may_declare or not isinstance(await _refusal(link, end, is_passive=True), ChannelNotFoundEntity):
            return False
        await self.base(link)
        for queue in queues:
            await self.queue(link, queue)
        return True

    async def _all(self, link: Link, parts: Parts) -> None:
        """All parts on one channel, and a new one after each that the broker refuses."""
        channel = await link.channel()
        try:
            for part in parts.all:
                if not self.may_declare and isinstance(part, Binding):
                    continue  # nobody can look at one without the right to make it
                try:
                    await _declare(channel, part, is_passive=not self.may_declare)
                except (ChannelPreconditionFailed, ChannelNotFoundEntity, ChannelAccessRefused) as error:
                    self._refused(part, error)
                    channel = await link.channel()
                except ChannelLockedResource as error:
                    raise BrokerUnavailable(f"{_named(part)}: {error}") from error
        finally:
            await close_channel(channel)

    def _refused(self, part: Exchange | Queue | Binding, error: Exception) -> None:
        difference = _difference(part, error)
        if _is_only_down(error):
            raise BrokerUnavailable(f"{_named(part)}: {error}") from error
        if difference.problem != "differs" or self._on_mismatch == "error":
            kind = _Missing if difference.problem == "missing" else TopologyMismatch
            raise kind(f"{difference}; {_advice(difference, part)}") from None
        if difference.part not in self.used_as_they_are:
            self.used_as_they_are.add(difference.part)
            logger.warning("broker: %s; it is used as it is", difference)

    async def verify(self, link: Link, queues: list[str]) -> list[Difference]:
        """How what there is differs from what there should be. Changes nothing."""
        return [difference async for difference in self._differences(link, queues)]

    async def _differences(self, link: Link, queues: list[str]) -> AsyncIterator[Difference]:
        for parts in (self.topology.base(), *(self.topology.of_queue(queue) for queue in queues)):
            for part in parts.named:
                # Declaring what exists compares and changes nothing; what is missing would be made. Without the right
                # to configure nobody can compare.
                for is_passive in (True, False) if self.may_declare else (True,):
                    error = await _refusal(link, part, is_passive=is_passive)
                    if error is not None:
                        yield _difference(part, error)
                        break


async def _nobody(_queue: str) -> None:
    """Nobody wants to know."""


async def _refusal(link: Link, part: Exchange | Queue, *, is_passive: bool) -> Exception | None:
    channel = await link.channel()
    try:
        await _declare(channel, part, is_passive=is_passive)
    except (ChannelPreconditionFailed, ChannelNotFoundEntity, ChannelAccessRefused, ChannelLockedResource) as error:
        return error
    else:
        return None
    finally:
        await close_channel(channel)


async def ready_in(link: Link, name: str) -> int | None:
    """How many messages of the queue are ready; None when there is no such queue. `BrokerUnavailable`, also where the
    broker will not say."""
    channel = await link.channel()
    try:
        return (await guarded(channel.queue_declare(name, passive=True))).message_count or 0
    except ChannelRefused as error:
        if isinstance(error, ChannelNotFoundEntity) and not _is_only_down(error):
            return None
        raise BrokerUnavailable(f"queue {name}: {error}") from error
    finally:
        await close_channel(channel)


def _is_only_down(error: Exception) -> bool:
    """Whether the queue exists, on a node that is down: RabbitMQ says "not found" of it as well."""
    return "home node" in str(error)


async def _declare(channel: AbstractChannel, part: Exchange | Queue | Binding, *, is_passive: bool) -> None:
    match part:
        case Exchange(name, kind, arguments):
            await guarded(
                channel.exchange_declare(
                    name, exchange_type=kind, durable=True, passive=is_passive, arguments=dict(arguments)
                )
            )
        case Queue(name, arguments):
            await guarded(channel.queue_declare(name, durable=True, passive=is_passive, arguments=dict(arguments)))
        case Binding(source, target, key, is_to_queue):
            bind: Callable[..., Awaitable[Any]] = channel.queue_bind if is_to_queue else channel.exchange_bind
            await guarded(bind(target, source, key))


def _named(part: Exchange | Queue | Binding) -> str:
    match part:
        case Exchange():
            return f"exchange {part.name}"
        case Queue():
            return f"queue {part.name}"
        case Binding():
            return f"binding of {part.target} to {part.source}"


def _difference(part: Exchange | Queue | Binding, error: Exception) -> Difference:
    said = " ".join(str(error).split())
    if isinstance(error, ChannelNotFoundEntity):
        return Difference(part=_named(part), problem="missing", detail=said)
    if not isinstance(error, ChannelPreconditionFailed):
        return Difference(part=_named(part), problem="refused", detail=said)
    found = _INEQUIVALENT.search(said)
    if found is None:
        return Difference(part=_named(part), problem="differs", detail=said)
    return Difference(
        part=_named(part),
        problem="differs",
        argument=found["argument"],
        wanted=found["wanted"].strip("'"),
        found=found["found"].strip("'"),
        detail=said,
    )


def _advice(difference: Difference, part: Exchange | Queue | Binding) -> str:
    if difference.problem == "missing":
        return (
            "somebody with the right to configure has to run `actorjobs topology apply` first, with the application "
            "(--app) or the queue's name (-Q)"
        )
    if difference.problem == "refused":
        right = f"write {part.target} and read {part.source}" if isinstance(part, Binding) else f"configure {part.name}"
        return (
            f"this user lacks the right to {right}: grant it, or set ACTORJOBS_BROKER_DECLARE=false once an "
            "administrator has run `actorjobs topology apply`"
        )
    return "delete it when it is empty and let it be made again, or set broker_on_mismatch=use"


def described(parts: Parts) -> Iterator[str]:
    """The parts in words, a line each."""
    for exchange in parts.exchanges:
        yield f"exchange {exchange.name} ({exchange.kind}) {dict(exchange.arguments) or ''}".rstrip()
    for queue in parts.queues:
        yield f"queue {queue.name} {dict(queue.arguments)}"
    for binding in parts.bindings:
        kind = "queue" if binding.is_to_queue else "exchange"
        yield f"binding {binding.source} -> {kind} {binding.target} [{binding.key}]"
