"""The application of a unit under test."""

from __future__ import annotations

import os
import time

import actorjobs as aj


@aj.job("unit:block", queue="unit")
async def block(seconds: float) -> None:
    """Holds up the loop, as a handler should not."""
    time.sleep(seconds)


@aj.job("unit:inherited", queue="unit")
async def inherited() -> list[str]:
    return [name for name in os.environ if name.startswith(("NOTIFY_", "WATCHDOG_"))]


runtime = aj.Runtime(jobs=[block, inherited])
