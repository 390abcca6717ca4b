"""A handler's context without any runtime, for tests that call the handler directly."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from typing import Any, TypedDict, TypeVar

from actorjobs import codec
from actorjobs.jobs.actor import Actor
from actorjobs.jobs.context import C, JobContext
from actorjobs.jobs.dispatch import Order
from actorjobs.jobs.handle import RunHandle
from actorjobs.model import CancelReason, Envelope, new_id, new_traceparent

R = TypeVar("R")


class FakeFields(TypedDict, total=False):
    """What a test may say about the attempt that `JobContext.fake` stands for; `state` is an earlier checkpoint."""

    run_id: str
    job: str
    queue: str
    attempt: int
    failures: int
    max_attempts: int
    tenant: str | None
    traceparent: str | None
    deadline: datetime | None
    state: dict[str, Any]
    cancel_reason: CancelReason | None
    actor: Actor | None


class FakeContext(JobContext[C]):
    """Records what the handler reports (`progresses`), keeps (`checkpoints`) and asks for (`dispatches`)."""

    __slots__ = ("checkpoints", "dispatches", "progresses")

    def __init__(self, app: C, fields: FakeFields) -> None:
        unknown = set(fields) - set(FakeFields.__annotations__)
        if unknown:
            raise TypeError(f"JobContext.fake() knows no {', '.join(sorted(unknown))}")
        state = fields.get("state")
        super().__init__(
            run_id=fields.get("run_id") or new_id(),
            job=fields.get("job", "fake:job"),
            queue=fields.get("queue", "default"),
            attempt=fields.get("attempt", 1),
            failures=fields.get("failures", 0),
            max_attempts=fields.get("max_attempts", 5),
            tenant=fields.get("tenant"),
            traceparent=fields.get("traceparent") or new_traceparent(),
            deadline=fields.get("deadline"),
            app=app,
            link=self,
            actor=fields.get("actor"),
            checkpoint=codec.encode(state, what="state", limit=codec.LIMITS.checkpoint) if state else None,
        )
        self.cancel_reason = fields.get("cancel_reason")
        self.progresses: list[tuple[float, str | None]] = []
        self.checkpoints: list[Mapping[str, Any]] = []
        self.dispatches: list[Envelope] = []

    async def save_progress(self, fraction: float, message: str | None) -> None:
        """Record a progress."""
        self.progresses.append((fraction, message))

    async def save_checkpoint(self, state: Mapping[str, Any]) -> None:
        """Record a checkpoint."""
        self.checkpoints.append(state)

    def run_on_loop(self, make: Callable[[], Awaitable[Any]]) -> Any:
        """Do it here and now: nothing that a fake context does ever waits."""
        try:
            next(make().__await__())
        except StopIteration as done:
            return done.value
        raise RuntimeError("a fake context cannot wait for anything")

    async def _send(self, order: Order[R]) -> RunHandle[R]:
        self.dispatches.append(order.envelope)
        return RunHandle(order.envelope.id, job=order.envelope.job, decode=order.decode)
