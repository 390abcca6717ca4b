"""`actorjobs make`: the first files of something new."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from actorjobs.cli.connecting import JsonOption
from actorjobs.cli.output import print_json
from actorjobs.cli.scaffold.names import JobNames, read_names
from actorjobs.cli.scaffold.places import Places, find_places
from actorjobs.cli.scaffold.templates import module_text, test_text
from actorjobs.cli.scaffold.writing import write_new
from actorjobs.errors import InvalidOption
from actorjobs.jobs.options import DEFAULT_QUEUE, check_queue_name

app = typer.Typer(help="Write the first files of something new.", no_args_is_help=True)


@app.callback()
def _make() -> None:
    """Write the first files of something new."""


@app.command()
def job(
    name: Annotated[str, typer.Argument(metavar="NAME", help="reports:generate, or SendWelcomeEmail.")],
    queue: Annotated[str, typer.Option(help="The queue that its runs wait in.")] = DEFAULT_QUEUE,
    folder: Annotated[
        str | None,
        typer.Option("--dir", metavar="PATH", help="A package here; otherwise jobs in the only package, or ./jobs."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write a job and its test, and say how to register it. Nothing is overwritten."""
    names = read_names(name)
    check_queue_name(queue)
    try:
        project = Path.cwd()
        places = find_places(project, folder, names.function)
        files = {
            places.module: module_text(names.job, names.function, queue),
            places.test: test_text(names.job, names.function, queue, places.import_name),
        }
        written = write_new(project, files, places.packages)
    except OSError as error:  # what may be looked at is checked nowhere beforehand
        raise InvalidOption(f"{error.filename or 'this folder'} cannot be used: {error.strerror or error}") from None
    _tell(written, names, places, queue, as_json)


def _tell(written: list[Path], names: JobNames, places: Places, queue: str, as_json: bool) -> None:
    statement = f"from {places.import_name} import {names.function}"
    if as_json:
        register = {"import": statement, "job": names.function, "name": names.job, "queue": queue}
        print_json({"files": [str(path) for path in written], "register": register})
        return
    lines = [*(f"wrote {path}" for path in written), "", f"Register {names.job} where the runtime is made:", ""]
    lines += [f"    {statement}", f"    Runtime(jobs=[..., {names.function}])"]
    if queue != DEFAULT_QUEUE:
        lines += ["", f'Its queue is served with concurrency 10; queues={{"{queue}": 4}} makes that another.']
    typer.echo("\n".join(lines))
