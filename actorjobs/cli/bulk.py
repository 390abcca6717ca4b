"""`actorjobs runs cancel|replay|retry` on all runs that match: asked back, counted, paced, and shown as it goes on."""

from __future__ import annotations

import sys
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from actorjobs.cli.connecting import with_client
from actorjobs.cli.moments import parse_moment
from actorjobs.cli.output import cell, console, print_json
from actorjobs.errors import InvalidOption
from actorjobs.runtime import BulkResult, Runtime

OptionalRunId = Annotated[
    str | None, typer.Argument(metavar="[RUN]", help="The run's id; or choose many by a filter.", show_default=False)
]
State = Annotated[list[str] | None, typer.Option(help="Only these states; may be repeated.")]
Word = Annotated[str | None, typer.Option()]
Since = Annotated[str | None, typer.Option(help="Accepted since: 2026-01-31T12:00Z, or 15m, 2h, 7d ago.")]
Until = Annotated[str | None, typer.Option(help="Accepted before; written like --since.")]
Search = Annotated[str | None, typer.Option(help="In id, job, payload and key.")]
Rate = Annotated[float | None, typer.Option(help="With a filter: so many runs per second.")]
Limit = Annotated[int | None, typer.Option(min=1, help="With a filter: so many runs at most, the oldest ones.")]
All = Annotated[
    bool, typer.Option("--all", help="In place of a filter: every run to which this can be done by default.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="With a filter: only count.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="With a filter: do not ask back.")]

Ask = Callable[..., Coroutine[Any, Any, BulkResult]]


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """Which runs a command line means, and how it wants them treated."""

    criteria: dict[str, Any]
    rate: float | None
    limit: int | None
    dry_run: bool
    yes: bool

    @property
    def is_many(self) -> bool:
        return bool(self.criteria)


def chosen(
    run_id: str | None,
    *,
    since: str | None,
    until: str | None,
    everything: bool,
    rate: float | None,
    limit: int | None,
    dry_run: bool,
    yes: bool,
    **criteria: Any,
) -> Chosen:
    """`InvalidOption` unless it is either one run or a filter, with what goes with it."""
    moments: dict[str, datetime | None] = {
        "since": parse_moment("--since", since),
        "until": parse_moment("--until", until),
    }
    given = {name: value for name, value in (criteria | moments).items() if value not in (None, [])}
    if "" in given.values():
        # An empty variable in a script must not leave out the criterion that was to spare the other runs.
        raise InvalidOption(f"--{next(name for name, value in given.items() if value == '')} is empty")
    if everything:
        given["everything"] = True
    if run_id is None and not given:
        raise InvalidOption("which runs? Give the id of one, or a filter like --job, --state or --since, or --all")
    if run_id is not None and given:
        raise InvalidOption("give the id of a run, or a filter like --job, --state or --since, or --all; not both")
    if run_id is not None and (rate is not None or limit is not None or dry_run):
        raise InvalidOption("--rate, --limit and --dry-run go with a filter, not with the id of a run")
    if given and not (yes or dry_run or sys.stdin.isatty()):
        raise InvalidOption("there is no terminal to ask back on: add --yes, or --dry-run to count first")
    return Chosen(criteria=given, rate=rate, limit=limit, dry_run=dry_run, yes=yes)


def act_on_many(
    verb: str,
    runs: Chosen,
    ask: Callable[[Runtime], Ask],
    *,
    app_name: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Do it, and say what was done; exit with 1 if it failed for some run."""

    async def work(runtime: Runtime) -> BulkResult | None:
        do = ask(runtime)
        if not (runs.yes or runs.dry_run):
            count = (await do(dry_run=True, limit=runs.limit, **runs.criteria)).matched
            if not count or not typer.confirm(f"{verb} {count} runs?", err=True):
                return BulkResult(matched=count)
        with _progress(is_hidden=as_json or runs.dry_run or not sys.stderr.isatty()) as bar:
            task = bar.add_task(verb, total=None)

            def on_progress(so_far: int, of: int) -> None:
                bar.update(task, completed=so_far, total=of)

            shown = {} if bar.disable else {"on_progress": on_progress}
            how: dict[str, Any] = {"rate": runs.rate, "limit": runs.limit, "dry_run": runs.dry_run}
            return await do(**how, **runs.criteria, **options, **shown)

    result = with_client(app_name, work)
    assert result is not None
    _tell(verb, result, dry_run=runs.dry_run, as_json=as_json)


def _tell(verb: str, result: BulkResult, *, dry_run: bool, as_json: bool) -> None:
    failures = result.matched - result.done - result.skipped if result.done or result.failed else 0
    if as_json:
        print_json(result)
    elif dry_run:
        console().print(cell(f"{result.matched} runs match, nothing was done"))
    else:
        words = f"{verb}: {result.done} of {result.matched} runs done, {result.skipped} skipped, {failures} failed"
        console().print(cell(words))
        for run_id, reason in result.failed:
            Console(stderr=True, highlight=False).print(cell(f"run {run_id}: {reason}"))
    if result.failed:
        raise typer.Exit(1)


def _progress(*, is_hidden: bool) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), disable=is_hidden, transient=True)
