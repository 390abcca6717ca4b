"""Databases and a broker for tests: a SQLite file for each test, on each server one database for all of them."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncGenerator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

pytest.register_assert_rewrite("actorjobs.testing.store_suite")

from tests.contract.databases import (  # noqa: E402
    Stores,
    create_database,
    drop_database,
    emptied,
    migrated_file,
)
from tests.telemetry.prometheus import NO_PROMETHEUS, Programs, find_programs  # noqa: E402

SERVERS = {name: os.environ.get(f"ACTORJOBS_TEST_{name.upper()}_URL") for name in ("postgres", "mariadb", "rabbitmq")}
NO_SERVER = 'no {} to test with: scripts/services up && eval "$(scripts/services env)", then run this again'
ONLY_WHEN_ASKED = ("faults", "load")
LEFT_OUT = pytest.StashKey[dict[str, int]]()

SHARED_MEMORY = Path("/dev/shm")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Some marks must be asked for by name. Without a server what needs one is left out at once; in CI it fails."""
    for mark in ONLY_WHEN_ASKED:
        if mark not in config.option.markexpr:
            _leave_out(config, items, {item for item in items if item.get_closest_marker(mark)})
    if os.environ.get("CI") == "true":
        return
    missing = {f"{name}_server": NO_SERVER.format(name) for name, address in SERVERS.items() if address is None}
    if find_programs() is None:
        missing["prometheus_programs"] = NO_PROMETHEUS
    left_out = config.stash.setdefault(LEFT_OUT, {})
    for fixture, why in missing.items():
        needy = {item for item in items if fixture in getattr(item, "fixturenames", ())}
        _leave_out(config, items, needy)
        left_out[why] = len(needy)


def _leave_out(config: pytest.Config, items: list[pytest.Item], some: set[pytest.Item]) -> None:
    config.hook.pytest_deselected(items=some)
    items[:] = [item for item in items if item not in some]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for why, count in config.stash.get(LEFT_OUT, {}).items():
        if count:
            terminalreporter.write_line(f"{count} tests LEFT OUT: {why}", yellow=True, bold=True)


@pytest.fixture(scope="session")
def quick_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where a commit is fast, if there is such a place: these tests pull no plugs."""
    if SHARED_MEMORY.is_dir() and os.access(SHARED_MEMORY, os.W_OK):
        with tempfile.TemporaryDirectory(dir=SHARED_MEMORY, prefix="actorjobs-") as folder:
            yield Path(folder)
    else:
        yield tmp_path_factory.mktemp("quick")


@pytest.fixture(scope="session")
def sqlite_template(quick_folder: Path) -> Path:
    """A file with the tables in it: copying it is faster than migrating a new one."""
    return migrated_file(quick_folder / "template.db")


@pytest.fixture
def sqlite_url(sqlite_template: Path, quick_folder: Path) -> Iterator[str]:
    """A fresh store in a file of the test's own."""
    with tempfile.TemporaryDirectory(dir=quick_folder) as folder:
        shutil.copy(sqlite_template, Path(folder) / "store.db")
        yield f"sqlite:///{folder}/store.db"


@pytest.fixture
async def stores() -> AsyncGenerator[Stores]:
    async with AsyncExitStack() as stack:
        yield Stores(stack)


def _server(name: str) -> str:
    address = SERVERS[name]
    if address is None:
        pytest.fail(NO_SERVER.format(name))
    return address


@pytest.fixture(scope="session")
def postgres_server() -> str:
    """The address of a PostgreSQL server on which databases may be made."""
    return _server("postgres")


@pytest.fixture(scope="session")
def postgres_database(postgres_server: str) -> Iterator[str]:
    """A database of this test session, with the tables in it."""
    url = asyncio.run(create_database(postgres_server))
    yield url
    asyncio.run(drop_database(postgres_server, url))


@pytest.fixture
def postgres_url(postgres_database: str) -> str:
    """The session's database, emptied."""
    asyncio.run(emptied(postgres_database))
    return postgres_database


@pytest.fixture(scope="session")
def mariadb_server() -> str:
    """The address of a MariaDB or MySQL server on which databases may be made."""
    return _server("mariadb")


@pytest.fixture(scope="session")
def mariadb_database(mariadb_server: str) -> Iterator[str]:
    """A database of this test session, with the tables in it."""
    url = asyncio.run(create_database(mariadb_server))
    yield url
    asyncio.run(drop_database(mariadb_server, url))


@pytest.fixture
def mariadb_url(mariadb_database: str) -> str:
    """The session's database, emptied."""
    asyncio.run(emptied(mariadb_database))
    return mariadb_database


@pytest.fixture(scope="session")
def rabbitmq_server() -> str:
    """The address of a RabbitMQ server on which anything may be made."""
    return _server("rabbitmq")


@pytest.fixture(scope="session")
def prometheus_programs() -> Programs:
    """Prometheus and promtool."""
    programs = find_programs()
    if programs is None:
        pytest.fail(NO_PROMETHEUS)
    return programs
