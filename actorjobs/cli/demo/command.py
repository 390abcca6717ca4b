"""The demo's story: read the file, dispatch, watch, and show what is on record at the end."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path

import typer
from rich.console import Console
from rich.live import Live
from rich.table import Table

import actorjobs as aj
from actorjobs import codec
from actorjobs.cli.demo.jobs import Signup, deliver, make_runtime, welcome
from actorjobs.cli.demo.world import World
from actorjobs.cli.output import STYLES, cell, print_table
from actorjobs.cli.runs import print_run
from actorjobs.clock import SystemClock
from actorjobs.config import load_settings
from actorjobs.lifecycle import TERMINAL
from actorjobs.stores import open_store

FILE_NAME = "signups.jsonl"
GROUP_ROWS = 500
LOOK_SECONDS = 0.2
PATIENCE_SECONDS = 55.0
DEFAULT_FILE = "actorjobs-demo.db"


@dataclass
class Read:
    """What the signup file held."""

    envelopes: list[aj.Envelope] = field(default_factory=list[aj.Envelope])
    invalid: list[tuple[int, str]] = field(default_factory=list[tuple[int, str]])


@dataclass(frozen=True)
class Tally:
    """What came of it."""

    accepted: int
    repeated: int
    counts: dict[aj.RunState, int]
    seconds: float


async def run_demo(console: Console) -> bool:
    """Play the whole scenario; whether everything came out as it must."""
    namespace = f"demo-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    store = None if "ACTORJOBS_STORE_URL" in os.environ else f"sqlite:///{Path.cwd() / DEFAULT_FILE}"
    read = read_signups(find_file())
    report_invalid(console, read)
    await prepare_store(store)
    with World() as world:
        runtime = make_runtime(namespace=namespace, store=store, smtp_port=world.smtp_port, web_port=world.web_port)
        async with runtime:
            tally = await perform(console, runtime, read)
            await show_record(console, runtime, tally)
            problems = await check(runtime, world, read, tally)
            where = runtime.store.url
    for problem in problems:
        console.print(cell(f"NOT AS IT MUST BE: {problem}"), style="bold red")
    tell_where(console, where, store, namespace)
    return not problems


def find_file() -> Path:
    """The signup file: shipped with the package, or in the checkout's examples."""
    packaged = Path(str(resources.files("actorjobs.cli.demo").joinpath(FILE_NAME)))
    checkout = Path(__file__).parents[3] / "examples" / FILE_NAME
    return packaged if packaged.is_file() else checkout


def read_signups(path: Path) -> Read:
    """Every line as an envelope, or with the reason why it is none. The address is the idempotency key."""
    read = Read()
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            signup = welcome.definition.encode_payload(codec.parse(line))
        except aj.PayloadInvalid as error:
            read.invalid.append((number, str(error)))
        else:
            payload = Signup.model_validate(signup)
            read.envelopes.append(welcome.envelope(payload, idempotency_key=payload.email))
    return read


def report_invalid(console: Console, read: Read) -> None:
    print_table(
        f"{len(read.envelopes)} signups read, {len(read.invalid)} lines refused before anything was written",
        ("line", "reason"),
        read.invalid,
    )


async def prepare_store(store: str | None) -> None:
    """Create the tables where that is not done by opening the store."""
    settings = load_settings(store_url=store)
    opened = await open_store(settings.store_url, namespace="demo", clock=SystemClock())
    try:
        await opened.migrate()
    finally:
        await opened.close()


async def perform(console: Console, runtime: aj.Runtime, read: Read) -> Tally:
    """Dispatch everything and watch until every run, and every run that it asked for, is over."""
    began = time.monotonic()
    handles: list[aj.RunHandle[object]] = []
    with Live(console=console, refresh_per_second=8, transient=True) as live:
        for start in range(0, len(read.envelopes), GROUP_ROWS):
            handles += await runtime.dispatch_many(read.envelopes[start : start + GROUP_ROWS])
            live.update(view(await runtime.runs.count_by_state(), began))
        while True:
            counts = dict(await runtime.runs.count_by_state())
            live.update(view(counts, began))
            if all(state in TERMINAL or not number for state, number in counts.items()):
                break
            if time.monotonic() - began > PATIENCE_SECONDS:
                break
            await asyncio.sleep(LOOK_SECONDS)
    repeated = sum(handle.existing for handle in handles)
    return Tally(accepted=len(handles) - repeated, repeated=repeated, counts=counts, seconds=time.monotonic() - began)


