"""The core: runs, attempts, events, workers, queues."""

import sqlalchemy as sa
from alembic import op

from actorjobs.stores.schema import LongText, UtcDateTime, word
from actorjobs.stores.steps import create_index, create_table

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

WAITING = "state IN ('scheduled', 'queued', 'retrying')"


def upgrade() -> None:
    create_table(
        "actorjobs_attempts",
        sa.Column("run_id", word(36), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("outcome", word(16), nullable=False),
        sa.Column("led_to", word(16), nullable=False),
        sa.Column("started_at", UtcDateTime()),
        sa.Column("ended_at", UtcDateTime(), nullable=False),
        sa.Column("worker", word(64)),
        sa.Column("actor", word(160)),
        sa.Column("error", LongText),
        sa.Column("span_id", word(16)),
        sa.PrimaryKeyConstraint("run_id", "number"),
    )
    create_table(
        "actorjobs_events",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("run_id", word(36), nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.Column("event", word(32), nullable=False),
        sa.Column("state", word(16), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("detail", LongText),
        sa.PrimaryKeyConstraint("id"),
    )
    create_index(
        "actorjobs_events_run",
        "actorjobs_events",
        ["run_id", "id"],
    )
    create_table(
        "actorjobs_queues",
        sa.Column("namespace", word(64), nullable=False),
        sa.Column("name", word(100), nullable=False),
        sa.Column("is_paused", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("concurrency", sa.Integer()),
        sa.Column("reason", LongText),
        sa.PrimaryKeyConstraint("namespace", "name"),
    )
    create_table(
        "actorjobs_runs",
        sa.Column("id", word(36), nullable=False),
        sa.Column("namespace", word(64), nullable=False),
        sa.Column("tenant", word(128), server_default="", nullable=False),
        sa.Column("job", word(128), nullable=False),
        sa.Column("version", sa.Integer(), server_default="1", nullable=False),
        sa.Column("queue", word(100), nullable=False),
        sa.Column("priority", sa.SmallInteger(), nullable=False),
        sa.Column("state", word(16), nullable=False),
        sa.Column("hold", word(64)),
        sa.Column("seq", sa.Integer(), server_default="1", nullable=False),
        sa.Column("attempt", sa.Integer(), server_default="0", nullable=False),
        sa.Column("failures", sa.Integer(), server_default="0", nullable=False),
        sa.Column("losses", sa.Integer(), server_default="0", nullable=False),
        sa.Column("max_attempts", sa.Integer(), nullable=False),
        sa.Column("timeout", sa.Double[float]()),
        sa.Column("payload", LongText, nullable=False),
        sa.Column("constructor_args", LongText),
        sa.Column("result", LongText),
        sa.Column("progress", LongText),
        sa.Column("checkpoint", LongText),
        sa.Column("retry", LongText),
        sa.Column("retention", sa.Double[float]()),
        sa.Column("tags", LongText),
        sa.Column("meta", LongText),
        sa.Column("script", LongText),
        sa.Column("traceparent", word(64)),
        sa.Column("tracestate", LongText),
        sa.Column("baggage", LongText),
        sa.Column("parent", word(36)),
        sa.Column("replay_of", word(36)),
        sa.Column("idempotency_key", word(255)),
        sa.Column("fingerprint", word(64)),
        sa.Column("unique_digest", word(64)),
        sa.Column("uniqueness_config", LongText),
        sa.Column("inserted_at", UtcDateTime(), nullable=False),
        sa.Column("available_at", UtcDateTime(), nullable=False),
        sa.Column("expires_at", UtcDateTime()),
        sa.Column("claimed_at", UtcDateTime()),
        sa.Column("attempted_at", UtcDateTime()),
        sa.Column("finished_at", UtcDateTime()),
        sa.Column("claimed_by", word(64)),
        sa.Column("cancel_requested_at", UtcDateTime()),
        sa.Column("reason", LongText),
        sa.PrimaryKeyConstraint("id"),
    )
    create_index(
        "actorjobs_runs_due",
        "actorjobs_runs",
        ["namespace", "queue", "priority", "available_at"],
        where=WAITING,
        mysql=["namespace", "queue", "state", "priority", "available_at"],
    )
    create_index(
        "actorjobs_runs_expiring",
        "actorjobs_runs",
        ["namespace", "expires_at"],
        where=f"expires_at IS NOT NULL AND {WAITING}",
        mysql=["namespace", "state", "expires_at"],
    )
    create_index(
        "actorjobs_runs_key",
        "actorjobs_runs",
        ["namespace", "tenant", "job", "idempotency_key"],
        unique=True,
        where="idempotency_key IS NOT NULL",
    )
    create_index(
        "actorjobs_runs_owned",
        "actorjobs_runs",
        ["claimed_by"],
        where="state = 'running'",
        mysql=["claimed_by", "state"],
    )
    create_index(
        "actorjobs_runs_parent",
        "actorjobs_runs",
        ["parent"],
        where="parent IS NOT NULL",
    )
    create_index(
        "actorjobs_runs_suspect",
        "actorjobs_runs",
        ["namespace", "queue"],
        where=f"losses >= 2 AND {WAITING}",
        mysql=["namespace", "queue", "losses"],
    )
    create_index(
        "actorjobs_runs_unusual",
        "actorjobs_runs",
        ["namespace", "state", "id"],
        where="state IN ('retrying', 'dead_lettered', 'canceled', 'expired')",
    )
    create_table(
        "actorjobs_workers",
        sa.Column("id", word(64), nullable=False),
        sa.Column("namespace", word(64), nullable=False),
        sa.Column("host", word(255), nullable=False),
        sa.Column("boot_id", word(64), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("lock_path", LongText),
        sa.Column("started_at", UtcDateTime(), nullable=False),
        sa.Column("beat_at", UtcDateTime(), nullable=False),
        sa.Column("died_at", UtcDateTime()),
        sa.Column("blamed", word(36)),
        sa.PrimaryKeyConstraint("id"),
    )
    create_index(
        "actorjobs_workers_namespace",
        "actorjobs_workers",
        ["namespace"],
    )
    if op.get_context().dialect.name == "postgresql":
        # A run is updated twice in its life. Both updates change its state, which indexes are conditional on, so that
        # neither can spare the indexes; with room on its page the new row is at least not on another one.
        op.execute("ALTER TABLE actorjobs_runs SET (fillfactor = 70)")
