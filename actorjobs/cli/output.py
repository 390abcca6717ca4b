"""What commands print: tables for people, JSON for programs. Nothing that a payload contains is taken as markup."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

import orjson
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from actorjobs.model import Run

NARROW = frozenset({"run", "state", "outcome", "attempt", "tries", "accepted", "at", "event", "started", "ended"})
"""Columns that are cut to nothing useful by wrapping."""

CUT = frozenset({"job"})
"""Columns of which the beginning says most, where there is no room for all of it."""

PIPE_WIDTH = 10_000

STYLES = {
    "succeeded": "green",
    "running": "cyan",
    "retrying": "yellow",
    "dead_lettered": "red",
    "failed": "red",
    "timed_out": "red",
    "canceled": "magenta",
    "expired": "magenta",
    "lost": "red",
}


def console() -> Console:
    """Standard output; it keeps to the terminal's width and to NO_COLOR. A pipe gets each row in one piece."""
    is_seen = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(highlight=False, soft_wrap=False, width=None if is_seen else PIPE_WIDTH)


def print_json(value: Any) -> None:
    """One JSON document per line."""
    sys.stdout.write(orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS).decode() + "\n")


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """A table whose cells are shown as they are; states in their colour."""
    if title:
        console().print(Text(title, style="bold"))
    table = Table(header_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        overflow: Literal["ellipsis", "fold"] = "ellipsis" if column in CUT else "fold"
        table.add_column(column, overflow=overflow, no_wrap=column in NARROW or column in CUT)
    for row in rows:
        table.add_row(*(cell(value) for value in row))
    console().print(table)


def cell(value: Any) -> Text:
    """A value as text: no markup, no control characters."""
    shown = "" if value is None else _time(value) if isinstance(value, datetime) else str(value)
    clean = "".join(c if c.isprintable() else repr(c)[1:-1] for c in shown)
    return Text(clean, style=STYLES.get(clean, ""))


def _time(at: datetime) -> str:
    """In UTC, to the millisecond; without the date if it is today's."""
    utc = at.astimezone(UTC)
    clock = utc.strftime("%H:%M:%S.%f")[:-3] + "Z"
    return clock if utc.date() == datetime.now(UTC).date() else f"{utc:%Y-%m-%d} {clock}"


def run_row(run: Run) -> tuple[Any, ...]:
    """A run as a row of `RUN_COLUMNS`."""
    tries = f"{run.attempt}/{run.max_attempts}" if run.attempt else ""
    return (run.id, run.job, run.state, tries, run.inserted_at)


RUN_COLUMNS = ("run", "job", "state", "tries", "accepted")
"""What fits into 80 columns; the rest is in `runs show` and --json."""
