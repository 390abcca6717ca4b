"""`actorjobs queues`: pause, resume and scale."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated

import typer

from actorjobs.cli.connecting import AppOption, JsonOption, with_client
from actorjobs.cli.output import print_json, print_table
from actorjobs.ports import QueueInfo
from actorjobs.runtime import Runtime

app = typer.Typer(help="Pause, resume and scale queues; every worker follows within a second.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="QUEUE")]


@app.command("list")
def list_queues(app_name: AppOption = None, as_json: JsonOption = False) -> None:
    """Every queue, with what waits and runs."""

    async def work(runtime: Runtime) -> Sequence[QueueInfo]:
        return await runtime.queues.list()

    _print(with_client(app_name, work), as_json)


@app.command()
def pause(
    name: Name,
    reason: Annotated[str | None, typer.Option(help="Shown to whoever asks why.")] = None,
    app_name: AppOption = None,
    as_json: JsonOption = False,
) -> None:
    """Start nothing more of this queue."""
    _change(app_name, as_json, lambda runtime: runtime.queues.pause(name, reason=reason))


@app.command()
def resume(name: Name, app_name: AppOption = None, as_json: JsonOption = False) -> None:
    """Go on with this queue."""
    _change(app_name, as_json, lambda runtime: runtime.queues.resume(name))


@app.command()
def scale(
    name: Name,
    concurrency: Annotated[int, typer.Argument(min=1, max=10_000, help="Runs at once, per process.")],
    app_name: AppOption = None,
    as_json: JsonOption = False,
) -> None:
    """Perform so many runs of this queue at once in every process."""
    _change(app_name, as_json, lambda runtime: runtime.queues.scale(name, concurrency))


def _change(app_name: str | None, as_json: bool, act: Callable[[Runtime], Awaitable[QueueInfo]]) -> None:
    _print([with_client(app_name, act)], as_json)


def _print(queues: Sequence[QueueInfo], as_json: bool) -> None:
    if as_json:
        print_json(list(queues))
        return
    print_table(
        "",
        ("queue", "waiting", "running", "paused", "concurrency", "reason"),
        [
            (q.name, q.waiting, q.running, "yes" if q.is_paused else "no", q.concurrency or "as declared", q.reason)
            for q in queues
        ],
    )
