"""Writes Grafana's dashboards, and the table of docs/metrics.md, from the list of metrics: `make docs`.

A panel names metrics and attributes as the list has them: one that the list does not have is an error here, and not an
empty panel later.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actorjobs.telemetry import metrics as m
from actorjobs.telemetry.conventions import (
    ATTEMPT_OUTCOME,
    ERROR_TYPE,
    JOB_NAME,
    MESSAGING_DESTINATION_NAME,
    MESSAGING_OPERATION_NAME,
    QUEUE_NAME,
    RUN_STATE,
)
from actorjobs.telemetry.metrics import (
    HINT_OUTCOME,
    QUEUED_STATE,
    SLOT_STATE,
    SWEEP_NAME,
    SWEEP_OUTCOME,
    Kind,
    Metric,
    label,
    table,
)

ROOT = Path(__file__).parents[2]
TABLE_BEGINS, TABLE_ENDS = "<!-- table: written by make docs -->\n", "<!-- end of table -->\n"
VARIABLES = {QUEUE_NAME: "$queue", MESSAGING_DESTINATION_NAME: "(.*:q[.])?($queue)", JOB_NAME: "$job"}
"""With RabbitMQ a destination is named as its queue there: `aj.v1:<namespace>:q.<queue>`."""
INSTANCE = "instance"
"""Prometheus's own label: the process that was asked."""

Where = Mapping[str, str]
"""What series to look at: attributes with matchers, such as `="ready"`."""


# --- expressions -----------------------------------------------------------------------------------------------------


def series(metric: Metric, where: Where | None = None, *, suffix: str = "") -> str:
    """The metric's series of the queues and jobs that are chosen above the panels."""
    chosen = {name: f'=~"{VARIABLES[name]}"' for name in metric.attributes if name in VARIABLES}
    matchers = {**chosen, **(where or {})}
    _check(metric, *matchers)
    inside = ",".join(label(name) + how for name, how in matchers.items())
    return f"{metric.in_prometheus}{suffix}" + (f"{{{inside}}}" if inside else "")


def now(metric: Metric, *by: str, where: Where | None = None, how: str = "sum") -> str:
    """What it stands at. What one worker tells for all is not added up over workers."""
    one = series(metric, where)
    if metric.is_global:
        one = f"max{_by(metric, *metric.attributes)} ({one})"
    return one if metric.is_global and by == metric.attributes else f"{how}{_by(metric, *by)} ({one})"


def rate(metric: Metric, *by: str, where: Where | None = None) -> str:
    """How many a second; of a histogram how many were recorded."""
    suffix = "_count" if metric.kind is Kind.HISTOGRAM else ""
    return f"sum{_by(metric, *by)} (rate({series(metric, where, suffix=suffix)}[$__rate_interval]))"


def quantile(part: float, metric: Metric, *by: str, where: Where | None = None) -> str:
    """The duration that such a part of all stays below."""
    buckets = f"rate({series(metric, where, suffix='_bucket')}[$__rate_interval])"
    return f"histogram_quantile({part}, sum{_by(metric, *by, 'le')} ({buckets}))"


def _by(metric: Metric, *names: str) -> str:
    _check(metric, *names)
    return f" by ({', '.join(map(label, names))})" if names else ""


def _check(metric: Metric, *names: str) -> None:
    unknown = {*names} - {*metric.attributes, INSTANCE, "le"}
    if unknown:
        raise ValueError(f"{metric.name} has no {', '.join(sorted(unknown))}")


# --- panels ----------------------------------------------------------------------------------------------------------

Query = tuple[str, str]
"""An expression and its legend."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One panel; its width is of 24."""

    title: str
    about: str
    queries: Sequence[Query]
    unit: str = "short"
    kind: str = "timeseries"
    width: int = 12
    height: int = 8
    red_from: float | None = None
    is_stacked: bool = False


def graph(title: str, about: str, *queries: Query, **more: Any) -> Panel:
    return Panel(title=title, about=about, queries=queries, **more)


def stat(title: str, about: str, query: str, **more: Any) -> Panel:
    return Panel(title=title, about=about, queries=[(query, "")], kind="stat", width=4, height=4, **more)


