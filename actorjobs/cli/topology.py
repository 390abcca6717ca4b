"""`actorjobs topology`: what RabbitMQ needs for this application's queues, and what it has."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from actorjobs.cli.connecting import AppOption, JsonOption
from actorjobs.cli.loading import load_app_if_any
from actorjobs.cli.output import cell, console, print_json
from actorjobs.config import EMBEDDED
from actorjobs.errors import InvalidOption
from actorjobs.runtime import Runtime
from actorjobs.runtime.brokering import OpenTopology, open_topology

app = typer.Typer(
    help="RabbitMQ's exchanges, queues and bindings: show, apply, verify. The broker is ACTORJOBS_BROKER_URL's.",
    no_args_is_help=True,
)

QueuesOption = Annotated[
    list[str] | None, typer.Option("-Q", "--queue", help="These queues; otherwise those that the application declares.")
]


@app.command()
def show(queues: QueuesOption = None, app_name: AppOption = None, as_json: JsonOption = False) -> None:
    """Print every part there should be. Connects to nothing."""
    topology = _open(app_name, queues)
    lines = topology.parts()
    if as_json:
        print_json({"namespace": topology.namespace, "parts": lines})
        return
    for line in lines:
        console().print(cell(line), soft_wrap=True)


@app.command()
def apply(queues: QueuesOption = None, app_name: AppOption = None, as_json: JsonOption = False) -> None:
    """Make what is missing; nothing that exists is changed. Exit with 1 if something exists with other arguments."""
    topology = _open(app_name, queues)
    asyncio.run(topology.apply())
    if as_json:
        print_json({"applied": len(topology.parts())})
    else:
        console().print(cell(f"{len(topology.parts())} parts are as they should be"))
        _tell_of_no_queues(topology)


@app.command()
def verify(queues: QueuesOption = None, app_name: AppOption = None, as_json: JsonOption = False) -> None:
    """Name each part that is missing or has another argument, with both values; exit with 1 if there is one."""
    topology = _open(app_name, queues)
    differences = asyncio.run(topology.verify())
    if as_json:
        print_json({"differences": differences})
    else:
        for difference in differences:
            console().print(cell(str(difference)), soft_wrap=True)
        if not differences:
            console().print("all exchanges and queues are as they should be")
            console().print("(no broker shows its bindings: `topology apply` makes them anew)")
        _tell_of_no_queues(topology)
    if differences:
        raise typer.Exit(1)


def _tell_of_no_queues(topology: OpenTopology) -> None:
    if not topology.queues:
        console().print("no queue was looked at: name the application (--app module:runtime) or queues (-Q NAME)")


def _open(app_name: str | None, queues: list[str] | None) -> OpenTopology:
    runtime: Runtime = load_app_if_any(app_name)
    if runtime.settings.broker_url == EMBEDDED:
        raise InvalidOption("the embedded broker needs no topology: set ACTORJOBS_BROKER_URL to amqp://...")
    return open_topology(runtime.settings, sorted(queues or runtime.declared_queues))
