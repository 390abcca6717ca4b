"""The attempt or request at hand, as context variables: tasks and threads below inherit them."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from contextvars import Context, ContextVar
from typing import TYPE_CHECKING, Any

from actorjobs.errors import ContextMissing

if TYPE_CHECKING:
    from actorjobs.jobs.context import JobContext

_context: ContextVar[JobContext[Any] | None] = ContextVar("actorjobs_context", default=None)
_trace: ContextVar[Mapping[str, str] | None] = ContextVar("actorjobs_trace", default=None)


def current_context() -> JobContext[Any]:
    """The context of the handler that this code runs for; `ContextMissing` outside of one."""
    context = _context.get()
    if context is None:
        raise ContextMissing("current_context() is known only below a running handler: pass what you need instead")
    return context


def running_context() -> JobContext[Any] | None:
    """The same, or None outside of a handler."""
    return _context.get()


def bind_context(context: JobContext[Any] | None) -> None:
    """Make `context` the current one, for the rest of this `contextvars` context; each attempt has one of its own."""
    _context.set(context)


def context_in(variables: Context) -> JobContext[Any] | None:
    """The attempt that these context variables belong to; None for none. May be asked from another thread."""
    return variables.get(_context)


@contextmanager
def dispatching_in(trace: Mapping[str, str]) -> Generator[None]:
    """Have what is dispatched below this block, but in no handler, carry this `traceparent, tracestate, baggage`."""
    token = _trace.set(trace)
    try:
        yield
    finally:
        _trace.reset(token)


def current_trace() -> Mapping[str, str]:
    """The trace context of the request at hand; empty outside of one."""
    return _trace.get() or {}
