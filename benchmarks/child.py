"""What a measurement starts: `python -m benchmarks.child prepare|produce|work SYSTEM [DEMAND]`.

It runs in the environment of the system measured, where actorjobs need not be installed.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import asdict
from importlib import import_module
from typing import Any, cast

from benchmarks.plan import Demand
from benchmarks.producing import Adapter, produce
from benchmarks.sampling import Sampler


def adapter_of(module: str) -> Adapter:
    # By name, so that what is imported is the one system that is here, and its jobs are the worker's jobs.
    return cast("Adapter", import_module(f"benchmarks.systems.{module}"))


async def _produce(adapter: Adapter, demand: Demand) -> None:
    async with adapter.sending() as sender:
        sampler = Sampler()
        sampler.start()
        produced = await produce(sender, demand)
        sampler.stop()
    sys.stdout.write(json.dumps(asdict(produced)) + "\n")


def _run_on_uvloop(work: Coroutine[Any, Any, None]) -> None:
    """As `actorjobs worker` does where it is installed: what is compared is systems, not event loops."""
    run: Callable[[Coroutine[Any, Any, None]], None] = asyncio.run
    with suppress(ImportError):
        run = import_module("uvloop").run
    run(work)


def main(command: str, module: str, demand: str = "") -> None:
    adapter = adapter_of(module)
    match command:
        case "prepare":
            asyncio.run(adapter.prepare())
        case "produce":
            asyncio.run(_produce(adapter, Demand.from_json(demand)))
        case "work":
            _run_on_uvloop(adapter.work())
        case _:
            sys.exit(f"prepare, produce or work, not {command!r}")


if __name__ == "__main__":
    main(*sys.argv[1:])
