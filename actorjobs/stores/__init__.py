"""Stores: the durable record of runs."""

from actorjobs.stores.sql import SqlStore, open_store

__all__ = ["SqlStore", "open_store"]
