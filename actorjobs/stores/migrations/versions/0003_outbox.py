"""The outbox: which runs a broker has yet to be told of, what was seen of its queues, messages that are no hints."""

import sqlalchemy as sa

from actorjobs.stores.schema import LongBytes, LongText, UtcDateTime, word
from actorjobs.stores.steps import add_column, create_index, create_table

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

WAITING = "state IN ('scheduled', 'queued', 'retrying')"


def upgrade() -> None:
    add_column("actorjobs_runs", sa.Column("publish_after", UtcDateTime()))
    add_column("actorjobs_runs", sa.Column("published_at", UtcDateTime()))
    add_column("actorjobs_runs", sa.Column("republished", sa.Integer(), server_default="0", nullable=False))
    # Without partial indexes this one has the ended runs too: whatever ends a run clears its `publish_after`.
    create_index(
        "actorjobs_runs_outbox",
        "actorjobs_runs",
        ["namespace", "publish_after"],
        where=f"publish_after IS NOT NULL AND {WAITING}",
    )
    add_column("actorjobs_queues", sa.Column("empty_at", UtcDateTime()))
    add_column("actorjobs_queues", sa.Column("absent_at", UtcDateTime()))
    create_table(
        "actorjobs_stores",
        sa.Column("namespace", word(64), nullable=False),
        sa.Column("id", word(36), nullable=False),
        sa.PrimaryKeyConstraint("namespace"),
    )
    create_table(
        "actorjobs_quarantine",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("namespace", word(64), nullable=False),
        sa.Column("queue", word(255), nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.Column("reason", LongText, nullable=False),
        sa.Column("body", LongBytes, nullable=False),
        sa.Column("properties", LongText, nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    create_index("actorjobs_quarantine_namespace", "actorjobs_quarantine", ["namespace", "id"])
