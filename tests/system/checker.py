"""The judge: holds what the handlers wrote themselves against what the store says of the same runs."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import actorjobs as aj

TERMINAL = {aj.RunState.SUCCEEDED, aj.RunState.DEAD_LETTERED, aj.RunState.CANCELED, aj.RunState.EXPIRED}
CLOCK_SLACK_SECONDS = 0.05
"""Between a commit and the moment the next line of Python reads the wall clock."""


@dataclass
class Effects:
    """What one attempt's handler was seen to do: monotonic times of this host."""

    started: list[float] = field(default_factory=list)
    walls: list[float] = field(default_factory=list)
    last: float = 0.0
    pids: set[int] = field(default_factory=set)
    ended: bool = False
    canceled: bool = False


def read_effects(folder: Path) -> dict[str, dict[int, Effects]]:
    """Effects by run and attempt; a line cut short by SIGKILL is left out."""
    effects: dict[str, dict[int, Effects]] = defaultdict(dict)
    for path in folder.glob("*.jsonl"):
        for line in path.read_bytes().splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            seen = effects[entry["run"]].setdefault(entry["attempt"], Effects())
            seen.last = max(seen.last, entry["mono"])
            seen.pids.add(entry["pid"])
            seen.ended |= entry["event"] == "end"
            seen.canceled |= entry["event"] == "canceled"
            if entry["event"] == "start":
                seen.started.append(entry["mono"])
                seen.walls.append(entry["wall"])
    return effects


@dataclass(frozen=True)
class Told:
    """What the client was told about a run: its kind, and when its cancellation was confirmed before any start."""

    kind: str
    canceled_waiting: bool = False


def violations(
    told: dict[str, Told],
    runs: dict[str, aj.Run],
    attempts: dict[str, Sequence[aj.Attempt]],
    effects: dict[str, dict[int, Effects]],
) -> list[str]:
    """Every broken promise, in words; empty when all held."""
    found: list[str] = []
    for run_id, about in told.items():
        if run_id not in runs:
            found.append(f"{run_id}: accepted, but gone")
            continue
        seen = effects.get(run_id, {})
        found += _of_run(runs[run_id], attempts[run_id], seen, about)
    found += [f"{run_id}: performed, but nobody asked for it" for run_id in effects if run_id not in told]
    return found


def _of_run(run: aj.Run, attempts: Sequence[aj.Attempt], seen: dict[int, Effects], about: Told) -> Iterable[str]:
    if run.state not in TERMINAL:
        yield f"{run.id}: {run.state} at the end (losses {run.losses})"
        return
    numbers = [attempt.number for attempt in attempts]
    if numbers != list(range(1, len(numbers) + 1)) or run.attempt != len(numbers):
        yield f"{run.id}: attempts {numbers}, the run says {run.attempt}"
    yield from _of_effects(run, seen)
    yield from _of_outcomes(run, attempts, seen, about)


def _of_effects(run: aj.Run, seen: dict[int, Effects]) -> Iterable[str]:
    assert run.finished_at is not None
    over, due = run.finished_at.timestamp(), run.available_at.timestamp()
    previous: Effects | None = None
    for number in sorted(seen):
        effect = seen[number]
        if len(effect.started) > 1 or len(effect.pids) > 1:
            yield f"{run.id}: attempt {number} was performed {len(effect.started)} times by {effect.pids}"
        if number > run.attempt:
            yield f"{run.id}: attempt {number} was performed, the record knows {run.attempt}"
        if any(wall > over + CLOCK_SLACK_SECONDS for wall in effect.walls):
            yield f"{run.id}: attempt {number} started after the run was over"
        if number == run.attempt and any(wall < due - CLOCK_SLACK_SECONDS for wall in effect.walls):
            yield f"{run.id}: attempt {number} started {due - min(effect.walls):.3f} s before it was due"
        if previous is not None and effect.started and previous.last > effect.started[0]:
            yield f"{run.id}: attempt {number} began before attempt {number - 1} was quiet"
        previous = effect


def _of_outcomes(run: aj.Run, attempts: Sequence[aj.Attempt], seen: dict[int, Effects], about: Told) -> Iterable[str]:
    won = [attempt.number for attempt in attempts if attempt.outcome is aj.Outcome.SUCCEEDED]
    if (run.state is aj.RunState.SUCCEEDED) != (len(won) == 1):
        yield f"{run.id}: {run.state} with succeeded attempts {won}"
    if won and (run.result != f"{run.id}/{won[0]}" or not seen.get(won[0], Effects()).ended):
        yield f"{run.id}: result {run.result!r} is not what attempt {won[0]} returned"
    if run.reason == "poison" and about.kind != "killer":
        yield f"{run.id}: dead-lettered as poison, but its handler never crashed"
    if about.kind == "killer" and (run.state, run.reason) != (aj.RunState.DEAD_LETTERED, "poison"):
        yield f"{run.id}: a killer ended as {run.state} ({run.reason})"
    if about.kind == "plain" and run.state is not aj.RunState.SUCCEEDED:
        yield f"{run.id}: {run.state} ({run.reason}), should have succeeded: {[a.outcome for a in attempts]}"
    if about.canceled_waiting and seen:
        yield f"{run.id}: canceled while it waited, yet it started"


def summary(runs: dict[str, aj.Run], attempts: dict[str, Sequence[aj.Attempt]]) -> dict[str, Any]:
    """Figures for the reader of a test log."""
    outcomes: dict[str, int] = defaultdict(int)
    states: dict[str, int] = defaultdict(int)
    for run in runs.values():
        states[run.state.value] += 1
        for attempt in attempts[run.id]:
            outcomes[attempt.outcome.value] += 1
    return {"runs": len(runs), "states": dict(states), "attempts": dict(outcomes)}
