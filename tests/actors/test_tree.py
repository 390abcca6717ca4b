"""Tree: in order, and in reverse; whatever fails on the way."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from actorjobs.actors import Cancelled, Service, StartInterrupted, Statistics, Tree
from actorjobs.errors import InvalidOption
from tests.actors.probes import Ledger, Probe
from tests.actors.stress import loop_turns

pytestmark = pytest.mark.usefixtures("nothing_left")


class Foreign:
    """A service that is no TaskService, and notes in which task it is called."""

    def __init__(self, name: str, ledger: Ledger, stop_error: BaseException | None = None) -> None:
        self.name, self.ledger, self.stop_error = name, ledger, stop_error
        self.is_running = False
        self.tasks: set[asyncio.Task[Any] | None] = set()

    async def start(self) -> None:
        self.tasks.add(asyncio.current_task())
        self.is_running = True
        self.ledger.events.append(f"{self.name} on_start")

    async def stop(self) -> None:
        self.tasks.add(asyncio.current_task())
        if self.is_running:
            self.is_running = False
            self.ledger.events.append(f"{self.name} on_stop")
            if self.stop_error is not None:
                raise self.stop_error

    def statistics(self) -> Statistics:
        return Statistics(name=self.name, is_running=self.is_running, starts=0)


def family(ledger: Ledger, *names: str, **options: Any) -> list[Probe]:
    return [Probe(name=name, ledger=ledger, start_turns=2, stop_turns=2, **options) for name in names]


async def test_starts_in_order_and_stops_in_reverse() -> None:
    ledger = Ledger()
    tree = Tree(name="tree", children=family(ledger, "a", "b", "c"))
    await tree.start()
    assert tree.is_running
    assert ledger.events == ["a on_start", "b on_start", "c on_start"]
    ledger.events.clear()
    await tree.stop()
    assert not tree.is_alive
    assert ledger.events == ["c on_stop", "b on_stop", "a on_stop"]


async def test_an_empty_tree_starts_and_stops() -> None:
    tree: Tree[Probe] = Tree(name="tree")
    await tree.start()
    assert tree.is_running
    await tree.stop()


async def test_starts_again() -> None:
    ledger = Ledger()
    tree = Tree(name="tree", children=family(ledger, "a", "b"))
    for _ in range(2):
        await tree.start()
        await tree.stop()
    assert ledger.started == ledger.stopped == 4


async def test_calls_its_children_from_one_task_of_its_own() -> None:
    foreign = Foreign("a", Ledger())
    tree = Tree(name="tree", children=[foreign])
    await asyncio.create_task(tree.start())
    await asyncio.create_task(tree.stop())
    (task,) = foreign.tasks
    assert task is not None
    assert task.get_name() == "tree"


async def test_two_children_of_one_name_are_refused() -> None:
    with pytest.raises(InvalidOption, match="'a'"):
        Tree(name="tree", children=family(Ledger(), "a", "a"))


async def test_a_child_that_fails_to_start_stops_those_before_it() -> None:
    ledger, error = Ledger(), ValueError("no")
    a, b, c, d = family(ledger, "a", "b", "c", "d")
    c.start_error = error
    tree = Tree(name="tree", children=[a, b, c, d])
    with pytest.raises(ValueError, match="no") as caught:
        await tree.start()
    assert caught.value is error
    assert ledger.events == ["a on_start", "b on_start", "b on_stop", "a on_stop"]
    assert not tree.is_alive


async def test_a_failing_stop_in_that_case_is_logged_and_hides_nothing(caplog: pytest.LogCaptureFixture) -> None:
    ledger = Ledger()
    a, b, c = family(ledger, "a", "b", "c")
    b.stop_error, c.start_error = KeyError("b"), ValueError("c")
    with pytest.raises(ValueError, match="c"):
        await Tree(name="tree", children=[a, b, c]).start()
    assert ledger.events == ["a on_start", "b on_start", "b on_stop", "a on_stop"]
    assert "b failed to stop" in caplog.text


async def test_a_child_that_fails_to_stop_does_not_keep_the_others(caplog: pytest.LogCaptureFixture) -> None:
    ledger = Ledger()
    a, b, c = family(ledger, "a", "b", "c")
    a.stop_error, c.stop_error = ValueError("a"), ValueError("c")
    tree = Tree(name="tree", children=[a, b, c])
    await tree.start()
    with pytest.raises(ExceptionGroup) as caught:
        await tree.stop()
    assert caught.value.exceptions == (c.stop_error, a.stop_error)
    assert ledger.events[3:] == ["c on_stop", "b on_stop", "a on_stop"]
    assert "c failed to stop" in caplog.text
    assert not tree.is_alive


async def test_a_child_that_leaks_a_cancellation_does_not_keep_the_others() -> None:
    ledger = Ledger()
    children = [Foreign("a", ledger), Foreign("b", ledger, asyncio.CancelledError())]
    tree = Tree(name="tree", children=children)
    await tree.start()
    with pytest.raises(ExceptionGroup) as caught:
        await tree.stop()
    assert [type(error) for error in caught.value.exceptions] == [Cancelled]
    assert ledger.events[2:] == ["b on_stop", "a on_stop"]


async def test_stopped_while_starting_stops_what_it_had_started() -> None:
    ledger = Ledger()
    a, b = family(ledger, "a", "b")
    b.start_turns = 1000
    tree = Tree(name="tree", children=[a, b])
    start = asyncio.create_task(tree.start())
    while not a.is_running:
        await loop_turns(1)
    await tree.stop()
    with pytest.raises(StartInterrupted):
        await start
    assert ledger.events == ["a on_start", "a on_stop"]
    assert not b.is_alive


async def test_a_cancelled_start_stops_what_it_had_started() -> None:
    ledger = Ledger()
    a, b = family(ledger, "a", "b")
    b.start_turns = 1000
    tree = Tree(name="tree", children=[a, b])
    start = asyncio.create_task(tree.start())
    while not a.is_running:
        await loop_turns(1)
    start.cancel()
    await asyncio.wait({start})
    assert start.cancelled()
    assert ledger.events == ["a on_start", "a on_stop"]
    assert not b.is_alive


async def test_a_child_stopped_by_somebody_while_it_starts_fails_the_start() -> None:
    ledger = Ledger()
    a, b = family(ledger, "a", "b")
    b.start_turns = 1000
    tree = Tree(name="tree", children=[a, b])
    start = asyncio.create_task(tree.start())
    while not b.is_alive:
        await loop_turns(1)
    await b.stop()
    with pytest.raises(StartInterrupted):
        await start
    assert ledger.is_balanced()


async def test_a_cancelled_stop_goes_on() -> None:
    ledger = Ledger()
    tree = Tree(name="tree", children=family(ledger, "a", "b"))
    await tree.start()
    stop = asyncio.create_task(tree.stop())
    await loop_turns(2)
    stop.cancel()
    await loop_turns(40)
    assert ledger.is_balanced()
    assert not tree.is_alive


async def test_leaves_a_child_alone_that_has_crashed(caplog: pytest.LogCaptureFixture) -> None:
    ledger = Ledger()
    a, b = family(ledger, "a", "b")
    tree = Tree(name="tree", children=[a, b])
    await tree.start()
    a.mailbox.put_nowait("crash")
    await loop_turns(10)
    assert (a.is_running, b.is_running, tree.is_running) == (False, True, True)
    assert "a crashed" in caplog.text
    await tree.stop()


@pytest.mark.parametrize("end", ["stop", "retire"])
async def test_stopped_by_a_child_does_not_hang(end: str) -> None:
    ledger = Ledger()
    a, b = family(ledger, "a", "b")
    outer = Tree(name="outer", children=[Tree(name="inner", children=[a, b])])
    await outer.start()
    a.on_receive = outer.stop if end == "stop" else outer.retire
    a.mailbox.put_nowait("call")
    await loop_turns(60)
    assert not outer.is_alive
    assert ledger.is_balanced()


async def test_stopped_by_a_child_that_starts_does_not_hang() -> None:
    class Rebel(Probe):
        async def on_start(self) -> None:
            await tree.stop()
            await loop_turns(1000)

    tree = Tree(name="tree", children=[Rebel(name="a")])
    with pytest.raises(StartInterrupted):
        await tree.start()
    assert not tree.is_alive


async def test_retires_its_children_in_reverse() -> None:
    ledger = Ledger()
    a, b = family(ledger, "a", "b")
    tree: Tree[Service] = Tree(name="tree", children=[a, b, Foreign("c", ledger)])
    await tree.start()
    for child in (a, b):
        child.mailbox.put_nowait("wait")
    await loop_turns(3)
    retiring = asyncio.create_task(tree.retire())
    await loop_turns(10)
    assert ledger.events[-1] == "c on_stop"
    a.gate.set()
    b.gate.set()
    await retiring
    assert sorted(ledger.events[-4:-2]) == ["a wait done", "b wait done"]
    assert ledger.events[-2:] == ["b on_stop", "a on_stop"]


async def test_retiring_is_cut_short_by_stop() -> None:
    ledger = Ledger()
    a, b = family(ledger, "a", "b")
    tree = Tree(name="tree", children=[a, b])
    await tree.start()
    b.mailbox.put_nowait("wait")
    await loop_turns(3)
    retiring = asyncio.create_task(tree.retire())
    await loop_turns(10)
    await tree.stop()
    await retiring
    assert "b wait done" not in ledger.events
    assert ledger.events[-2:] == ["b on_stop", "a on_stop"]


async def test_retiring_raises_what_its_children_raise() -> None:
    ledger = Ledger()
    a, b = family(ledger, "a", "b")
    b.stop_error = ValueError("b")
    tree = Tree(name="tree", children=[a, b])
    await tree.start()
    with pytest.raises(ExceptionGroup) as caught:
        await tree.retire()
    assert caught.value.exceptions == (b.stop_error,)
    assert ledger.is_balanced()


async def test_statistics_and_repr() -> None:
    tree = Tree(name="tree", children=family(Ledger(), "a", "b"))
    await tree.start()
    statistics = tree.statistics()
    assert (statistics.name, statistics.is_running, statistics.starts) == ("tree", True, 1)
    assert [(child.name, child.is_running) for child in statistics.children] == [("a", True), ("b", True)]
    assert [child.name for child in tree.children] == ["a", "b"]
    assert repr(tree) == "Tree('tree', running, children=2)"
    await tree.stop()
