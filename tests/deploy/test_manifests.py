"""The files of deploy/, as the tools that read them check them; and what holds between them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import actorjobs as aj
from tests.telemetry.prometheus import Programs

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
COMPOSE = DEPLOY / "compose.yaml"
KUBERNETES = sorted(path for path in (DEPLOY / "kubernetes").glob("*.yaml") if path.name != "kustomization.yaml")
CLEAN_UP_SECONDS = 5
TO_SPARE_SECONDS = 15
NO_KUBECTL = "no kubectl here, and nothing of ours installs it: each file by itself is validated without"


def checked(tool: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a tool of this environment."""
    command = [str(Path(sys.executable).parent / tool), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def finds(tool: str, *arguments: str | Path) -> str:
    """What it says, having found something."""
    done = checked(tool, *arguments)
    assert done.returncode != 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def passes(tool: str, *arguments: str | Path) -> None:
    done = checked(tool, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr


def broken(path: Path, folder: Path, old: str, new: str) -> Path:
    """A copy with a mistake: a check that lets it pass checks nothing."""
    text = path.read_text(encoding="utf-8")
    assert old in text
    (copy := folder / path.name).write_text(text.replace(old, new), encoding="utf-8")
    return copy


def test_compose(tmp_path: Path) -> None:
    schema = ("--builtin-schema", "vendor.compose-spec")
    passes("check-jsonschema", *schema, COMPOSE)
    mistaken = broken(COMPOSE, tmp_path, "stop_grace_period: 45s", "stop_grace_priod: 45s")
    assert "stop_grace_priod" in finds("check-jsonschema", *schema, mistaken)


@pytest.mark.parametrize("path", KUBERNETES, ids=lambda path: path.name)
def test_kubernetes(path: Path, tmp_path: Path) -> None:
    passes("kubernetes-validate", "--strict", path)
    mistaken = broken(path, tmp_path, "maxUnavailable: 1", "maxUnavailabel: 1")
    assert "maxUnavailabel" in finds("kubernetes-validate", "--strict", mistaken)


@pytest.mark.skipif(shutil.which("kubectl") is None, reason=NO_KUBECTL)
def test_kustomize_builds_all_of_it() -> None:
    done = subprocess.run(
        ["kubectl", "kustomize", str(DEPLOY / "kubernetes")], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    built = list(yaml.safe_load_all(done.stdout))
    assert sorted(one["kind"] for one in built) == [
        *("ConfigMap", "Deployment", "Deployment", "PodDisruptionBudget", "PodDisruptionBudget", "Service")
    ]
    images = {image for one in built if one["kind"] == "Deployment" for image in images_of(one)}
    assert images == {"registry.example.org/shop:1"}


def images_of(deployment: Any) -> list[str]:
    return [container["image"] for container in deployment["spec"]["template"]["spec"]["containers"]]


def test_dockerfile(tmp_path: Path) -> None:
    passes("hadolint", DEPLOY / "Dockerfile")
    assert "DL3002" in finds("hadolint", broken(DEPLOY / "Dockerfile", tmp_path, "USER 10001", "USER root"))


def test_prometheus(prometheus_programs: Programs, tmp_path: Path) -> None:
    def check(config: Path) -> subprocess.CompletedProcess[str]:
        command = [prometheus_programs.promtool, "check", "config", "--syntax-only", str(config)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    config = DEPLOY / "prometheus" / "prometheus.yaml"
    done = check(config)
    assert done.returncode == 0, done.stdout + done.stderr
    mistaken = check(broken(config, tmp_path, "scrape_configs:", "scrape_confgs:"))
    assert mistaken.returncode != 0
    assert "scrape_confgs" in mistaken.stdout + mistaken.stderr


def manifests() -> dict[tuple[str, str], Any]:
    every = [one for path in KUBERNETES for one in yaml.safe_load_all(path.read_text(encoding="utf-8"))]
    return {(one["kind"], one["metadata"]["name"]): one for one in every}


def test_a_worker_has_time_to_drain_everywhere() -> None:
    needed = aj.Runtime().settings.grace + CLEAN_UP_SECONDS + TO_SPARE_SECONDS
    pod = manifests()["Deployment", "actorjobs-worker"]["spec"]["template"]["spec"]
    [container] = pod["containers"]
    grace = {one["name"]: one["value"] for one in container["env"]}["ACTORJOBS_GRACE"]
    assert pod["terminationGracePeriodSeconds"] == int(grace) + CLEAN_UP_SECONDS + TO_SPARE_SECONDS == needed
    services = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))["services"]
    assert services["worker"]["stop_grace_period"] == f"{needed:.0f}s"
    assert f"--stop-timeout {needed:.0f}" in (DEPLOY / "README.md").read_text(encoding="utf-8")


def test_probes_ask_what_the_worker_serves() -> None:
    pod = manifests()["Deployment", "actorjobs-worker"]["spec"]["template"]["spec"]
    [container] = pod["containers"]
    ports = {one["name"]: one["containerPort"] for one in container["ports"]}
    assert container["args"][container["args"].index("--health-port") + 1] == str(ports["health"])
    probes = {name: container[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")}
    assert {name: one["path"] for name, one in probes.items()} == {
        "startup": "/live",
        "liveness": "/live",
        "readiness": "/ready",
    }
    assert {one["port"] for one in probes.values()} == {"health"}
    patience = container["livenessProbe"]["periodSeconds"] * container["livenessProbe"]["failureThreshold"]
    assert patience > 300, "the worker's own end of a stuck loop comes first: it leaves a stack"


def test_selectors_meet_their_pods() -> None:
    every = manifests()
    for (kind, name), one in every.items():
        labels = every["Deployment", name]["spec"]["template"]["metadata"]["labels"]
        selector = one["spec"]["selector"]
        assert selector.get("matchLabels", selector) == labels, (kind, name)


def test_compose_mounts_and_calls_what_is_there() -> None:
    compose = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))
    for name, service in compose["services"].items():
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            there = source in compose["volumes"] or (DEPLOY / source).exists()
            assert there or source == "./grafana/dashboards", (name, source)
        for needed in service.get("depends_on", {}):
            assert needed in compose["services"]
    for name in ("web", "worker"):
        [module] = {word.partition(":")[0] for word in compose["services"][name]["command"] if word.startswith("web_")}
        assert (ROOT / "examples" / f"{module}.py").is_file()


def test_compose_has_the_virtual_host_of_the_definitions() -> None:
    compose = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))
    [vhost] = json.loads((DEPLOY / "rabbitmq-definitions.json").read_text(encoding="utf-8"))["vhosts"]
    assert compose["services"]["rabbitmq"]["environment"]["RABBITMQ_DEFAULT_VHOST"] == vhost["name"]
    address = compose["services"]["worker"]["environment"]["ACTORJOBS_BROKER_URL"]
    assert address.endswith(f"@rabbitmq/{vhost['name']}")


def test_the_collector_and_grafana_name_only_what_is_there() -> None:
    collector = yaml.safe_load((DEPLOY / "otel-collector.yaml").read_text(encoding="utf-8"))
    for pipeline in collector["service"]["pipelines"].values():
        for kind, names in pipeline.items():
            assert set(names) <= set(collector[kind])
    services = set(yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))["services"])
    named = re.compile(r"(?://|endpoint: |targets: \[\")([a-z]+):\d+")
    grafana = "grafana/provisioning/datasources/datasources.yaml"
    for path in ("otel-collector.yaml", "prometheus/prometheus.yaml", grafana):
        hosts = set(named.findall((DEPLOY / path).read_text(encoding="utf-8")))
        assert hosts
        assert hosts <= services, path
