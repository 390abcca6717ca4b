"""What only the SQLite store must do: live with other writers, other processes and broken files."""

from __future__ import annotations

import asyncio
import os
import random
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.orm import Session

from actorjobs.clock import SystemClock
from actorjobs.errors import InvalidOption, SchemaOutdated, StoreUnavailable
from actorjobs.model import RunState
from actorjobs.ports import Accepted
from actorjobs.stores import SqlStore, open_store, sqlite, sqlite_sql
from actorjobs.stores.database import parse_url
from actorjobs.stores.schema import VERSION_TABLE, metadata
from actorjobs.stores.sqlite import SqliteDatabase
from actorjobs.testing.store_suite.setting import EVERYTHING, accepted, brought_to, envelope, take
from tests.contract.databases import Stores

ROOT = Path(__file__).parents[2]


@pytest.fixture
async def store(stores: Stores, sqlite_url: str) -> SqlStore:
    return await stores.opened(sqlite_url)


def path_of(url: str) -> Path:
    return Path(url.removeprefix("sqlite:///"))


def other_writer(url: str) -> sqlite3.Connection:
    """Somebody else's connection, in the middle of a writing transaction."""
    connection = sqlite3.connect(path_of(url), isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    return connection


# --- other writers ---------------------------------------------------------------------------------------------------


@pytest.fixture
async def impatient(sqlite_url: str) -> AsyncGenerator[SqlStore]:
    """A store that waits for others only half a second."""
    database = SqliteDatabase(parse_url(sqlite_url), lock_timeout=0.5)
    store = SqlStore(database=database, namespace="default", clock=SystemClock())
    await store.open()
    yield store
    await store.close()


async def test_a_writer_that_holds_the_file_makes_it_unavailable_and_tx_is_named(
    impatient: SqlStore, sqlite_url: str
) -> None:
    with closing(other_writer(sqlite_url)) as writer:
        began = time.monotonic()
        with pytest.raises(StoreUnavailable, match=r"held .* for 0\.5 s.* tx="):
            await impatient.insert([envelope()])
        assert 0.4 < time.monotonic() - began < 3
        assert len(await impatient.list(EVERYTHING, limit=5, cursor=None)) == 0  # reading goes on
        writer.execute("ROLLBACK")
    await accepted(impatient, envelope())


async def test_a_writer_is_waited_for(store: SqlStore, sqlite_url: str) -> None:
    with closing(other_writer(sqlite_url)) as writer:
        asyncio.get_running_loop().call_later(0.3, writer.execute, "COMMIT")
        await accepted(store, envelope())


async def test_dispatching_beside_ones_own_open_transaction_names_tx(impatient: SqlStore, sqlite_url: str) -> None:
    engine = create_engine(sqlite_url)
    with Session(engine) as session:
        session.execute(text("CREATE TABLE orders (id INTEGER)"))
        session.execute(text("INSERT INTO orders VALUES (1)"))
        with pytest.raises(StoreUnavailable, match="tx="):
            await impatient.insert([envelope()])
        [inside] = await impatient.insert_all([envelope()], session)
        session.commit()
    engine.dispose()
    assert (await impatient.get(inside.run_id)).state is RunState.QUEUED


async def test_a_synchronous_caller_inserts_in_its_own_transaction(store: SqlStore, sqlite_url: str) -> None:
    engine = create_engine(sqlite_url)
    with Session(engine) as session, engine.connect() as connection:
        one, two = envelope(), envelope()
        assert store.insert_in([one], session) == [Accepted(run_id=one.id, existing=False)]
        session.rollback()
        assert store.insert_in([two], connection) == [Accepted(run_id=two.id, existing=False)]
        connection.commit()
    engine.dispose()
    assert [run.id for run in await store.list(EVERYTHING, limit=5, cursor=None)] == [two.id]


async def test_outside_the_loop_only_synchronous_transactions_are_taken(store: SqlStore) -> None:
    async with store.engine.connect() as connection:
        with pytest.raises(InvalidOption, match="Session or Connection"):
            store.insert_in([envelope()], connection)


# --- how it is set up ------------------------------------------------------------------------------------------------


async def test_a_commit_survives_a_power_cut(sqlite_url: str) -> None:
    database = SqliteDatabase(parse_url(sqlite_url))

    def settings(connection: Connection) -> tuple[Any, ...]:
        return tuple(connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("journal_mode", "synchronous"))

    assert await database.write(settings) == await database.read(settings) == ("wal", 2)
    await database.close()


async def test_a_new_file_migrates_itself(stores: Stores, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'new.db'}"
    store = await stores.opened(url)
    await accepted(store, envelope())
    await store.close()
    again = await stores.opened(url)
    assert len(await again.list(EVERYTHING, limit=5, cursor=None)) == 1


async def test_the_migrated_schema_is_the_one_the_code_knows(sqlite_url: str) -> None:
    engine = create_engine(sqlite_url)
    options = {"compare_type": True, "include_object": _is_not_the_version}
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection, opts=options), metadata) == []
    engine.dispose()