def legend(*names: str) -> str:
    return " ".join(f"{{{{{label(name)}}}}}" for name in names)


def quantiles(metric: Metric, *by: str, where: Where | None = None) -> list[Query]:
    return [(quantile(part / 100, metric, *by, where=where), f"p{part} {legend(*by)}".strip()) for part in (50, 95, 99)]


def rates(metric: Metric, *by: str, where: Where | None = None) -> Query:
    return rate(metric, *by, where=where), legend(*by)


def levels(metric: Metric, *by: str, where: Where | None = None, how: str = "sum") -> Query:
    return now(metric, *by, where=where, how=how), legend(*by)


READY, BUSY = {QUEUED_STATE: '="ready"'}, {SLOT_STATE: '="busy"'}
DEAD, EXPIRED = {RUN_STATE: '="dead_lettered"'}, {RUN_STATE: '="expired"'}
FAILED = {ERROR_TYPE: '!=""'}
SENDING, SETTLING = {MESSAGING_OPERATION_NAME: '="send"'}, {MESSAGING_OPERATION_NAME: '="settle"'}

OVERVIEW = [
    stat("Ready", "Runs that are due and wait for a place", now(m.QUEUE_DEPTH, where=READY)),
    stat("Longest wait", "Of all runs that are due", now(m.OLDEST_AGE, how="max"), unit="s", red_from=300),
    stat(
        "Places in use",
        "Handlers at work, of all that may be",
        f"{now(m.SLOTS, where=BUSY)} / {now(m.SLOTS_LIMIT)}",
        unit="percentunit",
        red_from=0.95,
    ),
    stat(
        "Given up",
        "Dead letters, of all runs that end",
        f"{rate(m.RUNS, where=DEAD)} / {rate(m.RUNS)}",
        unit="percentunit",
        red_from=0.05,
    ),
    stat("Dead letters, last hour", "Runs given up", f"sum (increase({series(m.DEAD_LETTERS)}[1h]))", red_from=1),
    stat("Processes", "That report pools", f"count(count by (instance) ({series(m.SLOTS_LIMIT)}))"),
    graph("Runs that end", "By the state that they end in", rates(m.RUNS, RUN_STATE), unit="ops", is_stacked=True),
    graph("Dispatches", "Runs accepted, by queue", rates(m.SENT, MESSAGING_DESTINATION_NAME), unit="ops"),
    graph("Wait", "From when a run is due to its claim", *quantiles(m.QUEUE_WAIT), unit="s"),
    graph(
        "Longest wait by queue",
        "Page on this and not on the depth: a deep queue that moves is no trouble",
        levels(m.OLDEST_AGE, QUEUE_NAME),
        unit="s",
        red_from=300,
    ),
    graph("Depth by queue", "Runs that are due and wait", levels(m.QUEUE_DEPTH, QUEUE_NAME, where=READY)),
    graph(
        "Errors",
        "Attempts that fail, by the kind of error",
        rates(m.ATTEMPT_DURATION, ERROR_TYPE, where=FAILED),
        unit="ops",
    ),
]

JOB = [
    graph("Attempts", "By what they come to", rates(m.ATTEMPT_DURATION, ATTEMPT_OUTCOME), unit="ops", is_stacked=True),
    graph("Runs that end", "By job and state", rates(m.RUNS, JOB_NAME, RUN_STATE), unit="ops"),
    graph("Attempts take", "From the claim to the handler's end", *quantiles(m.ATTEMPT_DURATION, JOB_NAME), unit="s"),
    graph(
        "Attempts by duration",
        "How many take how long",
        (f"sum by (le) (increase({series(m.ATTEMPT_DURATION, suffix='_bucket')}[$__rate_interval]))", "{{le}}"),
        unit="s",
        kind="heatmap",
    ),
    graph("Runs take", "Delays and retries included", *quantiles(m.RUN_DURATION, JOB_NAME), unit="s"),
    graph("Runs wait", "From being due to the claim, for each attempt", *quantiles(m.QUEUE_WAIT, JOB_NAME), unit="s"),
    graph("Retries", "Failed attempts after which the run is tried again", rates(m.RETRIES, JOB_NAME), unit="ops"),
    graph("Dead letters", "Runs given up", rates(m.DEAD_LETTERS, JOB_NAME), unit="ops"),
    graph("Dispatches that find their run", "By key, or as unique runs", rates(m.DEDUPLICATED, JOB_NAME), unit="ops"),
    graph(
        "Errors",
        "By job and kind",
        rates(m.ATTEMPT_DURATION, JOB_NAME, ERROR_TYPE, where=FAILED),
        unit="ops",
    ),
]

