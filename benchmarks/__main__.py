"""actorjobs on every store, alone and with RabbitMQ: `python -m benchmarks`.

    python -m benchmarks [--workloads noop io ...] [--systems sqlite rabbitmq+postgresql ...] [--processes 2]
                         [--runs N] [--repeat 3] [--json FILE]

Servers are those at ACTORJOBS_TEST_POSTGRES_URL, ACTORJOBS_TEST_MARIADB_URL and ACTORJOBS_TEST_RABBITMQ_URL. What is
measured and how is said in benchmarks/README.md.
"""

from __future__ import annotations

import argparse

from benchmarks.command import parse
from benchmarks.importing import measure_import
from benchmarks.measuring import add_options, finish, measure, new_report, say, size_of
from benchmarks.systems import OURS, ours
from benchmarks.workloads import WORKLOADS

IMPORT = "import"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure actorjobs.")
    names = [system.name.removeprefix(f"{OURS} ") for system in ours(1)]
    parser.add_argument("--systems", nargs="+", choices=names, default=names, metavar="STORE")
    parser.add_argument("--processes", type=int, nargs="+", choices=(1, 2), default=[1])
    add_options(parser, workloads=[*WORKLOADS, IMPORT])
    asked = parse(parser)
    report = new_report(asked.repeat)
    wanted = [
        system
        for processes in asked.processes
        for name, system in zip(names, ours(processes), strict=True)
        if name in asked.systems
    ]
    workloads = [workload for workload in asked.workloads if workload != IMPORT]
    measure(wanted, workloads, size_of(asked), report, asked.json)
    finish(report, asked.json)
    if IMPORT in asked.workloads:
        say(f"\n{measure_import()}")


if __name__ == "__main__":
    main()
