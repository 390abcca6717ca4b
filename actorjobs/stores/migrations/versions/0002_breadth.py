"""Unique runs, keys that hold for a time, and what each worker serves."""

import sqlalchemy as sa

from actorjobs.stores.schema import LongText, UtcDateTime
from actorjobs.stores.steps import add_column, create_index

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    create_index(
        "actorjobs_runs_unique",
        "actorjobs_runs",
        ["namespace", "tenant", "job", "unique_digest"],
        where="unique_digest IS NOT NULL",
        unique=True,
    )
    add_column("actorjobs_runs", sa.Column("key_expires_at", UtcDateTime()))
    add_column("actorjobs_workers", sa.Column("serves", LongText))
