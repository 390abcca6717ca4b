"""Databases for the contract: a SQLite file per test, one PostgreSQL database for all of them."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.register_assert_rewrite("actorjobs.testing.store_suite", "actorjobs.testing.store_machine")

from tests.contract.databases import create_database, drop_database, migrated_file  # noqa: E402


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with the tables in it: copying it is faster than migrating a new one."""
    return migrated_file(tmp_path_factory.mktemp("template") / "store.db")


@pytest.fixture
def sqlite_url(sqlite_template: Path, tmp_path: Path) -> str:
    """A fresh store in a file of the test's own."""
    shutil.copy(sqlite_template, tmp_path / "store.db")
    return f"sqlite:///{tmp_path / 'store.db'}"


@pytest.fixture(scope="session")
def postgres_server() -> str:
    """The address of a PostgreSQL server on which databases may be made."""
    url = os.environ.get("ACTORJOBS_TEST_POSTGRES_URL")
    if url:
        return url
    hint = 'no PostgreSQL to test with: scripts/services up && eval "$(scripts/services env)", then run this again'
    if os.environ.get("CI") == "true":
        pytest.fail(hint)
    pytest.skip(hint)


@pytest.fixture(scope="session")
def postgres_url(postgres_server: str) -> Iterator[str]:
    """A database of this test session, with the tables in it. Tests keep apart by namespaces."""
    url = asyncio.run(create_database(postgres_server))
    yield url
    asyncio.run(drop_database(postgres_server, url))
