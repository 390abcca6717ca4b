"""The tenant of the work at hand, as a context variable: tasks and threads below it inherit it."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar

_tenant: ContextVar[str | None] = ContextVar("actorjobs_tenant", default=None)


def current_tenant() -> str | None:
    """The tenant set by `tenant()` or by the run being performed; None outside of both."""
    return _tenant.get()


def bind_tenant(name: str | None) -> None:
    """Set the tenant for the whole of the current context; for contexts made for one attempt."""
    _tenant.set(name)


@contextmanager
def tenant(name: str | None) -> Generator[None]:
    """Dispatch and read on behalf of `name` within the block."""
    token = _tenant.set(name)
    try:
        yield
    finally:
        _tenant.reset(token)
