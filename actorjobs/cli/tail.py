"""`actorjobs runs tail`: what happens to runs, line by line, until Ctrl-C."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable
from contextlib import aclosing, suppress
from typing import Annotated, Any

import typer
from rich.console import Console

from actorjobs.cli.connecting import AppOption, JsonOption
from actorjobs.cli.loading import load_app_if_any
from actorjobs.cli.moments import parse_moment
from actorjobs.cli.output import cell, print_json
from actorjobs.runtime import Change, Runtime

LONGEST_CLOSING_SECONDS = 0.7


def tail(
    state: Annotated[list[str] | None, typer.Option(help="Only steps into these states; may be repeated.")] = None,
    job: Annotated[str | None, typer.Option()] = None,
    queue: Annotated[str | None, typer.Option()] = None,
    tenant: Annotated[str | None, typer.Option()] = None,
    since: Annotated[str | None, typer.Option(help="Begin at 2026-01-31T12:00Z, or 15m, 2h ago.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="End after so many lines.")] = None,
    app_name: AppOption = None,
    as_json: JsonOption = False,
) -> None:
    """What happens to runs anywhere in the fleet, as it happens. Ctrl-C ends it."""
    first = parse_moment("--since", since)

    async def work(runtime: Runtime) -> None:
        changes: Any = runtime.runs.tail(
            state=state or None, job=job, queue=queue, tenant=tenant, since=first, on_left_out=_left_out
        )
        lines = 0
        async with aclosing(changes):
            async for change in changes:
                _print(change, as_json)
                lines += 1
                if lines == limit:
                    return

    with suppress(KeyboardInterrupt):
        asyncio.run(_until_interrupted(load_app_if_any(app_name), work))


async def _until_interrupted(runtime: Runtime, work: Callable[[Runtime], Awaitable[None]]) -> None:
    """Run `work` on an open client until it ends or the first SIGINT comes.

    Nothing may raise `KeyboardInterrupt` here: in the middle of starting or ending a thread it would leave one that
    nobody ends, and Python waits for it at its exit.
    """

    async def connected() -> None:
        async with runtime.client():
            await work(runtime)

    loop, task = asyncio.get_running_loop(), asyncio.create_task(connected())

    def stop(_number: int, _frame: object) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        _leave_in_any_case()
        loop.call_soon_threadsafe(task.cancel)

    before = signal.signal(signal.SIGINT, stop)
    with suppress(asyncio.CancelledError):
        await task
    if signal.getsignal(signal.SIGINT) is stop:
        signal.signal(signal.SIGINT, before)


def _leave_in_any_case() -> None:
    """End the process with status 0 although closing takes too long. Who only reads leaves nothing half done."""
    timer = threading.Timer(LONGEST_CLOSING_SECONDS, os._exit, (0,))
    timer.daemon = True
    timer.start()


def _print(change: Change, as_json: bool) -> None:
    if as_json:
        print_json(change)
    else:
        entry = change.entry
        said = {key: value for key, value in entry.detail.items() if key != "worker"}
        detail = "".join(f"  {key}: {next(iter(str(value).splitlines()), '')}" for key, value in said.items())
        at = f"{entry.at:%H:%M:%S.%f}"[:-3] + "Z"
        line = f"{at}  {change.run_id}  {change.job}  {entry.event} -> {entry.state}  attempt {entry.attempt}{detail}"
        sys.stdout.write(cell(line).plain + "\n")
    sys.stdout.flush()


def _left_out(count: int) -> None:
    Console(stderr=True, highlight=False).print(f"{count} more runs have changed: narrow it with --job or --queue")