WORKERS = [
    graph(
        "Places",
        "Handlers at work, outcomes on their way to the store, and how many places there are",
        levels(m.SLOTS, QUEUE_NAME, SLOT_STATE),
        (now(m.SLOTS_LIMIT, QUEUE_NAME), f"limit {legend(QUEUE_NAME)}"),
    ),
    graph(
        "Places in use by process",
        "One that does less than the others is in trouble",
        (f"{now(m.SLOTS, INSTANCE, where=BUSY)} / {now(m.SLOTS_LIMIT, INSTANCE)}", legend(INSTANCE)),
        unit="percentunit",
    ),
    graph("Attempts that begin", "By process", rates(m.CONSUMED, INSTANCE), unit="ops"),
    graph("Attempts take", "By queue", *quantiles(m.PROCESS_DURATION, MESSAGING_DESTINATION_NAME), unit="s"),
    graph(
        "Event loop lag",
        "How late the loop calls: a handler that computes belongs into a thread or a process",
        *quantiles(m.LOOP_LAG, INSTANCE),
        unit="s",
        red_from=1,
    ),
    graph(
        "Recording takes",
        "From a handler's end to the commit of what it came to",
        *quantiles(m.OPERATION_DURATION, where=SETTLING),
        unit="s",
    ),
    graph("Mailboxes", "Runs claimed that no actor has taken yet", levels(m.MAILBOX_SIZE, QUEUE_NAME)),
    graph(
        "Lost and late",
        "Attempts whose worker died, outcomes that came too late, observations that were dropped",
        (rate(m.LEASES_LOST), "leases lost"),
        (rate(m.STALE_SETTLES), "outcomes too late"),
        (rate(m.OBSERVATIONS_DROPPED), "observations dropped"),
        unit="ops",
    ),
]

BROKER = [
    stat("Connected", "0 when a process has no connection to publish on", now(m.BROKER_CONNECTED, how="min")),
    stat("Blocked", "1 when the broker takes nothing", now(m.BROKER_BLOCKED, how="max"), red_from=1),
    stat(
        "Unpublished",
        "Due runs of which the broker does not know",
        now(m.OUTBOX_PENDING, how="max"),
        red_from=1000,
    ),
    stat("Unpublished since", "The first of them", now(m.OUTBOX_AGE, how="max"), unit="s", red_from=60),
    stat("Quarantine", "Messages that are no hints", now(m.QUARANTINED, how="max"), red_from=1),
    stat("On their way", "Hints without an answer yet", now(m.BROKER_PENDING)),
    graph("Hints", "By what becomes of them", rates(m.BROKER_HINTS, HINT_OUTCOME), unit="ops"),
    graph("Outbox", "What the relay has yet to publish", levels(m.OUTBOX_PENDING, how="max")),
    graph("Dispatches take", "Until they are committed", *quantiles(m.OPERATION_DURATION, where=SENDING), unit="s"),
    graph(
        "Dispatches",
        "Accepted, or failed with an error",
        rates(m.SENT, MESSAGING_DESTINATION_NAME, ERROR_TYPE),
        unit="ops",
    ),
    graph("Runs in the store", "By state", levels(m.QUEUE_DEPTH, QUEUED_STATE)),
    graph(
        "Sweeps that fail",
        "A worker's periodic duties; the log says why",
        rates(m.SWEEPS, SWEEP_NAME, where={SWEEP_OUTCOME: '="failed"'}),
        unit="ops",
    ),
    graph(
        "Sweeps take",
        "The last call",
        levels(m.SWEEP_DURATION, SWEEP_NAME, how="max"),
        unit="s",
    ),
    graph("Expiry", "Runs whose time to start has passed", rates(m.RUNS, QUEUE_NAME, where=EXPIRED), unit="ops"),
    graph("Rescue", "Runs taken back from workers that died", rates(m.LEASES_LOST, QUEUE_NAME), unit="ops"),
    graph(
        "Dead letters kept",
        "Until an operator retries or deletes them, or their time is over",
        levels(m.QUEUE_DEPTH, QUEUE_NAME, where={QUEUED_STATE: '="dead_lettered"'}),
    ),
]

