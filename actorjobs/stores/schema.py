"""The tables, as SQLAlchemy Core sees them. `migrations/` creates them; a test holds the two against each other.

A run's row carries what it asked for, where it stands and its last result; an attempt's row is written once, when the
attempt ends. Ordinary transitions have no rows of their own: `actorjobs_events` keeps only what the others cannot
tell (who canceled, reopened, rescheduled).
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Dialect,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    text,
)
from sqlalchemy.dialects import mysql, postgresql
from sqlalchemy.types import TypeDecorator, TypeEngine

HEAD = "0004"
"""The migration this version of the code needs."""

VERSION_TABLE = "actorjobs_schema"

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


def to_micros(at: datetime) -> int:
    """Microseconds since the epoch: how SQLite keeps an instant."""
    return (at - EPOCH) // MICROSECOND


def from_micros(micros: int) -> datetime:
    return EPOCH + timedelta(microseconds=micros)


def to_naive(at: datetime) -> datetime:
    """The instant as MySQL and MariaDB keep it: UTC that does not say so."""
    return at.astimezone(UTC).replace(tzinfo=None)


def from_naive(at: datetime) -> datetime:
    return at.replace(tzinfo=UTC)


MYSQL = ("mysql", "mariadb")
"""How SQLAlchemy may name a dialect of that family."""


class UtcDateTime(TypeDecorator[datetime]):
    """An aware instant: `timestamptz` on PostgreSQL, `DATETIME(6)` in UTC on MySQL and MariaDB (a `TIMESTAMP` ends in
    2038), integer microseconds since the epoch on SQLite."""

    impl = BigInteger
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name == "postgresql":
            return dialect.type_descriptor(postgresql.TIMESTAMP(timezone=True))
        if dialect.name in MYSQL:
            return dialect.type_descriptor(mysql.DATETIME(fsp=6))
        return dialect.type_descriptor(BigInteger())

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        if value is None or dialect.name == "postgresql":
            return value
        return to_naive(value) if dialect.name in MYSQL else to_micros(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        if value is None or dialect.name == "postgresql":
            return value  # type: ignore[no-any-return]
        return from_naive(value) if dialect.name in MYSQL else from_micros(value)


class Word(TypeDecorator[str]):
    """A short identifier, compared byte by byte whatever the database's language, a space at its end included."""

    impl = String
    cache_ok = True

    def __init__(self, length: int) -> None:
        super().__init__(length)
        self.length = length

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name == "postgresql":
            return dialect.type_descriptor(postgresql.VARCHAR(self.length, collation="C"))
        if dialect.name in MYSQL:
            return dialect.type_descriptor(mysql.VARCHAR(self.length, charset="utf8mb4", collation=_bytewise(dialect)))
        return dialect.type_descriptor(String(self.length))


def _bytewise(dialect: Any) -> str:
    """The collation without padding, which each of the two servers calls by a name that the other does not know: under
    `utf8mb4_bin`, which both have, 'a' and 'a ' are one key. (MySQL has it since 8.0.17.)"""
    return "utf8mb4_nopad_bin" if dialect.is_mariadb else "utf8mb4_0900_bin"


def word(length: int) -> Word:
    """A column for identifiers of at most so many characters."""
    return Word(length)


LongText = Text().with_variant(mysql.LONGTEXT(charset="utf8mb4", collation="utf8mb4_bin"), *MYSQL)
"""Text without a limit of the column's own: MySQL's TEXT would end at 64 KiB."""

LongBytes = LargeBinary().with_variant(mysql.LONGBLOB(), *MYSQL)


metadata = MetaData()

STARTED_DIGEST = "CASE WHEN substr(unique_digest, 1, 1) = 'q' THEN NULL ELSE unique_digest END"
"""A run that is unique while it waits gives its place free when it starts."""

ENDED_DIGEST = "CASE WHEN substr(unique_digest, 1, 1) = 'p' THEN unique_digest END"
"""A run that is over gives its place free, unless the place is that of a whole period."""

WAITING_SQL = "state IN ('scheduled', 'queued', 'retrying')"
RUNNING_SQL = "state = 'running'"
UNUSUAL_SQL = "state IN ('retrying', 'dead_lettered', 'canceled', 'expired')"
"""Conditions of partial indexes. SQLite uses such an index only for a query that has these very words."""

