"""What only the store on MariaDB and MySQL must do: keep every byte, share a server, and outlive its connections."""

from __future__ import annotations

import asyncio
import socket
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from random import Random
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import Connection, create_engine, inspect, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DataError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from actorjobs.clock import SystemClock
from actorjobs.errors import InvalidOption, SchemaOutdated, StoreUnavailable
from actorjobs.model import Outcome, RunState
from actorjobs.ports import Accepted, Bid, Claim, Demand
from actorjobs.stores import SqlStore, accepting, mysql_sql, open_store, steps, upgrade_sql
from actorjobs.stores.schema import HEAD, VERSION_TABLE, metadata, word
from actorjobs.testing.store_suite.setting import (
    EVERYTHING,
    JOB,
    accepted,
    brought_to,
    ending,
    envelope,
    take,
    taken,
    worker,
)
from tests.contract.databases import Stores, admin_engine, create_database, drop_database

SECRET = "s3cr3t-w0rd"


@pytest.fixture
async def store(stores: Stores, mariadb_url: str) -> SqlStore:
    return await stores.opened(mariadb_url)


@pytest.fixture
async def admin(mariadb_url: str) -> AsyncGenerator[AsyncEngine]:
    """A way into the database past the store."""
    engine = admin_engine(mariadb_url, isolation_level="READ COMMITTED")
    yield engine
    await engine.dispose()


async def until(moment: float = 10.0) -> AsyncIterator[None]:
    """Try again, for so many seconds."""
    deadline = time.monotonic() + moment
    while time.monotonic() < deadline:
        yield
        await asyncio.sleep(0.05)
    raise AssertionError("that should have happened by now")


# --- addresses -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        f"mysql://user:{SECRET}@localhost:99999/jobs",
        f"mysql://user:{SECRET}@localhost:port/jobs",
        f"mysql://user:{SECRET}@localhost",
        f"mysql://user:{SECRET}@localhost/",
        f"mysql://user:{SECRET}@localhost/jobs?ssl=perhaps",
        f"mysql://user:{SECRET}@localhost/jobs?charset=latin1",
        f"mysql://user:{SECRET}@localhost/jobs?unix_socket=/tmp/x",
    ],
)
async def test_an_address_that_cannot_be_is_refused_in_one_line(url: str) -> None:
    with pytest.raises(InvalidOption) as refusal:
        await open_store(url, namespace="default", clock=SystemClock())
    assert SECRET not in str(refusal.value)
    assert "\n" not in str(refusal.value)


async def _is_unavailable(stores: Stores, url: str) -> str:
    store = await stores.made(url)
    with pytest.raises(StoreUnavailable) as refusal:
        await store.open()
    assert SECRET not in str(refusal.value)
    assert SECRET not in repr(store)
    assert SECRET not in store.url
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port on which nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


async def test_a_server_that_is_not_there_is_unavailable(stores: Stores, silent_port: int) -> None:
    for host in ("127.0.0.1", "no-such-host.invalid"):
        assert host in await _is_unavailable(stores, f"mysql://user:{SECRET}@{host}:{silent_port}/jobs")


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"", b"\x05\x00\x00\x00\xff\x10\x04ab"])
async def test_a_server_that_refuses_is_unavailable(stores: Stores, answer: bytes) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        await _is_unavailable(stores, f"mysql://user:{SECRET}@127.0.0.1:{port}/jobs")


async def test_strangers_are_not_let_in_and_no_password_is_shown(stores: Stores, mariadb_url: str) -> None:
    url = make_url(mariadb_url)
    for wrong in (
        url.set(username="nobody-of-that-name", password=SECRET),
        url.set(password=SECRET, database="no-such-database"),
        url.set(database="no_such_database"),
    ):
        await _is_unavailable(stores, wrong.render_as_string(hide_password=False))


@pytest.mark.parametrize("scheme", ["mysql", "mariadb", "mysql+asyncmy", "mariadb+asyncmy", "mysql+aiomysql"])
@pytest.mark.parametrize("options", ["", "?ssl=off"])
async def test_any_spelling_of_the_address_works(stores: Stores, mariadb_url: str, scheme: str, options: str) -> None:
    store = await stores.opened(mariadb_url.replace("mysql", scheme, 1) + options)
    async with AsyncSession(store.engine) as session:
        [inside] = await store.insert_all([envelope()], session)
        await session.commit()
    assert [claim.run_id for claim in await take(store)] == [inside.run_id]


