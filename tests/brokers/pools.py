"""Workers of a namespace on the shared server, and what can be seen of their consumers."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import actorjobs as aj
from actorjobs.brokers.rabbitmq import RabbitBroker
from actorjobs.brokers.rabbitmq.consumer import RabbitConsumer


@dataclass
class Gate:
    """Handlers wait in front of it."""

    started: list[str] = field(default_factory=list[str])
    is_open: asyncio.Event = field(default_factory=asyncio.Event)


@aj.job("brokers:wait", queue="work")
async def wait(ctx: aj.JobContext[Gate]) -> str:
    """Begin, and wait until the gate is open."""
    ctx.app.started.append(ctx.run_id)
    await ctx.app.is_open.wait()
    return "done"


@aj.job("brokers:quick", queue="work")
async def quick() -> str:
    return "done"


JOBS: list[Any] = [wait, quick]


def broker_of(runtime: aj.Runtime) -> RabbitBroker:
    assert isinstance(runtime.broker, RabbitBroker)
    return runtime.broker


def consumer_of(runtime: aj.Runtime, queue: str = "work") -> RabbitConsumer:
    return broker_of(runtime)._consumers[queue]
