"""The benchmarks' own parts: what they record, how they add it up and show it. Nothing here is timed."""

from __future__ import annotations

import asyncio
import math
import os
import socket
import string
import threading
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from benchmarks import bodies, peers
from benchmarks.installing import ENVIRONMENTS, is_installed, why_missing
from benchmarks.machine import Cpu, Process, listener, parse_stat, processes, spent, tree
from benchmarks.plan import ROOT, Demand, Message, Plan
from benchmarks.plot import chart
from benchmarks.producing import produce
from benchmarks.recording import Recorder, Recording
from benchmarks.report import Measured, Report, render, shown, shown_ratio, table
from benchmarks.systems import POSTGRESQL, RABBITMQ, SYSTEMS, beside_peers, ours
from benchmarks.systems import peers as all_peers
from benchmarks.workloads import WORKLOADS, Size, lateness, quantile

OURS = "actorjobs rabbitmq+postgresql"


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    plan = Plan(folder=str(tmp_path), name="bench-1", store=None, broker=None, concurrency=100)
    for name, value in plan.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(bodies, "_recorder", None)
    return plan


def test_a_recording_has_what_recorders_wrote(tmp_path: Path) -> None:
    recorder, recording = Recorder(tmp_path), Recording(tmp_path)
    assert recording.count() == 0
    assert recording.runs() == []
    recorder.finished(20.0, promised=19.5)
    recorder.finished(10.0)
    assert recording.count() == 2
    first, second = recording.runs()
    assert (first.started, first.promised) == (10.0, 0.0)
    assert second.lateness == 0.5
    assert second.finished > 0


def test_bodies_write_down_what_they_did(plan: Plan) -> None:
    async def perform() -> None:
        for message in (Message("noop", 0, 0.0), Message("io", 1, 0.0), Message("latency", 2, 7.0)):
            await bodies.ASYNC[message.job](**message.arguments)

    asyncio.run(perform())
    runs = Recording(Path(plan.folder)).runs()
    assert [run.promised for run in runs] == [0.0, 0.0, 7.0]
    assert all(run.started <= run.finished for run in runs)


def test_threads_share_a_recorder(plan: Plan) -> None:
    threads, together = 8, threading.Barrier(8)

    def perform() -> None:
        together.wait()
        bodies.BLOCKING["noop"](**Message("noop", 0, 0.0).arguments)

    with ThreadPoolExecutor(threads) as pool:
        for _ in range(threads):
            pool.submit(perform)
    assert Recording(Path(plan.folder)).count() == len(Recording(Path(plan.folder)).runs()) == threads


def test_a_retry_fails_once_and_is_promised_a_second_later(plan: Plan) -> None:
    message = Message("retry", 3, 0.0)
    with pytest.raises(bodies.Failing):
        bodies.BLOCKING["retry"](**message.arguments)
    recording = Recording(Path(plan.folder))
    assert recording.count() == 0
    bodies.BLOCKING["retry"](**message.arguments)
    assert recording.runs()[0].promised == bodies.recorder().failed_at(3) + bodies.RETRY_SECONDS


def test_a_plan_reaches_the_processes(plan: Plan) -> None:
    assert Plan.current() == plan
    with pytest.raises(RuntimeError, match="broker"):
        _ = plan.server
    with pytest.raises(RuntimeError, match="database"):
        _ = plan.database


class FakeSender:
    def __init__(self) -> None:
        self.sent: list[Message] = []
        self.calls = 0
        self.most_at_once = 0
        self._at_once = 0

    async def send(self, message: Message) -> None:
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        await asyncio.sleep(0)
        self._at_once -= 1
        self.sent.append(message)

    async def send_many(self, messages: Sequence[Message]) -> None:
        self.calls += 1
        self.sent += messages


def test_a_producer_keeps_so_many_in_flight() -> None:
    sender = FakeSender()
    produced = asyncio.run(produce(sender, Demand(job="noop", count=50, in_flight=20)))
    assert sorted(message.index for message in sender.sent) == list(range(50))
    assert sender.most_at_once == 20
    assert produced.seconds == produced.ended - produced.began >= 0


def test_a_producer_dispatches_in_bulk() -> None:
    sender = FakeSender()
    asyncio.run(produce(sender, Demand(job="noop", count=25, bulk=10)))
    assert (len(sender.sent), sender.calls) == (25, 3)