async def test_encryption_that_was_asked_for_is_not_done_without(stores: Stores, mariadb_url: str) -> None:
    """The server of the tests has no certificate, or one that nobody vouches for."""
    await _is_unavailable(stores, f"{mariadb_url}?ssl=verify")


# --- schema ----------------------------------------------------------------------------------------------------------


@pytest.fixture
async def empty_url(mariadb_server: str) -> AsyncGenerator[str]:
    """A database without tables."""
    url = await create_database(mariadb_server, is_migrated=False)
    yield url
    await drop_database(mariadb_server, url)


async def test_a_database_without_tables_is_outdated_until_it_is_upgraded(stores: Stores, empty_url: str) -> None:
    store = await stores.made(empty_url)
    assert await store.schema_version() is None
    with pytest.raises(SchemaOutdated, match="actorjobs db upgrade"):
        await store.open()
    for _ in range(2):
        await store.migrate()
        await store.open()
        assert await store.schema_version() == HEAD
    await accepted(store, envelope())


async def test_a_newer_schema_is_refused(stores: Stores, empty_url: str) -> None:
    store = await stores.made(empty_url)
    await store.migrate()
    async with store.engine.begin() as connection:
        await connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))
    for attempt in (store.open, store.migrate):
        with pytest.raises(SchemaOutdated, match=r"9999.*upgrade the package"):
            await attempt()


async def test_a_migration_that_broke_off_is_finished_by_the_next_one(stores: Stores, empty_url: str) -> None:
    """Each statement of a migration commits there: as after a crash, some are done and no version is noted."""
    store = await stores.made(empty_url)
    await store.migrate()
    async with store.engine.begin() as connection:
        for undo in (
            f"DELETE FROM {VERSION_TABLE}",
            "DROP TABLE actorjobs_workers",
            "DROP INDEX actorjobs_runs_key ON actorjobs_runs",
        ):
            await connection.execute(text(undo))
    with pytest.raises(SchemaOutdated):
        await store.open()
    await store.migrate()
    await store.open()
    async with store.engine.connect() as connection:
        assert await connection.run_sync(_indexes_of_runs) == INDEXES_OF_RUNS
    assert await store.workers() == []


async def test_each_step_of_a_migration_may_be_repeated(empty_url: str) -> None:
    def repeat(connection: Connection) -> tuple[list[str], list[str | None]]:
        with Operations.context(MigrationContext.configure(connection)):
            for _ in range(2):
                steps.create_table("some", sa.Column("id", sa.Integer(), primary_key=True))
                steps.add_column("some", sa.Column("name", word(30)))
                steps.create_index("some_name", "some", ["id"], where="name IS NOT NULL", mysql=["name", "id"])
        found = inspect(connection)
        columns = [column["name"] for column in found.get_columns("some")]
        return columns, found.get_indexes("some")[0]["column_names"]

    engine = admin_engine(empty_url)
    async with engine.begin() as connection:
        assert await connection.run_sync(repeat) == (["id", "name"], ["name", "id"])
    await engine.dispose()


async def test_of_many_that_migrate_at_once_one_does_it(stores: Stores, empty_url: str) -> None:
    some = [await stores.made(empty_url) for _ in range(4)]
    await asyncio.gather(*(store.migrate() for store in some))
    async with some[0].engine.connect() as connection:
        versions = await connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}"))
        assert versions.scalars().all() == [HEAD]


async def test_the_migrated_schema_is_the_one_the_code_knows(admin: AsyncEngine) -> None:
    def differences(connection: Connection) -> list[Any]:
        options = {"compare_type": True, "include_object": _is_compared}
        found: list[Any] = compare_metadata(MigrationContext.configure(connection, opts=options), metadata)
        return found

    async with admin.connect() as connection:
        assert await connection.run_sync(differences) == []
        assert await connection.run_sync(_indexes_of_runs) == INDEXES_OF_RUNS


def _is_compared(_item: object, name: str | None, kind: str, *_rest: object) -> bool:
    return name != VERSION_TABLE and kind != "index"


INDEXES_OF_RUNS = {
    "actorjobs_runs_due": ["namespace", "queue", "state", "priority", "available_at"],
    "actorjobs_runs_expiring": ["namespace", "state", "expires_at"],
    "actorjobs_runs_key": ["namespace", "tenant", "job", "idempotency_key"],
    "actorjobs_runs_outbox": ["namespace", "publish_after"],
    "actorjobs_runs_owned": ["claimed_by", "state"],
    "actorjobs_runs_parent": ["parent"],
    "actorjobs_runs_suspect": ["namespace", "queue", "losses"],
    "actorjobs_runs_unique": ["namespace", "tenant", "job", "unique_digest"],
    "actorjobs_runs_unusual": ["namespace", "state", "id"],
}


