"""What there is to know about the database itself, for a doctor."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, text

from actorjobs.stores.core import StoreCore
from actorjobs.stores.database import file_of
from actorjobs.stores.sqlite import NETWORK_FILE_SYSTEMS, file_system


@dataclass(frozen=True, slots=True, kw_only=True)
class FileFacts:
    """A SQLite file: how commits are kept, and what holds it. Sizes are bytes."""

    path: str
    journal_mode: str
    is_durable: bool
    file_system: str | None
    is_on_network: bool
    size: int
    free: int
    is_writable: bool


class Facts(StoreCore):
    """Verbs about the database, not about runs."""

    async def file_facts(self) -> FileFacts | None:
        """None where the store is no file."""
        name = file_of(self._database.url)
        if name is None:
            return None

        def work(connection: Connection) -> FileFacts:
            path = Path(name).absolute()
            kind = file_system(path.parent)
            return FileFacts(
                path=str(path),
                journal_mode=str(connection.execute(text("PRAGMA journal_mode")).scalar()),
                is_durable=int(connection.execute(text("PRAGMA synchronous")).scalar() or 0) >= 2,
                file_system=kind,
                is_on_network=kind in NETWORK_FILE_SYSTEMS,
                size=path.stat().st_size,
                free=shutil.disk_usage(path.parent).free,
                is_writable=os.access(path, os.W_OK) and os.access(path.parent, os.W_OK),
            )

        return await self._database.read(work)