def view(counts: Mapping[aj.RunState, int], began: float) -> Table:
    """The states as bars."""
    total = max(1, sum(counts.values()))
    table = Table(title=f"{time.monotonic() - began:5.1f} s", title_justify="left", box=None, show_header=False)
    for state, number in counts.items():
        bar = "█" * round(40 * number / total) or ("▏" if number else "")
        table.add_row(cell(state), f"{number:>6}", f"[{STYLES.get(state, 'blue')}]{bar}[/]")
    return table


async def show_record(console: Console, runtime: aj.Runtime, tally: Tally) -> None:
    """The tables at the end: states, attempts by job, dead letters, and one run's whole history."""
    print_table(
        f"{tally.accepted} signups accepted ({tally.repeated} rows were repetitions) in {tally.seconds:.1f} s",
        ("state", "runs"),
        [(state, number) for state, number in tally.counts.items() if number],
    )
    runs = await every_run(runtime)
    rows: list[tuple[object, ...]] = []
    for job in (welcome.name, deliver.name):
        mine = [run for run in runs if run.job == job]
        retried = [run for run in mine if run.attempt > 1]
        attempts = sum(run.attempt for run in mine)
        dead = sum(run.state is aj.RunState.DEAD_LETTERED for run in mine)
        rows.append((job, len(mine), attempts, attempts - len(mine), len(retried), dead))
    print_table("attempts", ("job", "runs", "attempts", "retries", "runs retried", "dead letters"), rows)
    dead_letters = [run for run in runs if run.state is aj.RunState.DEAD_LETTERED]
    print_table(
        "dead letters (the first five)",
        ("run", "reason", "last error"),
        [(run.id, run.reason, run.errors[-1].message) for run in dead_letters[:5]],
    )
    tried_most = max((run for run in runs if run.state is aj.RunState.SUCCEEDED), key=lambda run: run.attempt)
    console.print("\nOne run's whole history:")
    print_run(
        tried_most,
        list(await runtime.runs.attempts(tried_most.id)),
        list(await runtime.runs.history(tried_most.id)),
    )


async def every_run(runtime: aj.Runtime) -> list[aj.Run]:
    runs: list[aj.Run] = []
    cursor: str | None = None
    while True:
        page = await runtime.runs.list(limit=1000, cursor=cursor)
        runs += page.runs
        cursor = page.cursor
        if cursor is None:
            return runs


async def check(runtime: aj.Runtime, world: World, read: Read, tally: Tally) -> Sequence[str]:
    """What is not as it must be: the record is held against what the servers received."""
    problems: list[str] = []
    unfinished = sum(number for state, number in tally.counts.items() if state not in TERMINAL)
    if unfinished:
        problems.append(f"{unfinished} runs were not over after {PATIENCE_SECONDS:.0f} s")
    addresses = {envelope.idempotency_key for envelope in read.envelopes}
    mailed = world.post_office.delivered
    if set(mailed) != addresses or tally.accepted != len(addresses):
        problems.append(f"{len(addresses)} people signed up, {tally.accepted} were accepted, {len(mailed)} got mail")
    if more := [address for address, times in mailed.items() if times > 1]:
        problems.append(f"{len(more)} people got more than one mail")
    hooks = await runtime.runs.count_by_state(job=deliver.name)
    if hooks[aj.RunState.SUCCEEDED] != len(world.web_hooks.accepted):
        problems.append(f"{hooks[aj.RunState.SUCCEEDED]} webhooks succeeded, {len(world.web_hooks.accepted)} arrived")
    if not (world.post_office.refused and world.web_hooks.refused and hooks[aj.RunState.DEAD_LETTERED]):
        problems.append("the servers refused nothing: the demo showed no retry")
    return problems


def tell_where(console: Console, where: str, store: str | None, namespace: str) -> None:
    variables = f"ACTORJOBS_NAMESPACE={namespace}" + (f" ACTORJOBS_STORE_URL={where}" if store else "")
    console.print("\nEverything is on record at", cell(where))
    console.print("Look at it:")
    for command in ("runs count", "runs list --state dead_lettered", "runs show RUN"):
        console.print(cell(f"  {variables} {program()} {command}"), soft_wrap=True)


def program() -> str:
    """How to call the command line from here: by its name, or by its path where the name would not find this one."""
    own = Path(sys.executable).with_name("actorjobs")
    if shutil.which("actorjobs") == str(own):
        return "actorjobs"
    return str(own.relative_to(Path.cwd()) if own.is_relative_to(Path.cwd()) else own)


def demo() -> None:
    """Welcome mails and webhooks for 2,000 signups, against servers that fail for a while; under a minute."""
    logging.getLogger("mail.log").setLevel(logging.CRITICAL)
    console = Console(highlight=False)
    if not asyncio.run(run_demo(console)):
        raise typer.Exit(1)
