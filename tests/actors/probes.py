"""An actor that keeps books of what is done to it, and does what its messages say."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from actorjobs.actors import Actor, RestartActor
from tests.actors.stress import loop_turns


@dataclass
class Ledger:
    """What happened, and whether every start that succeeded had its stop."""

    events: list[str] = field(default_factory=list[str])
    started: int = 0
    stopped: int = 0

    @property
    def open(self) -> int:
        return self.started - self.stopped

    def is_balanced(self) -> bool:
        return self.open == 0


class Probe(Actor[str]):
    """Messages: `crash`, `restart`, `stop`, `retire`, `wait` (for `gate`), `turns`, `stubborn`; others are noted."""

    def __init__(
        self,
        *,
        name: str = "probe",
        ledger: Ledger | None = None,
        start_turns: int = 0,
        stop_turns: int = 0,
        start_error: Exception | None = None,
        stop_error: Exception | None = None,
        **options: Any,
    ) -> None:
        super().__init__(name=name, **options)
        self.ledger = ledger or Ledger()
        self.start_turns, self.stop_turns = start_turns, stop_turns
        self.start_error, self.stop_error = start_error, stop_error
        self.gate = asyncio.Event()
        self.on_receive: Callable[[], Any] | None = None
        self._is_open = False

    async def on_start(self) -> None:
        assert not self._is_open, "two lives at the same time"
        await loop_turns(self.start_turns)
        if self.start_error is not None:
            raise self.start_error
        self._note("on_start")
        self.ledger.started += 1
        self._is_open = True

    async def on_stop(self) -> None:
        assert self._is_open, "on_stop without on_start"
        self._is_open = False
        self.ledger.stopped += 1
        self._note("on_stop")
        await loop_turns(self.stop_turns)
        if self.stop_error is not None:
            raise self.stop_error

    async def receive(self, message: str) -> None:
        assert self._is_open, "a message outside of a life"
        self._note(message)
        match message:
            case "crash":
                raise ValueError(self.name)
            case "restart":
                raise RestartActor
            case "stop":
                await self.stop()
            case "retire":
                await self.retire()
            case "wait":
                await self.gate.wait()
            case "turns":
                await loop_turns(5)
            case "stubborn":
                await self._ignore_cancellation()
            case "call":
                assert self.on_receive is not None
                await self.on_receive()
            case _:
                pass
        self._note(f"{message} done")

    async def _ignore_cancellation(self) -> None:
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            await loop_turns(3)

    def _note(self, event: str) -> None:
        self.ledger.events.append(event if self.name == "probe" else f"{self.name} {event}")
