"""How a SQLite file's schema is, found out without touching it: only whoever works with a file may migrate it."""

from __future__ import annotations

import os
from dataclasses import dataclass

from actorjobs.clock import SystemClock
from actorjobs.config import Settings
from actorjobs.stores import NEEDED_VERSION, open_store
from actorjobs.stores.database import file_of, parse_url
from actorjobs.stores.migrate import REVISIONS

ADVICE = "run `actorjobs db upgrade`; any worker also upgrades a SQLite file when it opens it"


@dataclass(frozen=True, kw_only=True)
class Outdated:
    """A SQLite file whose schema is older than needed; `version` is None where it has no tables of ours."""

    url: str
    version: str | None

    def __str__(self) -> str:
        have = "has no tables of actorjobs yet" if self.version is None else f"is at schema version {self.version}"
        return f"{self.url} {have}, version {NEEDED_VERSION} is needed"


async def outdated(settings: Settings) -> Outdated | None:
    """What opening the SQLite file would migrate; None for any other store, which nobody migrates by opening it."""
    url = parse_url(settings.store_url)
    path = file_of(url)
    if path is None:
        return None
    store = await open_store(settings.store_url, namespace=settings.namespace, clock=SystemClock())
    try:
        version = await store.schema_version() if _is_there(path) else None
    finally:
        await store.close()
    if version == NEEDED_VERSION or (version is not None and version not in REVISIONS):
        return None
    return Outdated(url=url.render_as_string(), version=version)


def _is_there(path: str) -> bool:
    """Asked first, because a look would create the file."""
    return os.path.exists(path)
