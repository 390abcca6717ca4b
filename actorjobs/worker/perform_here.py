"""Performing an envelope here and now: one attempt, validated like any other, with nothing recorded."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextvars import copy_context
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
from anyio import CapacityLimiter

from actorjobs import codec
from actorjobs.errors import AttemptTimedOut, IgnoredCancellation
from actorjobs.jobs import Definition, JobContext
from actorjobs.jobs.hooks import Middleware
from actorjobs.model import CancelReason, Envelope, new_traceparent
from actorjobs.ports import Dispatcher
from actorjobs.worker.handling import handle
from actorjobs.worker.performance import CANCEL_GRACE_SECONDS


class LocalLink:
    """Keeps progress and checkpoints of an attempt that has no record."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.progress: list[tuple[float, str | None]] = []
        self.checkpoints: list[Mapping[str, Any]] = []

    async def save_progress(self, fraction: float, message: str | None) -> None:
        self.progress.append((fraction, message))

    async def save_checkpoint(self, state: Mapping[str, Any]) -> None:
        self.checkpoints.append(state)

    def run_on_loop(self, make: Callable[[], Awaitable[Any]]) -> Any:
        async def work() -> Any:
            return await make()

        return asyncio.run_coroutine_threadsafe(work(), self._loop).result()


async def perform_here(
    definition: Definition,
    envelope: Envelope,
    *,
    dispatcher: Dispatcher,
    app: Any,
    middleware: Sequence[Middleware] = (),
) -> Any:
    """What the handler returns, typed by its job. Raises what it raises, `PayloadInvalid`, `ResultInvalid`, or
    `TimeoutError` after the envelope's time-out. `isolation=` means nothing here: it is performed in this process."""
    constructor_args = codec.encode(envelope.constructor_args) if envelope.constructor_args else None
    bound = definition.decode_payload(codec.encode(envelope.payload), constructor_args, version=envelope.version)
    ctx = _context(envelope, app)
    threads = CapacityLimiter(math.inf)
    work = handle(
        definition, bound, constructor_args, ctx, dispatcher=dispatcher, threads=threads, middleware=middleware
    )
    task = asyncio.get_running_loop().create_task(work, name=envelope.id, context=copy_context())
    is_late = not (await _wait(task, envelope.timeout))[0]
    if is_late:
        ctx.cancel_reason = CancelReason.TIMEOUT
        task.cancel()
        if not (await asyncio.wait({task}, timeout=CANCEL_GRACE_SECONDS))[0]:
            raise IgnoredCancellation("the handler was canceled after its time-out and went on regardless")
    ended = await task
    if ended.error is None:
        return None if ended.value is None else definition.decode_result(orjson.loads(ended.value))
    if is_late and isinstance(ended.error, asyncio.CancelledError):
        raise AttemptTimedOut(f"the attempt took longer than its time-out of {envelope.timeout:g} s")
    raise ended.error


async def _wait(task: asyncio.Task[Any], timeout: float | None) -> tuple[set[Any], set[Any]]:
    try:
        return await asyncio.wait({task}, timeout=timeout)
    except asyncio.CancelledError:
        task.cancel()
        await asyncio.wait({task})
        raise


def _context(envelope: Envelope, app: Any) -> JobContext[Any]:
    deadline = None if envelope.timeout is None else datetime.now(UTC) + timedelta(seconds=envelope.timeout)
    return JobContext(
        run_id=envelope.id,
        job=envelope.job,
        queue=envelope.queue,
        attempt=envelope.attempt + 1,
        failures=envelope.attempt,
        max_attempts=envelope.max_attempts,
        tenant=envelope.tenant,
        traceparent=new_traceparent(envelope.traceparent),
        deadline=deadline,
        app=app,
        link=LocalLink(),
    )
