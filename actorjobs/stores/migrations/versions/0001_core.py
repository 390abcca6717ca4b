"""The core: runs, attempts, events, workers, queues."""

import sqlalchemy as sa
from alembic import op

from actorjobs.stores.schema import UtcDateTime, word

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "actorjobs_attempts",
        sa.Column("run_id", word(36), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("outcome", word(16), nullable=False),
        sa.Column("led_to", word(16), nullable=False),
        sa.Column("started_at", UtcDateTime()),
        sa.Column("ended_at", UtcDateTime(), nullable=False),
        sa.Column("worker", word(64)),
        sa.Column("actor", word(160)),
        sa.Column("error", sa.Text()),
        sa.Column("span_id", word(16)),
        sa.PrimaryKeyConstraint("run_id", "number"),
    )
    op.create_table(
        "actorjobs_events",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("run_id", word(36), nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.Column("event", word(32), nullable=False),
        sa.Column("state", word(16), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("detail", sa.Text()),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("actorjobs_events_run", "actorjobs_events", ["run_id", "id"])
    op.create_table(
        "actorjobs_queues",
        sa.Column("namespace", word(64), nullable=False),
        sa.Column("name", word(100), nullable=False),
        sa.Column("is_paused", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("concurrency", sa.Integer()),
        sa.Column("reason", sa.Text()),
        sa.PrimaryKeyConstraint("namespace", "name"),
    )
    op.create_table(
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
        sa.Column("payload", sa.Text(), nullable=False),
        sa.Column("constructor_args", sa.Text()),
        sa.Column("result", sa.Text()),
        sa.Column("progress", sa.Text()),
        sa.Column("checkpoint", sa.Text()),
        sa.Column("retry", sa.Text()),
        sa.Column("retention", sa.Double[float]()),
        sa.Column("tags", sa.Text()),
        sa.Column("meta", sa.Text()),
        sa.Column("script", sa.Text()),
        sa.Column("traceparent", word(64)),
        sa.Column("tracestate", sa.Text()),
        sa.Column("baggage", sa.Text()),
        sa.Column("parent", word(36)),
        sa.Column("replay_of", word(36)),
        sa.Column("idempotency_key", word(255)),
        sa.Column("fingerprint", word(64)),
        sa.Column("unique_digest", word(64)),
        sa.Column("uniqueness_config", sa.Text()),
        sa.Column("inserted_at", UtcDateTime(), nullable=False),
        sa.Column("available_at", UtcDateTime(), nullable=False),
        sa.Column("expires_at", UtcDateTime()),
        sa.Column("claimed_at", UtcDateTime()),
        sa.Column("attempted_at", UtcDateTime()),
        sa.Column("finished_at", UtcDateTime()),
        sa.Column("claimed_by", word(64)),
        sa.Column("cancel_requested_at", UtcDateTime()),
        sa.Column("reason", sa.Text()),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(
        "actorjobs_runs_due",
        "actorjobs_runs",
        ["namespace", "queue", "priority", "available_at"],
        postgresql_where=sa.text("state IN ('scheduled', 'queued', 'retrying')"),
        sqlite_where=sa.text("state IN ('scheduled', 'queued', 'retrying')"),
    )
    op.create_index(
        "actorjobs_runs_expiring",
        "actorjobs_runs",
        ["namespace", "expires_at"],
        postgresql_where=sa.text("expires_at IS NOT NULL AND state IN ('scheduled', 'queued', 'retrying')"),
        sqlite_where=sa.text("expires_at IS NOT NULL AND state IN ('scheduled', 'queued', 'retrying')"),
    )
    op.create_index(
        "actorjobs_runs_key",
        "actorjobs_runs",
        ["namespace", "tenant", "job", "idempotency_key"],
        unique=True,
        postgresql_where=sa.text("idempotency_key IS NOT NULL"),
        sqlite_where=sa.text("idempotency_key IS NOT NULL"),
    )
    op.create_index(
        "actorjobs_runs_owned",
        "actorjobs_runs",
        ["claimed_by"],
        postgresql_where=sa.text("state = 'running'"),
        sqlite_where=sa.text("state = 'running'"),
    )
    op.create_index(
        "actorjobs_runs_parent",
        "actorjobs_runs",
        ["parent"],
        postgresql_where=sa.text("parent IS NOT NULL"),
        sqlite_where=sa.text("parent IS NOT NULL"),
    )
    op.create_index(
        "actorjobs_runs_suspect",
        "actorjobs_runs",
        ["namespace", "queue"],
        postgresql_where=sa.text("losses >= 2 AND state IN ('scheduled', 'queued', 'retrying')"),
        sqlite_where=sa.text("losses >= 2 AND state IN ('scheduled', 'queued', 'retrying')"),
    )
    op.create_index(
        "actorjobs_runs_unusual",
        "actorjobs_runs",
        ["namespace", "state", "id"],
        postgresql_where=sa.text("state IN ('retrying', 'dead_lettered', 'canceled', 'expired')"),
        sqlite_where=sa.text("state IN ('retrying', 'dead_lettered', 'canceled', 'expired')"),
    )
    op.create_table(
        "actorjobs_workers",
        sa.Column("id", word(64), nullable=False),
        sa.Column("namespace", word(64), nullable=False),
        sa.Column("host", word(255), nullable=False),
        sa.Column("boot_id", word(64), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("lock_path", sa.Text()),
        sa.Column("started_at", UtcDateTime(), nullable=False),
        sa.Column("beat_at", UtcDateTime(), nullable=False),
        sa.Column("died_at", UtcDateTime()),
        sa.Column("blamed", word(36)),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("actorjobs_workers_namespace", "actorjobs_workers", ["namespace"])
    if op.get_context().dialect.name == "postgresql":
        # A run is updated twice in its life: room on its page keeps the second update off the indexes.
        op.execute("ALTER TABLE actorjobs_runs SET (fillfactor = 70)")
