"""`actorjobs check`: does this code fit its settings, its store and, if asked, the runs that wait there?"""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer
from rich.console import Console

from actorjobs.cli.connecting import JsonOption
from actorjobs.cli.loading import load_app
from actorjobs.cli.output import cell, console, print_json, print_table
from actorjobs.cli.schema import ADVICE, Outdated, outdated
from actorjobs.errors import SchemaOutdated
from actorjobs.runtime import PendingReport, Runtime


def check(
    app_name: Annotated[
        str | None, typer.Argument(metavar="[APP]", help="module:attribute of the runtime; or set ACTORJOBS_APP.")
    ] = None,
    against_pending: Annotated[
        bool, typer.Option("--against-pending", help="Also hold every waiting and running run against this code.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """A gate for deployments: exit with 1 unless this code can open its store and perform what waits there."""
    runtime = load_app(app_name)
    report, old = asyncio.run(_check(runtime, against_pending=against_pending))
    if old is not None:
        Console(stderr=True, highlight=False).print(cell(f"warning: {old}: {ADVICE}"), soft_wrap=True)
    if as_json:
        print_json(
            {
                "jobs": runtime.job_names,
                "queues": sorted(runtime.declared_queues),
                "checked": report.checked,
                "misfits": report.misfits,
            }
        )
    else:
        _print(runtime, report, against_pending=against_pending, is_old=old is not None)
    if report.misfits:
        raise typer.Exit(1)


async def _check(runtime: Runtime, *, against_pending: bool) -> tuple[PendingReport, Outdated | None]:
    """Migrates nothing. `SchemaOutdated` where that leaves runs that cannot be held against this code."""
    nothing = PendingReport(checked=0, misfits=())
    old = await outdated(runtime.settings)
    if old is not None and old.version is not None and against_pending:
        raise SchemaOutdated(f"{old}: {ADVICE}; what waits there was not checked")
    if old is not None:
        return nothing, old
    async with runtime.client():
        return (await runtime.check_pending() if against_pending else nothing), None


def _print(runtime: Runtime, report: PendingReport, *, against_pending: bool, is_old: bool) -> None:
    queues = ", ".join(sorted(runtime.declared_queues))
    fine = "settings are fine" if is_old else "settings and schema are fine"
    console().print(cell(f"{len(runtime.job_names)} jobs on queues {queues or 'none'}; {fine}"))
    if against_pending:
        bad = sum(misfit.runs for misfit in report.misfits)
        console().print(cell(f"{report.checked} runs wait or run; {bad} of them could not be performed by this code"))
    if report.misfits:
        print_table(
            "",
            ("job", "version", "runs", "reason", "such as"),
            [(m.job, m.version, m.runs, m.reason, ", ".join(m.examples)) for m in report.misfits],
        )
