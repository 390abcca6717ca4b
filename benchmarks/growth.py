"""What becomes of the speed as there is more of something: `python -m benchmarks.growth`.

    python -m benchmarks.growth [--rows history queues transaction waiting] [--stores sqlite postgresql]
                                [--runs N] [--finished K] [--open-seconds S] [--repeat 3] [--json FILE]

- history: drain with K finished runs in the store already, against an empty one;
- queues: one worker that serves 10 of 1,000 declared queues of RabbitMQ, against 10 of 10;
- transaction: drain on PostgreSQL again and again, while somebody's transaction stays open for S seconds;
- waiting: memory of a worker before which 100,000 runs wait, against 1,000.

The two sides of a row take turns, and only their ratio means something.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from actorjobs.clock import SystemClock
from actorjobs.stores import open_store
from benchmarks import machine, servers
from benchmarks.command import at_least_one, new_file, parse, positive
from benchmarks.many_runs import fill
from benchmarks.measuring import say
from benchmarks.plan import Demand
from benchmarks.report import shown
from benchmarks.systems import OURS, POSTGRESQL, RABBITMQ, SQLITE, SYSTEMS, System
from benchmarks.systems.names import SERVED, served
from benchmarks.trial import Trial, why_failed
from benchmarks.workloads import BULK, drained

FINISHED = 1_000_000
QUEUES = 1000
OPEN_SECONDS = 600.0
WAITING = (1000, 100_000)
SETTLE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Size:
    runs: int
    finished: int
    queues: int
    open_seconds: float
    waiting: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison: figures of the small side and of the large one, a pair for each repeat."""

    name: str
    unit: str
    small: tuple[float, ...]
    large: tuple[float, ...]

    @property
    def ratio(self) -> float:
        return statistics.median(self.large) / statistics.median(self.small)

    def __str__(self) -> str:
        return f"{self.name}: {shown(self.small, 0)} -> {shown(self.large, 0)} {self.unit}, ratio {self.ratio:.2f}"


def history(system: System, size: Size, repeat: int) -> Row:
    pairs = [
        (_with_history(system, size.runs, 0), _with_history(system, size.runs, size.finished)) for _ in range(repeat)
    ]
    return _row(f"history, {system.name}, no run -> {size.finished:,} finished runs kept", "drained/s", pairs)


def _with_history(system: System, runs: int, finished: int) -> float:
    with Trial(system) as trial:
        if finished:
            asyncio.run(_fill(trial.plan.database, trial.plan.name, finished))
        trial.produce(Demand(job="noop", count=runs, bulk=BULK))
        return drained(trial, runs)["drain/s"]


async def _fill(url: str, namespace: str, finished: int) -> None:
    store = await open_store(url, namespace=namespace, clock=SystemClock())
    try:
        await fill(store.engine, finished, namespace=namespace, waiting=0)
        if store.engine.url.get_backend_name() == "postgresql":
            await _settled(store.engine)
    finally:
        await store.close()


async def _settled(engine: AsyncEngine) -> None:
    """What filling leaves to be done, and a store that has grown for weeks has behind it, must not be done while the
    drain is measured: a million new rows set off the vacuum of their table, and its statistics."""
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        await connection.execute(text("VACUUM (ANALYZE)"))
        with suppress(DBAPIError):  # a right that the user may not have
            await connection.execute(text("CHECKPOINT"))


def queues(system: System, size: Size, repeat: int) -> Row:
    pairs = [
        (_with_queues(system, size.runs, SERVED), _with_queues(system, size.runs, size.queues)) for _ in range(repeat)
    ]
    return _row(f"queues, {system.name}, {SERVED} of {SERVED} -> of {size.queues:,} served", "drained/s", pairs)


def _with_queues(system: System, runs: int, declared: int) -> float:
    with Trial(system, queues=declared) as trial:
        trial.produce(Demand(job="noop", count=runs))
        return drained(trial, runs, "-Q", ",".join(served()))["drain/s"]


