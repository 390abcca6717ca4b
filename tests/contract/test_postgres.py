"""What only the PostgreSQL store must do: share a server with other transactions, and outlive its connections."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from random import Random
from typing import Any

import orjson
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session

from actorjobs.clock import SystemClock
from actorjobs.errors import InvalidOption, SchemaOutdated, StoreUnavailable
from actorjobs.model import Outcome, RunState
from actorjobs.ports import Accepted, Claim
from actorjobs.stores import SqlStore, accepting, open_store, postgres_sql
from actorjobs.stores.postgres_sql import PostgresStatements
from actorjobs.stores.rows import row_or_refusal
from actorjobs.stores.schema import EPOCH, HEAD, VERSION_TABLE, metadata
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
async def store(stores: Stores, postgres_url: str) -> SqlStore:
    return await stores.opened(postgres_url)


@pytest.fixture
async def admin(postgres_url: str) -> AsyncGenerator[AsyncEngine]:
    """A way into the database past the store."""
    engine = admin_engine(postgres_url)
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
        f"postgresql://user:{SECRET}@localhost:99999/jobs",
        f"postgresql://user:{SECRET}@localhost:port/jobs",
        f"postgresql://user:{SECRET}@localhost",
        f"postgresql://user:{SECRET}@localhost/jobs?sslmode=perhaps",
        f"postgresql://user:{SECRET}@localhost/jobs?pool=7",
        f"postgresql://user:{SECRET}@localhost/jobs?prepared_statements=maybe",
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
        assert host in await _is_unavailable(stores, f"postgresql://user:{SECRET}@{host}:{silent_port}/jobs")


NOT_POSTGRES = b"HTTP/1.1 400 Bad Request\r\n\r\n"
ASKS_FOR_PASSWORD = b"R\x00\x00\x00\x08\x00\x00\x00\x03"
REFUSES_PASSWORD = b"E\x00\x00\x00\x3aSFATAL\0VFATAL\0C28P01\0Mpassword authentication failed\0\0"


@pytest.mark.parametrize("answers", [[NOT_POSTGRES], [ASKS_FOR_PASSWORD, REFUSES_PASSWORD]], ids=["other", "password"])
async def test_a_server_that_refuses_is_unavailable(stores: Stores, answers: list[bytes]) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for line in answers:
            await reader.read(1000)
            writer.write(line)
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        await _is_unavailable(stores, f"postgresql://user:{SECRET}@127.0.0.1:{port}/jobs?sslmode=disable")


async def test_strangers_are_not_let_in_and_no_password_is_shown(stores: Stores, postgres_url: str) -> None:
    url = make_url(postgres_url)
    for wrong in (
        url.set(username="nobody-of-that-name", password=SECRET),
        url.set(password=SECRET, database="no-such-database"),
    ):
        await _is_unavailable(stores, wrong.render_as_string(hide_password=False))


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+asyncpg"])
@pytest.mark.parametrize("options", ["", "?sslmode=prefer", "?prepared_statements=off"])
async def test_any_spelling_of_the_address_works(stores: Stores, postgres_url: str, scheme: str, options: str) -> None:
    store = await stores.opened(postgres_url.replace("postgresql", scheme, 1) + options)
    async with AsyncSession(store.engine) as session:
        [inside] = await store.insert_all([envelope()], session)
        await session.commit()
    assert [claim.run_id for claim in await take(store)] == [inside.run_id]


async def test_prepared_statements_can_be_switched_off(stores: Stores, postgres_url: str) -> None:
    left: dict[str, int] = {}
    for switch in ("on", "off"):
        store = await stores.opened(f"{postgres_url}?prepared_statements={switch}")
        claim = await taken(store)
        assert list(await store.settle([ending(claim)])) == [RunState.SUCCEEDED]
        async with store.engine.connect() as connection:
            found = await connection.execute(text("SELECT count(*) FROM pg_prepared_statements"))
            left[switch] = found.scalar_one()
    assert left["on"] > 0
    assert left["off"] == 0


# --- schema ----------------------------------------------------------------------------------------------------------


@pytest.fixture
async def empty_url(postgres_server: str) -> AsyncGenerator[str]:
    """A database without tables."""
    url = await create_database(postgres_server, is_migrated=False)
    yield url
    await drop_database(postgres_server, url)


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


async def test_the_migrated_schema_is_the_one_the_code_knows(admin: AsyncEngine) -> None:
    def differences(connection: Connection) -> list[Any]:
        options = {"compare_type": True, "compare_server_default": True, "include_object": _is_not_the_version}
        found: list[Any] = compare_metadata(MigrationContext.configure(connection, opts=options), metadata)
        return found

    async with admin.connect() as connection:
        assert await connection.run_sync(differences) == []


def _is_not_the_version(_item: object, name: str | None, *_rest: object) -> bool:
    return name != VERSION_TABLE


# --- time ------------------------------------------------------------------------------------------------------------


class Wrong(SystemClock):
    """The clock of a machine that is an hour ahead."""

    def now(self) -> Any:
        return super().now() + timedelta(hours=1)


async def test_times_are_the_databases_not_the_machines(stores: Stores, postgres_url: str, admin: AsyncEngine) -> None:
    store = await stores.opened(postgres_url, clock=Wrong())
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
        now = (await connection.execute(text("SELECT clock_timestamp()"))).scalar_one()
    times = [joined, beat, claim.claimed_at, run.inserted_at, run.available_at, run.canceled_at]
    times += [entry.at for entry in await store.history(run.id)]
    assert all(at is not None and abs(now - at) < timedelta(minutes=1) for at in times), times


async def test_a_run_is_accepted_when_it_is_dispatched_not_when_the_transaction_began(store: SqlStore) -> None:
    async with store.engine.connect() as connection:
        began = (await connection.execute(text("SELECT now()"))).scalar_one()
        await asyncio.sleep(0.3)
        [new] = await store.insert_all([envelope(delay=1)], connection)
        await connection.commit()
    run = await store.get(new.run_id)
    assert run.inserted_at - began > timedelta(seconds=0.25)
    assert run.available_at - run.inserted_at == timedelta(seconds=1)


# --- other transactions ----------------------------------------------------------------------------------------------


@asynccontextmanager
async def foreign_insert(admin: AsyncEngine, key: str) -> AsyncGenerator[None]:
    """Somebody's open transaction that has taken this idempotency key; in the end it is rolled back."""
    one = envelope(idempotency_key=key)
    statements = PostgresStatements(is_virtual=False)
    row = row_or_refusal(one)
    assert not isinstance(row, Exception)
    async with admin.connect() as connection:
        await connection.run_sync(lambda c: statements.insert(c, "default", [(one, row)], SystemClock().now()))
        yield
        await connection.rollback()


