"""Schema versions: what the database has, what this code needs, and the way from one to the other (Alembic).

SQLite migrates itself when it is opened. Everywhere else `actorjobs db upgrade` does it, and a runtime that finds
another version refuses to start.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, inspect, text

from actorjobs.errors import SchemaOutdated
from actorjobs.stores.database import Database, masked, parse_url
from actorjobs.stores.dialects import dialect_of
from actorjobs.stores.schema import HEAD, VERSION_TABLE

REVISIONS = ("0001", "0002", "0003", "0004")
"""Every migration, oldest first."""


def current_version(connection: Connection) -> str | None:
    """The version that the database is at; None when it has no tables of ours."""
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    version: str | None = connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()
    return version


def upgrade(connection: Connection) -> None:
    """Bring the database to `HEAD`, in the connection's transaction."""
    from alembic import command

    command.upgrade(_config(connection), "head")


def upgrade_sql(url: str) -> str:
    """The statements of every migration as a script, without touching a database."""
    from alembic import command

    config = _config(None)
    # Only the kind of database matters here, and a password has no business in a configuration.
    config.set_main_option("sqlalchemy.url", f"{parse_url(url).get_backend_name()}://")
    config.output_buffer = buffer = io.StringIO()
    command.upgrade(config, "head", sql=True)
    return buffer.getvalue()


def _config(connection: Connection | None) -> Any:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")))
    config.attributes["connection"] = connection
    return config


async def check_schema(database: Database, *, migrate: bool) -> None:
    """Make sure that the schema is the one this code needs, by migrating if `migrate`, else by `SchemaOutdated`."""
    version = await database.read(current_version)
    if version == HEAD:
        return
    where = masked(database.url)
    if version is not None and version not in REVISIONS:
        raise SchemaOutdated(
            f"the schema at {where} is at version {version}, newer than this actorjobs knows (up to {HEAD}): "
            "upgrade the package"
        )
    if not migrate:
        have = "no tables of actorjobs" if version is None else f"version {version}"
        raise SchemaOutdated(
            f"the database at {where} has {have}, version {HEAD} is needed: run `actorjobs db upgrade`"
        )
    await database.write(_upgrade_once)


def _upgrade_once(connection: Connection) -> None:
    # Two processes may open a new file at the same moment: the second finds it done once it holds the lock.
    with dialect_of(connection.engine.url).migrating(connection):
        if current_version(connection) != HEAD:
            upgrade(connection)