def transaction(system: System, size: Size, _repeat: int) -> Row:
    """The first fifth of the drains against the last one: a single drain says little."""
    with Trial(system) as trial:
        rates = asyncio.run(_while_open(trial, size))
    ends = max(1, len(rates) // 5)
    drains = f"first -> last fifth of {len(rates)} drains while one is open for {size.open_seconds:g} s"
    return Row(f"transaction, {system.name}, {drains}", "drained/s", tuple(rates[:ends]), tuple(rates[-ends:]))


async def _while_open(trial: Trial, size: Size) -> list[float]:
    rates: list[float] = []
    async with _open_transaction(trial.plan.database):
        end = time.monotonic() + size.open_seconds
        while not rates or time.monotonic() < end:
            rates.append(await asyncio.to_thread(_produced_and_drained, trial, size.runs))
    return rates


@asynccontextmanager
async def _open_transaction(url: str) -> AsyncGenerator[None]:
    """One that has seen the database and written to it, so that nothing that dies later may be cleaned away."""
    engine = create_async_engine(servers.engine_url(url, POSTGRESQL))
    async with engine.connect() as connection:
        await connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
        await connection.execute(text("CREATE TABLE bench_open (id integer)"))
        yield
        await connection.rollback()
    await engine.dispose()


def _produced_and_drained(trial: Trial, runs: int) -> float:
    trial.produce(Demand(job="noop", count=runs, bulk=BULK))
    rate = drained(trial, runs)["drain/s"]
    trial.stop_worker()
    return rate


def waiting(system: System, size: Size, repeat: int) -> Row:
    few, many = size.waiting
    pairs = [(_memory(system, few), _memory(system, many)) for _ in range(repeat)]
    return _row(f"waiting, {system.name}, {few:,} -> {many:,} runs wait", "MB in the worker", pairs)


def _memory(system: System, runs: int) -> float:
    with Trial(system) as trial:
        trial.produce(Demand(job="hold", count=runs, bulk=BULK))
        trial.start_worker()
        trial.until(min(runs, trial.plan.concurrency))
        time.sleep(SETTLE_SECONDS)
        return machine.megabytes(trial.worker_pid)


def _row(name: str, unit: str, pairs: Sequence[tuple[float, float]]) -> Row:
    return Row(name, unit, tuple(small for small, _ in pairs), tuple(large for _, large in pairs))


Measure = Callable[[System, Size, int], Row]
ROWS: dict[str, Measure] = {"history": history, "queues": queues, "transaction": transaction, "waiting": waiting}


def _systems(row: str, stores: Sequence[str]) -> list[System]:
    """Those that a row says something about."""
    alone = [SYSTEMS[f"{OURS} {store}"] for store in (SQLITE, POSTGRESQL) if store in stores]
    brokered = [SYSTEMS[f"{OURS} {RABBITMQ}+{store}"] for store in (SQLITE, POSTGRESQL) if store in stores]
    match row:
        case "queues":
            return brokered
        case "transaction":
            return [system for system in [*alone, *brokered] if system.store == POSTGRESQL]
        case _:
            return [*alone, *brokered]


def measure(rows: Sequence[str], stores: Sequence[str], size: Size, repeat: int) -> Iterator[Row]:
    for row in rows:
        for system in _systems(row, stores):
            why = servers.missing((system.store, system.broker))
            if why is not None:
                say(f"{row}, {system.name}: SKIPPED, {why}")
                continue
            try:
                yield ROWS[row](system, size, repeat)
            except Exception as error:
                say(f"{row}, {system.name}: FAILED, {why_failed(error)}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description="Measure growth.")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW")
    parser.add_argument("--stores", nargs="+", choices=(SQLITE, POSTGRESQL), default=[SQLITE, POSTGRESQL])
    parser.add_argument("--runs", type=at_least_one, default=10_000)
    parser.add_argument("--finished", type=at_least_one, default=FINISHED)
    parser.add_argument("--queues", type=at_least_one, default=QUEUES)
    parser.add_argument("--open-seconds", type=positive, default=OPEN_SECONDS)
    parser.add_argument("--waiting", type=at_least_one, nargs=2, default=WAITING)
    parser.add_argument("--repeat", type=at_least_one, default=3)
    parser.add_argument("--json", type=new_file)
    asked = parse(parser)
    few, many = asked.waiting
    size = Size(asked.runs, asked.finished, asked.queues, asked.open_seconds, (few, many))
    origin = {"when": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC", "machine": machine.described(), "size": asdict(size)}
    rows: list[Row] = []
    for row in measure(asked.rows, asked.stores, size, asked.repeat):
        say(str(row))
        rows.append(row)
        if asked.json is not None:
            found = origin | {"rows": [asdict(one) for one in rows]}
            asked.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
