"""Calling a handler: tenant, dispatcher and context are set, coroutines run on the loop, functions in a thread."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import anyio.to_thread
from anyio import CapacityLimiter

from actorjobs import codec
from actorjobs.jobs import Definition, JobContext, bind_context
from actorjobs.jobs.hooks import CallNext, Middleware
from actorjobs.model import Outcome
from actorjobs.ports import Claim, Dispatcher, Store, bind_dispatcher
from actorjobs.retry import sole_error
from actorjobs.tenancy import bind_tenant
from actorjobs.worker.outcome import Ended

logger = logging.getLogger("actorjobs.worker")


async def handle(
    definition: Definition,
    bound: Any,
    constructor_args: str | None,
    ctx: JobContext[Any],
    *,
    dispatcher: Dispatcher,
    threads: CapacityLimiter,
    middleware: Sequence[Middleware] = (),
) -> Ended:
    """What the handler came to, with its result as JSON text. For a task of its own: it sets context variables.

    It never raises: an exit or an interrupt that a handler raises ends its attempt, not the worker.
    """

    async def call(_ctx: JobContext[Any] | None = None) -> Any:
        if definition.is_async:
            return await definition.invoke(bound, constructor_args, ctx)
        return await anyio.to_thread.run_sync(definition.invoke, bound, constructor_args, ctx, limiter=threads)

    bind_tenant(ctx.tenant)
    bind_dispatcher(dispatcher)
    bind_context(ctx)
    try:
        value = await (_around(call, ctx, middleware) if middleware else call)()
        return Ended(value=definition.encode_result(value))
    except BaseException as error:
        return Ended(error=error)


class EndedElsewhere(Exception):
    """How an attempt in a child process ended, on its way through the middleware of this one."""

    def __init__(self, ended: Ended) -> None:
        error = ended.verdict.error if ended.verdict is not None else None
        super().__init__("snoozed" if error is None else f"{error.name}: {error.message}")
        self.ended = ended


async def handle_elsewhere(
    perform: Callable[[], Awaitable[Ended]],
    definition: Definition,
    ctx: JobContext[Any],
    *,
    dispatcher: Dispatcher,
    middleware: Sequence[Middleware],
) -> Ended:
    """The same for a handler that `perform` has performed in a child process; the middleware stays in this one."""
    bind_tenant(ctx.tenant)
    bind_dispatcher(dispatcher)
    bind_context(ctx)
    if not middleware:
        return await perform()

    async def call(_ctx: JobContext[Any] | None = None) -> Any:
        ended = await perform()
        if ended.error is not None:
            raise ended.error
        if ended.verdict is None or ended.verdict.ending.outcome is not Outcome.SUCCEEDED:
            raise EndedElsewhere(ended)
        result = ended.verdict.result
        return None if result is None else definition.decode_result(codec.decode(result))

    try:
        return Ended(value=definition.encode_result(await _around(call, ctx, middleware)()))
    except BaseException as error:
        cause = sole_error(error)
        return cause.ended if isinstance(cause, EndedElsewhere) else Ended(error=error)


def _around(call: CallNext, ctx: JobContext[Any], middleware: Sequence[Middleware]) -> CallNext:
    """The call with all middleware around it, the first one outermost."""
    for one in reversed(middleware):
        call = _link(one, ctx, call)
    return call


def _link(one: Middleware, ctx: JobContext[Any], call_next: CallNext) -> CallNext:
    async def call(_ctx: JobContext[Any] | None = None) -> Any:
        return await one(ctx, call_next)

    return call


class RecordedLink:
    """What the context of a running handler may write to the record of its run, fenced by its attempt."""

    __slots__ = ("_claim", "_loop", "_lost", "_store")

    def __init__(
        self, *, claim: Claim, store: Store, loop: asyncio.AbstractEventLoop, lost: Callable[[str], None]
    ) -> None:
        self._claim = claim
        self._store = store
        self._loop = loop
        self._lost = lost

    async def save_progress(self, fraction: float, message: str | None) -> None:
        text = codec.encode({"fraction": fraction, "message": message})
        self._check(await self._store.save_progress(self._claim.fence, text))

    async def save_checkpoint(self, state: Mapping[str, Any]) -> None:
        self._check(await self._store.save_checkpoint(self._claim.fence, codec.encode(dict(state))))

    def run_on_loop(self, make: Callable[[], Awaitable[Any]]) -> Any:
        async def work() -> Any:
            return await make()

        return asyncio.run_coroutine_threadsafe(work(), self._loop).result()

    def _check(self, was_written: bool) -> None:
        """A write that the fence refuses means that the run is somebody else's by now."""
        if not was_written:
            logger.warning("run %s is no longer owned by attempt %d", self._claim.run_id, self._claim.attempt)
            self._lost(self._claim.run_id)
