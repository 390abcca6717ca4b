"""Virtual time, and the rule that no test leaves anything behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from actorjobs.clock import VirtualClock
from tests.actors.stress import collecting_problems, loop_turns


@pytest.fixture
def clock() -> VirtualClock:
    """A clock that lets the work of each instant come to rest before time goes on."""
    clock = VirtualClock()
    clock.settles_by(lambda: loop_turns(30))
    return clock


@pytest.fixture
async def nothing_left() -> AsyncIterator[None]:
    """No task is left behind, and the loop has had nothing to complain about."""
    before = asyncio.all_tasks()
    with collecting_problems():
        yield
        left = asyncio.all_tasks() - before - {asyncio.current_task()}
        assert not left, left
