"""Tries every order of events, breadth first, so that the first way found to break something is a shortest one."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from actorjobs.model import RunState
from tests.model.invariants import STUCK, broken_by
from tests.model.protocol import Left, State, World, is_at_rest, steps


@dataclass
class Findings:
    """How many states there are, which ways the run went, and for each thing that can go wrong the steps to it."""

    states: int = 0
    ways: set[tuple[RunState, RunState]] = field(default_factory=set[tuple[RunState, RunState]])
    broken: dict[str, list[str]] = field(default_factory=dict[str, list[str]])

    def __str__(self) -> str:
        lines = [f"{what}:\n    " + "\n    ".join(path) for what, path in self.broken.items()]
        return "\n".join([f"{self.states} states", *lines])


class _Graph:
    """The states found, by number, with the step that led to each first, and who owes a step to whom."""

    def __init__(self, start: State) -> None:
        self.states = [start]
        self._numbers = {start: 0}
        self._came_from = [(-1, "")]
        self.owed_by: list[list[int]] = [[]]

    def add(self, state: State, came_from: int, by: str) -> int:
        """The number of the state, whether it is new or not."""
        number = self._numbers.setdefault(state, len(self.states))
        if number == len(self.states):
            self.states.append(state)
            self._came_from.append((came_from, by))
            self.owed_by.append([])
        return number

    def path(self, number: int) -> list[str]:
        names: list[str] = []
        while number > 0:
            number, name = self._came_from[number]
            names.append(name)
        return names[::-1]

    def leads_to_rest(self) -> set[int]:
        """From where only what is owed brings the run to its end and everything to rest."""
        leads = {number for number, state in enumerate(self.states) if is_at_rest(state)}
        todo = deque(leads)
        while todo:
            for number in self.owed_by[todo.popleft()]:
                if number not in leads:
                    leads.add(number)
                    todo.append(number)
        return leads


def explore(world: World, *, until: str | None = None) -> Findings:
    """Everything that can happen in this world, or as much as it takes to see `until` broken. Nothing is looked at
    beyond a state that breaks something."""
    graph, findings = _Graph(world.start()), Findings()
    number = 0
    while number < len(graph.states) and until not in findings.broken:
        before = graph.states[number]
        for name, after, is_owed in steps(before, world):
            broken = broken_by(name, before, after)
            if broken is not None:
                findings.broken.setdefault(broken, [*graph.path(number), name])
                continue
            if before.run is not None and after.run is not None and before.run is not after.run:
                findings.ways.add((before.run.state, after.run.state))
            reached = graph.add(after, number, name)
            if is_owed:
                graph.owed_by[reached].append(number)
        number += 1
    findings.states = len(graph.states)
    if not findings.broken:
        leads = graph.leads_to_rest()
        stuck = next((number for number in range(len(graph.states)) if number not in leads), None)
        if stuck is not None:
            findings.broken[STUCK] = [*graph.path(stuck), f"-> {graph.states[stuck]._replace(left=Left())}"]
    return findings
