"""The store on a SQL database: SQLite, PostgreSQL, MariaDB and MySQL by the same verbs, each duty in a file of its own.

Hot verbs (insert, take, claim, settle, stage, mark_published) have statements per database; everything else is
SQLAlchemy Core, written once.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from sqlalchemy.ext.asyncio import AsyncEngine

from actorjobs.clock import Clock
from actorjobs.stores.accepting import Accepting
from actorjobs.stores.backlog import Backlogs
from actorjobs.stores.database import open_database
from actorjobs.stores.delivering import Delivering
from actorjobs.stores.facts import Facts
from actorjobs.stores.leases import Leases
from actorjobs.stores.managing import Managing
from actorjobs.stores.migrate import check_schema, current_version
from actorjobs.stores.outbox import Outbox
from actorjobs.stores.quarantine import Quarantine
from actorjobs.stores.queues import Queues
from actorjobs.stores.sweeps import Sweeps


class SqlStore(Accepting, Delivering, Outbox, Leases, Queues, Backlogs, Sweeps, Managing, Quarantine, Facts):
    """Runs of one namespace in a SQL database. See `actorjobs.ports.Store` for what each verb promises."""

    _is_open = False

    @property
    def engine(self) -> AsyncEngine:
        """The application's own way in to the same database."""
        return self._database.engine

    def __repr__(self) -> str:
        return f"SqlStore({self.url!r}, namespace={self._namespace!r})"

    async def open(self) -> None:
        if not self._is_open:
            await check_schema(self._database, migrate=self._dialect.migrates_itself)
            self._is_open = True

    async def migrate(self) -> None:
        """Bring the database's schema to the version that this code needs."""
        await check_schema(self._database, migrate=True)

    async def schema_version(self) -> str | None:
        """The version that the database is at; None when it has no tables of ours."""
        return await self._database.read(current_version)

    async def close(self) -> None:
        self._is_open = False
        await self._database.close()

    def watch(self, notice: Callable[[], None]) -> AbstractAsyncContextManager[None]:
        return self._database.watch(notice)

    def announce(self) -> None:
        self._database.announce()


async def open_store(
    url: str, *, namespace: str, clock: Clock, inline: bool = False, has_outbox: bool = False
) -> SqlStore:
    """A store on the database that `url` names; not yet opened. `inline` lets SQLite block the calling thread;
    `has_outbox` says that a broker is to be told of runs."""
    database = await open_database(url, clock, inline=inline)
    return SqlStore(database=database, namespace=namespace, clock=clock, has_outbox=has_outbox)