def _is_not_the_version(_item: object, name: str | None, *_rest: object) -> bool:
    return name != VERSION_TABLE


async def test_a_newer_schema_is_refused(stores: Stores, store: SqlStore, sqlite_url: str) -> None:
    async with store.engine.begin() as connection:
        await connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))
    newer = await stores.made(sqlite_url)
    with pytest.raises(SchemaOutdated, match=r"9999.*upgrade the package"):
        await newer.open()


async def test_in_memory_and_inline_it_is_a_store_too(stores: Stores, sqlite_url: str) -> None:
    for url, inline in (("sqlite://", False), ("sqlite:///:memory:", True), (sqlite_url, True)):
        store = await stores.opened(url, inline=inline)
        [new] = await accepted(store, envelope())
        assert [claim.run_id for claim in await take(store)] == [new]


async def test_a_store_in_memory_has_no_engine_for_others(stores: Stores) -> None:
    store = await stores.opened("sqlite://")
    with pytest.raises(InvalidOption, match="use a file"):
        _ = store.engine


async def test_a_closed_store_says_so(store: SqlStore) -> None:
    await store.close()
    for verb in (store.insert([envelope()]), store.list(EVERYTHING, limit=1, cursor=None)):
        with pytest.raises(StoreUnavailable, match="closed"):
            await verb


async def test_a_canceled_caller_leaves_nothing_half_done(store: SqlStore, sqlite_url: str) -> None:
    one = envelope()
    with closing(other_writer(sqlite_url)) as writer:
        waiting = asyncio.create_task(store.insert([one]))
        await asyncio.sleep(0.1)
        waiting.cancel()
        asyncio.get_running_loop().call_later(0.1, writer.execute, "COMMIT")
        with pytest.raises(asyncio.CancelledError):
            await waiting
    assert (await store.get(one.id)).id == one.id  # it was on its way, and had an end before the cancel was passed on
    await accepted(store, envelope())


# --- addresses and files that cannot be ------------------------------------------------------------------------------

SECRET = "s3cr3t-w0rd"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "store.db",
        "not a url",
        "://",
        f"oracle://root:{SECRET}@localhost/jobs",
        f"oracle+cx://scott:{SECRET}@h/d",
        "sqlite://localhost/store.db",
        f"sqlite://user:{SECRET}@/store.db",
        "sqlite:///store.db?mode=ro",
        "sqlite:////no/such/folder/store.db",
        f"sqlite:///{Path(__file__).parent}",
    ],
)
async def test_an_address_that_cannot_be_is_refused_in_one_line(url: str) -> None:
    with pytest.raises(InvalidOption) as refusal:
        await open_store(url, namespace="default", clock=SystemClock())
    assert SECRET not in str(refusal.value)
    assert "\n" not in str(refusal.value)


async def test_a_network_file_system_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sqlite, "file_system", lambda _folder: "nfs4")
    with pytest.raises(InvalidOption, match=r"network file system \(nfs4\)"):
        await open_store(f"sqlite:///{tmp_path}/store.db", namespace="default", clock=SystemClock())


async def _use(store: SqlStore) -> None:
    await store.open()
    await store.insert([envelope()])


async def _is_unavailable(stores: Stores, path: Path) -> None:
    store = await stores.made(f"sqlite:///{path}")
    with pytest.raises(StoreUnavailable) as refusal:
        await _use(store)
    assert "\n" not in str(refusal.value)
    assert str(path) in str(refusal.value)


async def test_a_file_that_is_no_database_is_unavailable(stores: Stores, tmp_path: Path) -> None:
    path = tmp_path / "letter.db"
    path.write_text("Dear Sir or Madam, " * 500)
    await _is_unavailable(stores, path)
    assert path.read_text().startswith("Dear Sir")


async def test_a_damaged_database_is_unavailable(stores: Stores, store: SqlStore, sqlite_url: str) -> None:
    await accepted(store, *(envelope(payload="x" * 1000) for _ in range(300)))
    await store.close()
    path, noise = path_of(sqlite_url), random.Random(7)
    content = bytearray(path.read_bytes())
    content[4096:] = noise.randbytes(len(content) - 4096)
    path.write_bytes(content)
    await _is_unavailable(stores, path)


async def test_a_file_that_cannot_be_made_is_unavailable(stores: Stores) -> None:
    await _is_unavailable(stores, Path("/proc/self/store.db"))


READ_ONLY = """
import asyncio, os, sys
from actorjobs.clock import SystemClock
from actorjobs.errors import StoreUnavailable
from actorjobs.model import Envelope
from actorjobs.stores import open_store

async def main():
    store = await open_store("sqlite://", namespace="default", clock=SystemClock())
    await store.open()  # now everything is imported
    await store.close()
    if os.getuid() == 0:
        os.setuid(65534)  # root may write anywhere
    store = await open_store(sys.argv[1], namespace="default", clock=SystemClock())
    try:
        await store.open()
        await store.insert([Envelope(job="j", queue="q")])
    except StoreUnavailable as refusal:
        print(refusal)
    await store.close()

asyncio.run(main())
"""