def test_a_paced_producer_dispatches_one_after_the_other() -> None:
    sender = FakeSender()
    asyncio.run(produce(sender, Demand(job="latency", count=5, per_second=1000)))
    assert [message.index for message in sender.sent] == list(range(5))
    assert sender.most_at_once == 1


def test_a_demand_survives_its_journey_and_has_the_same_delays_every_time() -> None:
    demand = Demand(job="latency", count=100, delays=(4.0, 6.0))
    again = Demand.from_json(demand.to_json())
    delays = [message.delay for message in again.messages()]
    assert delays == [message.delay for message in demand.messages()]
    assert all(delay is not None and 4.0 <= delay <= 6.0 for delay in delays)


def test_quantiles_and_the_early_ones() -> None:
    assert quantile([1.0, 2.0, 3.0, 4.0], 0.5) == 2.0
    assert quantile([1.0], 0.99) == 1.0
    figures = lateness([5.0, -3.0, -0.5, 8.0])
    assert figures == {"p50 ms": -0.5, "p90 ms": 8.0, "p99 ms": 8.0, "max ms": 8.0, "early": 1.0}


def test_slow_systems_are_asked_for_less() -> None:
    assert Size(runs=1000).of(SYSTEMS["saq"]) == 150
    assert Size(runs=1).of(SYSTEMS["saq"]) == 1


def test_a_line_of_proc_is_read_whatever_the_command_is_called() -> None:
    rest = " ".join(["S", "41", *["0"] * 9, "200", "100", "50", "0"])
    assert parse_stat(f"42 (odd) name) {rest}").command == "odd) name"
    found = parse_stat(f"42 (beam.smp) {rest}")
    assert (found.command, found.parent) == ("beam.smp", 41)
    assert math.isclose(found.cpu, 6 * found.children)


def test_a_tree_is_a_process_and_all_below_it() -> None:
    def process(parent: int) -> Process:
        return Process("python", parent, 0.0, 0.0)

    assert sorted(tree(2, {1: process(0), 2: process(1), 3: process(2), 4: process(3), 5: process(1)})) == [2, 3, 4]
    assert tree(99, processes()) == [] or 99 in processes()


def test_what_a_tree_has_spent_has_its_dead_children() -> None:
    found = {1: Process("a", 0, 1.0, 10.0), 2: Process("b", 1, 2.0, 20.0), 3: Process("c", 0, 4.0, 40.0)}
    assert spent(1, found) == 33.0
    assert spent(None, found) == spent(9, found) == 0.0


def test_a_listener_is_found_by_its_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert listener(server.getsockname()[1]) == os.getpid()
        port = server.getsockname()[1]
    assert listener(port) is None


def test_cpu_is_what_was_spent_since() -> None:
    assert Cpu(5.0, 3.0, 1.0).since(Cpu(1.0, 1.0, 1.0)) == Cpu(4.0, 2.0, 0.0)


def report_of(*measured: Measured) -> Report:
    machine = {"cores": 2, "python": "3.11", "system": "Linux", "load": [0.1, 0.1, 0.1]}
    return Report("2026-01-01 00:00 UTC", machine, 3, list(measured))


@pytest.fixture
def report() -> Report:
    drains = {OURS: (8000.0, 9000.0, 10000.0), "taskiq": (3000.0, 4500.0, 4600.0), "dramatiq 1x8": (8500.0,)}
    measured = [
        Measured(system, "noop", repeat, {"drain/s": rate, "dispatch/s": 2 * rate, "end to end/s": rate / 2})
        for system, rates in drains.items()
        for repeat, rate in enumerate(rates, 1)
    ]
    failed = Measured("taskiq", "io", 1, {}, "it said\nno")
    report = report_of(*measured, failed)
    report.skipped["oban"] = "it needs a newer Python"
    return report


def test_medians_and_ratios(report: Report) -> None:
    assert report.median(OURS, "noop", "drain/s") == 9000.0
    assert report.ratio("taskiq", "noop", "drain/s") == 0.5
    assert report.ratio(OURS, "noop", "drain/s") is None
    assert report.ratio("celery prefork 2", "noop", "drain/s") is None


