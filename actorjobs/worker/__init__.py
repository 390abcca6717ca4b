"""The worker: everything that performs runs in one process."""
