"""Start and stop in every order, for every kind of service; and proof that the stress finds what it is for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any

import pytest

from actorjobs.actors import (
    Actor,
    Backoff,
    ChildSpec,
    Mailbox,
    Periodic,
    Restarts,
    Service,
    Statistics,
    Supervisor,
    Tree,
)
from actorjobs.clock import VirtualClock
from tests.actors.probes import Ledger, Probe
from tests.actors.stress import collecting_problems, loop_turns, stress_start_stop

pytestmark = pytest.mark.usefixtures("nothing_left")

MESSAGES = ["a", "turns", "wait", "stubborn", "crash", "restart", "stop", "retire"]
SEEDS = [1, 2]


class Zoo:
    """Makes services of every kind, spoiled at random, and checks afterwards that their books are balanced."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.clock = VirtualClock()
        self.ledger = Ledger()
        self.probes: list[Probe] = []
        self.mailbox: Mailbox[str] = Mailbox()
        self.count = 0

    def fresh(self) -> None:
        self.clock = VirtualClock()
        self.clock.settles_by(lambda: loop_turns(5))
        self.ledger, self.probes, self.mailbox = Ledger(), [], Mailbox()

    def probe(self, *, is_spoiled: bool = True, name: str | None = None) -> Probe:
        self.count += 1
        probe = Probe(
            name=name or f"probe-{self.count}",
            ledger=self.ledger,
            mailbox=self.mailbox,
            start_turns=self.random.randrange(4),
            stop_turns=self.random.randrange(4),
            start_error=ValueError("start") if is_spoiled and self.random.random() < 0.2 else None,
            stop_error=ValueError("stop") if is_spoiled and self.random.random() < 0.2 else None,
        )
        self.probes.append(probe)
        return probe

    def supervisor(self, name: str = "supervisor") -> Supervisor:
        names = [f"{name}-{number}" for number in range(3)]
        return Supervisor(
            name=name,
            children=[ChildSpec(name=name, factory=self.probe) for name in names],
            restarts=Restarts(backoff=Backoff(base=0.5), max_restarts=2),
            clock=self.clock,
            random=self.random,
        )

    def periodic(self, name: str = "periodic") -> Periodic:
        async def duty() -> bool | None:
            await loop_turns(self.random.randrange(3))
            if self.random.random() < 0.3:
                raise ValueError("duty")
            if self.random.random() < 0.3:
                await self.clock.sleep(self.random.random() * 4)
            return self.random.random() < 0.3

        return Periodic(name=name, fn=duty, interval=1.0, timeout=3.0, clock=self.clock, random=self.random)

    def tree(self, *, is_spoiled: bool = True) -> Tree[Service]:
        return Tree(
            name="tree",
            children=[
                self.probe(is_spoiled=is_spoiled),
                self.periodic(),
                Tree(name="pool", children=[self.supervisor(), self.probe(is_spoiled=is_spoiled)]),
                self.probe(is_spoiled=is_spoiled),
            ],
        )

    def making(self, make: Callable[[], Any]) -> Callable[[], Any]:
        def factory() -> Any:
            self.fresh()
            return make()

        return factory

    def send(self, service: object) -> None:
        self.mailbox.put_nowait(self.random.choice(MESSAGES))

    async def tick(self, service: object) -> None:
        for probe in self.probes:
            probe.gate.set()
        await self.clock.advance(self.random.random())

    async def retire(self, service: Any) -> None:
        await abandon(service.retire(), self.random.randrange(12))

    async def drain(self, probe: Probe) -> None:
        await abandon(probe.stop(drain=True), self.random.randrange(6))

    def check(self, service: object) -> None:
        assert self.ledger.is_balanced(), self.ledger.events
        assert not any(probe.is_alive for probe in self.probes)
        assert not self.mailbox.waiting
        self.mailbox.drain()


@pytest.fixture(params=SEEDS)
def zoo(request: pytest.FixtureRequest) -> Zoo:
    return Zoo(request.param)


async def test_actor(zoo: Zoo) -> None:
    await stress_start_stop(
        zoo.making(lambda: zoo.probe(is_spoiled=False)), meanwhile=zoo.tick, check=zoo.check, rounds=300
    )


async def test_actor_with_everything(zoo: Zoo, caplog: pytest.LogCaptureFixture) -> None:
    await stress_start_stop(
        zoo.making(zoo.probe),
        nudges=[zoo.send, zoo.send, zoo.tick, zoo.retire, zoo.drain],
        meanwhile=zoo.tick,
        check=zoo.check,
        can_fail=(ValueError,),
        rounds=600,
        seed=zoo.random.randrange(1000),
    )


async def abandon(work: Coroutine[Any, Any, None], turns: int) -> None:
    """Have it begun by a caller who loses patience."""
    call = asyncio.create_task(work)
    await loop_turns(turns)
    call.cancel()
    await asyncio.wait({call})
    _ = call.cancelled() or call.exception()


async def test_tree(zoo: Zoo) -> None:
    def make() -> Tree[Probe]:
        return Tree(name="tree", children=[zoo.probe(is_spoiled=False) for _ in range(3)])

    await stress_start_stop(zoo.making(make), meanwhile=zoo.tick, check=zoo.check, turns=20)


async def test_supervisor(zoo: Zoo, caplog: pytest.LogCaptureFixture) -> None:
    await stress_start_stop(
        zoo.making(zoo.supervisor),
        nudges=[zoo.send, zoo.tick, zoo.retire, lambda supervisor: rescale(zoo, supervisor)],
        meanwhile=zoo.tick,
        check=zoo.check,
        can_fail=(ExceptionGroup,),
        turns=12,
        rounds=300,
        seed=zoo.random.randrange(1000),
    )


