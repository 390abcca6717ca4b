"""Start and stop any service in every order, and see that nothing is left of it.

    await stress_start_stop(lambda: MyService(...), nudges=[lambda service: service.kick()])

After every scenario the service is stopped, and then: it does not run, no task is left that was not there before, the
event loop has had nothing to complain about, and it starts again. A failure names the scenario and the seed.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import itertools
import sys
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from random import Random
from typing import Any, Generic, TypeVar

from actorjobs.actors import Service, StartInterrupted

S = TypeVar("S", bound=Service)
Nudge = Callable[[S], object]
Problems = list[str]


@dataclass(frozen=True)
class Op:
    """One thing one caller does. `turns` = turns of the loop to wait, or after which the call is cancelled."""

    verb: str
    turns: int | None = None

    def __repr__(self) -> str:
        return self.verb if self.turns is None else f"{self.verb}@{self.turns}"


Strand = tuple[Op, ...]
Scenario = tuple[Strand, ...]
"""Callers that act at the same time, each one op after the other."""


async def stress_start_stop(
    factory: Callable[[], S],
    *,
    nudges: Sequence[Nudge[S]] = (),
    meanwhile: Nudge[S] | None = None,
    check: Callable[[S], object] | None = None,
    can_fail: tuple[type[Exception], ...] = (),
    seed: int = 0,
    rounds: int = 200,
    turns: int = 8,
    patience: float = 20.0,
) -> None:
    """Run every short scenario, and `rounds` random ones; raises AssertionError at the first that leaves something.

    `nudges` are called now and then with the service (send it a message, move its clock, make it crash); one may return
    an awaitable. `meanwhile` is a nudge for a service that does not live in real time: it is called while callers still
    wait, and lets time pass. `check(service)` is called when it has been stopped. `can_fail` are errors that `start`
    and `stop` may raise; without any, a start must lead to a running service. `turns` is about how many turns of the
    loop a start or a stop takes, and `patience` the real seconds after which a scenario counts as hanging.
    """
    random = Random(seed)
    stage = _Stage(nudges, meanwhile, check, can_fail, turns)
    with collecting_problems() as problems:
        for scenario in itertools.chain(short_scenarios(turns), random_scenarios(random, rounds, turns, len(nudges))):
            label = f"seed {seed}: {scenario!r}"
            await _in_time(stage.play(scenario, factory(), label), patience, label)
            assert not problems, f"{label}: {problems}"


def short_scenarios(turns: int) -> Iterator[Scenario]:
    """One caller, up to three ops; then two and three callers at the same time."""
    cancelled = [Op(verb, turn) for verb in ("start", "stop") for turn in range(turns)]
    plain = [Op("start"), Op("stop")]
    for length in (1, 2, 3, 4):
        yield from (((strand),) for strand in itertools.product(plain, repeat=length))
    for op in cancelled:
        yield from (((before, op, after),) for before in plain for after in plain)
        yield from (((Op("start"),), (op, after)) for after in plain)
    for callers in (2, 3, 4):
        yield from itertools.product([(op,) for op in plain], repeat=callers)
    for turn in range(turns):
        late = (Op("wait", turn), Op("stop"))
        yield ((Op("start"),), late)
        yield ((Op("start"),), late, late)
        yield ((Op("start"), Op("start")), late, (Op("wait", turn), Op("start")))


def random_scenarios(random: Random, rounds: int, turns: int, nudges: int) -> Iterator[Scenario]:
    for _ in range(rounds):
        strands = range(random.randint(1, 5))
        yield tuple(
            tuple(_random_op(random, turns, nudges) for _ in range(random.randint(1, 6))) for _strand in strands
        )


def _random_op(random: Random, turns: int, nudges: int) -> Op:
    verb = random.choice(["start", "start", "stop", "wait", *["nudge"] * (2 * bool(nudges))])
    if verb == "nudge":
        return Op(verb, random.randrange(nudges))
    if verb == "wait" or random.random() < 0.3:
        return Op(verb, random.randrange(turns))
    return Op(verb)


class _Stage(Generic[S]):
    """Plays scenarios."""

    def __init__(
        self,
        nudges: Sequence[Nudge[S]],
        meanwhile: Nudge[S] | None,
        check: Callable[[S], object] | None,
        can_fail: tuple[type[Exception], ...],
        turns: int,
    ) -> None:
        self.nudges, self.meanwhile, self.check = nudges, meanwhile, check
        self.can_fail, self.turns = can_fail, turns

    async def play(self, scenario: Scenario, service: S, label: str) -> None:
        before = asyncio.all_tasks()
        strands = {asyncio.create_task(self.act(strand, service)) for strand in scenario}
        await self.wait_for(strands, service)
        await self.stop(service, before, label)
        await self.start(service, label)
        await self.stop(service, before, label)
        if self.check is not None:
            self.check(service)

    async def wait_for(self, strands: set[asyncio.Task[None]], service: S) -> None:
        while self.meanwhile is not None and not all(strand.done() for strand in strands):
            await loop_turns(10 * self.turns)
            await _nudge(self.meanwhile, service)
        await asyncio.gather(*strands)

    async def act(self, strand: Strand, service: S) -> None:
        for op in strand:
            if op.verb == "nudge":
                await _nudge(self.nudges[op.turns or 0], service)
            elif op.verb == "wait":
                await loop_turns(op.turns or 0)
            else:
                with suppress(StartInterrupted, *self.can_fail):
                    await _call(service, op)

    async def stop(self, service: S, before: set[asyncio.Task[Any]], label: str) -> None:
        with suppress(*self.can_fail):
            await _uncancelled(service.stop, f"{label}: stop()")
        left = asyncio.all_tasks() - before
        assert not service.is_running, f"{label}: {service!r} runs after stop()"
        assert not left, f"{label}: left behind: {sorted(map(repr, left))}"

    async def start(self, service: S, label: str) -> None:
        with suppress(*self.can_fail):
            await _uncancelled(service.start, f"{label}: start()")
            assert self.can_fail or service.is_running, f"{label}: {service!r} does not run after start()"


async def _in_time(play: Coroutine[Any, Any, None], patience: float, label: str) -> None:
    before = asyncio.all_tasks()
    try:
        async with asyncio.timeout(patience):
            await play
    except TimeoutError:
        raise AssertionError(f"{label}: hangs at {sorted(map(repr, asyncio.all_tasks() - before))}") from None


async def _uncancelled(call: Callable[[], Awaitable[None]], label: str) -> None:
    try:
        await call()
    except asyncio.CancelledError as error:
        if (task := asyncio.current_task()) is not None and task.cancelling():
            raise  # our own time-out
        raise AssertionError(f"{label} raised CancelledError to a caller nobody cancelled") from error


async def _call(service: Service, op: Op) -> None:
    call = asyncio.create_task(_uncancelled(service.start if op.verb == "start" else service.stop, repr(op)))
    if op.turns is not None:
        await loop_turns(op.turns)
        call.cancel()
    await asyncio.wait({call})
    if not call.cancelled():
        call.result()


async def _nudge(nudge: Nudge[S], service: S) -> None:
    done = nudge(service)
    if inspect.isawaitable(done):
        await done


async def loop_turns(count: int) -> None:
    """Let the loop turn `count` times."""
    for _ in range(count):
        await asyncio.sleep(0)


@contextmanager
def collecting_problems() -> Generator[Problems, None, None]:
    """What the loop and the interpreter complain about: destroyed tasks, exceptions and coroutines nobody looked at."""
    problems: Problems = []
    loop, unraisable = asyncio.get_running_loop(), sys.unraisablehook
    handler = loop.get_exception_handler()
    loop.set_exception_handler(
        lambda _, context: problems.append(f"{context['message']}: {context.get('exception')!r}")
    )
    sys.unraisablehook = lambda args: problems.append(f"{args.err_msg}: {args.exc_value!r}")
    try:
        yield problems
        gc.collect(1)  # what a test makes is young; a full collection of everything imported takes long
    finally:
        loop.set_exception_handler(handler)
        sys.unraisablehook = unraisable
    assert not problems, problems
