"""A runtime in a FastAPI application: all that Starlette's module has, and the tenant as a dependency.

    app = FastAPI(lifespan=lifespan(runtime), dependencies=[Depends(within_tenant(account_of_token))])

Needs `actorjobs[fastapi]`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from typing import Any

try:
    from fastapi import Depends, HTTPException
except ModuleNotFoundError as missing:
    raise ImportError("this needs FastAPI: pip install 'actorjobs[fastapi]'") from missing

from actorjobs.errors import InvalidOption
from actorjobs.integrations.starlette import TenantMiddleware, TraceMiddleware, lifespan
from actorjobs.jobs.options import check_tenant
from actorjobs.tenancy import tenant

__all__ = ["TenantMiddleware", "TraceMiddleware", "lifespan", "within_tenant"]


def within_tenant(dependency: Callable[..., Any]) -> Callable[..., AsyncGenerator[str | None]]:
    """A dependency that has the request dispatch, read and manage for the tenant that `dependency` gives.

    `dependency` is one like any other, with parameters and dependencies of its own, and gives the tenant's name or
    None. A name that no tenant can have is answered with 400.
    """

    async def within(name: Any = Depends(dependency)) -> AsyncGenerator[str | None]:  # noqa: B008 - FastAPI's way
        try:
            checked = None if name is None else check_tenant(name)
        except InvalidOption as error:
            raise HTTPException(400, str(error)) from None
        # `async def`, so that this happens in the request's own task: endpoints of both kinds inherit it.
        with tenant(checked):
            yield checked

    return within
