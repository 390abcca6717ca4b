"""Traces: an attempt may be in another one than its run."""

import sqlalchemy as sa

from actorjobs.stores.schema import word
from actorjobs.stores.steps import add_column

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    add_column("actorjobs_attempts", sa.Column("trace_id", word(32)))
