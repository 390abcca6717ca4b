"""actorjobs beside its peers, in alternating runs: `python -m benchmarks.peers`.

    python -m benchmarks.peers --install
    python -m benchmarks.peers [--systems NAME ...] [--workloads noop io ...] [--repeat 3] [--json FILE] [--write]
    python -m benchmarks.peers --from FILE --write

A peer that is not installed, or whose server is missing, is left out with a line that says why. `--write` puts the
tables into benchmarks/README.md, `--from` takes them from a file instead of measuring.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from benchmarks.command import old_file, parse
from benchmarks.installing import ENVIRONMENTS, NotInstallable, install, is_installed, versions, why_missing
from benchmarks.measuring import add_options, finish, measure, new_report, say, size_of
from benchmarks.plan import ROOT
from benchmarks.report import Report, render
from benchmarks.systems import SYSTEMS, System, beside_peers, peers
from benchmarks.workloads import WORKLOADS

README = ROOT / "benchmarks" / "README.md"
BEGIN = "<!-- table -->"
END = "<!-- end of table -->"


def main() -> None:
    asked = parse(_parser())
    if asked.install:
        install_all(asked.systems)
        return
    if asked.stored is None:
        report = new_report(asked.repeat)
        note_environments(asked.systems, report)
        measure(asked.systems, asked.workloads, size_of(asked), report, asked.json)
    else:
        report = Report.load(*asked.stored)
    finish(report, asked.json)
    if asked.write:
        README.write_text(replaced(README.read_text(encoding="utf-8"), render(report)), encoding="utf-8")
        say(f"\nwritten into {README}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description="Measure actorjobs and its peers.")
    default = [*beside_peers(), *peers()]
    parser.add_argument("--systems", nargs="+", type=_system, default=default, metavar="NAME", help=", ".join(SYSTEMS))
    add_options(parser, workloads=list(WORKLOADS))
    parser.add_argument("--install", action="store_true", help="make the environments of the peers in .bench/")
    parser.add_argument(
        "--from", dest="stored", type=old_file, nargs="+", metavar="FILE", help="measure nothing: take these files"
    )
    parser.add_argument("--write", action="store_true", help="put the tables into benchmarks/README.md")
    return parser


def _system(name: str) -> System:
    if name not in SYSTEMS:
        raise argparse.ArgumentTypeError(f"there is no {name!r}; known are {', '.join(SYSTEMS)}")
    return SYSTEMS[name]


def install_all(systems: Sequence[System]) -> None:
    for name in _environments(systems):
        try:
            install(name)
        except NotInstallable as error:
            say(f"{name}: NOT INSTALLED, {error}")
        else:
            say(f"{name}: {_shown_versions(name)}")


def note_environments(systems: Sequence[System], report: Report) -> None:
    """Into the report: what is installed, and for what is not, that its systems are left out."""
    for name in _environments(systems):
        if is_installed(name):
            report.versions |= versions(name)
            continue
        for system in systems:
            if system.environment == name:
                report.skipped[system.name] = why_missing(name)


def _environments(systems: Sequence[System]) -> list[str]:
    wanted = {system.environment for system in systems}
    return [name for name in ENVIRONMENTS if name in wanted]


def _shown_versions(name: str) -> str:
    return ", ".join(f"{package} {version}" for package, version in versions(name).items())


def replaced(text: str, tables: str) -> str:
    """The text with the tables between its two markers."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the text has no place for tables: it needs {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{tables}\n\n{END}{after}"


if __name__ == "__main__":
    main()
