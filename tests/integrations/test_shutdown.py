"""Requests that are under way when the server is told to stop."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

import actorjobs as aj
from tests.integrations.serving import serving

pytestmark = pytest.mark.system


@pytest.mark.parametrize("framework", ["starlette", "aiohttp"])
async def test_a_request_under_way_still_dispatches(framework: str, tmp_path: Path) -> None:
    async with serving(["-m", "tests.integrations.slow_app", framework], tmp_path, {}) as served:
        asked = asyncio.create_task(served.http.get("/slow", params={"seconds": "1"}))
        await asyncio.sleep(0.3)  # it is under way
        assert not asked.done()
        assert await served.stop() in (0, -signal.SIGTERM), served.said
        answer = await asked
    assert answer.status_code == 200, served.said
    async with aj.Runtime(store=f"sqlite:///{tmp_path}/actorjobs.db").client() as client:
        assert (await client.runs.get(answer.text)).state == "queued"
