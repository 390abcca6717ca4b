"""`actorjobs quarantine`: messages from the broker that are no hints of ours, kept with their bytes."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from actorjobs.cli.connecting import AppOption, JsonOption, with_client
from actorjobs.cli.output import cell, console, print_json, print_table
from actorjobs.errors import InvalidOption
from actorjobs.ports import Quarantined
from actorjobs.runtime import Runtime

app = typer.Typer(help="Messages that are no hints of ours: list, show, delete.", no_args_is_help=True)

SHOWN_BYTES = 2000

IdArgument = Annotated[str, typer.Argument(metavar="ID", help="The message's id, from `quarantine list`.")]


@app.command("list")
def list_messages(
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many at most.")] = 50,
    after: Annotated[str | None, typer.Option(help="Those after the message of that id.")] = None,
    app_name: AppOption = None,
    as_json: JsonOption = False,
) -> None:
    """The messages in quarantine, oldest first."""

    async def work(runtime: Runtime) -> list[Quarantined]:
        return [*await runtime.quarantined(limit=limit, after=after)]

    messages = with_client(app_name, work)
    if as_json:
        for message in messages:
            print_json(_as_json(message))
        return
    rows = [(one.id, one.at, one.queue, len(one.body), one.reason) for one in messages]
    print_table("", ("id", "at", "queue", "bytes", "reason"), rows)


@app.command()
def show(message_id: IdArgument, app_name: AppOption = None, as_json: JsonOption = False) -> None:
    """One message: why it is here, what it said of itself, and its first bytes."""

    async def work(runtime: Runtime) -> Quarantined:
        return await _find(runtime, message_id)

    message = with_client(app_name, work)
    if as_json:
        print_json(_as_json(message))
        return
    lines = [f"{name}: {value}" for name, value in message.properties.items()]
    body = message.body[:SHOWN_BYTES].decode("utf-8", "backslashreplace")
    for line in (f"{message.queue}, {message.at}", f"it {message.reason}", *lines, f"body: {body}"):
        console().print(cell(line), soft_wrap=True)


@app.command()
def delete(message_id: IdArgument, app_name: AppOption = None) -> None:
    """Forget a message."""

    async def work(runtime: Runtime) -> None:
        await _find(runtime, message_id)
        await runtime.release_quarantined([message_id])

    with_client(app_name, work)


async def _find(runtime: Runtime, message_id: str) -> Quarantined:
    number = int(message_id) if message_id.isascii() and message_id.isdigit() and len(message_id) < 18 else 0
    found: Sequence[Quarantined] = await runtime.quarantined(limit=1, after=str(number - 1)) if number else ()
    if not found or found[0].id != message_id:
        raise InvalidOption(f"there is no message {message_id!r} in quarantine: see `actorjobs quarantine list`")
    return found[0]


def _as_json(message: Quarantined) -> dict[str, Any]:
    return {
        "id": message.id,
        "at": message.at,
        "queue": message.queue,
        "reason": message.reason,
        "properties": message.properties,
        "body_base64": base64.b64encode(message.body).decode(),
    }
