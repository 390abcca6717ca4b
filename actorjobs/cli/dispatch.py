"""`actorjobs dispatch`: ask for runs from the shell, one or a whole file of them."""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from actorjobs import codec
from actorjobs.cli.connecting import AppOption, JsonOption
from actorjobs.cli.guarded import OutputFailed
from actorjobs.cli.loading import load_app, service_name_of
from actorjobs.cli.output import cell, console, print_json
from actorjobs.errors import InvalidOption, PayloadInvalid
from actorjobs.model import Envelope
from actorjobs.runtime import Runtime
from actorjobs.telemetry.setup import configure

GROUP_ROWS = 500
LONGEST_LINE = 1 << 20


@dataclass
class Tally:
    """What became of a file's lines."""

    accepted: int = 0
    refused: list[tuple[int, str]] = field(default_factory=list[tuple[int, str]])


def dispatch(
    name: Annotated[str, typer.Argument(metavar="JOB", help="The job's name.")],
    payload: Annotated[str | None, typer.Argument(metavar="[JSON]", help="The payload.")] = None,
    file: Annotated[Path | None, typer.Option(help="JSON Lines, one payload per line; - for standard input.")] = None,
    queue: Annotated[str | None, typer.Option(help="Another queue than the job's own.")] = None,
    delay: Annotated[float | None, typer.Option(help="Seconds to wait.")] = None,
    priority: Annotated[int | None, typer.Option(min=0, max=9)] = None,
    key: Annotated[str | None, typer.Option(help="Idempotency key; not with --file.")] = None,
    tenant: Annotated[str | None, typer.Option()] = None,
    app_name: AppOption = None,
    as_json: JsonOption = False,
) -> None:
    """Ask for a run, or for one per line of a file. Lines that are refused are named, the others are accepted."""
    if (payload is None) == (file is None):
        raise InvalidOption("give the payload as JSON, or --file with one payload per line")
    if file is not None and key is not None:
        raise InvalidOption("--key names one run: it does not go with --file")
    options = {"queue": queue, "delay": delay, "priority": priority, "idempotency_key": key, "tenant": tenant}
    given = {option: value for option, value in options.items() if value is not None}
    runtime = load_app(app_name)
    telemetry = configure(service_name=service_name_of(app_name))
    try:
        if file is None:
            assert payload is not None
            _dispatch_one(runtime, name, codec.parse(payload), given, as_json)
        else:
            _dispatch_file(runtime, name, file, given, as_json)
    finally:
        telemetry.close()


def _dispatch_one(runtime: Runtime, name: str, payload: Any, options: dict[str, Any], as_json: bool) -> None:
    with runtime.client_sync():
        envelope = runtime.envelope(name, payload, **options)
        accepted = runtime.accept_sync(envelope)
    with _told_anyway(f"run {accepted.run_id} is accepted"):
        if as_json:
            print_json({"id": accepted.run_id, "existing": accepted.existing})
        else:
            console().print(cell(f"run {accepted.run_id}" + (" (existing)" if accepted.existing else "")))


@contextmanager
def _told_anyway(words: str) -> Generator[None]:
    """Say on standard error what was done when the output that should tell it cannot be written."""
    try:
        yield
        sys.stdout.flush()
    except OutputFailed:
        sys.stderr.write(f"actorjobs: {words}\n")
        raise


def _dispatch_file(runtime: Runtime, name: str, file: Path, options: dict[str, Any], as_json: bool) -> None:
    tally = Tally()
    with ExitStack() as stack:
        lines = stack.enter_context(_opened(file))
        stack.enter_context(runtime.client_sync())
        bar = stack.enter_context(_progress(as_json))
        task = bar.add_task(name, total=None)
        group: list[Envelope] = []
        for number, line in _numbered(lines):
            try:
                group.append(runtime.envelope(name, codec.parse(line), **options))
            except PayloadInvalid as error:
                tally.refused.append((number, str(error)))
            if len(group) >= GROUP_ROWS:
                _send(runtime, group, tally)
            bar.update(task, completed=tally.accepted)
        _send(runtime, group, tally)
        bar.update(task, completed=tally.accepted, total=tally.accepted)
    _report(tally, as_json)


def _send(runtime: Runtime, group: list[Envelope], tally: Tally) -> None:
    runtime.run_sync(lambda: runtime.dispatch_many(list(group)))
    tally.accepted += len(group)
    group.clear()


def _report(tally: Tally, as_json: bool) -> None:
    """Say what was refused and why; exit with 2 if anything was."""
    words = f"{tally.accepted} runs accepted, {len(tally.refused)} lines refused"
    refused = [{"line": number, "reason": why} for number, why in tally.refused]
    with _told_anyway(words):
        if as_json:
            print_json({"accepted": tally.accepted, "refused": refused})
        else:
            console().print(cell(words))
    if not as_json:
        for number, why in tally.refused:
            Console(stderr=True, highlight=False).print(cell(f"line {number}: {why}"))
    if tally.refused:
        raise typer.Exit(2)


def _opened(file: Path) -> BinaryIO:
    if str(file) == "-":
        return sys.stdin.buffer
    if not file.is_file():
        raise InvalidOption(f"{file} is no file that can be read")
    try:
        return file.open("rb")
    except OSError as error:
        raise InvalidOption(f"{file} cannot be read: {error.strerror}") from None


def _numbered(lines: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Lines with their numbers, blank ones left out. One that is too long is cut: it will not parse."""
    number = 0
    while line := lines.readline(LONGEST_LINE):
        number += 1
        is_cut = len(line) == LONGEST_LINE and not line.endswith(b"\n")
        while is_cut and (rest := lines.readline(LONGEST_LINE)) and not rest.endswith(b"\n"):
            pass
        if line.strip():
            yield number, line.strip()


def _progress(is_hidden: bool) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(*columns, console=Console(stderr=True), disable=is_hidden, transient=True)
