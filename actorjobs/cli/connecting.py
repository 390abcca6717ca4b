"""Commands that talk to the store: open a client, run one coroutine, close it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, TypeVar

import typer

from actorjobs.cli.loading import load_app_if_any
from actorjobs.runtime import Runtime

T = TypeVar("T")

AppOption = Annotated[
    str | None, typer.Option("--app", help="module:attribute of the runtime; otherwise the configured store.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]


def with_client(app: str | None, work: Callable[[Runtime], Awaitable[T]]) -> T:
    """What `work` gives on an open client of the application's runtime."""
    runtime = load_app_if_any(app)

    async def connected() -> T:
        async with runtime.client():
            return await work(runtime)

    return asyncio.run(connected())