runs = Table(
    "actorjobs_runs",
    metadata,
    Column("id", word(36), primary_key=True),
    Column("namespace", word(64), nullable=False),
    Column("tenant", word(128), nullable=False, server_default=""),
    Column("job", word(128), nullable=False),
    Column("version", Integer, nullable=False, server_default="1"),
    Column("queue", word(100), nullable=False),
    Column("priority", SmallInteger, nullable=False),
    Column("state", word(16), nullable=False),
    Column("hold", word(64)),
    Column("seq", Integer, nullable=False, server_default="1"),
    Column("attempt", Integer, nullable=False, server_default="0"),
    Column("failures", Integer, nullable=False, server_default="0"),
    Column("losses", Integer, nullable=False, server_default="0"),
    Column("max_attempts", Integer, nullable=False),
    Column("timeout", Double),
    Column("payload", LongText, nullable=False),
    Column("constructor_args", LongText),
    Column("result", LongText),
    Column("progress", LongText),
    Column("checkpoint", LongText),
    Column("retry", LongText),
    Column("retention", Double),
    Column("tags", LongText),
    Column("meta", LongText),
    Column("script", LongText),
    Column("traceparent", word(64)),
    Column("tracestate", LongText),
    Column("baggage", LongText),
    Column("parent", word(36)),
    Column("replay_of", word(36)),
    Column("idempotency_key", word(255)),
    Column("fingerprint", word(64)),
    Column("key_expires_at", UtcDateTime),
    Column("unique_digest", word(64)),
    Column("uniqueness_config", LongText),
    Column("inserted_at", UtcDateTime, nullable=False),
    Column("available_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime),
    Column("claimed_at", UtcDateTime),
    Column("attempted_at", UtcDateTime),
    Column("finished_at", UtcDateTime),
    Column("claimed_by", word(64)),
    Column("cancel_requested_at", UtcDateTime),
    Column("reason", LongText),
    Column("publish_after", UtcDateTime),
    Column("published_at", UtcDateTime),
    Column("republished", Integer, nullable=False, server_default="0"),
)


def _partial(name: str, *columns: str, where: str, unique: bool = False) -> Index:
    condition = text(where)
    return Index(
        name, *(runs.c[column] for column in columns), unique=unique, postgresql_where=condition, sqlite_where=condition
    )


# Every index that a run's happy path touches is paid for by every run: three here, the rest stay empty for it. (The
# outbox is empty where no broker is to be told of runs.)
_partial("actorjobs_runs_due", "namespace", "queue", "priority", "available_at", where=WAITING_SQL)
_partial("actorjobs_runs_owned", "claimed_by", where=RUNNING_SQL)
_partial("actorjobs_runs_suspect", "namespace", "queue", where=f"losses >= 2 AND {WAITING_SQL}")
_partial("actorjobs_runs_expiring", "namespace", "expires_at", where=f"expires_at IS NOT NULL AND {WAITING_SQL}")
_partial("actorjobs_runs_outbox", "namespace", "publish_after", where=f"publish_after IS NOT NULL AND {WAITING_SQL}")
_partial("actorjobs_runs_unusual", "namespace", "state", "id", where=UNUSUAL_SQL)
_partial("actorjobs_runs_parent", "parent", where="parent IS NOT NULL")
_partial(
    "actorjobs_runs_key",
    "namespace",
    "tenant",
    "job",
    "idempotency_key",
    where="idempotency_key IS NOT NULL",
    unique=True,
)
_partial(
    "actorjobs_runs_unique",
    "namespace",
    "tenant",
    "job",
    "unique_digest",
    where="unique_digest IS NOT NULL",
    unique=True,
)

# No foreign keys: a check per settled run would cost as much as the row. Runs are deleted in one place, with their own.
attempts = Table(
    "actorjobs_attempts",
    metadata,
    Column("run_id", word(36), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("outcome", word(16), nullable=False),
    Column("led_to", word(16), nullable=False),
    Column("started_at", UtcDateTime),
    Column("ended_at", UtcDateTime, nullable=False),
    Column("worker", word(64)),
    Column("actor", word(160)),
    Column("error", LongText),
    Column("span_id", word(16)),
    Column("trace_id", word(32)),
)

events = Table(
    "actorjobs_events",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("run_id", word(36), nullable=False),
    Column("at", UtcDateTime, nullable=False),
    Column("event", word(32), nullable=False),
    Column("state", word(16), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("detail", LongText),
    Index("actorjobs_events_run", "run_id", "id"),
)

workers = Table(
    "actorjobs_workers",
    metadata,
    Column("id", word(64), primary_key=True),
    Column("namespace", word(64), nullable=False),
    Column("host", word(255), nullable=False),
    Column("boot_id", word(64), nullable=False),
    Column("pid", Integer, nullable=False),
    Column("lock_path", LongText),
    Column("started_at", UtcDateTime, nullable=False),
    Column("beat_at", UtcDateTime, nullable=False),
    Column("died_at", UtcDateTime),
    Column("blamed", word(36)),
    Column("serves", LongText),
    Index("actorjobs_workers_namespace", "namespace"),
)

queues = Table(
    "actorjobs_queues",
    metadata,
    Column("namespace", word(64), primary_key=True),
    Column("name", word(100), primary_key=True),
    Column("is_paused", Boolean, nullable=False, server_default=text("false")),
    Column("concurrency", Integer),
    Column("reason", LongText),
    Column("empty_at", UtcDateTime),
    Column("absent_at", UtcDateTime),
)

stores = Table(
    "actorjobs_stores",
    metadata,
    Column("namespace", word(64), primary_key=True),
    Column("id", word(36), nullable=False),
)

quarantine = Table(
    "actorjobs_quarantine",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("namespace", word(64), nullable=False),
    Column("queue", word(255), nullable=False),
    Column("at", UtcDateTime, nullable=False),
    Column("reason", LongText, nullable=False),
    Column("body", LongBytes, nullable=False),
    Column("properties", LongText, nullable=False),
    Index("actorjobs_quarantine_namespace", "namespace", "id"),
)
