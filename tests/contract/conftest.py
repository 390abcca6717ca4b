"""Databases for the contract: a SQLite file per test, one PostgreSQL database for all of them."""

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

POSTGRES_SERVER = os.environ.get("ACTORJOBS_TEST_POSTGRES_URL")
NO_POSTGRES = 'no PostgreSQL to test with: scripts/services up && eval "$(scripts/services env)", then run this again'
LEFT_OUT = pytest.StashKey[int]()

SHARED_MEMORY = Path("/dev/shm")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without a PostgreSQL what needs one is left out, in one piece; in CI it fails."""
    if POSTGRES_SERVER is None and os.environ.get("CI") != "true":
        needy = {item for item in items if "postgres_server" in getattr(item, "fixturenames", ())}
        config.hook.pytest_deselected(items=needy)
        items[:] = [item for item in items if item not in needy]
        config.stash[LEFT_OUT] = len(needy)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if left_out := config.stash.get(LEFT_OUT, 0):
        terminalreporter.write_line(f"{left_out} tests LEFT OUT: {NO_POSTGRES}", yellow=True, bold=True)


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


@pytest.fixture(scope="session")
def postgres_server() -> str:
    """The address of a PostgreSQL server on which databases may be made."""
    if POSTGRES_SERVER is None:
        pytest.fail(NO_POSTGRES)
    return POSTGRES_SERVER


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
