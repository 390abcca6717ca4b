"""Other event loops: uvloop, and asyncio with eager tasks."""

from __future__ import annotations

import asyncio

import pytest

from actorjobs.actors import ChildSpec, StartInterrupted, Supervisor, Tree
from tests.actors.probes import Ledger, Probe
from tests.actors.stress import loop_turns, stress_start_stop


def eager() -> asyncio.AbstractEventLoop:
    factory = getattr(asyncio, "eager_task_factory", None)
    if factory is None:
        pytest.skip("eager tasks came with Python 3.12")
    loop = asyncio.new_event_loop()
    loop.set_task_factory(factory)
    return loop


def uvloop() -> asyncio.AbstractEventLoop:
    loop: asyncio.AbstractEventLoop = pytest.importorskip("uvloop").new_event_loop()
    return loop


@pytest.fixture(params=[uvloop, eager])
def runner(request: pytest.FixtureRequest) -> asyncio.Runner:
    loop: asyncio.AbstractEventLoop = request.param()
    return asyncio.Runner(loop_factory=lambda: loop)


def test_start_and_stop_in_every_order(runner: asyncio.Runner) -> None:
    ledger = Ledger()

    def make() -> Probe:
        return Probe(ledger=ledger, start_turns=2, stop_turns=2)

    children = [ChildSpec(name=name, factory=make) for name in "ab"]
    with runner:
        runner.run(stress_start_stop(lambda: Probe(ledger=ledger, start_turns=1)))
        runner.run(stress_start_stop(lambda: Supervisor(name="supervisor", children=children)))
        runner.run(stress_start_stop(lambda: Tree(name="tree", children=[make()])))
    assert ledger.started > 1000
    assert ledger.is_balanced()


async def _stop_in_on_start() -> list[str]:
    class Brief(Probe):
        async def on_start(self) -> None:
            await self.stop()
            await super().on_start()

    actor = Brief()
    await actor.start()
    await loop_turns(5)
    return actor.ledger.events


async def _start_in_on_start() -> None:
    class Eager(Probe):
        async def on_start(self) -> None:
            await self.start()

    await Eager().start()


async def _receive() -> list[str]:
    actor = Probe()
    actor.mailbox.put_nowait("a")
    await actor.start()
    await loop_turns(5)
    await actor.stop()
    return actor.ledger.events


def test_an_actor_acts_as_ever(runner: asyncio.Runner) -> None:
    with runner:
        assert runner.run(_stop_in_on_start()) == ["on_start", "on_stop"]
        assert runner.run(_receive()) == ["on_start", "a", "a done", "on_stop"]
        with pytest.raises(StartInterrupted, match="from within"):
            runner.run(_start_in_on_start())
