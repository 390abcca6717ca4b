"""200 requests a second that dispatch, beside 200 that do not."""

from __future__ import annotations

from pathlib import Path

import pytest

import actorjobs as aj
from benchmarks.web import Window, added, measure, serving
from benchmarks.web_server import FRAMEWORKS

RATE = 200
MOST_MILLISECONDS = 5.0
ROUNDS = 10
ENOUGH = 5
"""Quiet windows to judge by; each is of 400 requests of either kind."""

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
    """In windows in which the machine is quiet: in others the figures are of what else it does."""
    quiet: list[Window] = []
    async with serving(framework, {"ACTORJOBS_STORE_URL": store}) as address:
        for _ in range(ROUNDS):
            windows = await measure(address, rate=RATE, seconds=2, windows=5)
            quiet += [window for window in windows if window.is_quiet]
            if len(quiet) >= ENOUGH:
                break
    if len(quiet) < ENOUGH:
        pytest.skip(f"the machine is busy: {len(quiet)} of {5 * ROUNDS} windows were quiet")
    milliseconds = added(quiet, 0.99)
    print(f"{framework}: a dispatch adds {milliseconds:.2f} ms to the p99")
    assert milliseconds <= MOST_MILLISECONDS
