"""What tests of applications and of stores use: fakes that are equal siblings, and the suites they all must pass.

`actorjobs.testing.store_suite` needs pytest and is imported by tests alone.
"""

from actorjobs.testing.dispatchers import Dispatched, InlineDispatcher, RecordingDispatcher
from actorjobs.testing.memory import MemoryStore
from actorjobs.testing.memory_rows import MemoryDatabase

__all__ = ["Dispatched", "InlineDispatcher", "MemoryDatabase", "MemoryStore", "RecordingDispatcher"]