def test_a_figure_is_shown_with_its_range() -> None:
    assert shown([1200.0, 1000.0, 1500.0], 0) == "1,200 (1,000\N{EN DASH}1,500)"
    assert shown([1.25], 1) == "1.2"
    assert shown([], 0) == "-"


def test_what_differs_by_less_than_a_quarter_is_equal() -> None:
    assert shown_ratio(0.5) == "0.50"
    assert shown_ratio(0.9) == "0.90 (equal)"
    assert shown_ratio(1.3) == "1.30"
    assert shown_ratio(0.0042) == "0.0042"
    assert shown_ratio(250.0) == "250"
    assert shown_ratio(None) == "-"


def test_a_table_has_even_columns() -> None:
    lines = table(["a", "long head"], [["cell", "1"]]).splitlines()
    assert lines == ["| a    | long head |", "| ---- | --------- |", "| cell | 1         |"]


def test_a_report_tells_all(report: Report) -> None:
    text = render(report)
    assert "9,000 (8,000\N{EN DASH}10,000)" in text
    assert "0.94 (equal)" in text
    assert "oban: skipped, it needs a newer Python" in text
    assert "taskiq, io, repeat 1: failed, it said no" in text
    assert "less than 25 % is equal" in text


def test_a_report_survives_its_file(report: Report, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text(report.to_json(), encoding="utf-8")
    assert Report.load(path) == report


def test_a_chart_is_well_formed_and_has_a_bar_for_each_figure(report: Report) -> None:
    root = ElementTree.fromstring(chart(report))
    namespace = "{http://www.w3.org/2000/svg}"
    assert root.tag == f"{namespace}svg"
    ground, legend, bars = 1, 3, 3 * 3
    assert len(root.findall(f"{namespace}rect")) == ground + legend + bars
    texts = {text.text for text in root.iter(f"{namespace}text")}
    assert {"taskiq", "9,000", "end to end"} <= texts


def test_a_chart_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing to draw"):
        chart(report_of())


def test_tables_go_between_the_markers() -> None:
    text = f"before\n{peers.BEGIN}\nold\n{peers.END}\nafter\n"
    new = peers.replaced(text, "new")
    assert new == f"before\n{peers.BEGIN}\n\nnew\n\n{peers.END}\nafter\n"
    assert peers.replaced(new, "new") == new
    with pytest.raises(ValueError, match="no place"):
        peers.replaced("nothing here", "new")


def test_the_readme_has_a_place_for_tables() -> None:
    readme = peers.README.read_text(encoding="utf-8")
    assert "new" in peers.replaced(readme, "new")


@pytest.mark.parametrize("name", SYSTEMS)
def test_presets_are_complete(name: str) -> None:
    system = SYSTEMS[name]
    assert (ROOT / "benchmarks" / "systems" / f"{system.module}.py").is_file()
    assert system.environment is None or system.environment in ENVIRONMENTS
    assert system.store or system.broker
    assert system.lacks <= WORKLOADS.keys()
    assert 0 < system.share <= 1
    assert system.reference in SYSTEMS
    words = {"python", "module", "processes", "concurrency", "name"}
    used = {field for part in system.worker for _, field, _, _ in string.Formatter().parse(part) if field}
    assert used <= words


def test_presets_cover_stores_and_brokers() -> None:
    assert {(system.store, system.broker) for system in ours(1)} == {
        (store, broker) for store in ("sqlite", POSTGRESQL, "mariadb") for broker in (None, RABBITMQ)
    }
    assert len(ours(2)) == len(ours(1))
    assert {system.environment for system in all_peers()} == set(ENVIRONMENTS)
    references = {system.reference for system in all_peers()}
    assert references == {system.name for system in beside_peers()}


def test_every_bound_has_two_ends() -> None:
    for environment in ENVIRONMENTS.values():
        assert all(">=" in requirement and ",<" in requirement for requirement in environment.requirements)


def test_a_missing_environment_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.installing.FOLDER", tmp_path)
    assert not is_installed("oban")
    assert "--install" in why_missing("oban")
    (tmp_path / "oban").mkdir()
    (tmp_path / "oban" / "failed.txt").write_text("no such version", encoding="utf-8")
    assert "no such version" in why_missing("oban")
