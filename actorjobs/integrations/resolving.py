"""Asking the application which tenant a request is for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from inspect import isawaitable
from typing import TypeVar

from actorjobs.jobs.options import check_tenant

R = TypeVar("R")

Resolve = Callable[[R], str | Awaitable[str | None] | None]
"""From a request to its tenant, None for none. On the event loop: one that waits is `async def`."""


async def tenant_of(request: R, resolve: Resolve[R]) -> str | None:
    """The tenant of this request; `InvalidOption` for a name that no tenant can have."""
    found = resolve(request)
    name = await found if isawaitable(found) else found
    return None if name is None else check_tenant(name)
