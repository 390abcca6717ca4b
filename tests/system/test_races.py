"""A hundred callers in four processes ask for one run: an index of the database lets one of them have it."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time

import pytest

import actorjobs as aj
from tests.system.race_app import contended

PROCESSES, CALLERS = 4, 25


async def ask(url: str, kind: str, start_at: float) -> list[tuple[str, bool]]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.system.race_app",
        kind,
        str(CALLERS),
        str(start_at),
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | {"ACTORJOBS_STORE_URL": url},
    )
    out, _ = await process.communicate()
    assert process.returncode == 0
    return [(run_id, existing) for run_id, existing in json.loads(out.splitlines()[-1])]


@pytest.mark.system
@pytest.mark.parametrize("kind", ["unique", "replace", "period", "key"])
async def test_a_hundred_callers_get_one_run(system_store_url: str, kind: str) -> None:
    start_at = time.time() + 3.0
    answers = await asyncio.gather(*(ask(system_store_url, kind, start_at) for _ in range(PROCESSES)))
    given = [one for answer in answers for one in answer]
    assert len(given) == PROCESSES * CALLERS
    assert len({run_id for run_id, _ in given}) == 1
    assert sum(not existing for _, existing in given) == 1
    runtime = aj.Runtime(store=system_store_url, jobs=[contended])
    async with runtime.client():
        assert len(await runtime.runs.list()) == 1
