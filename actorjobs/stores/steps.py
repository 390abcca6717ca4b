"""The steps that migrations are made of, each of which does nothing where it has been done already.

On MySQL and MariaDB every step commits by itself: a migration that broke off in the middle is simply run again. An
index is given its columns there (`mysql=`) where it differs, because those databases have no partial indexes: what the
condition says elsewhere must be in front of the index there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import sqlalchemy as sa
from alembic import op

from actorjobs.stores.schema import MYSQL


def create_table(name: str, *parts: Any) -> None:
    if not _is_there(lambda found: found.has_table(name)):
        op.create_table(name, *parts, mysql_engine="InnoDB", mysql_charset="utf8mb4", mysql_row_format="DYNAMIC")


def add_column(table: str, column: sa.Column[Any]) -> None:
    if not _is_there(lambda found: column.name in {known["name"] for known in found.get_columns(table)}):
        op.add_column(table, column)


def create_index(
    name: str,
    table: str,
    columns: Sequence[str],
    *,
    where: str | None = None,
    unique: bool = False,
    mysql: Sequence[str] | None = None,
) -> None:
    """An index; partial if `where` is given, except on MySQL and MariaDB, whose columns are those of `mysql`."""
    if _is_there(lambda found: name in {known["name"] for known in found.get_indexes(table)}):
        return
    if op.get_context().dialect.name in MYSQL:
        op.create_index(name, table, [*(mysql or columns)], unique=unique)
    else:
        condition = None if where is None else sa.text(where)
        op.create_index(name, table, [*columns], unique=unique, postgresql_where=condition, sqlite_where=condition)


def _is_there(look: Callable[[sa.Inspector], bool]) -> bool:
    """Whether a look at the database finds it; never where the steps are only written out as SQL."""
    return not op.get_context().as_sql and look(sa.inspect(op.get_bind()))