async def rescale(zoo: Zoo, supervisor: Supervisor) -> None:
    name = f"added-{zoo.random.randrange(3)}"
    if any(child.name == name for child in supervisor.children):
        await abandon(supervisor.remove(name), zoo.random.randrange(12))
    else:
        await abandon(supervisor.add(ChildSpec(name=name, factory=zoo.probe)), zoo.random.randrange(12))


async def test_periodic(zoo: Zoo, caplog: pytest.LogCaptureFixture) -> None:
    await stress_start_stop(
        zoo.making(zoo.periodic),
        nudges=[lambda periodic: periodic.kick(), zoo.tick, zoo.retire],
        meanwhile=zoo.tick,
        check=zoo.check,
        rounds=300,
        seed=zoo.random.randrange(1000),
    )


async def test_everything_nested(zoo: Zoo, caplog: pytest.LogCaptureFixture) -> None:
    await stress_start_stop(
        zoo.making(zoo.tree),
        nudges=[zoo.send, zoo.tick, zoo.retire],
        meanwhile=zoo.tick,
        check=zoo.check,
        can_fail=(ValueError, ExceptionGroup),
        turns=16,
        rounds=150,
        seed=zoo.random.randrange(1000),
    )


async def test_a_thousand_actors_come_and_go() -> None:
    ledger = Ledger()
    supervisor = Supervisor(
        name="many",
        children=[
            ChildSpec(name=str(number), factory=lambda: Probe(name="probe", ledger=ledger)) for number in range(1000)
        ],
    )
    await supervisor.start()
    assert ledger.open == 1000
    await supervisor.stop()
    assert ledger.is_balanced()


class Naive:
    """How one would write it at first. Each subclass keeps one of the usual mistakes."""

    name = "naive"

    def __init__(self) -> None:
        self._task: asyncio.Task[None] | None = None

    @property
    def is_running(self) -> bool:
        return self._task is not None

    def statistics(self) -> Statistics:
        return Statistics(name=self.name, is_running=self.is_running, starts=0)

    async def start(self) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._live())

    async def stop(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task})

    async def _live(self) -> None:
        await asyncio.Event().wait()


class Leaky(Naive):
    """`stop` does not wait for the end."""

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None


class Doubling(Naive):
    """Two callers of `start` make two tasks."""

    async def start(self) -> None:
        if self._task is None:
            await asyncio.sleep(0)
            self._task = asyncio.create_task(self._live())


class Frail(Naive):
    """A caller of `stop` who is cancelled leaves it half-stopped."""

    async def stop(self) -> None:
        if self._task is not None:
            task, self._task = self._task, None
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait({task})


class Once(Naive):
    """It starts once in its life."""

    has_started = False

    async def start(self) -> None:
        if not self.has_started:
            self.has_started = True
            await super().start()


class Hanging(Naive):
    """`stop` before `start` waits for ever."""

    async def stop(self) -> None:
        if self._task is None:
            await asyncio.Event().wait()
        await super().stop()


class Infectious(Naive):
    """`stop` leaks the CancelledError of the task it cancelled."""

    async def stop(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await task


class Silent(Naive):
    """Errors of its task are never looked at."""

    async def _live(self) -> None:
        try:
            await super()._live()
        finally:
            raise ValueError("never retrieved")


class Zombie(Naive):
    """It says that it runs when it does not."""

    @property
    def is_running(self) -> bool:
        return True


MISTAKES = [
    (Leaky, "left behind"),
    (Doubling, "left behind"),
    (Frail, "left behind"),
    (Once, "does not run after start"),
    (Hanging, "hangs"),
    (Infectious, "a caller nobody cancelled|CancelledError"),
    (Silent, "never retrieved"),
    (Zombie, "runs after stop"),
]


class TestTheStressItself:
    """A test that cannot fail is worth nothing."""

    @pytest.fixture
    def nothing_left(self) -> None:
        """These do leave something; that is the point."""

    @pytest.mark.parametrize(("kind", "message"), MISTAKES, ids=[kind.__name__ for kind, _ in MISTAKES])
    async def test_finds(self, kind: Callable[[], Service], message: str) -> None:
        with pytest.raises(AssertionError, match=message):
            await stress_start_stop(kind, patience=0.2, rounds=50)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    async def test_finds_a_hook_that_is_not_called(self) -> None:
        class Forgetful(Probe):
            async def on_stop(self) -> None:
                self._is_open = False

        def check(probe: Probe) -> None:
            assert probe.ledger.is_balanced()

        with pytest.raises(AssertionError):
            await stress_start_stop(Forgetful, check=check)

    async def test_finds_a_coroutine_nobody_awaited(self) -> None:
        class Careless(Actor[str]):
            async def receive(self, message: str) -> None: ...

            async def on_start(self) -> None:
                self.on_stop()  # type: ignore[unused-coroutine]  # pyright: ignore[reportUnusedCoroutine]  # noqa: RUF100

        with pytest.raises(AssertionError, match="never awaited"):
            await stress_start_stop(lambda: Careless(name="careless"))

    async def test_problems_are_collected_and_the_handlers_given_back(self) -> None:
        loop = asyncio.get_running_loop()
        before = loop.get_exception_handler()
        with pytest.raises(AssertionError, match="boom"), collecting_problems():
            loop.call_exception_handler({"message": "boom"})
        assert loop.get_exception_handler() is before
