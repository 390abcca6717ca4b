"""The fixtures that pytest has by itself where actorjobs is installed: `recorded_jobs` and `job_harness`.

Every session of pytest loads this, also those without jobs: what the fixtures need is imported when one is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from actorjobs.testing import RecordingDispatcher
    from actorjobs.testing.harness import JobHarness


@pytest.fixture
def recorded_jobs() -> Iterator[RecordingDispatcher]:
    """Takes notes of what the test dispatches, and has nothing performed; also where a runtime is open."""
    from actorjobs.ports import dispatching_everywhere_through
    from actorjobs.testing import RecordingDispatcher

    recorded = RecordingDispatcher()
    # A context variable that is set here is not always seen in a coroutine that a plugin for asyncio runs.
    with dispatching_everywhere_through(recorded):
        yield recorded


@pytest.fixture
def job_harness(tmp_path: Path) -> Callable[..., JobHarness]:
    """Makes a runtime on a virtual clock: `async with job_harness(send_welcome, queues={"emails": 5}) as jobs:`."""
    from actorjobs.testing.harness import JobHarness

    def make(*jobs: Any, **options: Any) -> JobHarness:
        return JobHarness(*jobs, **{"store": f"sqlite:///{tmp_path}/jobs.db", **options})

    return make
