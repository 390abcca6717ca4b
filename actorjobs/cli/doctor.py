"""`actorjobs doctor`: is everything as it should be, and if not, what is to be done?"""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from actorjobs.cli.connecting import AppOption, JsonOption
from actorjobs.cli.loading import load_app_if_any
from actorjobs.cli.output import cell, console, print_json
from actorjobs.cli.schema import ADVICE, outdated
from actorjobs.errors import ActorJobsError, BrokerUnavailable, InvalidOption, TopologyMismatch
from actorjobs.runtime import Finding, Runtime

MARKS = {"ok": "ok     ", "warning": "warning", "error": "error  "}


def doctor(
    repair: Annotated[
        bool, typer.Option("--repair", help="Take back runs of dead workers, end runs that are overdue to expire.")
    ] = False,
    app_name: AppOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check settings, store, workers and runs that do not get on; exit with 1 when something is wrong."""
    runtime = load_app_if_any(app_name)
    settings = Finding(check="settings", level="ok", found=f"namespace {runtime.settings.namespace}")
    findings = [settings, *asyncio.run(_examined(runtime, is_repairing=repair))]
    if as_json:
        print_json({"findings": findings})
    else:
        for finding in findings:
            _print(finding)
    if any(finding.level == "error" for finding in findings):
        raise typer.Exit(1)


async def _examined(runtime: Runtime, *, is_repairing: bool) -> list[Finding]:
    """Without migrating anything: a file that is older than this code is reported, not examined."""
    try:
        if (old := await outdated(runtime.settings)) is not None:
            return [Finding(check="store", level="warning", found=f"{old}; the rest is left out", advice=ADVICE)]
        async with runtime.client():
            reached = Finding(check="store", level="ok", found=f"{runtime.store.url} answers; its schema is current")
            return [reached, *await runtime.examine(is_repairing=is_repairing)]
    except (InvalidOption, BrokerUnavailable, TopologyMismatch) as error:
        return [_failed("address" if isinstance(error, InvalidOption) else "broker", error, "see the message")]
    except ActorJobsError as error:
        return [_failed("store", error, "see the message; `actorjobs db check` tells about the schema")]


def _failed(check: str, error: ActorJobsError, advice: str) -> Finding:
    return Finding(check=check, level="error", found=" ".join(str(error).split()), advice=advice)


def _print(finding: Finding) -> None:
    line = cell(f"{MARKS[finding.level]} {finding.check}: {finding.found}")
    line.stylize({"ok": "green", "warning": "yellow", "error": "red"}[finding.level], 0, len(MARKS["ok"]))
    console().print(line, soft_wrap=True)
    if finding.advice:
        console().print(cell(f"        -> {finding.advice}"), soft_wrap=True)