def _indexes_of_runs(connection: Connection) -> dict[str, list[str | None]]:
    found = inspect(connection).get_indexes("actorjobs_runs")
    assert [index["name"] for index in found if index["unique"]] == ["actorjobs_runs_key", "actorjobs_runs_unique"]
    return {str(index["name"]): index["column_names"] for index in found}


def test_the_script_of_the_migrations_is_in_the_words_of_the_server() -> None:
    assert "utf8mb4_0900_bin" in upgrade_sql("mysql://user:password@host/database")
    for_mariadb = upgrade_sql("mariadb://user:password@host/database")
    assert "utf8mb4_nopad_bin" in for_mariadb
    assert "WHERE" not in for_mariadb.replace("WHERE actorjobs_schema.version_num", "")


# --- content ---------------------------------------------------------------------------------------------------------

ALIKE = ["a", "A", "a ", "a  ", " a", "\u00e1", "a\u0301", "\u00e4", "ae", "\u00e6", "\u00df", "ss"]
ALIKE += ["\U0001f600", "\U0001f601"]
"""All different, and all the same as another one under one collation or another."""


async def test_keys_are_compared_byte_by_byte(store: SqlStore) -> None:
    for group in ([envelope(idempotency_key=key) for key in ALIKE], [envelope(tenant=key) for key in ALIKE]):
        answers = await store.insert(group)
        assert [answer.existing for answer in answers if isinstance(answer, Accepted)] == [False] * len(ALIKE)
    again = await store.insert([envelope(idempotency_key=key) for key in ALIKE])
    assert [answer.existing for answer in again if isinstance(answer, Accepted)] == [True] * len(ALIKE)


async def test_names_are_compared_byte_by_byte(store: SqlStore) -> None:
    await store.declare_queues(ALIKE)
    await store.set_queue("a ", is_paused=True)
    assert {queue.name for queue in await store.queues() if queue.is_paused} == {"a "}
    assert {queue.name for queue in await store.queues()} == set(ALIKE)
    ids = await accepted(store, *(envelope(queue=name) for name in ALIKE))
    for name, run_id in zip(ALIKE, ids, strict=True):
        [found] = await store.take([Demand(queue=name, jobs={JOB: 1, JOB.upper(): 1}, limit=10)], "worker-1")
        assert [claim.run_id for claim in found.claims] == ([] if name == "a " else [run_id])


AWKWARD = "\U0001f600\U0010ffff \u00e9\u2028'\"\\%s %(x)s :x {0} \x01\x7f\n\r\t" + "\\'" * 3 + " "


async def test_every_character_comes_back(store: SqlStore) -> None:
    one = envelope(payload={"text": AWKWARD}, meta={"m": AWKWARD}, tenant=AWKWARD, tags=(AWKWARD,), script=AWKWARD)
    await accepted(store, one)
    [claim] = await take(store)
    assert claim.tenant == AWKWARD
    await store.settle([ending(claim)])
    run = await store.get(one.id)
    assert (run.payload, run.meta, run.tenant) == ({"text": AWKWARD}, {"m": AWKWARD}, AWKWARD)
    assert (run.tags, run.script) == ((AWKWARD,), AWKWARD)
    other = await brought_to(store, RunState.QUEUED)
    assert (await store.cancel(other.id, AWKWARD, None)).reason == AWKWARD


