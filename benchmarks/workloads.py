"""The workloads: what is dispatched, what is waited for, and which figures come of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks import machine
from benchmarks.plan import CONCURRENCY, Demand
from benchmarks.systems import System
from benchmarks.trial import Trial

RUNS = 20_000
BULK = 1000
LATENCY_PER_SECOND = 100
LATENCY_SECONDS = 20.0
DELAYS = (4.0, 6.0)
DELAYED_RUNS = 2000
RETRIED_RUNS = 1000
EARLY_MS = -1.0
"""A start so long before its time is counted as early; less is within what clocks differ by."""

Figures = dict[str, float]


@dataclass(frozen=True, slots=True)
class Size:
    """How much of each workload is asked for."""

    runs: int = RUNS
    """Of noop and io, for a system that is not slow."""
    concurrency: int = CONCURRENCY
    """Of the queue, for noop and io."""
    latency_seconds: float = LATENCY_SECONDS
    delayed: int = DELAYED_RUNS
    retried: int = RETRIED_RUNS

    def of(self, system: System) -> int:
        return max(1, round(self.runs * system.share))


@dataclass(frozen=True, slots=True)
class Metric:
    """How a figure is shown."""

    name: str
    is_better_higher: bool = False
    digits: int = 1
    is_compared: bool = False
    """Whether its ratio to actorjobs is shown."""


@dataclass(frozen=True, slots=True)
class Workload:
    title: str
    measure: Callable[[System, Size], Figures]
    metrics: tuple[Metric, ...]


def noop(system: System, size: Size) -> Figures:
    """Dispatched with no worker, performed with no producer, then both at once."""
    runs = size.of(system)
    with Trial(system, concurrency=size.concurrency) as trial:
        figures = _dispatched(trial, runs) | drained(trial, runs)
    with Trial(system, concurrency=size.concurrency) as trial:
        figures |= _end_to_end(trial, runs)
    if system.has_bulk:
        with Trial(system, concurrency=size.concurrency) as trial:
            produced = trial.produce(Demand(job="noop", count=runs, bulk=BULK))
            figures["bulk dispatch/s"] = runs / produced.seconds
    return figures


def io(system: System, size: Size) -> Figures:
    """Ten milliseconds of waiting each; dispatched before the worker starts."""
    runs = size.of(system)
    with Trial(system, concurrency=size.concurrency) as trial:
        trial.produce(Demand(job="io", count=runs))
        return drained(trial, runs)


def latency(system: System, size: Size) -> Figures:
    count = max(1, round(LATENCY_PER_SECOND * size.latency_seconds))
    return _lateness(system, Demand(job="latency", count=count, per_second=LATENCY_PER_SECOND))


def delayed(system: System, size: Size) -> Figures:
    return _lateness(system, Demand(job="latency", count=size.delayed, delays=DELAYS))


def retry(system: System, size: Size) -> Figures:
    return _lateness(system, Demand(job="retry", count=size.retried))


def _dispatched(trial: Trial, runs: int) -> Figures:
    produced = trial.produce(Demand(job="noop", count=runs))
    return {"dispatch/s": runs / produced.seconds, "producer µs": produced.cpu / runs * 1e6}


def drained(trial: Trial, runs: int, *more: str) -> Figures:
    """Start a worker on what was dispatched before: from the first run's start to the last one's end."""
    already = trial.recording.count()
    trial.start_worker(*more)
    trial.until(already + 1)
    counted, before = trial.recording.count(), trial.cpu()
    trial.until(already + runs)
    costs = trial.costs(before, already + runs - counted)
    peak = machine.peak_megabytes(trial.worker_pid)
    performed = trial.recording.runs()[already:]
    seconds = max(run.finished for run in performed) - performed[0].started
    return {"drain/s": runs / seconds, "worker MB": peak} | costs


def _end_to_end(trial: Trial, runs: int) -> Figures:
    trial.warm_up()
    already, before = trial.recording.count(), trial.cpu()
    produced = trial.produce(Demand(job="noop", count=runs))
    trial.until(already + runs)
    costs = trial.costs(before, runs) | {"producer µs": produced.cpu / runs * 1e6}
    rate = runs / (max(run.finished for run in trial.recording.runs()) - produced.began)
    return {"end to end/s": rate} | {f"end to end {name}": cost for name, cost in costs.items()}


def _lateness(system: System, demand: Demand) -> Figures:
    with Trial(system) as trial:
        trial.warm_up()
        already = trial.recording.count()
        trial.produce(demand)
        trial.until(already + demand.count)
        return lateness([run.lateness * 1e3 for run in trial.recording.runs() if run.promised])


def lateness(milliseconds: Sequence[float]) -> Figures:
    """Quantiles of these, and how many were early."""
    ordered = sorted(milliseconds)
    return {
        "p50 ms": quantile(ordered, 0.5),
        "p90 ms": quantile(ordered, 0.9),
        "p99 ms": quantile(ordered, 0.99),
        "max ms": ordered[-1],
        "early": float(sum(value < EARLY_MS for value in ordered)),
    }


def quantile(ordered: Sequence[float], part: float) -> float:
    """The smallest of these that at least `part` of them do not exceed."""
    return ordered[max(0, math.ceil(len(ordered) * part) - 1)]


_LATE = (Metric("p50 ms", is_compared=True), Metric("p99 ms", is_compared=True), Metric("max ms"))

WORKLOADS = {
    "noop": Workload(
        "An empty job: runs per second",
        noop,
        (
            Metric("dispatch/s", is_better_higher=True, digits=0, is_compared=True),
            Metric("bulk dispatch/s", is_better_higher=True, digits=0),
            Metric("drain/s", is_better_higher=True, digits=0, is_compared=True),
            Metric("end to end/s", is_better_higher=True, digits=0, is_compared=True),
            Metric("producer µs", digits=0),
            Metric("worker µs", digits=0),
            Metric("broker µs", digits=0),
            Metric("database µs", digits=0),
            Metric("worker MB", digits=0),
        ),
    ),
    "io": Workload(
        "Ten milliseconds of waiting, a hundred at once (10,000/s at most): runs per second",
        io,
        (
            Metric("drain/s", is_better_higher=True, digits=0, is_compared=True),
            Metric("worker µs", digits=0),
            Metric("broker µs", digits=0),
            Metric("database µs", digits=0),
        ),
    ),
    "latency": Workload(
        "From dispatch to start, 100 runs a second",
        latency,
        (Metric("p50 ms", is_compared=True), Metric("p90 ms"), Metric("p99 ms", is_compared=True), Metric("max ms")),
    ),
    "delayed": Workload("Delays of 4 to 6 s: how late runs start", delayed, (*_LATE, Metric("early", digits=0))),
    "retry": Workload(
        "Retries a second after a failure: how late they start", retry, (*_LATE, Metric("early", digits=0))
    ),
}
