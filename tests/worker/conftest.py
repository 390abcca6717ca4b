from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import actorjobs as aj

MakeRuntime = Callable[..., aj.Runtime]


@pytest.fixture
def make_runtime(tmp_path: Path) -> MakeRuntime:
    """Runtimes on one store of the test's own; what is not said is the default."""

    def make(*jobs: Any, **options: Any) -> aj.Runtime:
        return aj.Runtime(**{"store": f"sqlite:///{tmp_path}/runs.db", "jobs": jobs, "grace": 2, **options})

    return make
