"""Supervisor and Keeper: crashed children are replaced, each for itself, and never too fast."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from actorjobs.actors import Backoff, ChildSpec, ChildState, Keeper, Mailbox, RestartActor, Restarts, Supervisor, Tree
from actorjobs.clock import VirtualClock
from actorjobs.errors import InvalidOption
from tests.actors.probes import Ledger, Probe
from tests.actors.stress import loop_turns

pytestmark = pytest.mark.usefixtures("nothing_left")

STEADY = Restarts(backoff=Backoff(jitter=0))


class Nursery:
    """Makes children and remembers them; `prepare` may spoil each before it is handed out."""

    def __init__(self, prepare: Callable[[Probe, int], None] | None = None, **options: Any) -> None:
        self.ledger = Ledger()
        self.made: dict[str, list[Probe]] = {}
        self.prepare, self.options = prepare, options

    def spec(self, name: str) -> ChildSpec:
        return ChildSpec(name=name, factory=lambda: self._make(name))

    def specs(self, *names: str) -> list[ChildSpec]:
        return [self.spec(name) for name in names]

    def _make(self, name: str) -> Probe:
        siblings = self.made.setdefault(name, [])
        child = Probe(name=name, ledger=self.ledger, **self.options)
        if self.prepare is not None:
            self.prepare(child, len(siblings))
        siblings.append(child)
        return child

    def __getitem__(self, name: str) -> Probe:
        return self.made[name][-1]

    def count(self, name: str) -> int:
        return len(self.made[name])

    async def tell(self, name: str, message: str) -> None:
        self[name].mailbox.put_nowait(message)
        await loop_turns(15)


class Callbacks:
    def __init__(self) -> None:
        self.events: list[str] = []

    def on_failing(self, name: str, error: BaseException) -> None:
        self.events.append(f"{name} failing: {type(error).__name__}")

    def on_recovered(self, name: str) -> None:
        self.events.append(f"{name} recovered")


def supervise(nursery: Nursery, *names: str, clock: VirtualClock, **options: Any) -> Supervisor:
    defaults: dict[str, Any] = {"restarts": STEADY, "random": Random(1)}
    return Supervisor(name="supervisor", children=nursery.specs(*names), clock=clock, **{**defaults, **options})


def states(supervisor: Supervisor) -> dict[str, str]:
    return {keeper.name: str(keeper.state) for keeper in supervisor.children}


class TestOrder:
    async def test_starts_in_order_and_stops_in_reverse(self, clock: VirtualClock) -> None:
        nursery = Nursery()
        supervisor = supervise(nursery, "a", "b", "c", clock=clock)
        assert states(supervisor) == {"a": "stopped", "b": "stopped", "c": "stopped"}
        await supervisor.start()
        assert states(supervisor) == {"a": "running", "b": "running", "c": "running"}
        await supervisor.stop()
        assert nursery.ledger.events == [
            *("a on_start", "b on_start", "c on_start"),
            *("c on_stop", "b on_stop", "a on_stop"),
        ]

    async def test_starts_again_with_new_instances(self, clock: VirtualClock) -> None:
        nursery = Nursery()
        supervisor = supervise(nursery, "a", clock=clock)
        for _ in range(2):
            await supervisor.start()
            await supervisor.stop()
        assert nursery.count("a") == 2
        assert nursery.ledger.is_balanced()

    async def test_one_failing_stop_does_not_keep_the_others(self, clock: VirtualClock) -> None:
        def spoil(child: Probe, _: int) -> None:
            child.stop_error = ValueError(child.name) if child.name != "b" else None

        nursery = Nursery(spoil)
        supervisor = supervise(nursery, "a", "b", "c", clock=clock)
        await supervisor.start()
        with pytest.raises(ExceptionGroup) as caught:
            await supervisor.stop()
        assert [str(error) for error in caught.value.exceptions] == ["c", "a"]
        assert nursery.ledger.is_balanced()

    async def test_retires_all_at_the_same_time(self, clock: VirtualClock) -> None:
        nursery = Nursery()
        supervisor = supervise(nursery, "a", "b", clock=clock)
        await supervisor.start()
        await nursery.tell("a", "wait")
        retiring = asyncio.create_task(supervisor.retire())
        await loop_turns(20)
        assert nursery.ledger.events[-1] == "b on_stop"
        nursery["a"].gate.set()
        await retiring
        assert nursery.ledger.events[-2:] == ["a wait done", "a on_stop"]

    async def test_retiring_is_cut_short_by_stop(self, clock: VirtualClock) -> None:
        nursery = Nursery()
        supervisor = supervise(nursery, "a", "b", clock=clock)
        await supervisor.start()
        await nursery.tell("a", "wait")
        retiring = asyncio.create_task(supervisor.retire())
        await loop_turns(20)
        await supervisor.stop()
        await retiring
        assert nursery.ledger.events[-1] == "a on_stop"
        assert "a wait done" not in nursery.ledger.events

    async def test_retiring_raises_what_its_children_raise(self, clock: VirtualClock) -> None:
        nursery = Nursery(stop_error=ValueError("no"))
        supervisor = supervise(nursery, "a", "b", clock=clock)
        await supervisor.start()
        with pytest.raises(ExceptionGroup) as caught:
            await supervisor.retire()
        assert [str(error) for error in caught.value.exceptions] == ["no", "no"]


class TestCrash:
    async def test_replaces_the_child_and_no_other_after_the_backoff(self, clock: VirtualClock) -> None:
        nursery = Nursery()
        supervisor = supervise(nursery, "a", "b", clock=clock)
        await supervisor.start()
        await nursery.tell("a", "crash")
        assert states(supervisor) == {"a": "restarting", "b": "running"}
        await clock.advance(0.09)
        assert nursery.count("a") == 1
        await clock.advance(0.02)
        assert (nursery.count("a"), nursery.count("b")) == (2, 1)
        assert states(supervisor) == {"a": "running", "b": "running"}
        assert supervisor.statistics().restarts == 1
        await supervisor.stop()
        assert nursery.ledger.is_balanced()

    async def test_the_next_instance_goes_on_with_a_shared_mailbox(self, clock: VirtualClock) -> None:
        mailbox = Mailbox[str]()
        nursery = Nursery(mailbox=mailbox)
        supervisor = supervise(nursery, "a", clock=clock)
        await supervisor.start()
        await nursery.tell("a", "crash")
        mailbox.put_nowait("m")
        await clock.advance(1)
        assert "a m done" in nursery.ledger.events
        await supervisor.stop()

    async def test_the_backoff_grows_while_it_crashes_and_begins_anew_when_healthy(self, clock: VirtualClock) -> None:
        nursery = Nursery()
        supervisor = supervise(nursery, "a", clock=clock, restarts=Restarts(backoff=Backoff(jitter=0), max_restarts=99))
        await supervisor.start()
        for delay in (0.1, 0.2, 0.4, 0.8):
            await self._expect_replacement_after(delay, nursery, clock)
        await clock.advance(29)
        await self._expect_replacement_after(1.6, nursery, clock)
        await clock.advance(31)
        await self._expect_replacement_after(0.1, nursery, clock)
        await supervisor.stop()

    @staticmethod
    async def _expect_replacement_after(delay: float, nursery: Nursery, clock: VirtualClock) -> None:
        made = nursery.count("a")
        await nursery.tell("a", "crash")
        await clock.advance(delay - 0.01)
        assert nursery.count("a") == made
        await clock.advance(0.02)
        assert nursery.count("a") == made + 1

    async def test_jitter_only_lengthens(self, clock: VirtualClock) -> None:
        nursery = Nursery()
        supervisor = supervise(nursery, "a", clock=clock, restarts=Restarts(backoff=Backoff(jitter=0.5)))
        await supervisor.start()
        await nursery.tell("a", "crash")
        await clock.advance(0.1 * (1 + 0.5 * Random(1).random()) - 0.001)
        assert nursery.count("a") == 1
        await clock.advance(0.002)
        assert nursery.count("a") == 2
        await supervisor.stop()

    async def test_a_failed_start_is_a_crash_and_never_the_supervisors(self, clock: VirtualClock) -> None:
        def spoil(child: Probe, made: int) -> None:
            child.start_error = ValueError("no") if made < 2 else None

        nursery = Nursery(spoil)
        supervisor = supervise(nursery, "a", clock=clock)
        await supervisor.start()
        assert states(supervisor) == {"a": "restarting"}
        await clock.advance(0.11)
        assert states(supervisor) == {"a": "restarting"}
        await clock.advance(0.21)
        assert states(supervisor) == {"a": "running"}
        (child,) = supervisor.statistics().children
        assert isinstance(supervisor.children[0], Keeper)
        assert supervisor.children[0].statistics().crashes == 2
        assert supervisor.children[0].statistics().last_error == "ValueError: no"
        assert child.is_running
        await supervisor.stop()

    async def test_a_factory_that_fails_is_a_crash_too(self, clock: VirtualClock) -> None:
        def fail() -> Probe:
            raise KeyError("factory")

        supervisor = Supervisor(name="supervisor", children=[ChildSpec(name="a", factory=fail)], clock=clock)
        await supervisor.start()
        assert states(supervisor) == {"a": "restarting"}
        await supervisor.stop()

    async def test_asking_for_a_restart_is_no_crash_and_needs_no_waiting(self, clock: VirtualClock) -> None:
        nursery, callbacks = Nursery(), Callbacks()
        supervisor = supervise(nursery, "a", clock=clock, on_failing=callbacks.on_failing)
        await supervisor.start()
        for _ in range(20):
            await nursery.tell("a", "restart")
        assert nursery.count("a") == 21
        keeper = supervisor.children[0].statistics()
        assert (keeper.restarts, keeper.crashes, keeper.last_error) == (20, 0, None)
        assert callbacks.events == []
        await supervisor.stop()
        assert nursery.ledger.is_balanced()

    async def test_asking_for_a_restart_in_on_start_is_a_crash(self, clock: VirtualClock) -> None:
        nursery = Nursery(start_error=RestartActor())
        supervisor = supervise(nursery, "a", clock=clock)
        await supervisor.start()
        await loop_turns(50)
        assert nursery.count("a") == 1
        assert states(supervisor) == {"a": "restarting"}
        await supervisor.stop()

    @pytest.mark.parametrize("end", ["stop", "retire", "close"])
    async def test_a_normal_end_is_not_replaced(self, end: str, clock: VirtualClock) -> None:
        nursery = Nursery()
        supervisor = supervise(nursery, "a", "b", clock=clock)
        await supervisor.start()
        if end == "close":
            nursery["a"].mailbox.close()
            await loop_turns(10)
        else:
            await nursery.tell("a", end)
        await clock.advance(minutes=5)
        assert states(supervisor) == {"a": "stopped", "b": "running"}
        assert nursery.count("a") == 1
        await supervisor.stop()

    async def test_stopping_while_a_replacement_waits_makes_none(self, clock: VirtualClock) -> None:
        nursery = Nursery()
        supervisor = supervise(nursery, "a", clock=clock)
        await supervisor.start()
        await nursery.tell("a", "crash")
        await supervisor.stop()
        await clock.advance(minutes=5)
        assert nursery.count("a") == 1

    async def test_stopping_while_a_replacement_starts_undoes_it(self, clock: VirtualClock) -> None:
        def slow(child: Probe, made: int) -> None:
            child.start_turns = 0 if made == 0 else 1000

        nursery = Nursery(slow)
        supervisor = supervise(nursery, "a", clock=clock)
        await supervisor.start()
        await nursery.tell("a", "crash")
        await clock.advance(0.2)
        assert nursery.count("a") == 2
        await supervisor.stop()
        assert not nursery["a"].is_alive
        assert nursery.ledger.is_balanced()


class TestGivingUp:
    async def _crash(self, times: int, nursery: Nursery, clock: VirtualClock, pause: float = 2.0) -> None:
        for _ in range(times):
            await nursery.tell("a", "crash")
            await clock.advance(pause)

    async def test_after_too_many_restarts_within_the_window(self, clock: VirtualClock) -> None:
        nursery, callbacks = Nursery(), Callbacks()
        supervisor = supervise(nursery, "a", "b", clock=clock, on_failing=callbacks.on_failing)
        await supervisor.start()
        await self._crash(5, nursery, clock)
        assert states(supervisor) == {"a": "running", "b": "running"}
        assert callbacks.events == []
        await self._crash(1, nursery, clock)
        assert states(supervisor) == {"a": "failing", "b": "running"}
        assert supervisor.statistics().failing == ("a",)
        assert callbacks.events == ["a failing: ValueError"]
        await supervisor.stop()

    async def test_but_not_when_the_crashes_are_spread(self, clock: VirtualClock) -> None:
        nursery, callbacks = Nursery(), Callbacks()
        supervisor = supervise(nursery, "a", clock=clock, on_failing=callbacks.on_failing)
        await supervisor.start()
        await self._crash(12, nursery, clock, pause=40)
        assert callbacks.events == []
        assert nursery.count("a") == 13
        await supervisor.stop()

    async def test_it_is_retried_at_the_cap_and_told_once(self, clock: VirtualClock) -> None:
        nursery, callbacks = Nursery(), Callbacks()
        supervisor = supervise(nursery, "a", clock=clock, on_failing=callbacks.on_failing)
        await supervisor.start()
        await self._crash(6, nursery, clock)
        for made in range(nursery.count("a"), nursery.count("a") + 4):
            await clock.advance(27.9)
            assert nursery.count("a") == made
            await clock.advance(0.2)
            assert nursery.count("a") == made + 1
            assert states(supervisor) == {"a": "failing"}
            await self._crash(1, nursery, clock)
        assert callbacks.events == ["a failing: ValueError"]
        await supervisor.stop()

    async def test_it_recovers_when_it_stays_healthy(self, clock: VirtualClock) -> None:
        nursery, callbacks = Nursery(), Callbacks()
        supervisor = supervise(
            nursery, "a", clock=clock, on_failing=callbacks.on_failing, on_recovered=callbacks.on_recovered
        )
        await supervisor.start()
        await self._crash(6, nursery, clock)
        await clock.advance(28.1)  # the instance at the cap
        await clock.advance(29.5)
        assert states(supervisor) == {"a": "failing"}
        await clock.advance(1)
        assert states(supervisor) == {"a": "running"}
        assert callbacks.events == ["a failing: ValueError", "a recovered"]
        await self._crash(5, nursery, clock)
        assert callbacks.events == ["a failing: ValueError", "a recovered"]
        await self._crash(1, nursery, clock)
        assert callbacks.events[2:] == ["a failing: ValueError"]
        await supervisor.stop()

    async def test_a_new_start_begins_with_a_clean_slate(self, clock: VirtualClock) -> None:
        nursery = Nursery()
        supervisor = supervise(nursery, "a", clock=clock)
        await supervisor.start()
        await self._crash(6, nursery, clock)
        await supervisor.stop()
        assert states(supervisor) == {"a": "stopped"}
        await supervisor.start()
        assert states(supervisor) == {"a": "running"}
        await nursery.tell("a", "crash")
        await clock.advance(0.11)
        assert states(supervisor) == {"a": "running"}
        await supervisor.stop()

    async def test_a_failing_callback_is_logged_and_ends_nothing(
        self, clock: VirtualClock, caplog: pytest.LogCaptureFixture
    ) -> None:
        def bad(name: str, error: BaseException) -> None:
            raise KeyError("callback")

        nursery = Nursery()
        supervisor = supervise(nursery, "a", clock=clock, on_failing=bad)
        await supervisor.start()
        await self._crash(6, nursery, clock)
        assert "KeyError: 'callback'" in caplog.text
        await clock.advance(30)
        assert nursery.count("a") == 7
        await supervisor.stop()

    @pytest.mark.parametrize("options", [{"healthy_after": 0}, {"max_restarts": -1}, {"window": 0}])
    def test_restarts_that_cannot_work_are_refused(self, options: dict[str, Any]) -> None:
        with pytest.raises(InvalidOption):
            Restarts(**options)


class TestAtRunTime:
    async def test_add_starts_the_child_of_a_running_supervisor(self, clock: VirtualClock) -> None:
        nursery = Nursery()
        supervisor = supervise(nursery, "a", clock=clock)
        await supervisor.start()
        await supervisor.add(nursery.spec("b"))
        assert states(supervisor) == {"a": "running", "b": "running"}
        await supervisor.stop()
        assert nursery.ledger.events[-2:] == ["b on_stop", "a on_stop"]

    async def test_add_before_the_start_waits_for_it(self, clock: VirtualClock) -> None:
        nursery = Nursery()
        supervisor = supervise(nursery, clock=clock)
        await supervisor.add(nursery.spec("a"))
        assert nursery.made == {}
        await supervisor.start()
        assert states(supervisor) == {"a": "running"}
        await supervisor.stop()

    async def test_add_during_the_start_joins_it(self, clock: VirtualClock) -> None:
        nursery = Nursery(start_turns=5)
        supervisor = supervise(nursery, "a", "b", clock=clock)
        start = asyncio.create_task(supervisor.start())
        await loop_turns(4)
        await supervisor.add(nursery.spec("c"))
        await start
        assert states(supervisor) == {"a": "running", "b": "running", "c": "running"}
        await supervisor.stop()

    async def test_add_interrupted_by_stop_keeps_the_child_for_the_next_start(self, clock: VirtualClock) -> None:
        nursery = Nursery(start_turns=20)
        supervisor = supervise(nursery, clock=clock)
        await supervisor.start()
        adding = asyncio.create_task(supervisor.add(nursery.spec("a")))
        await loop_turns(5)
        await supervisor.stop()
        await adding
        assert states(supervisor) == {"a": "stopped"}
        assert nursery.ledger.is_balanced()
        await supervisor.start()
        assert states(supervisor) == {"a": "running"}
        await supervisor.stop()

    async def test_add_whose_caller_is_cancelled_adds_nothing(self, clock: VirtualClock) -> None:
        nursery = Nursery(start_turns=20)
        supervisor = supervise(nursery, clock=clock)
        await supervisor.start()
        adding = asyncio.create_task(supervisor.add(nursery.spec("a")))
        await loop_turns(5)
        adding.cancel()
        await asyncio.wait({adding})
        assert adding.cancelled()
        assert states(supervisor) == {}
        assert not nursery["a"].is_alive
        await supervisor.stop()

    async def test_a_name_in_use_is_refused(self, clock: VirtualClock) -> None:
        nursery = Nursery()
        supervisor = supervise(nursery, "a", clock=clock)
        with pytest.raises(InvalidOption, match="'a'"):
            await supervisor.add(nursery.spec("a"))

    async def test_remove_finishes_the_present_message(self, clock: VirtualClock) -> None:
        nursery = Nursery()
        supervisor = supervise(nursery, "a", "b", clock=clock)
        await supervisor.start()
        await nursery.tell("a", "wait")
        removing = asyncio.create_task(supervisor.remove("a"))
        await loop_turns(10)
        assert states(supervisor) == {"b": "running"}
        assert not removing.done()
        nursery["a"].gate.set()
        await removing
        assert nursery.ledger.events[-2:] == ["a wait done", "a on_stop"]
        await supervisor.stop()
        assert nursery.ledger.is_balanced()

    async def test_remove_then_start_again_does_not_bring_it_back(self, clock: VirtualClock) -> None:
        nursery = Nursery()
        supervisor = supervise(nursery, "a", "b", clock=clock)
        await supervisor.remove("a")
        await supervisor.start()
        assert states(supervisor) == {"b": "running"}
        assert "a" not in nursery.made
        await supervisor.stop()

    async def test_remove_during_the_start_skips_only_that_child(self, clock: VirtualClock) -> None:
        def slow(child: Probe, _: int) -> None:
            child.start_turns = 1000 if child.name == "b" else 2

        nursery = Nursery(slow)
        supervisor = supervise(nursery, "a", "b", "c", clock=clock)
        start = asyncio.create_task(supervisor.start())
        while "b" not in nursery.made:
            await loop_turns(1)
        await supervisor.remove("b")
        await supervisor.remove("a")
        await start
        assert states(supervisor) == {"c": "running"}
        await supervisor.stop()
        assert nursery.ledger.is_balanced()

    async def test_remove_of_a_child_that_waits_for_its_replacement(self, clock: VirtualClock) -> None:
        nursery = Nursery()
        supervisor = supervise(nursery, "a", clock=clock)
        await supervisor.start()
        await nursery.tell("a", "crash")
        await supervisor.remove("a")
        await clock.advance(minutes=5)
        assert nursery.count("a") == 1
        await supervisor.stop()

    async def test_a_cancelled_remove_goes_on_and_stop_waits_for_it(self, clock: VirtualClock) -> None:
        nursery = Nursery()
        supervisor = supervise(nursery, "a", clock=clock)
        await supervisor.start()
        await nursery.tell("a", "wait")
        removing = asyncio.create_task(supervisor.remove("a"))
        await loop_turns(10)
        removing.cancel()
        await loop_turns(10)
        child = nursery["a"]
        assert child.ledger.open == 1
        await supervisor.stop()
        assert not child.is_alive
        assert nursery.ledger.is_balanced()

    async def test_a_child_may_remove_itself(self, clock: VirtualClock) -> None:
        nursery = Nursery()
        supervisor = supervise(nursery, "a", "b", clock=clock)
        await supervisor.start()
        nursery["a"].on_receive = lambda: supervisor.remove("a")
        await nursery.tell("a", "call")
        assert nursery.ledger.events[-2:] == ["a call done", "a on_stop"]
        assert states(supervisor) == {"b": "running"}
        await supervisor.stop()

    async def test_a_child_that_removes_itself_is_waited_for_by_stop(self, clock: VirtualClock) -> None:
        nursery = Nursery()
        supervisor = supervise(nursery, "a", clock=clock)
        await supervisor.start()

        async def remove_and_linger() -> None:
            await supervisor.remove("a")
            await nursery["a"].gate.wait()

        nursery["a"].on_receive = remove_and_linger
        await nursery.tell("a", "call")
        child = nursery["a"]
        assert child.ledger.open == 1
        await supervisor.stop()
        assert not child.is_alive

    async def test_a_child_may_stop_the_supervisor(self, clock: VirtualClock) -> None:
        nursery = Nursery()
        supervisor = supervise(nursery, "a", "b", clock=clock)
        outer = Tree(name="outer", children=[supervisor])
        await outer.start()
        nursery["a"].on_receive = outer.stop
        await nursery.tell("a", "call")
        await loop_turns(40)
        assert not outer.is_alive
        assert nursery.ledger.is_balanced()

    async def test_an_unknown_name_is_refused(self, clock: VirtualClock) -> None:
        with pytest.raises(InvalidOption, match="'z'"):
            await supervise(Nursery(), "a", clock=clock).remove("z")

    async def test_a_removed_child_that_fails_to_stop_tells_the_remover_and_the_log(
        self, clock: VirtualClock, caplog: pytest.LogCaptureFixture
    ) -> None:
        nursery = Nursery(stop_error=ValueError("no"))
        supervisor = supervise(nursery, "a", clock=clock)
        await supervisor.start()
        with pytest.raises(ValueError, match="no"):
            await supervisor.remove("a")
        assert "a was removed, and did not stop cleanly" in caplog.text
        await supervisor.stop()


class TestAsSeen:
    async def test_statistics_and_repr(self, clock: VirtualClock) -> None:
        nursery = Nursery()
        supervisor = supervise(nursery, "a", "b", clock=clock)
        await supervisor.start()
        await nursery.tell("b", "crash")
        statistics = supervisor.statistics()
        assert (statistics.name, statistics.is_running, statistics.restarts) == ("supervisor", True, 0)
        assert statistics.failing == ()
        assert [child.name for child in statistics.children] == ["a", "b"]
        assert supervisor.children[0].child is nursery["a"]
        assert supervisor.children[0].state is ChildState.RUNNING
        assert repr(supervisor) == "Supervisor('supervisor', running, children=2)"
        assert repr(supervisor.children[1]) == "Keeper('b', running, restarting, restarts=0)"
        await supervisor.stop()