def run_python(script: str, *arguments: str) -> subprocess.Popen[str]:
    """A process of its own that runs this."""
    return subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


async def test_a_file_that_may_not_be_written_is_unavailable(store: SqlStore, sqlite_url: str) -> None:
    await store.close()
    path = path_of(sqlite_url)
    path.chmod(0o444)
    for folder in (path.parent, path.parent.parent):
        folder.chmod(0o555)
    try:
        output, problems = await asyncio.to_thread(run_python(READ_ONLY, sqlite_url).communicate, timeout=30)
    finally:
        for folder in (path.parent, path.parent.parent):
            folder.chmod(0o755)
    assert problems == ""
    assert "does not answer" in output
    assert len(output.splitlines()) == 1


# --- other processes -------------------------------------------------------------------------------------------------

INSERT_WHEN_TOLD = """
import asyncio, sys, time
from actorjobs.clock import SystemClock
from actorjobs.model import Envelope
from actorjobs.stores import open_store

async def main():
    print("ready", flush=True)
    for line in sys.stdin:
        store = await open_store(line.strip(), namespace="default", clock=SystemClock())
        await store.open()
        for number in range(5):
            await store.insert([Envelope(job="suite:job", queue="suite", payload=number)])
            if number == 0:
                print(repr(time.time()), flush=True)
        await store.close()
        print("done", flush=True)

asyncio.run(main())
"""


class Process:
    """Another process, which inserts five runs into any file it is told of."""

    def __init__(self) -> None:
        self._process = run_python(INSERT_WHEN_TOLD)

    async def line(self) -> str:
        assert self._process.stdout is not None
        return (await asyncio.to_thread(self._process.stdout.readline)).strip()

    def tell(self, url: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{url}\n")
        self._process.stdin.flush()

    async def end(self) -> str:
        """What it complained of."""
        _, problems = await asyncio.to_thread(self._process.communicate, timeout=30)
        return problems


async def test_many_processes_open_a_new_file_at_once(stores: Stores, quick_folder: Path) -> None:
    processes = [Process() for _ in range(4)]
    assert [await process.line() for process in processes] == ["ready"] * 4
    for round in range(8):
        url = f"sqlite:///{quick_folder}/fresh-{round}.db"
        for process in processes:
            process.tell(url)
        for process in processes:
            answer = [await process.line(), await process.line()]
            assert answer[1] == "done", await process.end()
        store = await stores.opened(url)
        assert len(await store.list(EVERYTHING, limit=100, cursor=None)) == 5 * 4
    assert [await process.end() for process in processes] == [""] * 4


async def test_another_processs_commit_is_noticed_at_once(store: SqlStore, sqlite_url: str) -> None:
    process, noticed = Process(), asyncio.Event()
    await process.line()
    delays: list[float] = []
    async with store.watch(noticed.set):
        for _ in range(10):
            await asyncio.sleep(0.05)
            noticed.clear()
            process.tell(sqlite_url)
            await asyncio.wait_for(noticed.wait(), 5)
            delays.append(time.time() - float(await process.line()))
            await process.line()
    await process.end()
    assert sorted(delays)[7] < 0.1, delays  # of ten: the machine may be busy


async def test_ones_own_commits_are_no_news(store: SqlStore) -> None:
    noticed: list[str] = []
    async with store.watch(lambda: noticed.append("!")):
        await asyncio.sleep(0.1)
        noticed.clear()
        for _ in range(3):
            await accepted(store, envelope())
        await asyncio.sleep(0.1)
    assert noticed == []


async def test_a_watch_outlives_trouble(store: SqlStore) -> None:
    async with store.watch(lambda: None):
        await store.close()
        await asyncio.sleep(0.1)


# --- statements ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "statement",
    [
        *(sqlite_sql._DUE, sqlite_sql._DUE_SUSPECTS, sqlite_sql._NEXT, sqlite_sql._SUSPECT_DUE, sqlite_sql._SETTLE),
        *(sqlite_sql._WAITING, sqlite_sql._STAGED, sqlite_sql._MARK),
    ],
    ids=["due", "suspects", "next", "suspect due", "settle", "bid for", "stage", "mark"],
)
async def test_hot_statements_go_by_index(store: SqlStore, statement: str) -> None:
    await brought_to(store, RunState.SUCCEEDED)
    named = {"ns": "default", "queue": "q", "now": 0, "limit": 10, "jobs": "[]", "ids": "[]"}
    places: Any = ("0",) * statement.count("?") or named
    async with store.engine.connect() as connection:
        plan = (await connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", places)).mappings().all()
    steps = [str(row["detail"]) for row in plan]
    assert any("INDEX" in step for step in steps), steps
    assert not [
        step for step in steps if step.startswith(("SCAN actorjobs_runs", "SCAN r ")) and "INDEX" not in step
    ], steps
    assert not [step for step in steps if "TEMP B-TREE" in step], steps