async def test_a_key_in_somebodys_open_transaction_is_waited_for_only_so_long(
    store: SqlStore, admin: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accepting, "KEY_WAIT_SECONDS", 1)
    async with foreign_insert(admin, "k"):
        began = time.monotonic()
        keyed = asyncio.create_task(store.insert([envelope(idempotency_key="k")]))
        for _ in range(5):  # what has no key, or another one, is not held up
            await accepted(store, envelope())
            await accepted(store, envelope(idempotency_key=f"other-{_}"))
        assert time.monotonic() - began < 0.9
        assert not keyed.done()
        [answer] = await keyed
        assert isinstance(answer, StoreUnavailable)
        assert 0.9 < time.monotonic() - began < 5
    await accepted(store, envelope(idempotency_key="k"))


async def test_of_a_group_only_the_run_whose_key_is_held_has_to_wait(
    store: SqlStore, admin: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accepting, "KEY_WAIT_SECONDS", 0.3)
    group = [envelope(idempotency_key=f"k{number}") for number in range(20)]
    async with foreign_insert(admin, "k7"):
        answers = await store.insert(group)
    assert isinstance(answers[7], StoreUnavailable)
    assert group[7].id in str(answers[7])
    for one, answer in zip(group[:7] + group[8:], [*answers[:7], *answers[8:]], strict=True):
        assert answer == Accepted(run_id=one.id, existing=False)


async def test_a_key_in_somebodys_transaction_is_ours_if_that_rolls_back(store: SqlStore, admin: AsyncEngine) -> None:
    async with foreign_insert(admin, "k"):
        one = envelope(idempotency_key="k")
        keyed = asyncio.create_task(store.insert([one]))
        await asyncio.sleep(0.2)
        assert not keyed.done()
    assert await keyed == [Accepted(run_id=one.id, existing=False)]


async def test_the_callers_own_patience_is_left_alone(store: SqlStore) -> None:
    async with store.engine.connect() as connection:
        await connection.execute(text("SET LOCAL lock_timeout = '77s'"))
        await store.insert_all([envelope(idempotency_key="k", payload=1)], connection)
        with suppress(Exception):
            await store.insert_all([envelope(idempotency_key="k", payload=2)], connection)
        assert (await connection.execute(text("SHOW lock_timeout"))).scalar_one() == "77s"
        await connection.commit()


async def test_a_transaction_on_another_kind_of_database_is_refused(store: SqlStore) -> None:
    engine = create_engine("sqlite://")
    with Session(engine) as session, pytest.raises(InvalidOption, match="sqlite"):
        await store.insert_all([envelope()], session)
    engine.dispose()


