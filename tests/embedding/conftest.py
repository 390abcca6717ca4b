from __future__ import annotations

import pytest

import actorjobs as aj
from tests.embedding.life import JOBS
from tests.worker.conftest import MakeRuntime, make_runtime

__all__ = ["make_runtime"]


@pytest.fixture
def runtime(make_runtime: MakeRuntime) -> aj.Runtime:
    return make_runtime(*JOBS)