async def test_results_of_a_large_group_come_back_whole(store: SqlStore) -> None:
    """More than fits into one packet of a server with its own defaults."""
    size, count = 250_000, 80
    text_of = [f'"{chr(0x1F600 + n)}{"x" * size}"' for n in range(count)]
    ids = await accepted(store, *(envelope(payload={"n": n, "filling": "y" * size}) for n in range(count)))
    claims = {claim.run_id: claim for claim in await take(store, limit=count)}
    states = await store.settle([ending(claims[i], result=t) for i, t in zip(ids, text_of, strict=True)])
    assert list(states) == [RunState.SUCCEEDED] * count
    for n in (0, count // 2, count - 1):
        run = await store.get(ids[n])
        assert run.result == text_of[n][1:-1]
        assert run.payload == {"n": n, "filling": "y" * size}


async def test_nothing_is_cut_short_in_silence(store: SqlStore) -> None:
    [run_id] = await accepted(store, envelope())
    async with store.engine.connect() as connection:
        with pytest.raises(DataError):
            await connection.execute(
                text("UPDATE actorjobs_runs SET queue = :long WHERE id = :id"), {"long": "x" * 101, "id": run_id}
            )


async def test_the_settings_of_the_server_do_not_matter(store: SqlStore) -> None:
    async with store.engine.connect() as connection:
        found = await connection.execute(text("SELECT @@sql_mode, @@time_zone, @@character_set_connection"))
        mode, zone, characters = found.one()
        assert "STRICT_ALL_TABLES" in mode
        assert (zone, characters) == ("+00:00", "utf8mb4")
        level = await connection.get_isolation_level()
    assert level == "READ COMMITTED"


# --- time ------------------------------------------------------------------------------------------------------------


class Wrong(SystemClock):
    """The clock of a machine that is an hour ahead."""

    def now(self) -> Any:
        return super().now() + timedelta(hours=1)


async def test_times_are_the_databases_not_the_machines(stores: Stores, mariadb_url: str, admin: AsyncEngine) -> None:
    store = await stores.opened(mariadb_url, clock=Wrong())
    joined = await store.join(worker())
    claim = await taken(store, expires_in=60)
    [state] = await store.settle([ending(claim, Outcome.FAILED)])
    assert state is RunState.RETRYING
    assert await store.expire(10) == []
    assert await store.declare_dead(15) == []
    beat = await store.beat("worker-1")
    await store.cancel(claim.run_id, None, None)
    run = await store.get(claim.run_id)
    async with admin.connect() as connection:
        now = await connection.run_sync(mysql_sql.database_time)
    times = [joined, beat, claim.claimed_at, run.inserted_at, run.available_at, run.canceled_at]
    times += [entry.at for entry in await store.history(run.id)]
    assert all(at is not None and abs(now - at) < timedelta(minutes=1) for at in times), times


async def test_a_callers_time_zone_does_not_matter(store: SqlStore) -> None:
    async with store.engine.connect() as connection:
        await connection.execute(text("SET SESSION time_zone = '+09:00'"))
        [new] = await store.insert_all([envelope(delay=1)], connection)
        await connection.commit()
        await connection.invalidate()
    run = await store.get(new.run_id)
    assert abs(run.inserted_at - SystemClock().now()) < timedelta(minutes=1)
    assert run.available_at - run.inserted_at == timedelta(seconds=1)


async def test_a_run_is_accepted_when_it_is_dispatched_not_when_the_transaction_began(store: SqlStore) -> None:
    async with store.engine.connect() as connection:
        began = await connection.run_sync(mysql_sql.database_time)
        await asyncio.sleep(0.3)
        [new] = await store.insert_all([envelope()], connection)
        await connection.commit()
    assert (await store.get(new.run_id)).inserted_at - began > timedelta(seconds=0.25)


# --- transactions of callers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["mysql+asyncmy", "mysql+aiomysql", "mariadb+asyncmy"])
async def test_a_transaction_that_has_looked_before_finds_the_holder_of_a_key(
    store: SqlStore, mariadb_url: str, scheme: str
) -> None:
    """Under REPEATABLE READ, the default of a caller's engine, a plain look would still see what was there then."""
    engine = create_async_engine(make_url(mariadb_url).set(drivername=scheme))
    async with AsyncSession(engine) as session:
        await session.execute(text("SELECT count(*) FROM actorjobs_runs"))
        one = envelope(idempotency_key="k")
        await accepted(store, one)
        [again] = await store.insert_all([envelope(idempotency_key="k")], session)
        await session.commit()
    await engine.dispose()
    assert again == Accepted(run_id=one.id, existing=True)


async def test_a_synchronous_drivers_transaction_is_taken(store: SqlStore, mariadb_url: str) -> None:
    engine = create_engine(make_url(mariadb_url).set(drivername="mysql+pymysql"))
    with Session(engine) as session:
        [kept] = await asyncio.to_thread(store.insert_in, [envelope(idempotency_key="k", payload=AWKWARD)], session)
        session.commit()
        [lost] = store.insert_in([envelope()], session)
        session.rollback()
    engine.dispose()
    assert set(await store.states([kept.run_id, lost.run_id])) == {kept.run_id}
    assert (await store.get(kept.run_id)).payload == AWKWARD


async def test_the_callers_own_settings_are_left_alone(store: SqlStore) -> None:
    mine = {"innodb_lock_wait_timeout": 77, "sql_mode": "ANSI_QUOTES"}
    async with store.engine.connect() as connection:
        for name, value in mine.items():
            await connection.execute(text(f"SET SESSION {name} = :value"), {"value": value})
        await store.insert_all([envelope(idempotency_key="k", payload=1)], connection)
        with suppress(Exception):
            await store.insert_all([envelope(idempotency_key="k", payload=2)], connection)
        found = await connection.execute(text("SELECT @@innodb_lock_wait_timeout, @@sql_mode"))
        assert tuple(found.one()) == tuple(mine.values())
        await connection.commit()
        await connection.invalidate()


async def test_a_transaction_on_another_kind_of_database_is_refused(store: SqlStore) -> None:
    engine = create_engine("sqlite://")
    with Session(engine) as session, pytest.raises(InvalidOption, match="sqlite"):
        await store.insert_all([envelope()], session)
    engine.dispose()


# --- other transactions ----------------------------------------------------------------------------------------------


@asynccontextmanager
async def foreign_insert(store: SqlStore, admin: AsyncEngine, key: str) -> AsyncGenerator[None]:
    """Somebody's open transaction that has taken this idempotency key; in the end it is rolled back."""
    async with admin.connect() as connection:
        await store.insert_all([envelope(idempotency_key=key)], connection)
        yield
        await connection.rollback()


async def test_a_key_in_somebodys_open_transaction_is_waited_for_only_so_long(
    store: SqlStore, admin: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accepting, "KEY_WAIT_SECONDS", 1)
    key = uuid.uuid4().hex  # never used before: of one just deleted the server keeps a shadow, and locks that too
    async with foreign_insert(store, admin, key):
        began = time.monotonic()
        keyed = asyncio.create_task(store.insert([envelope(idempotency_key=key)]))
        for _ in range(5):  # what has no key, or another one, is not held up
            await accepted(store, envelope())
            await accepted(store, envelope(idempotency_key=f"other-{_}"))
        assert time.monotonic() - began < 0.9
        assert not keyed.done()
        [answer] = await keyed
        assert isinstance(answer, StoreUnavailable)
        assert 0.9 < time.monotonic() - began < 8
    await accepted(store, envelope(idempotency_key=key))
    async with store.engine.connect() as connection:
        assert (await connection.execute(text("SELECT @@innodb_lock_wait_timeout"))).scalar_one() == 5


async def test_of_a_group_only_the_run_whose_key_is_held_has_to_wait(
    store: SqlStore, admin: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accepting, "KEY_WAIT_SECONDS", 1)
    group = [envelope(idempotency_key=f"k{number}") for number in range(20)]
    async with foreign_insert(store, admin, "k7"):
        answers = await store.insert(group)
    assert isinstance(answers[7], StoreUnavailable)
    assert group[7].id in str(answers[7])
    for one, answer in zip(group[:7] + group[8:], [*answers[:7], *answers[8:]], strict=True):
        assert answer == Accepted(run_id=one.id, existing=False)


async def test_a_key_in_somebodys_transaction_is_ours_if_that_rolls_back(store: SqlStore, admin: AsyncEngine) -> None:
    async with foreign_insert(store, admin, "k"):
        one = envelope(idempotency_key="k")
        keyed = asyncio.create_task(store.insert([one]))
        await asyncio.sleep(0.2)
        assert not keyed.done()
    assert await keyed == [Accepted(run_id=one.id, existing=False)]


async def test_of_a_group_with_collisions_exactly_the_others_go_in(store: SqlStore) -> None:
    taken_before = [envelope(idempotency_key=f"k{number}") for number in (3, 11, 17)]
    await accepted(store, *taken_before)
    group = [envelope(idempotency_key=f"k{number}") for number in range(20)]
    group.append(group[5])
    answers = await store.insert(group)
    existing = [index for index, answer in enumerate(answers) if isinstance(answer, Accepted) and answer.existing]
    assert existing == [3, 11, 17, 20]
    assert (await store.count_by_state(EVERYTHING))[RunState.QUEUED] == 20


async def test_runs_that_somebody_holds_are_passed_over_not_waited_for(store: SqlStore, admin: AsyncEngine) -> None:
    locked, free = await accepted(store, envelope(priority=9), envelope())
    [expiring] = await accepted(store, envelope(queue="other", expires_in=0))
    async with admin.begin() as connection:
        for one in (locked, expiring):  # one by one: of a small table the server would rather lock all
            await connection.execute(text("SELECT 1 FROM actorjobs_runs WHERE id = :id FOR UPDATE"), {"id": one})
        async with asyncio.timeout(2):
            assert [claim.run_id for claim in await take(store, limit=1)] == [free]
            assert await take(store) == []
            assert list(await store.expire(10)) == []
    assert [claim.run_id for claim in await take(store)] == [locked]
    assert list(await store.expire(10)) == [expiring]


async def test_a_run_that_is_just_being_reopened_is_not_purged(store: SqlStore, admin: AsyncEngine) -> None:
    run = await brought_to(store, RunState.CANCELED)
    await asyncio.sleep(0.01)
    async with admin.begin() as connection:
        reopened = "UPDATE actorjobs_runs SET state = 'queued', finished_at = NULL WHERE id = :id"
        await connection.execute(text(reopened), {"id": run.id})
        async with asyncio.timeout(2):
            assert (await store.purge({RunState.CANCELED: 0.0}, 10)).deleted == 0
    assert (await store.get(run.id)).state is RunState.QUEUED


async def test_a_deadlock_is_tried_again(store: SqlStore, admin: AsyncEngine) -> None:
    """Somebody takes the same rows in the other order, and has changed more: the server gives way to him."""
    ids = sorted(await accepted(store, *(envelope() for _ in range(2))))
    heavy = await accepted(store, *(envelope(queue="other") for _ in range(50)))
    claims = await take(store)
    lock = text("SELECT 1 FROM actorjobs_runs WHERE id = :id FOR UPDATE")
    async with admin.begin() as connection:
        await connection.execute(text("UPDATE actorjobs_runs SET priority = 3 WHERE queue = 'other'"))
        await connection.execute(lock, {"id": ids[1]})
        settling = asyncio.create_task(store.settle([ending(claim) for claim in claims]))
        await asyncio.sleep(0.3)
        assert not settling.done()
        await connection.execute(lock, {"id": ids[0]})
    assert list(await settling) == [RunState.SUCCEEDED] * 2
    assert len(heavy) == 50


async def test_groups_at_once_are_all_answered(stores: Stores, mariadb_url: str) -> None:
    """The same runs settled in different orders, with claims and sweeps, for two seconds."""
    some = [await stores.opened(mariadb_url) for _ in range(3)]
    await accepted(some[0], *(envelope(max_attempts=10_000) for _ in range(60)))
    shared: list[Claim] = []
    done = [0]
    deadline = time.monotonic() + 2

    async def settle(store: SqlStore, random: Random) -> None:
        while time.monotonic() < deadline:
            claims = random.sample(shared, min(len(shared), 30))
            ends = [ending(claim, random.choice([Outcome.FAILED, Outcome.INTERRUPTED])) for claim in claims]
            done[0] += sum(state is not None for state in await store.settle(ends))
            await asyncio.sleep(0)

    async def claim(store: SqlStore, random: Random) -> None:
        while time.monotonic() < deadline:
            claims = await take(store, f"worker-{random.randrange(3)}", limit=random.choice([3, 20]))
            random.shuffle(claims)
            shared.extend(claims)
            del shared[:-60]
            if not claims:
                await asyncio.sleep(0.005)

    async def sweep(store: SqlStore) -> None:
        while time.monotonic() < deadline:
            await store.lost_runs(10)
            await store.expire(10)
            await store.purge({RunState.SUCCEEDED: 0.0}, 10)
            await store.queues()

    work = [settle(store, Random(n)) for n, store in enumerate(some * 2)]
    work += [claim(store, Random(n)) for n, store in enumerate(some)]
    await asyncio.gather(*work, sweep(some[0]))
    assert done[0] > 100


async def test_keys_at_once_are_all_answered(stores: Stores, mariadb_url: str) -> None:
    some = [await stores.opened(mariadb_url) for _ in range(3)]
    random = Random(7)
    for round in range(12):
        groups = [[envelope(idempotency_key=f"{round}-{key}") for key in random.sample(range(200), 200)] for _ in some]
        answered = await asyncio.gather(*(store.insert(group) for store, group in zip(some, groups, strict=True)))
        answers = [answer for answers in answered for answer in answers]
        assert sum(isinstance(answer, Accepted) and not answer.existing for answer in answers) == 200
        assert sum(isinstance(answer, Accepted) for answer in answers) == 600


# --- connections that die --------------------------------------------------------------------------------------------


async def _kill_all(admin: AsyncEngine) -> int:
    async with admin.connect() as connection:
        query = "SELECT id FROM information_schema.processlist WHERE db = DATABASE() AND id <> CONNECTION_ID()"
        ids = (await connection.execute(text(query))).scalars().all()
        for one in ids:
            with suppress(Exception):  # it may have gone meanwhile
                await connection.execute(text(f"KILL {int(one)}"))
        return len(ids)


async def test_connections_that_die_in_use_are_replaced(store: SqlStore, admin: AsyncEngine) -> None:
    stopped = asyncio.Event()
    outages: list[StoreUnavailable] = []
    new: list[str] = []

    async def work() -> None:
        while not stopped.is_set():
            one = envelope()
            try:
                [answer] = await store.insert([one])
                await store.get(one.id)
            except StoreUnavailable as outage:
                outages.append(outage)
            else:
                assert isinstance(answer, Accepted)
                new.append(one.id)

    workers = [asyncio.create_task(work()) for _ in range(4)]
    for _ in range(5):
        before = len(new)
        async for _ in until():
            if len(new) > before + 20:
                break
        assert await _kill_all(admin) > 0
    before = len(new)
    async for _ in until():
        if len(new) > before + 20:
            break
    stopped.set()
    await asyncio.gather(*workers)
    assert outages, "the connections were in use"
    assert len(outages) < 200
    assert set(new) <= set(await store.states(new))


class Bridge:
    """A way to the server that can be torn down and built again."""

    def __init__(self, url: str) -> None:
        self._url = make_url(url)
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._port = 0

    async def open(self) -> str:
        self._server = await asyncio.start_server(self._cross, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]
        return self._url.set(host="127.0.0.1", port=self._port).render_as_string(hide_password=False)

    async def _cross(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(self._url.host, self._url.port)
        self._writers |= {writer, far_writer}
        await asyncio.gather(_pour(reader, far_writer), _pour(far_reader, writer))

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()


async def _pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


async def test_a_server_that_goes_and_comes_back_is_found_again(stores: Stores, mariadb_url: str) -> None:
    bridge = Bridge(mariadb_url)
    store = await stores.opened(await bridge.open())
    noticed = asyncio.Event()
    async with store.watch(noticed.set):
        await accepted(store, envelope())
        await bridge.close()
        for _ in range(3):
            with pytest.raises(StoreUnavailable):
                await store.insert([envelope()])
        await bridge.open()
        async for _ in until():
            with suppress(StoreUnavailable):
                await accepted(store, envelope())
                break
        await asyncio.sleep(0.3)
        noticed.clear()
        await accepted(store, envelope())
        await asyncio.wait_for(noticed.wait(), 5)
    assert len(await take(store)) >= 3
    await store.close()
    await bridge.close()


async def _dispatch(store: SqlStore) -> None:
    await store.insert([envelope(idempotency_key="k")])


async def _list(store: SqlStore) -> None:
    await store.list(EVERYTHING, limit=5, cursor=None)


async def test_canceled_callers_leave_no_connection_behind(store: SqlStore, admin: AsyncEngine) -> None:
    await accepted(store, envelope())
    random = Random(7)
    verbs: list[Callable[[SqlStore], Coroutine[Any, Any, object]]] = [_dispatch, take, _list]
    for _ in range(40):
        caller = asyncio.create_task(random.choice(verbs)(store))
        await asyncio.sleep(random.random() * 0.01)
        caller.cancel()
        with suppress(asyncio.CancelledError):
            await caller
    [one] = await accepted(store, envelope())
    assert (await store.get(one)).id == one, "no answer is that of somebody else's query"
    async for _ in until():
        async with admin.connect() as connection:
            query = """SELECT count(*) FROM information_schema.innodb_trx t
              JOIN information_schema.processlist p ON p.id = t.trx_mysql_thread_id
              WHERE p.db = DATABASE() AND p.id <> CONNECTION_ID()"""
            if (await connection.execute(text(query))).scalar_one() == 0:
                break


# --- the ways of the planner -----------------------------------------------------------------------------------------

DIGITS = " UNION ALL ".join(f"SELECT {digit} AS d" for digit in range(10))
FILL = f"""
INSERT INTO actorjobs_runs
  (id, namespace, job, queue, priority, state, max_attempts, payload, inserted_at, available_at, finished_at, attempt,
   claimed_by, expires_at)
SELECT UUID(), 'default', '{JOB}', CONCAT('queue-', n % 10), n % 10,
  ELT(1 + n % 8, 'succeeded', 'succeeded', 'succeeded', 'queued', 'scheduled', 'retrying', 'expired', 'running'),
  5, '{{}}', UTC_TIMESTAMP(6), UTC_TIMESTAMP(6) + INTERVAL (n % 1000 - 500) MINUTE, UTC_TIMESTAMP(6), 1, 'w',
  IF(n % 8 < 3, UTC_TIMESTAMP(6) - INTERVAL 1 HOUR, NULL)
FROM (SELECT e.d * 10000 + d.d * 1000 + c.d * 100 + b.d * 10 + a.d AS n
  FROM ({DIGITS}) a, ({DIGITS}) b, ({DIGITS}) c, ({DIGITS}) d, (SELECT 0 AS d UNION SELECT 1 UNION SELECT 2) e) numbers
"""


@pytest.fixture
async def filled(admin: AsyncEngine) -> AsyncEngine:
    async with admin.begin() as connection:
        await connection.execute(text(FILL))
        await connection.execute(text("ANALYZE TABLE actorjobs_runs"))
    return admin


def _rows_read(connection: Connection) -> int:
    found = connection.execute(text("SHOW SESSION STATUS LIKE 'Handler_read%'"))
    return sum(int(row[1]) for row in found)


async def test_hot_statements_go_by_index(filled: AsyncEngine) -> None:
    """Counted in rows that the server looks at, which is what an estimate of its planner cannot gloss over."""
    demand = Demand(queue="queue-3", jobs={JOB: 1}, limit=20)
    suspects = Demand(queue="queue-3", jobs={JOB: 1}, limit=1, suspects=True)
    few = Demand(queue="queue-3", jobs={"unknown": 1}, limit=20)

    def settle(connection: Connection) -> object:
        claims = mysql_sql.take(connection, "default", demand, "w", None).claims
        before = _rows_read(connection)
        states = mysql_sql.settle(connection, [ending(claim) for claim in claims], None)
        assert states == [RunState.SUCCEEDED] * 20
        return _rows_read(connection) - before

    def hinted(act: Callable[[Connection, list[str]], object]) -> Callable[[Connection], object]:
        def counted(connection: Connection) -> object:
            connection.execute(text("UPDATE actorjobs_runs SET publish_after = UTC_TIMESTAMP(6)"))
            query = "SELECT id FROM actorjobs_runs WHERE state = 'queued' AND available_at <= UTC_TIMESTAMP(6) LIMIT 20"
            ids = sorted(connection.execute(text(query)).scalars())
            before = _rows_read(connection)
            act(connection, ids)
            return _rows_read(connection) - before

        return counted

    def claim(connection: Connection, ids: list[str]) -> object:
        bids = [Bid(run_id=id, seq=1) for id in ids]
        answers = mysql_sql.claim(connection, "default", bids, {JOB: 1}, "w", None).values()
        assert [type(answer) for answer in answers] == [Claim] * 20
        return mysql_sql.claim(connection, "default", bids, {JOB: 1}, "w", None)

    def stage(connection: Connection, _ids: list[str]) -> object:
        return mysql_sql.stage(connection, "default", 20, None)

    def mark(connection: Connection, ids: list[str]) -> object:
        mysql_sql.mark(connection, "default", [(id, 1) for id in ids], None)
        return None

    def reads(act: Callable[[Connection], object]) -> Callable[[Connection], object]:
        def counted(connection: Connection) -> object:
            before = _rows_read(connection)
            act(connection)
            return _rows_read(connection) - before

        return counted

    hot: dict[str, tuple[Callable[[Connection], object], int]] = {
        "take": (reads(lambda c: mysql_sql.take(c, "default", demand, "w", None)), 250),
        "take a suspect": (reads(lambda c: mysql_sql.take(c, "default", suspects, "w", None)), 150),
        "take nothing": (reads(lambda c: mysql_sql.take(c, "nobody", few, "w", None)), 150),
        "settle": (settle, 300),
        "claim": (hinted(claim), 300),
        "mark": (hinted(mark), 150),
        "stage": (hinted(stage), 300),
    }
    for name, (act, most) in hot.items():
        async with filled.connect() as connection:
            count = await connection.run_sync(act)
            await connection.rollback()
        assert isinstance(count, int)
        assert count < most, f"{name} looks at {count} rows"


async def test_everything_else_answers_in_time_on_many_rows(store: SqlStore, filled: AsyncEngine) -> None:
    began = time.monotonic()
    page = await store.list(EVERYTHING, limit=100, cursor=None)
    await store.list(EVERYTHING, limit=100, cursor=page.cursor)
    await store.count_by_state(EVERYTHING)
    await store.queues()
    await store.wishes("w")
    await store.lost_runs(100)
    assert await store.expire(100) == []
    await store.purge({RunState.SUCCEEDED: 1e9}, 1000)
    await store.note_queue("queue-3", is_absent=True)
    assert await store.restage_lost("queue-3", {}, 100) == 100
    assert await store.publish_now("queue-3", [JOB]) == 0
    assert time.monotonic() - began < 5