async def test_runs_that_somebody_holds_are_passed_over_not_waited_for(store: SqlStore, admin: AsyncEngine) -> None:
    locked, free = await accepted(store, envelope(priority=9), envelope())
    [expiring] = await accepted(store, envelope(queue="other", expires_in=0))
    async with admin.begin() as connection:
        await connection.execute(
            text("SELECT 1 FROM actorjobs_runs WHERE id IN (:one, :other) FOR UPDATE"),
            {"one": locked, "other": expiring},
        )
        async with asyncio.timeout(2):
            assert [claim.run_id for claim in await take(store)] == [free]
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


async def _deadlocks(admin: AsyncEngine) -> int:
    async with admin.connect() as connection:
        await connection.execute(text("SELECT pg_stat_force_next_flush()"))
        await connection.commit()
        await asyncio.sleep(1.1)  # other backends report at most a second late
        query = text("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
        return int((await connection.execute(query)).scalar_one())


async def test_groups_at_once_never_lock_each_other_out(stores: Stores, postgres_url: str, admin: AsyncEngine) -> None:
    """The same runs settled in different orders, with claims and sweeps, for two seconds."""
    some = [await stores.opened(postgres_url) for _ in range(3)]
    before = await _deadlocks(admin)
    await accepted(some[0], *(envelope(max_attempts=10_000) for _ in range(60)))
    shared: list[Claim] = []
    done = [0]
    deadline = time.monotonic() + 2

    async def settle(store: SqlStore, random: Random) -> None:
        while time.monotonic() < deadline:
            claims = random.sample(shared, min(len(shared), 30))
            done[0] += sum(
                state is not None
                for state in await store.settle(
                    [ending(claim, random.choice([Outcome.FAILED, Outcome.INTERRUPTED])) for claim in claims]
                )
            )
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
    assert await _deadlocks(admin) == before


async def test_keys_at_once_never_lock_each_other_out(stores: Stores, postgres_url: str, admin: AsyncEngine) -> None:
    some = [await stores.opened(postgres_url) for _ in range(3)]
    before, random = await _deadlocks(admin), Random(7)
    for round in range(12):
        groups = [[envelope(idempotency_key=f"{round}-{key}") for key in random.sample(range(200), 200)] for _ in some]
        answered = await asyncio.gather(*(store.insert(group) for store, group in zip(some, groups, strict=True)))
        answers = [answer for answers in answered for answer in answers]
        assert sum(isinstance(answer, Accepted) and not answer.existing for answer in answers) == 200
        assert sum(isinstance(answer, Accepted) for answer in answers) == 600
    assert await _deadlocks(admin) == before


# --- connections that die --------------------------------------------------------------------------------------------


async def _terminate_all(admin: AsyncEngine) -> int:
    async with admin.connect() as connection:
        query = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database()"
        found = await connection.execute(text(f"{query} AND pid <> pg_backend_pid()"))
        return int(found.scalar_one())


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
        assert await _terminate_all(admin) > 0
    before = len(new)
    async for _ in until():
        if len(new) > before + 20:
            break
    stopped.set()
    await asyncio.gather(*workers)
    assert outages, "the connections were in use"
    assert len(outages) < 200
    assert set(new) <= set(await store.states(new))


async def test_a_watch_outlives_its_connection(
    stores: Stores, store: SqlStore, admin: AsyncEngine, postgres_url: str
) -> None:
    other = await stores.opened(postgres_url)
    noticed = asyncio.Event()
    async with store.watch(noticed.set):
        for _ in range(2):
            async for _ in until():
                noticed.clear()
                other.announce()
                await asyncio.sleep(0.05)
                if noticed.is_set():
                    break
            await _terminate_all(admin)


async def _dispatch(store: SqlStore) -> None:
    await store.insert([envelope()])


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
    await accepted(store, envelope())
    async for _ in until():
        async with admin.connect() as connection:
            query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in%'"
            if (await connection.execute(text(query))).scalar_one() == 0:
                break


# --- the ways of the planner -----------------------------------------------------------------------------------------


async def test_hot_statements_go_by_index(store: SqlStore, admin: AsyncEngine) -> None:
    async with admin.begin() as connection:
        await connection.execute(text(FILL))
    async with admin.connect() as connection:
        await (await connection.execution_options(isolation_level="AUTOCOMMIT")).execute(text("VACUUM ANALYZE"))
    statements = PostgresStatements(is_virtual=False)
    demand = {"ns": "default", "queue": "queue-3", "jobs": [JOB], "versions": "{}", "limit": 20, "owner": "w"}
    demand["since"] = [EPOCH] * 10
    where = {"ns": "default", "queue": "queue-3"}
    settled = '[{"id":"%s","attempt":1,"owner":"w","outcome":"succeeded","state":"succeeded","is_over":true}]'
    hot: dict[str, tuple[Any, dict[str, Any]]] = {
        "take": (statements._take, demand),
        "take a suspect": (statements._take_suspects, demand),
        "next due": (statements._next, where),
        "settle": (statements._settle, {"rows": settled % envelope().id}),
    }
    await _go_by_index(admin, hot)


async def _go_by_index(admin: AsyncEngine, statements: dict[str, tuple[Any, dict[str, Any]]]) -> None:
    for name, (statement, values) in statements.items():
        async with admin.connect() as connection:
            explained = await connection.execute(text(f"EXPLAIN (ANALYZE, BUFFERS OFF) {statement.text}"), values)
            plan = "\n".join(explained.scalars())
            await connection.rollback()
        assert "Seq Scan on actorjobs_runs" not in plan, f"{name}:\n{plan}"
        assert "Index" in plan, f"{name}:\n{plan}"
        filtered = sum(int(line.split(":")[1]) for line in plan.splitlines() if "Rows Removed by" in line)
        assert filtered < 20, f"{name} wades through {filtered} rows:\n{plan}"


async def test_statements_for_hints_go_by_index(admin: AsyncEngine) -> None:
    async with admin.begin() as connection:
        await connection.execute(text(FILL))
        await connection.execute(text(STAGED))
        found = await connection.execute(text(DUE))
        ids = list(found.scalars())
    async with admin.connect() as connection:
        await (await connection.execution_options(isolation_level="AUTOCOMMIT")).execute(text("VACUUM ANALYZE"))
    statements = PostgresStatements(is_virtual=False, has_outbox=True)
    rows = {"rows": orjson.dumps([{"id": id, "seq": 1, "takes_suspect": False} for id in ids]).decode()}
    known = {"jobs": [JOB], "versions": f'{{"{JOB}": 1}}', "owner": "w"}
    hot: dict[str, tuple[Any, dict[str, Any]]] = {
        "claim": (statements._claim, rows | known | {"ns": "default"}),
        "why not": (statements._waiting, {"ids": ids, "ns": "default"}),
        "stage": (statements._stage, {"ns": "default", "limit": 50, "since": EPOCH}),
        "mark": (statements._mark, rows | {"ns": "default"}),
    }
    await _go_by_index(admin, hot)


DUE = "SELECT id FROM actorjobs_runs WHERE state = 'queued' AND available_at <= now() LIMIT 100"
STAGED = "UPDATE actorjobs_runs SET publish_after = now() + (random() - 0.5) * interval '1 minute'"
"""Also of runs that have ended, where a broken process may have left it."""

FILL = f"""
INSERT INTO actorjobs_runs
  (id, namespace, job, queue, priority, state, max_attempts, payload, inserted_at, available_at, finished_at, attempt)
SELECT gen_random_uuid()::text, 'default', '{JOB}', 'queue-' || n % 10, n % 10,
  (ARRAY['succeeded', 'succeeded', 'succeeded', 'queued', 'scheduled', 'retrying', 'expired', 'running'])[1 + n % 8],
  5, '{{}}', now(), now() + (n % 1000 - 500) * interval '1 minute', now(), 1
FROM generate_series(1, 50000) n
"""


async def test_everything_else_answers_in_time_on_many_rows(store: SqlStore, admin: AsyncEngine) -> None:
    async with admin.begin() as connection:
        await connection.execute(text(FILL))
    began = time.monotonic()
    page = await store.list(EVERYTHING, limit=100, cursor=None)
    await store.list(EVERYTHING, limit=100, cursor=page.cursor)
    await store.count_by_state(EVERYTHING)
    await store.queues()
    await store.lost_runs(100)
    await store.purge({RunState.SUCCEEDED: 1e9}, 1000)
    await store.note_queue("queue-3", is_absent=True)
    assert await store.restage_lost("queue-3", {}, 100) == 100
    assert await store.publish_now("queue-3", [JOB]) == 0
    assert time.monotonic() - began < 5


async def test_where_searches_are_slow_what_was_long_in_committing_is_found_a_little_later(
    store: SqlStore, admin: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_sql, "SLOW_SECONDS", 0.0)
    async with admin.connect() as connection, connection.begin():
        [late] = await store.insert_all([envelope()], connection)
        await asyncio.sleep(0.5)
        [newer] = await accepted(store, envelope())
        assert [claim.run_id for claim in await take(store)] == [newer]
    [another] = await accepted(store, envelope())
    assert [claim.run_id for claim in await take(store)] == [another]
    async with asyncio.timeout(5):
        while not (claims := await take(store)):
            await asyncio.sleep(0.05)
    assert [claim.run_id for claim in claims] == [late.run_id]
