"""How long it takes to look into a store that keeps very many runs.

    python -m benchmarks.many_runs [--runs 1000000] [--folder /var/tmp] [--only sqlite|postgresql]

Fills a SQLite file, and a database on the server at ACTORJOBS_TEST_POSTGRES_URL, with runs that are over and their
attempts (by SQL: this is not about dispatching), then prints milliseconds per question. A search that ends at its time
limit says how far it came; following the cursor to the end is timed on its own. Both stores are removed in the end.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

import actorjobs as aj
from benchmarks.command import at_least_one, parse
from benchmarks.servers import drop_database, server_store

CHUNK = 100_000
WAITING = 1000
PAYLOAD = '{"email":"someone-%s@example.org","title":"a title of some length, as such titles are"}'

# One in 100,000 runs is of a rare job, one in 50,000 has a tag; one in 100 is a dead letter, one in 200 was canceled.
RUNS = """
INSERT INTO actorjobs_runs (id, namespace, job, queue, priority, state, attempt, max_attempts, payload, tags,
  inserted_at, available_at, claimed_at, attempted_at, finished_at, claimed_by)
SELECT {id}, :namespace, CASE WHEN n % 100000 = 7 THEN 'bench:rare' ELSE 'bench:often' END, 'bench', 4,
  CASE WHEN n >= :waiting_from THEN 'queued' WHEN n % 100 = 3 THEN 'dead_lettered' WHEN n % 200 = 5 THEN 'canceled'
    ELSE 'succeeded' END,
  CASE WHEN n >= :waiting_from THEN 0 ELSE 1 END, 5, {payload}, CASE WHEN n % 50000 = 9 THEN '["rare"]' END,
  {at}, {at}, {at}, {at}, CASE WHEN n >= :waiting_from THEN NULL ELSE {at} END, 'worker'
FROM {numbers}
"""
ATTEMPTS = """
INSERT INTO actorjobs_attempts (run_id, number, outcome, led_to, started_at, ended_at, worker)
SELECT {id}, 1, 'succeeded', 'succeeded', {at}, {at}, 'worker' FROM {numbers} WHERE n < :waiting_from
"""
DIALECTS = {
    "sqlite": {
        "id": "printf('01a00000-%04x-7%03x-8000-%012x', n / 4096, n % 4096, n)",
        "payload": f"printf('{PAYLOAD}', n)",
        "at": "(CAST(strftime('%s', 'now') AS INTEGER) - 86400) * 1000000 + n * 1000",
        "numbers": "(WITH RECURSIVE s(n) AS (SELECT :low UNION ALL SELECT n + 1 FROM s WHERE n + 1 < :high) "
        "SELECT n FROM s)",
    },
    "postgresql": {
        "id": "'01a00000-' || lpad(to_hex(n / 4096), 4, '0') || '-7' || lpad(to_hex(n % 4096), 3, '0') "
        "|| '-8000-' || lpad(to_hex(n), 12, '0')",
        "payload": "'" + PAYLOAD.replace("%s", "' || n || '") + "'",
        "at": "now() - interval '1 day' + n * interval '1 millisecond'",
        "numbers": "generate_series(CAST(:low AS integer), CAST(:high AS integer) - 1) AS n",
    },
}


async def fill(engine: AsyncEngine, runs: int, *, namespace: str = "default", waiting: int = WAITING) -> None:
    """So many runs with their attempts, the last `waiting` of them still to be done and the others over."""
    words = DIALECTS[engine.url.get_backend_name()]
    of_runs: dict[str, object] = {"waiting_from": runs - waiting}
    for low in range(0, runs, CHUNK):
        bounds = of_runs | {"low": low, "high": min(low + CHUNK, runs)}
        async with engine.begin() as connection:
            await connection.execute(text(RUNS.format(**words)), bounds | {"namespace": namespace})
            await connection.execute(text(ATTEMPTS.format(**words)), bounds)
    if engine.url.get_backend_name() == "postgresql":
        async with engine.connect() as connection:
            vacuum = await connection.execution_options(isolation_level="AUTOCOMMIT")
            await vacuum.execute(text("VACUUM ANALYZE actorjobs_runs, actorjobs_attempts"))


async def timed(name: str, ask: Callable[[], Awaitable[Any]]) -> Any:
    times: list[float] = []
    answer: Any = None
    for _ in range(3):
        began = time.perf_counter()
        answer = await ask()
        times.append((time.perf_counter() - began) * 1e3)
    shown = f"{len(answer)} runs" + ("" if answer.cursor is None else ", goes on") if hasattr(answer, "cursor") else ""
    print(f"  {name:<34} {sorted(times)[1]:>9,.1f} ms  {shown}", flush=True)
    return answer


async def to_the_end(runtime: aj.Runtime, **criteria: Any) -> int:
    found, cursor, pages = 0, None, 0
    while pages == 0 or cursor is not None:
        page = await runtime.runs.list(limit=100, cursor=cursor, **criteria)
        found, cursor, pages = found + len(page), page.cursor, pages + 1
    return found


async def hundredth(runtime: aj.Runtime) -> str | None:
    cursor = None
    for _ in range(99):
        cursor = (await runtime.runs.list(limit=100, cursor=cursor)).cursor
    return cursor


async def measure(name: str, store: str, runs: int) -> None:
    runtime = aj.Runtime(store=store)
    async with runtime.client():
        began = time.perf_counter()
        await fill(runtime.store.engine, runs)
        print(f"{name}: {runs:,} runs, filled in {time.perf_counter() - began:.0f} s", flush=True)
        listed = runtime.runs.list
        await timed("first page", lambda: listed(limit=100))
        cursor = await hundredth(runtime)
        await timed("100th page", lambda: listed(limit=100, cursor=cursor))
        searches: tuple[tuple[str, dict[str, Any]], ...] = (
            ("state=dead_lettered", {"state": "dead_lettered"}),
            ("state=queued (1,000)", {"state": "queued"}),
            ("state=expired (none)", {"state": "expired"}),
            ("job=bench:rare", {"job": "bench:rare"}),
            ("tag=rare", {"tag": "rare"}),
            ("tenant=nobody", {"tenant": "nobody"}),
            ("search=someone-77@", {"search": "someone-77@"}),
        )
        for label, criteria in searches:
            await timed(label, partial(listed, limit=100, **criteria))
        began = time.perf_counter()
        found = await to_the_end(runtime, search="someone-77@")
        print(f"  {'search to the end':<34} {(time.perf_counter() - began) * 1e3:>9,.1f} ms  {found} runs", flush=True)
        await timed("count_by_state", runtime.runs.count_by_state)
        await timed("count_by_state, job=bench:rare", lambda: runtime.runs.count_by_state(job="bench:rare"))
        await timed("queues.list", runtime.queues.list)


async def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.many_runs", description=__doc__)
    parser.add_argument("--runs", type=at_least_one, default=1_000_000)
    parser.add_argument("--folder", default="/var/tmp")
    parser.add_argument("--only", choices=("sqlite", "postgresql"))
    asked = parse(parser)
    if asked.only != "postgresql":
        with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
            await measure("sqlite", f"sqlite:///{folder}/many.db", asked.runs)
    if asked.only != "sqlite":
        store = await server_store("postgresql")
        if store is None:
            print("postgresql: skipped, ACTORJOBS_TEST_POSTGRES_URL is not set")
            return
        try:
            await measure("postgresql", store, asked.runs)
        finally:
            await drop_database(store)


if __name__ == "__main__":
    asyncio.run(main())
