"""A bar chart of what `--json` wrote: `python -m benchmarks.plot FILE.json OUT.svg`.

Runs per second of the workload noop, for every system: dispatched, drained, end to end. Plain SVG, readable on light
and on dark ground.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from benchmarks.command import new_file, old_file, parse
from benchmarks.report import Report

WIDTH = 860
_LABELS = 230
_VALUES = 70
_BAR = 13
_BETWEEN_BARS = 3
_BETWEEN_SYSTEMS = 16
_HEAD = 86
_FOOT = 34
_TICKS = 5

_STYLE = """
  .ground { fill: #ffffff; }
  text { font: 12px system-ui, sans-serif; fill: #1f2328; }
  .title { font-size: 15px; font-weight: 600; }
  .quiet { fill: #59636e; }
  .grid { stroke: #d1d9e0; }
  .s0 { fill: #0969da; } .s1 { fill: #1a7f37; } .s2 { fill: #bc4c00; }
  @media (prefers-color-scheme: dark) {
    .ground { fill: #0d1117; }
    text { fill: #f0f6fc; }
    .quiet { fill: #9198a1; }
    .grid { stroke: #3d444d; }
    .s0 { fill: #4493f8; } .s1 { fill: #3fb950; } .s2 { fill: #db6d28; }
  }
"""
"""It has a ground of its own: a page may be dark for a reader whose system is not, or the other way round."""


@dataclass(frozen=True, slots=True)
class Series:
    """What one colour stands for."""

    metric: str
    label: str


SERIES = (Series("dispatch/s", "dispatch"), Series("drain/s", "drain"), Series("end to end/s", "end to end"))


def chart(report: Report) -> str:
    """The SVG; an error for a report without a figure of the workload noop."""
    systems = [name for name in report.systems("noop") if report.values(name, "noop", "drain/s")]
    if not systems:
        raise ValueError("nothing to draw: the workload noop was not measured")
    medians = [[report.median(name, "noop", series.metric) or 0.0 for series in SERIES] for name in systems]
    top = _round_up(max(max(row) for row in medians))
    height = _HEAD + len(systems) * _group_height() + _FOOT
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" aria-labelledby="title">',
        f"<style>{_STYLE}</style>",
        f'<rect class="ground" width="{WIDTH}" height="{height}" rx="8"/>',
        '<text id="title" class="title" x="12" y="24">Runs per second of an empty job: more is better</text>',
        *_legend(),
        *_grid(top, height),
    ]
    for index, (name, row) in enumerate(zip(systems, medians, strict=True)):
        lines += _group(_HEAD + index * _group_height(), name, row, top)
    lines += [f'<text class="quiet" x="12" y="{height - 8}">{escape(_origin(report))}</text>', "</svg>"]
    return "\n".join(lines) + "\n"


def _group_height() -> int:
    return len(SERIES) * (_BAR + _BETWEEN_BARS) + _BETWEEN_SYSTEMS


def _origin(report: Report) -> str:
    machine, repeats = report.machine, report.repeats_of("noop")
    return f"{report.when}, {machine['cores']} cores, Python {machine['python']}, medians of {repeats} runs"


def _legend() -> Iterator[str]:
    for index, series in enumerate(SERIES):
        x = _LABELS + index * 110
        yield f'<rect class="s{index}" x="{x}" y="38" width="12" height="12"/>'
        yield f'<text x="{x + 18}" y="48">{escape(series.label)}</text>'


def _grid(top: float, height: int) -> Iterator[str]:
    for tick in range(_TICKS + 1):
        x = _LABELS + _scaled(top * tick / _TICKS, top)
        yield f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{_HEAD - 10}" y2="{height - _FOOT}"/>'
        yield f'<text class="quiet" x="{x:.1f}" y="{_HEAD - 13}" text-anchor="middle">{top * tick / _TICKS:,.0f}</text>'


def _group(y: int, name: str, medians: Sequence[float], top: float) -> Iterator[str]:
    middle = y + len(SERIES) * (_BAR + _BETWEEN_BARS) / 2 + 3
    yield f'<text x="{_LABELS - 10}" y="{middle:.1f}" text-anchor="end">{escape(name)}</text>'
    for index, value in enumerate(medians):
        bar = y + index * (_BAR + _BETWEEN_BARS)
        width = _scaled(value, top)
        yield f'<rect class="s{index}" x="{_LABELS}" y="{bar}" width="{width:.1f}" height="{_BAR}"/>'
        yield f'<text x="{_LABELS + width + 6:.1f}" y="{bar + _BAR - 2}">{value:,.0f}</text>'


def _scaled(value: float, top: float) -> float:
    return value / top * (WIDTH - _LABELS - _VALUES)


def _round_up(value: float) -> float:
    """To a number that is not far above and divides well by the ticks."""
    unit = 10.0 ** math.floor(math.log10(max(value, 1.0)))
    return next(step * unit for step in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if step * unit >= value)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plot", description="Draw what --json wrote.")
    parser.add_argument("report", type=old_file, metavar="FILE.json")
    parser.add_argument("chart", type=new_file, metavar="OUT.svg")
    asked = parse(parser)
    asked.chart.write_text(chart(Report.load(asked.report)), encoding="utf-8")


if __name__ == "__main__":
    main()
