"""Brokers: what wakes the pools."""
