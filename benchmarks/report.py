"""What was measured, as JSON and as tables: medians of repeats, from least to most, and ratios to actorjobs."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.systems import SYSTEMS
from benchmarks.workloads import WORKLOADS, Figures, Metric

EQUAL_FACTOR = 1.25
NOTE = "Medians of {repeats} alternating runs, least and most behind them. What differs by less than 25 % is equal."
RATIOS = "The columns with × are a system's figure divided by that of actorjobs on the same servers."  # noqa: RUF001
_NONE = "-"


@dataclass(frozen=True, slots=True)
class Measured:
    """One repeat of one workload with one system; with an error in place of figures where it failed."""

    system: str
    workload: str
    repeat: int
    figures: Figures
    error: str | None = None


@dataclass(slots=True)
class Report:
    """Everything that one call of a program measured."""

    when: str
    machine: dict[str, Any]
    repeats: int
    measured: list[Measured] = field(default_factory=list[Measured])
    skipped: dict[str, str] = field(default_factory=dict[str, str])
    """Why a system was left out, by its name."""
    versions: dict[str, str] = field(default_factory=dict[str, str])

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Report:
        stored = json.loads(text)
        measured = [Measured(**one) for one in stored.pop("measured")]
        return cls(**stored, measured=measured)

    @classmethod
    def load(cls, *paths: Path) -> Report:
        """Of several files, what all of them measured: the repeats of each are counted on from those before it."""
        reports = [cls.from_json(path.read_text(encoding="utf-8")) for path in paths]
        whole = reports[0]
        for report in reports[1:]:
            before = {name: whole.repeats_of(name) for name in whole.workloads()}
            whole.measured += [replace(one, repeat=one.repeat + before.get(one.workload, 0)) for one in report.measured]
            whole.skipped = {**report.skipped, **whole.skipped}
            whole.versions |= report.versions
            whole.when = f"{whole.when.partition(' to ')[0]} to {report.when}"
        return whole

    def repeats_of(self, workload: str) -> int:
        return max((one.repeat for one in self.measured if one.workload == workload), default=0)

    def systems(self, workload: str) -> list[str]:
        """Those that this workload was tried with, in the order of their first repeat."""
        return list(dict.fromkeys(one.system for one in self.measured if one.workload == workload))

    @property
    def runs(self) -> str:
        """How many repeats there are of each: "3", or "3 to 9" where reports of several sessions were put together."""
        counts = {self.repeats_of(name) for name in self.workloads()} or {self.repeats}
        return f"{min(counts)}" if len(counts) == 1 else f"{min(counts)} to {max(counts)}"

    def workloads(self) -> list[str]:
        return list(dict.fromkeys(one.workload for one in self.measured))

    def values(self, system: str, workload: str, metric: str) -> list[float]:
        """One of each repeat that succeeded."""
        return [
            one.figures[metric]
            for one in self.measured
            if (one.system, one.workload) == (system, workload) and metric in one.figures
        ]

    def median(self, system: str, workload: str, metric: str) -> float | None:
        values = self.values(system, workload, metric)
        return statistics.median(values) if values else None

    def ratio(self, system: str, workload: str, metric: str) -> float | None:
        """This system's figure by that of actorjobs on the same servers; None for actorjobs itself, and where one of
        them is not above 0, as lateness may be."""
        known = SYSTEMS.get(system)
        if known is None or known.is_ours:
            return None
        ours = self.median(known.reference, workload, metric)
        theirs = self.median(system, workload, metric)
        return theirs / ours if ours and theirs and min(ours, theirs) > 0 else None


def shown(values: Sequence[float], digits: int) -> str:
    """The median, and from least to most where there are several."""
    if not values:
        return _NONE
    median = f"{statistics.median(values):,.{digits}f}"
    if len(values) == 1:
        return median
    return f"{median} ({min(values):,.{digits}f}–{max(values):,.{digits}f})"  # noqa: RUF001  # a range


def shown_ratio(ratio: float | None) -> str:
    if ratio is None:
        return _NONE
    text = f"{ratio:.2g}" if ratio < 0.1 else f"{ratio:.2f}" if ratio < 10 else f"{ratio:,.0f}"
    return f"{text} (equal)" if 1 / EQUAL_FACTOR < ratio < EQUAL_FACTOR else text


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """In Markdown, with columns of even width so that it can be read as it is."""
    lines = [list(heads), *(list(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    padded = [[cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines]
    rule = ["-" * width for width in widths]
    return "\n".join("| " + " | ".join(line) + " |" for line in [padded[0], rule, *padded[1:]])


def render(report: Report) -> str:
    """All workloads, what was skipped and what failed, in Markdown."""
    note = NOTE.format(repeats=report.runs)
    is_compared = _has_peers(one.system for one in report.measured)
    parts = [_origin(report), f"{note} {RATIOS}" if is_compared else note]
    for workload in report.workloads():
        parts += [f"### {workload}: {WORKLOADS[workload].title}", _table_of(report, workload)]
    parts += [f"- {line}" for line in _troubles(report)]
    return "\n\n".join(parts)


def _origin(report: Report) -> str:
    of = report.machine
    processor = of.get("processor", "unknown")
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    return (
        f"{report.when}, {of['cores']} cores ({processor}), Python {of['python']}, {of['system']}, load at the start "
        f"{of['load'][0]}." + (f" Versions: {versions}." if versions else "")
    )


def _table_of(report: Report, workload: str) -> str:
    metrics = WORKLOADS[workload].metrics
    systems = report.systems(workload)
    compared = [metric for metric in metrics if metric.is_compared and _has_peers(systems)]
    heads = ["system", "keeps", *(metric.name for metric in metrics), *(f"× {metric.name}" for metric in compared)]  # noqa: RUF001
    return table(heads, (_row(report, workload, system, metrics, compared) for system in systems))


def _row(
    report: Report, workload: str, system: str, metrics: Sequence[Metric], compared: Sequence[Metric]
) -> list[str]:
    known = SYSTEMS.get(system)
    return [
        system,
        _NONE if known is None else known.keeps,
        *(shown(report.values(system, workload, metric.name), metric.digits) for metric in metrics),
        *(shown_ratio(report.ratio(system, workload, metric.name)) for metric in compared),
    ]


def _has_peers(systems: Iterable[str]) -> bool:
    return any(name in SYSTEMS and not SYSTEMS[name].is_ours for name in systems)


def _troubles(report: Report) -> list[str]:
    skipped = [f"{system}: skipped, {why}" for system, why in report.skipped.items()]
    failed = [
        f"{one.system}, {one.workload}, repeat {one.repeat}: failed, {' '.join(one.error.split())[-400:]}"
        for one in report.measured
        if one.error is not None
    ]
    return skipped + failed
