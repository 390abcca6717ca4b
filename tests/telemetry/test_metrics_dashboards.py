"""Dashboards and rules: as the generator writes them, and about metrics that exist."""

from __future__ import annotations

import importlib.util
import json
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from actorjobs.telemetry.metrics import METRICS
from tests.telemetry import promql
from tests.telemetry.prometheus import Programs

DEPLOY = Path(__file__).parents[2] / "deploy"
FOLDER = DEPLOY / "grafana" / "dashboards"
NAMES = ("broker", "job", "overview", "workers")
RULES = DEPLOY / "prometheus" / "rules.yaml"


@pytest.fixture(scope="session")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate_dashboards", DEPLOY / "grafana" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules[spec.name] = module  # its dataclasses look there
    spec.loader.exec_module(module)
    return module


def dashboard(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    return found


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def in_force(expression: str) -> str:
    """As Grafana asks it where the queues and jobs of the fleet are chosen by their names."""
    jobs = "(fleet:mail|fleet:bad|fleet:report|fleet:feed)"
    chosen = {"$__rate_interval": "1m", "$queue": "(emails|reports)", "$job": jobs}
    for name, value in chosen.items():
        expression = expression.replace(name, value)
    return expression


def expressions(name: str) -> list[str]:
    return [target["expr"] for panel in dashboard(name)["panels"] for target in panel["targets"]]


def test_what_is_generated_is_what_is_here(generator: ModuleType) -> None:
    for path, text in generator.files().items():
        assert path.read_text() == text, f"{path.name} is not as `make docs` writes it"
    assert sorted(path.stem for path in FOLDER.iterdir()) == list(NAMES)


def test_the_generator_refuses_what_no_metric_has(generator: ModuleType) -> None:
    with pytest.raises(ValueError, match=r"actorjobs\.retries has no actorjobs\.run\.state"):
        generator.rate(generator.m.RETRIES, generator.RUN_STATE)


@pytest.mark.parametrize("name", NAMES)
def test_a_dashboard_is_whole(name: str) -> None:
    board = dashboard(name)
    assert board["uid"] == f"actorjobs-{name}"
    assert [variable["name"] for variable in board["templating"]["list"]] == ["datasource", "queue", "job"]
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels) == len({panel["title"] for panel in panels})
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        assert panel["targets"]
        assert panel["datasource"]["uid"] == "${datasource}"
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, f"{panel['title']} lies over another panel"
        taken |= cells


@pytest.mark.parametrize("name", NAMES)
def test_every_metric_of_a_panel_exists(name: str) -> None:
    for expression in expressions(name):
        promql.check(in_force(expression))
    for variable in dashboard(name)["templating"]["list"][1:]:
        metric, _, label = variable["definition"].removeprefix("label_values(").removesuffix(")").partition(", ")
        promql.check(f"sum by ({label}) ({metric})")


def test_every_metric_is_on_a_panel() -> None:
    shown = {s.name for name in NAMES for e in expressions(name) for s in promql.selectors(in_force(e))}
    known = promql.known_series()
    assert {known[name] for name in shown} == set(METRICS)


def test_every_metric_of_a_rule_exists() -> None:
    recorded = frozenset(rule["record"] for rule in rules() if "record" in rule)
    for rule in rules():
        promql.check(rule["expr"], recorded)


def test_an_alert_says_what_is_wrong_and_what_to_do() -> None:
    for rule in rules():
        if "alert" in rule:
            assert rule["labels"]["severity"] in ("page", "ticket")
            assert set(rule["annotations"]) == {"summary", "action"}


def test_every_rule_is_tested() -> None:
    tests = yaml.safe_load(RULES.with_name("rules_test.yaml").read_text())["tests"]
    fired = {one["alertname"] for test in tests for one in test.get("alert_rule_test", ()) if one["exp_alerts"]}
    quiet = {one["alertname"] for test in tests for one in test.get("alert_rule_test", ()) if not one["exp_alerts"]}
    assert fired == quiet == {rule["alert"] for rule in rules() if "alert" in rule}


@pytest.mark.parametrize("what", ["check", "test"])
def test_prometheus_itself_takes_the_rules(prometheus_programs: Programs, what: str) -> None:
    file = RULES if what == "check" else RULES.with_name("rules_test.yaml")
    done = subprocess.run(
        [prometheus_programs.promtool, what, "rules", file], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SUCCESS" in done.stdout
