"""The measuring loop: alternating runs, A B C A B C, so that a slow minute of the machine strikes all systems alike."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import machine, servers
from benchmarks.command import at_least_one, new_file, positive
from benchmarks.plan import CONCURRENCY
from benchmarks.report import Measured, Report, render, shown
from benchmarks.systems import System
from benchmarks.trial import why_failed
from benchmarks.workloads import DELAYED_RUNS, LATENCY_SECONDS, RETRIED_RUNS, RUNS, WORKLOADS, Size


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def add_options(parser: argparse.ArgumentParser, *, workloads: Sequence[str]) -> None:
    """What every program that measures workloads understands."""
    parser.add_argument("--workloads", nargs="+", choices=workloads, default=list(workloads), metavar="NAME")
    parser.add_argument(
        "--runs", type=at_least_one, default=RUNS, help=f"of noop and io; fewer for slow systems ({RUNS:,})"
    )
    parser.add_argument("--concurrency", type=at_least_one, default=CONCURRENCY, help=f"of noop and io ({CONCURRENCY})")
    parser.add_argument("--latency-seconds", type=positive, default=LATENCY_SECONDS)
    parser.add_argument("--delayed", type=at_least_one, default=DELAYED_RUNS, help="runs of the workload delayed")
    parser.add_argument("--retried", type=at_least_one, default=RETRIED_RUNS, help="runs of the workload retry")
    parser.add_argument("--repeat", type=at_least_one, default=3)
    parser.add_argument("--json", type=new_file, help="also write everything that was measured to this file")


def size_of(asked: argparse.Namespace) -> Size:
    return Size(
        runs=asked.runs,
        concurrency=asked.concurrency,
        latency_seconds=asked.latency_seconds,
        delayed=asked.delayed,
        retried=asked.retried,
    )


def new_report(repeats: int) -> Report:
    return Report(f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC", machine.described(), repeats)


def measure(
    systems: Sequence[System], workloads: Sequence[str], size: Size, report: Report, path: Path | None = None
) -> None:
    """All repeats of all workloads, into the report, and after each trial into the file. One that fails is on record
    and ends nothing else."""
    present = [system for system in systems if not _is_skipped(system, report)]
    for workload in workloads:
        for repeat in range(1, report.repeats + 1):
            for system in present:
                if workload not in system.lacks:
                    report.measured.append(_measured(system, workload, repeat, size))
                    if path is not None:
                        path.write_text(report.to_json(), encoding="utf-8")


def _is_skipped(system: System, report: Report) -> bool:
    why = report.skipped.get(system.name) or servers.missing((system.store, system.broker))
    if why is not None:
        report.skipped[system.name] = why
        say(f"{system.name}: SKIPPED, {why}")
    return why is not None


def _measured(system: System, workload: str, repeat: int, size: Size) -> Measured:
    try:
        figures = WORKLOADS[workload].measure(system, size)
    except Exception as error:
        why = why_failed(error)
        say(f"{workload} {repeat} {system.name}: FAILED, {why}")
        return Measured(system.name, workload, repeat, {}, why)
    known = [metric for metric in WORKLOADS[workload].metrics if metric.name in figures]
    line = "  ".join(f"{metric.name} {shown([figures[metric.name]], metric.digits)}" for metric in known)
    say(f"{workload} {repeat} {system.name}: {line}  (load {os.getloadavg()[0]:.1f})")
    return Measured(system.name, workload, repeat, figures)


def finish(report: Report, path: Path | None) -> None:
    """Print the tables, and write the file if one is wanted."""
    if report.measured or report.skipped:
        say("\n" + render(report))
    if path is not None:
        path.write_text(report.to_json(), encoding="utf-8")
        say(f"\nwritten to {path}")