DASHBOARDS = {
    "overview": ("actorjobs: overview", OVERVIEW),
    "job": ("actorjobs: jobs", JOB),
    "workers": ("actorjobs: workers", WORKERS),
    "broker": ("actorjobs: broker and sweeps", BROKER),
}


# --- Grafana's JSON --------------------------------------------------------------------------------------------------

SOURCE = {"type": "prometheus", "uid": "${datasource}"}
OPTIONS: Mapping[str, Any] = {
    "stat": {"reduceOptions": {"calcs": ["lastNotNull"]}},
    "timeseries": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
    "heatmap": {"calculate": False, "cellGap": 1, "yAxis": {"unit": "s"}},
}


def dashboard(name: str) -> dict[str, Any]:
    title, panels = DASHBOARDS[name]
    return {
        "uid": f"actorjobs-{name}",
        "title": title,
        "tags": ["actorjobs"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "links": [{"type": "dashboards", "tags": ["actorjobs"], "title": "", "keepTime": True, "includeVars": True}],
        "templating": {"list": variables()},
        "annotations": {"list": []},
        "panels": _placed(panels),
    }


def variables() -> list[dict[str, Any]]:
    source = {"name": "datasource", "label": "Source", "type": "datasource", "query": "prometheus", "current": {}}
    return [source, _variable("queue", m.SLOTS_LIMIT, QUEUE_NAME), _variable("job", m.RUNS, JOB_NAME)]


def _variable(name: str, metric: Metric, attribute: str) -> dict[str, Any]:
    _check(metric, attribute)
    query = f"label_values({metric.in_prometheus}, {label(attribute)})"
    return {
        "name": name,
        "label": name.capitalize(),
        "type": "query",
        "datasource": SOURCE,
        "definition": query,
        "query": {"query": query, "refId": name},
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": ["All"], "value": ["$__all"]},
    }


def _placed(panels: Sequence[Panel]) -> list[dict[str, Any]]:
    """From left to right, and on in the next row where there is no more room."""
    placed: list[dict[str, Any]] = []
    x = y = 0
    for number, panel in enumerate(panels, start=1):
        if x + panel.width > 24:
            x, y = 0, y + placed[-1]["gridPos"]["h"]
        place = {"x": x, "y": y, "w": panel.width, "h": panel.height}
        placed.append({"id": number, "gridPos": place, **_panel(panel)})
        x += panel.width
    return placed


def _panel(panel: Panel) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    if panel.red_from is not None:
        steps.append({"color": "red", "value": panel.red_from})
    custom: dict[str, Any] = {"stacking": {"mode": "normal"}, "fillOpacity": 30} if panel.is_stacked else {}
    target = {"datasource": SOURCE, "format": "heatmap" if panel.kind == "heatmap" else "time_series"}
    defaults = {"unit": panel.unit, "min": 0, "thresholds": {"mode": "absolute", "steps": steps}, "custom": custom}
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.about,
        "datasource": SOURCE,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": OPTIONS[panel.kind],
        "targets": [
            {"refId": chr(ord("A") + index), "expr": expression, "legendFormat": words, **target}
            for index, (expression, words) in enumerate(panel.queries)
        ],
    }


# --- files -----------------------------------------------------------------------------------------------------------


def files() -> dict[Path, str]:
    """Every file, as it should be."""
    folder = ROOT / "deploy" / "grafana" / "dashboards"
    written = {folder / f"{name}.json": json.dumps(dashboard(name), indent=2) + "\n" for name in DASHBOARDS}
    page = ROOT / "docs" / "metrics.md"
    head, _, rest = page.read_text(encoding="utf-8").partition(TABLE_BEGINS)
    _, _, tail = rest.partition(TABLE_ENDS)
    return {**written, page: f"{head}{TABLE_BEGINS}{table()}{TABLE_ENDS}{tail}"}


if __name__ == "__main__":
    for path, text in files().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
