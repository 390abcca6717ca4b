"""Stores: the durable record of runs."""

from actorjobs.stores.database import is_in_memory
from actorjobs.stores.migrate import upgrade_sql
from actorjobs.stores.schema import HEAD as NEEDED_VERSION
from actorjobs.stores.sql import SqlStore, open_store

__all__ = ["NEEDED_VERSION", "SqlStore", "is_in_memory", "open_store", "upgrade_sql"]
