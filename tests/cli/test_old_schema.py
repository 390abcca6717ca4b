"""Looking at a SQLite file of an older version migrates nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from alembic import command
from sqlalchemy import create_engine

from actorjobs.stores.migrate import (
    _config,  # pyright: ignore[reportPrivateUsage]
    current_version,
)
from tests.cli.conftest import Here


def url_of(version: str | None, folder: Path) -> str:
    url = f"sqlite:///{folder}/old.db"
    if version is not None:
        with create_engine(url).begin() as connection:
            command.upgrade(_config(connection), version)
    return url


def version_of(url: str) -> str | None:
    with create_engine(url).connect() as connection:
        return current_version(connection)


@pytest.mark.parametrize("version", ["0001", "0002", None])
def test_nobody_migrates_by_looking(
    here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str | None
) -> None:
    url = url_of(version, tmp_path)
    monkeypatch.setenv("ACTORJOBS_STORE_URL", url)
    status, output, _ = here("doctor", "--json")
    settings, store = json.loads(output)["findings"]
    assert (status, settings["level"], store["level"]) == (0, "ok", "warning")
    assert (version or "no tables") in store["found"]
    assert "actorjobs db upgrade" in store["advice"]
    assert here("doctor", "--repair")[0] == 0
    status, output, errors = here("check")
    assert (status, "settings are fine" in output, "actorjobs db upgrade" in errors) == (0, True, True)
    assert here("check", "--against-pending")[0] == (1 if version else 0)
    assert (tmp_path / "old.db").exists() == (version is not None)
    status, _, errors = here("db", "check")
    assert (status, "run `actorjobs db upgrade`" in errors) == (1, True)
    assert version_of(url) == version
    assert here("db", "upgrade")[0] == 0
    assert here("doctor")[0] == 0
    assert here("check", "--against-pending")[0] == 0
