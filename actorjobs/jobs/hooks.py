"""What an application may put around dispatches and handlers, and what it may be told of."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from actorjobs.errors import InvalidOption
from actorjobs.model import Envelope, Observation
from actorjobs.ports import Accepted

if TYPE_CHECKING:
    from actorjobs.jobs.context import JobContext

CallNext: TypeAlias = Callable[..., Awaitable[Any]]
"""Goes on: to the next middleware, in the end to the handler. It may be given the context, and does not need it."""

Middleware: TypeAlias = Callable[["JobContext[Any]", CallNext], Awaitable[Any]]
"""`async def middleware(ctx, call_next)`: around each attempt, in the handler's own task. What it returns is the
handler's result, what it raises is the handler's error."""

DispatchNext: TypeAlias = Callable[[Envelope], Awaitable[Accepted]]

DispatchMiddleware: TypeAlias = Callable[[Envelope, DispatchNext], Awaitable[Accepted]]
"""`async def middleware(envelope, call_next)`: around each dispatch, before the policy is asked. It may hand on another
envelope, or raise."""

Observer: TypeAlias = Callable[[Observation], Awaitable[None] | None]
"""Is told what happens, after it happened; what it raises, or how long it takes, makes no difference to any run.
A plain function is called on the event loop, and is to be quick."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hooks:
    """Everything of that kind that a runtime was given. `InvalidOption` for what cannot be called."""

    middleware: Sequence[Middleware] = ()
    dispatch_middleware: Sequence[DispatchMiddleware] = ()
    observers: Sequence[Observer] = ()

    def __post_init__(self) -> None:
        for name in ("middleware", "dispatch_middleware"):
            for given in getattr(self, name):
                if not _is_async(given) or not _takes_two(given):
                    raise InvalidOption(f"{name}= takes functions like `async def around(ctx, call_next)`")
        if not all(callable(observer) for observer in self.observers):
            raise InvalidOption("observers= takes functions of one observation")


def _is_async(value: object) -> bool:
    call = getattr(value, "__call__", None)  # noqa: B004 - an object whose class has an async __call__
    return inspect.iscoroutinefunction(value) or inspect.iscoroutinefunction(call)


def _takes_two(value: Any) -> bool:
    try:
        inspect.signature(value).bind("what", "call_next")
    except (TypeError, ValueError):
        return False
    return True
