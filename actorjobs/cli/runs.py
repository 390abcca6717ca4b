"""`actorjobs runs`: look at runs and act on them."""

from __future__ import annotations

from typing import Annotated

import typer

from actorjobs import codec
from actorjobs.cli.bulk import (
    All,
    DryRun,
    Limit,
    OptionalRunId,
    Rate,
    Search,
    Since,
    State,
    Until,
    Word,
    Yes,
    act_on_many,
    chosen,
)
from actorjobs.cli.connecting import AppOption, JsonOption, with_client
from actorjobs.cli.moments import parse_moment
from actorjobs.cli.output import RUN_COLUMNS, cell, console, print_json, print_table, run_row
from actorjobs.cli.tail import tail
from actorjobs.errors import InvalidOption
from actorjobs.model import Attempt, HistoryEntry, Run
from actorjobs.runtime import Explanation, Runtime

app = typer.Typer(help="Look at runs and act on them.", no_args_is_help=True)

RunId = Annotated[str, typer.Argument(metavar="RUN", help="The run's id.")]
Reason = Annotated[str | None, typer.Option(help="Kept with the run.")]

LONGEST_SHOWN = 120


app.command()(tail)


@app.command("list")
def list_runs(
    state: Annotated[list[str] | None, typer.Option(help="Only these states; may be repeated.")] = None,
    job: Annotated[str | None, typer.Option()] = None,
    queue: Annotated[str | None, typer.Option()] = None,
    tenant: Annotated[str | None, typer.Option()] = None,
    tag: Annotated[str | None, typer.Option()] = None,
    since: Annotated[str | None, typer.Option(help="Accepted since: 2026-01-31T12:00Z, or 15m, 2h, 7d ago.")] = None,
    until: Annotated[str | None, typer.Option(help="Accepted before; written like --since.")] = None,
    search: Annotated[str | None, typer.Option(help="In id, job, payload and key.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 20,
    cursor: Annotated[str | None, typer.Option(help="Go on where the last page ended.")] = None,
    app_name: AppOption = None,
    as_json: JsonOption = False,
) -> None:
    """Runs, newest first."""
    first, last = parse_moment("--since", since), parse_moment("--until", until)

    async def work(runtime: Runtime) -> None:
        page = await runtime.runs.list(
            state=state or None,
            job=job,
            queue=queue,
            tenant=tenant,
            tag=tag,
            since=first,
            until=last,
            search=search,
            limit=limit,
            cursor=cursor,
        )
        if as_json:
            print_json({"runs": list(page.runs), "cursor": page.cursor})
            return
        print_table("", RUN_COLUMNS, map(run_row, page.runs))
        if page.cursor is not None:
            console().print(f"more with --cursor {page.cursor}", markup=False)

    with_client(app_name, work)


@app.command()
def show(run_id: RunId, app_name: AppOption = None, as_json: JsonOption = False) -> None:
    """One run: its record, attempts and whole history."""

    async def work(runtime: Runtime) -> tuple[Run, list[Attempt], list[HistoryEntry]]:
        run = await runtime.runs.get(run_id)
        return run, list(await runtime.runs.attempts(run_id)), list(await runtime.runs.history(run_id))

    run, attempts, history = with_client(app_name, work)
    if as_json:
        print_json({"run": run, "attempts": attempts, "history": history})
    else:
        print_run(run, attempts, history)


def print_run(run: Run, attempts: list[Attempt], history: list[HistoryEntry]) -> None:
    """A run's record, attempts and history as tables."""
    hidden = {"errors", "id"}
    facts = [(name, getattr(run, name)) for name in Run.__slots__ if name not in hidden]
    print_table(f"run {run.id}", ("field", "value"), [(n, v) for n, v in facts if v not in (None, (), {})])
    print_table(
        "attempts",
        ("attempt", "outcome", "started", "ended", "actor", "error"),
        [(a.number, a.outcome, a.started_at, a.ended_at, a.actor, _error(a)) for a in attempts],
    )
    print_table(
        "history",
        ("at", "event", "state", "attempt", "detail"),
        [(e.at, e.event, e.state, e.attempt, _detail(e)) for e in history],
    )


@app.command()
def explain(run_id: RunId, app_name: AppOption = None, as_json: JsonOption = False) -> None:
    """Say why a run is not running; or where it runs, or how it ended."""

    async def work(runtime: Runtime) -> Explanation:
        return await runtime.runs.explain(run_id)

    found = with_client(app_name, work)
    if as_json:
        print_json(found)
        return
    run = found.run
    verdict = "" if found.verdict == run.state else f": {found.verdict}"
    console().print(cell(f"run {run.id} of {run.job} on queue {run.queue} is {run.state}{verdict}"), soft_wrap=True)
    for reason in found.reasons:
        console().print(cell(f"  {reason}"), soft_wrap=True)


def _error(attempt: Attempt) -> str:
    return "" if attempt.error is None else f"{attempt.error.name}: {_first_line(attempt.error.message)}"


def _detail(entry: HistoryEntry) -> str:
    """What the attempts table does not tell already."""
    shown = {key: value for key, value in entry.detail.items() if key not in ("worker", "error", "message")}
    return ", ".join(f"{key}: {_first_line(str(value))}" for key, value in shown.items())


def _first_line(text: str) -> str:
    line = next(iter(text.splitlines()), "")
    return line if len(line) <= LONGEST_SHOWN else line[:LONGEST_SHOWN] + "…"


@app.command()
def cancel(
    run_id: OptionalRunId = None,
    reason: Reason = None,
    state: State = None,
    job: Word = None,
    queue: Word = None,
    tenant: Word = None,
    tag: Word = None,
    since: Since = None,
    until: Until = None,
    search: Search = None,
    everything: All = False,
    rate: Rate = None,
    limit: Limit = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    app_name: AppOption = None,
    as_json: JsonOption = False,
) -> None:
    """End a waiting run; ask a running one to end. With a filter or --all: those that wait or run."""
    many = chosen(
        run_id,
        state=state,
        job=job,
        queue=queue,
        tenant=tenant,
        tag=tag,
        since=since,
        until=until,
        search=search,
        everything=everything,
        rate=rate,
        limit=limit,
        dry_run=dry_run,
        yes=yes,
    )
    if many.is_many:
        act_on_many(
            "cancel",
            many,
            lambda runtime: runtime.runs.cancel_many,
            app_name=app_name,
            as_json=as_json,
            reason=reason,
            by="command line",
        )
        return

    async def work(runtime: Runtime) -> Run:
        return await runtime.runs.cancel(run_id or "", reason=reason, by="command line")

    run = with_client(app_name, work)
    asked = run.cancel_requested_at is not None and run.finished_at is None
    _tell(run, as_json, f"run {run.id} is asked to end" if asked else f"run {run.id} is {run.state}")


@app.command()
def replay(
    run_id: OptionalRunId = None,
    delay: Annotated[float | None, typer.Option(help="Seconds to wait.")] = None,
    payload: Annotated[
        str | None, typer.Option(help="JSON to use in place of the run's payload; not with a filter.")
    ] = None,
    reason: Reason = None,
    state: State = None,
    job: Word = None,
    queue: Word = None,
    tenant: Word = None,
    tag: Word = None,
    since: Since = None,
    until: Until = None,
    search: Search = None,
    everything: All = False,
    rate: Rate = None,
    limit: Limit = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    app_name: AppOption = None,
    as_json: JsonOption = False,
) -> None:
    """Ask for a new run with the same payload, linked to this one. With a filter or --all: of dead letters."""
    changed = None if payload is None else codec.parse(payload)
    many = chosen(
        run_id,
        state=state,
        job=job,
        queue=queue,
        tenant=tenant,
        tag=tag,
        since=since,
        until=until,
        search=search,
        everything=everything,
        rate=rate,
        limit=limit,
        dry_run=dry_run,
        yes=yes,
    )
    if many.is_many:
        if payload is not None:
            raise InvalidOption("--payload is for one run, not for all that match a filter")
        act_on_many(
            "replay",
            many,
            lambda runtime: runtime.runs.replay_many,
            app_name=app_name,
            as_json=as_json,
            reason=reason,
            delay=delay,
        )
        return

    async def work(runtime: Runtime) -> Run:
        handle = await runtime.runs.replay(run_id or "", delay=delay, reason=reason, payload=changed)
        return await handle.run()

    run = with_client(app_name, work)
    _tell(run, as_json, f"run {run.id} replays {run_id}")


@app.command()
def retry(
    run_id: OptionalRunId = None,
    reason: Reason = None,
    state: State = None,
    job: Word = None,
    queue: Word = None,
    tenant: Word = None,
    tag: Word = None,
    since: Since = None,
    until: Until = None,
    search: Search = None,
    everything: All = False,
    rate: Rate = None,
    limit: Limit = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    app_name: AppOption = None,
    as_json: JsonOption = False,
) -> None:
    """Reopen a dead-lettered, canceled or expired run for one more attempt. With a filter or --all: all of them."""
    many = chosen(
        run_id,
        state=state,
        job=job,
        queue=queue,
        tenant=tenant,
        tag=tag,
        since=since,
        until=until,
        search=search,
        everything=everything,
        rate=rate,
        limit=limit,
        dry_run=dry_run,
        yes=yes,
    )
    if many.is_many:
        act_on_many(
            "retry",
            many,
            lambda runtime: runtime.runs.retry_many,
            app_name=app_name,
            as_json=as_json,
            reason=reason,
            by="command line",
        )
        return

    async def work(runtime: Runtime) -> Run:
        return await runtime.runs.retry(run_id or "", reason=reason, by="command line")

    run = with_client(app_name, work)
    _tell(run, as_json, f"run {run.id} is {run.state}")


@app.command()
def reschedule(
    run_id: RunId,
    run_at: Annotated[str, typer.Argument(help="2026-01-31T12:00Z")],
    app_name: AppOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let a waiting run become due at another time."""
    at = parse_moment("RUN_AT", run_at)
    assert at is not None

    async def work(runtime: Runtime) -> Run:
        return await runtime.runs.reschedule(run_id, at, by="command line")

    run = with_client(app_name, work)
    _tell(run, as_json, f"run {run.id} is {run.state}, due {run.available_at.isoformat()}")


@app.command()
def delete(run_id: RunId, app_name: AppOption = None, as_json: JsonOption = False) -> None:
    """Forget a run and its attempts."""

    async def work(runtime: Runtime) -> None:
        await runtime.runs.delete(run_id)

    with_client(app_name, work)
    if as_json:
        print_json({"deleted": run_id})
    else:
        console().print(cell(f"run {run_id} is deleted"))


@app.command()
def count(
    job: Annotated[str | None, typer.Option()] = None,
    queue: Annotated[str | None, typer.Option()] = None,
    tenant: Annotated[str | None, typer.Option()] = None,
    app_name: AppOption = None,
    as_json: JsonOption = False,
) -> None:
    """How many runs are in each state."""

    async def work(runtime: Runtime) -> dict[str, int]:
        counts = await runtime.runs.count_by_state(job=job, queue=queue, tenant=tenant)
        return {state.value: number for state, number in counts.items()}

    counts = with_client(app_name, work)
    if as_json:
        print_json(counts)
    else:
        print_table("", ("state", "runs"), counts.items())


def _tell(run: Run, as_json: bool, words: str) -> None:
    if as_json:
        print_json(run)
    else:
        console().print(cell(words))
