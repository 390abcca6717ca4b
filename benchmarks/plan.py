"""What the driver tells the processes that it starts. Needs nothing but the standard library: peers import it too."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
"""The project's folder, which every process of a measurement works in."""

FOLDER = ROOT / ".bench"
"""Whatever measurements make on disk: environments of peers, trials at work, compiled code."""

VARIABLE = "BENCHMARK_PLAN"
IN_FLIGHT = 200
CONCURRENCY = 100
_SEED = 7


def bare_environment() -> dict[str, str]:
    """The variables of processes that are measured: without settings of the machine's own, and with compiled code kept,
    as it is wherever a package is installed."""
    unwanted = ("ACTORJOBS_", "PYTHONDONTWRITEBYTECODE")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(unwanted)}
    return kept | {"PYTHONPYCACHEPREFIX": str(FOLDER / "compiled")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Where one trial takes place: told to producer and worker in their environment, as JSON."""

    folder: str
    """Where job bodies write down what they did."""
    name: str
    """Begins the name of whatever the system makes on a server that it shares; [a-z0-9-]."""
    store: str | None
    """The URL of a database that is this trial's own."""
    broker: str | None
    concurrency: int
    queues: int = 0
    """How many numbered queues are declared besides the one that all workloads use; growth only."""
    is_traced: bool = False

    def environment(self) -> dict[str, str]:
        return {VARIABLE: json.dumps(asdict(self))}

    @classmethod
    def current(cls) -> Plan:
        """The plan that this process was started with."""
        return cls(**json.loads(os.environ[VARIABLE]))

    @property
    def server(self) -> str:
        """The broker's URL; an error where the system was given none."""
        if self.broker is None:
            raise RuntimeError("this system needs a broker")
        return self.broker

    @property
    def database(self) -> str:
        """The database's URL; an error where the system was given none."""
        if self.store is None:
            raise RuntimeError("this system needs a database")
        return self.store


@dataclass(frozen=True, slots=True)
class Message:
    """One run to ask for. `promised` is when it should start, in seconds of the monotonic clock."""

    job: str
    index: int
    promised: float
    delay: float | None = None
    """Seconds from now on; None for at once."""

    @property
    def arguments(self) -> dict[str, Any]:
        """What the job is called with: always an address and a title, about 100 bytes as JSON."""
        payload: dict[str, Any] = {
            "email": f"user{self.index:06d}@example.org",
            "title": f"Welcome to the newsletter, subscriber {self.index:06d}",
        }
        if self.job == "latency":
            payload["promised"] = self.promised
        elif self.job == "retry":
            payload["index"] = self.index
        return payload


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What a producer is asked for."""

    job: str
    count: int
    in_flight: int = IN_FLIGHT
    bulk: int = 0
    """So many in one call, one call after the other; 0 for one by one."""
    per_second: float = 0.0
    """Evenly spread; 0 for as fast as it goes."""
    delays: tuple[float, float] | None = None
    """Seconds from and to, uniform, the same ones every time."""

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Demand:
        return cls(**json.loads(text))

    def messages(self) -> Iterator[Message]:
        """Each is made when it is asked for, so that its time is that of its dispatch."""
        random = Random(_SEED)
        for index in range(self.count):
            delay = None if self.delays is None else random.uniform(*self.delays)
            yield Message(self.job, index, time.monotonic() + (delay or 0.0), delay)


@dataclass(frozen=True, slots=True)
class Produced:
    """What a producer reports, once all is accepted. `began` and `ended` are of the monotonic clock, `cpu` seconds."""

    began: float
    ended: float
    cpu: float

    @property
    def seconds(self) -> float:
        return self.ended - self.began
