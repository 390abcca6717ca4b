"""200 requests a second that dispatch, beside 200 that do not."""

from __future__ import annotations

from pathlib import Path

import pytest

import actorjobs as aj
from benchmarks.web import added, measure, serving
from benchmarks.web_server import FRAMEWORKS

RATE = 200
MOST_MILLISECONDS = 5.0
TRIES = 3
"""Of which one has to do: the machine may be busy with something else in the others."""

pytestmark = pytest.mark.system


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("in_thread", [False, True], ids=["task", "thread"])
async def test_every_answered_dispatch_is_on_record(framework: str, in_thread: bool, tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/runs.db"
    async with serving(framework, {"ACTORJOBS_STORE_URL": store}) as url:
        windows = await measure(url, rate=RATE, seconds=1, windows=2, in_thread=in_thread)
    answered = sum(len(window.dispatching) for window in windows) + RATE  # those of the first second, a warm-up
    assert answered == 3 * RATE
    async with aj.Runtime(store=store).client() as client:
        assert (await client.runs.count_by_state())[aj.RunState.QUEUED] == answered


@pytest.mark.load
@pytest.mark.timeout(300)
@pytest.mark.parametrize("framework", FRAMEWORKS)
async def test_a_dispatch_adds_little_to_the_slowest_requests(framework: str, tmp_path: Path) -> None:
    await adds_little(framework, f"sqlite:///{tmp_path}/runs.db")


@pytest.mark.load
@pytest.mark.timeout(300)
@pytest.mark.parametrize("framework", FRAMEWORKS)
async def test_a_dispatch_into_postgres_adds_little_too(framework: str, postgres_url: str) -> None:
    await adds_little(framework, postgres_url)


async def adds_little(framework: str, store: str) -> None:
    seen: list[float] = []
    while len(seen) < TRIES and not any(milliseconds <= MOST_MILLISECONDS for milliseconds in seen):
        async with serving(framework, {"ACTORJOBS_STORE_URL": store}) as address:
            seen.append(added(await measure(address, rate=RATE, seconds=2, windows=7), 0.99))
    print(f"a dispatch adds {seen} ms to the p99")
    assert min(seen) <= MOST_MILLISECONDS, seen
