"""`actorjobs check`: does this code fit its settings, its store and, if asked, the runs that wait there?"""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from actorjobs.cli.connecting import JsonOption
from actorjobs.cli.loading import load_app
from actorjobs.cli.output import cell, console, print_json, print_table
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
    report = asyncio.run(_check(runtime, against_pending=against_pending))
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
        _print(runtime, report, against_pending=against_pending)
    if report.misfits:
        raise typer.Exit(1)


async def _check(runtime: Runtime, *, against_pending: bool) -> PendingReport:
    async with runtime.client():
        return await runtime.check_pending() if against_pending else PendingReport(checked=0, misfits=())


def _print(runtime: Runtime, report: PendingReport, *, against_pending: bool) -> None:
    queues = ", ".join(sorted(runtime.declared_queues))
    console().print(cell(f"{len(runtime.job_names)} jobs on queues {queues or 'none'}; settings and schema are fine"))
    if against_pending:
        bad = sum(misfit.runs for misfit in report.misfits)
        console().print(cell(f"{report.checked} runs wait or run; {bad} of them could not be performed by this code"))
    if report.misfits:
        print_table(
            "",
            ("job", "version", "runs", "reason", "such as"),
            [(m.job, m.version, m.runs, m.reason, ", ".join(m.examples)) for m in report.misfits],
        )
