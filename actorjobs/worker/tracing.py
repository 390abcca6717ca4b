"""What a trace is told of a run besides its own attempt."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from actorjobs.errors import ActorJobsError
from actorjobs.model import Attempt
from actorjobs.ports import Store

LOOK_BACK_SECONDS = 1.0
"""How long an attempt that is traced is held up by asking the store for the one before."""


async def attempt_before(store: Store, run_id: str, number: int) -> Attempt | None:
    """The attempt before that one, if there was one and the store tells of it at once."""
    if number > 1:
        with suppress(ActorJobsError, TimeoutError):
            async with asyncio.timeout(LOOK_BACK_SECONDS):
                known = await store.attempts(run_id)
                return next((one for one in reversed(known) if one.number < number), None)
    return None
