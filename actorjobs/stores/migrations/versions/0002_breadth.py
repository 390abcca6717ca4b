"""Unique runs, and what each worker serves."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    is_unique = sa.text("unique_digest IS NOT NULL")
    op.create_index(
        "actorjobs_runs_unique",
        "actorjobs_runs",
        ["namespace", "tenant", "job", "unique_digest"],
        unique=True,
        postgresql_where=is_unique,
        sqlite_where=is_unique,
    )
    op.add_column("actorjobs_workers", sa.Column("serves", sa.Text()))
