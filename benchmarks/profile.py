"""What each stage of a run costs: `python -m benchmarks.profile`.

    python -m benchmarks.profile [--systems rabbitmq+postgresql postgresql sqlite] [--runs N] [--functions]

CPU microseconds a run, by stage: of a producer that dispatches runs one by one, of one that dispatches them by the
thousand, of a worker that drains them, and of the servers meanwhile. What a signal's handler finds in the main thread
tells the stages apart; what SQLite's own thread does meanwhile is found in the loop.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections import Counter
from pathlib import Path

from benchmarks import servers
from benchmarks.command import at_least_one, parse
from benchmarks.measuring import say
from benchmarks.plan import Demand
from benchmarks.sampling import STAGES, VARIABLE, Samples
from benchmarks.systems import OURS, System, ours
from benchmarks.trial import Trial
from benchmarks.workloads import BULK, drained

RUNS = 30_000
DEFAULT = ("rabbitmq+postgresql", "postgresql", "sqlite")
BUSIEST = 25


def profile(system: System, runs: int, folder: Path) -> dict[str, Samples]:
    """What was sampled in a producer, in one in bulk, and in the worker."""
    found: dict[str, Samples] = {}
    with Trial(system) as trial:
        found["in bulk"] = _sampled(folder / "bulk", lambda: trial.produce(Demand(job="noop", count=runs, bulk=BULK)))
    with Trial(system) as trial:
        found["one by one"] = _sampled(folder / "single", lambda: trial.produce(Demand(job="noop", count=runs)))

        def drain() -> None:
            figures = drained(trial, runs)
            servers = ", ".join(f"{name} {figures[name]:.0f}" for name in figures if name.endswith("µs"))
            say(f"{system.name}: drains {figures['drain/s']:,.0f}/s while sampled; CPU a run: {servers}")
            trial.stop_worker()

        found["worker"] = _sampled(folder / "worker", drain)
    return found


def _sampled(file: Path, work: object) -> Samples:
    assert callable(work)
    os.environ[VARIABLE] = str(file)
    try:
        work()
    finally:
        del os.environ[VARIABLE]
    [written] = file.parent.glob(f"{file.name}.*")
    return Samples.read(written)


def table(found: dict[str, Samples], runs: int) -> str:
    """A line for each stage, a column for each process."""
    columns = {name: samples.microseconds(runs) for name, samples in found.items()}
    lines = [f"{'µs of CPU a run':16}" + "".join(f"{name:>12}" for name in columns)]
    for stage in STAGES:
        if any(stage in column for column in columns.values()):
            lines.append(f"{stage:16}" + "".join(f"{column.get(stage, 0.0):12.1f}" for column in columns.values()))
    lines.append(f"{'together':16}" + "".join(f"{sum(column.values()):12.1f}" for column in columns.values()))
    return "\n".join(lines)


def busiest(samples: Samples) -> str:
    """The functions that most samples were taken in."""
    total = sum(samples.stages.values())
    most = Counter(samples.functions).most_common(BUSIEST)
    return "\n".join(f"  {count / total:6.1%}  {name}" for name, count in most)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profile", description="Measure what stages cost.")
    systems = {system.name.removeprefix(f"{OURS} "): system for system in ours(1)}
    parser.add_argument("--systems", nargs="+", choices=systems, default=list(DEFAULT), metavar="STORE")
    parser.add_argument("--runs", type=at_least_one, default=RUNS)
    parser.add_argument("--functions", action="store_true", help="also the functions that most time was spent in")
    asked = parse(parser)
    for name in asked.systems:
        why = servers.missing((systems[name].store, systems[name].broker))
        if why is not None:
            say(f"{name}: SKIPPED, {why}")
            continue
        with tempfile.TemporaryDirectory() as folder:
            found = profile(systems[name], asked.runs, Path(folder))
        say(table(found, asked.runs))
        if asked.functions:
            for where, samples in found.items():
                say(f"\n{where}:\n{busiest(samples)}")
        say("")


if __name__ == "__main__":
    main()
