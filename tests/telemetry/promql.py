"""What PromQL expressions ask for, held against the list of metrics."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import promql_parser

from actorjobs.telemetry.metrics import METRICS, Kind, Metric, label

OF_PROMETHEUS = {"instance", "job", "le"}
OVERFLOW = "otel_metric_overflow"
"""What the SDK adds to the one series of all that is too much."""


def known_series() -> dict[str, Metric]:
    """Every name that Prometheus has a series under, with its metric."""
    found: dict[str, Metric] = {}
    for metric in METRICS:
        suffixes = ("_bucket", "_sum", "_count") if metric.kind is Kind.HISTOGRAM else ("",)
        found |= {f"{metric.in_prometheus}{suffix}": metric for suffix in suffixes}
    return found


def selectors(expression: str) -> list[Any]:
    """The vector selectors of an expression. `ValueError` for what is none."""
    return [node for node in _nodes(promql_parser.parse(expression)) if isinstance(node, promql_parser.VectorSelector)]


def groupings(expression: str) -> set[str]:
    """The labels that an expression groups by."""
    found: set[str] = set()
    for node in _nodes(promql_parser.parse(expression)):
        if isinstance(node, promql_parser.AggregateExpr) and node.modifier is not None:
            found |= set(node.modifier.labels)
    return found


def check(expression: str, recorded: frozenset[str] = frozenset()) -> None:
    """Every metric in it exists, and has the labels that it is asked for. `recorded` names are those of rules."""
    known, found, labels = known_series(), selectors(expression), set[str]()
    assert found, f"no metric in {expression}"
    for selector in found:
        if selector.name in recorded:
            labels |= {label(name) for metric in METRICS for name in metric.attributes}
            continue
        if selector.name is None:  # by a pattern: of every metric at once
            assert {matcher.name for matcher in selector.matchers.matchers} == {"__name__", OVERFLOW}
            continue
        assert selector.name in known, f"no metric {selector.name}: {expression}"
        own = {label(name) for name in known[selector.name].attributes} | OF_PROMETHEUS
        asked = {matcher.name for matcher in selector.matchers.matchers}
        assert asked <= own, f"{selector.name} has no {asked - own}: {expression}"
        labels |= own
    assert groupings(expression) <= labels, f"unknown labels in {expression}"


def _nodes(node: Any) -> Iterator[Any]:
    yield node
    for name in ("lhs", "rhs", "expr", "vector_selector", "param"):
        child = getattr(node, name, None)
        if child is not None and type(child).__module__ == type(node).__module__:
            yield from _nodes(child)
    for child in getattr(node, "args", ()) or ():
        yield from _nodes(child)
