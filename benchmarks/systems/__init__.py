"""The systems that are measured, as data: what each needs, how its worker is started, what it keeps.

Each has a module of its own beside this one. Those are imported by the processes that a trial starts, in the system's
own environment; this list is all that the driver knows of them.
"""

from __future__ import annotations

from dataclasses import dataclass

POSTGRESQL = "postgresql"
MARIADB = "mariadb"
RABBITMQ = "rabbitmq"
SQLITE = "sqlite"

OURS = "actorjobs"
NOTHING = "nothing"

_OWN_WORKER = ("{python}", "-m", "benchmarks.child", "work", "{module}")


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """One system with its settings. In `worker`, `queues` and `exchanges`, {name} and the like are filled in."""

    name: str
    module: str
    environment: str | None = None
    """Its virtual environment in .bench/; None for the one that the driver runs in."""
    store: str | None = None
    broker: str | None = None
    worker: tuple[str, ...] = _OWN_WORKER
    processes: int = 1
    keeps: str = NOTHING
    """What is on record once a run has ended."""
    accepts: str
    """What a dispatch has waited for when it returns."""
    acknowledges: str
    """What takes a run off the queue, and when."""
    has_bulk: bool = False
    is_traced: bool = False
    """Whether every span is recorded and handed on in batches."""
    lacks: frozenset[str] = frozenset()
    """Workloads that it has no means for."""
    share: float = 1.0
    """What part of the runs it is asked for, so that slow systems take no longer than fast ones."""
    queues: tuple[str, ...] = ()
    exchanges: tuple[str, ...] = ()
    """What it leaves in RabbitMQ."""

    @property
    def is_ours(self) -> bool:
        return self.module == OURS

    @property
    def reference(self) -> str:
        """The actorjobs preset on the same servers, which ratios are to: with its record kept in PostgreSQL."""
        return f"{OURS} {RABBITMQ}+{POSTGRESQL}" if self.broker else f"{OURS} {POSTGRESQL}"


def _ours(store: str, broker: str | None, processes: int = 1, *, is_traced: bool = False) -> System:
    servers = store if broker is None else f"{broker}+{store}"
    return System(
        name=f"{OURS} {servers}" + (f" x{processes}" if processes > 1 else "") + (" traced" if is_traced else ""),
        module=OURS,
        store=store,
        broker=broker,
        worker=(
            *("{python}", "-m", "actorjobs", "worker", "benchmarks.systems.actorjobs:runtime"),
            *("--log-level", "warning", "--processes", "{processes}"),
        ),
        processes=processes,
        is_traced=is_traced,
        keeps="every run and attempt",
        accepts="the commit",
        acknowledges="the commit of the attempt's outcome",
        has_bulk=True,
    )


_DRAMATIQ = ("{python}", "-m", "dramatiq", "benchmarks.systems.dramatiq", "-p", "{processes}", "-t", "8")


def _dramatiq(processes: int) -> System:
    return System(
        name=f"dramatiq {processes}x8",
        module="dramatiq",
        environment="dramatiq",
        broker=RABBITMQ,
        worker=(*_DRAMATIQ, "--skip-logging"),
        processes=processes,
        accepts="the confirm, one at a time",
        acknowledges="each message, after the body",
        share=0.3,
        queues=("{name}", "{name}.DQ", "{name}.XQ"),
    )


_PEERS = [
    _dramatiq(1),
    _dramatiq(2),
    System(
        name="taskiq",
        module="taskiq",
        environment="taskiq",
        broker=RABBITMQ,
        worker=(
            *("{python}", "-m", "taskiq", "worker", "benchmarks.systems.taskiq:broker", "-w", "1"),
            *("--max-async-tasks", "{concurrency}", "--max-prefetch", "{concurrency}", "--log-level", "ERROR"),
        ),
        accepts="the confirm, {in_flight} in flight",
        acknowledges="each message, after the body",
        queues=("{name}", "{name}.dead", "{name}.delay"),
        exchanges=("{name}",),
    ),
    System(
        name="faststream",
        module="faststream",
        environment="faststream",
        broker=RABBITMQ,
        accepts="the confirm, {in_flight} in flight",
        acknowledges="each message, after the body",
        lacks=frozenset({"delayed", "retry"}),
        queues=("{name}.noop", "{name}.io", "{name}.latency"),
    ),
    System(
        name="celery prefork 2",
        module="celery",
        environment="celery",
        broker=RABBITMQ,
        worker=(
            *("{python}", "-m", "celery", "-A", "benchmarks.systems.celery", "worker", "-P", "prefork"),
            *("-c", "{processes}", "-Q", "{name}", "-l", "ERROR", "--without-gossip", "--without-mingle"),
        ),
        processes=2,
        accepts="the confirm, one at a time",
        acknowledges="each message, after the body (acks_late)",
        share=0.25,
        queues=("{name}",),
        exchanges=("{name}", "{name}.events"),
    ),
    System(
        name="oban",
        module="oban",
        environment="oban",
        store=POSTGRESQL,
        keeps="the job's row, with its errors",
        accepts="the commit",
        acknowledges="the commit of the row's state",
        has_bulk=True,
        share=0.25,
    ),
    System(
        name="pgqueuer",
        module="pgqueuer",
        environment="pgqueuer",
        store=POSTGRESQL,
        keeps="three log rows a run",
        accepts="the commit",
        acknowledges="the commit of the log row",
        has_bulk=True,
        share=0.5,
    ),
    System(
        name="procrastinate",
        module="procrastinate",
        environment="procrastinate",
        store=POSTGRESQL,
        keeps="the job's row, and its events",
        accepts="the commit",
        acknowledges="the commit of the row's state",
        has_bulk=True,
        share=0.15,
    ),
    System(
        name="saq",
        module="saq",
        environment="saq",
        store=POSTGRESQL,
        keeps="the job's row, for ten minutes",
        accepts="the commit",
        acknowledges="the commit of the row's state",
        share=0.15,
    ),
]

_OURS = [
    _ours(store, broker, processes)
    for processes in (1, 2)
    for store in (SQLITE, POSTGRESQL, MARIADB)
    for broker in (None, RABBITMQ)
]

_TRACED = [_ours(store, broker, is_traced=True) for store, broker in ((POSTGRESQL, None), (POSTGRESQL, RABBITMQ))]

SYSTEMS: dict[str, System] = {system.name: system for system in [*_OURS, *_TRACED, *_PEERS]}


def ours(processes: int) -> list[System]:
    """actorjobs on every store, alone and with RabbitMQ."""
    return [system for system in _OURS if system.processes == processes]


def peers() -> list[System]:
    return list(_PEERS)


def beside_peers() -> list[System]:
    """The presets of actorjobs that peers are compared with: those that a server deployment has."""
    return [SYSTEMS[f"{OURS} {RABBITMQ}+{POSTGRESQL}"], SYSTEMS[f"{OURS} {POSTGRESQL}"]]
