"""Policy: who may do what with runs and queues. It is asked at every entry, and whatever goes wrong in it denies."""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Final, Literal, Protocol, TypeAlias

from actorjobs.errors import InvalidOption, PolicyDenied
from actorjobs.model import Envelope, Run
from actorjobs.tenancy import current_tenant

logger = logging.getLogger("actorjobs.policy")

Action: TypeAlias = Literal["enqueue", "read", "cancel", "replay", "retry", "reschedule", "delete", "pause"]
"""`replay` makes a new run of an old one (`envelope` is what it asks for) and needs no leave to `enqueue`; `retry`
reopens a run; `pause` stands for pausing, resuming and scaling a queue."""

ANSWER_SECONDS: Final = 5.0
"""How long a policy may take to answer; one that takes longer denies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """What somebody asks to do.

    `caller` is the tenant in force where the call was made (`current_tenant()`), None outside of any; `tenant` is whose
    run it is about. A list or a count of runs is asked for first as a whole, with neither run nor envelope and with the
    tenant that it is limited to; then for each run that it found.
    """

    action: Action
    caller: str | None
    tenant: str | None = None
    job: str | None = None
    queue: str | None = None
    run: Run | None = None
    envelope: Envelope | None = None


class Policy(Protocol):
    """An application's policy: any object with such a method."""

    def allows(self, access: Access, /) -> Awaitable[bool] | bool:
        """True allows; anything else, an exception, or no answer within five seconds denies."""
        ...


class Guard:
    """Asks the policy, if there is one."""

    def __init__(self, policy: Policy | None) -> None:
        if policy is not None and (isinstance(policy, type) or not callable(getattr(policy, "allows", None))):
            raise InvalidOption("policy= takes an object (no class) with a method allows(access)")
        self._policy = policy

    @property
    def is_on(self) -> bool:
        return self._policy is not None

    async def enqueue(self, envelope: Envelope) -> None:
        """`PolicyDenied` unless this run may be asked for."""
        if self._policy is not None:
            await self._check(
                Access(
                    action="enqueue",
                    caller=current_tenant(),
                    tenant=envelope.tenant,
                    job=envelope.job,
                    queue=envelope.queue,
                    envelope=envelope,
                )
            )

    async def run(self, action: Action, run: Run, envelope: Envelope | None = None) -> None:
        """`PolicyDenied` unless this may be done with the run; `envelope` is what a replay would ask for."""
        if self._policy is not None:
            await self._check(_to_run(action, run, envelope))

    async def may_read(self, run: Run) -> bool:
        """Whether the run may be shown in a list."""
        return self._policy is None or await self._allows(_to_run("read", run))

    async def runs(self, *, tenant: str | None = None, job: str | None = None, queue: str | None = None) -> None:
        """`PolicyDenied` unless runs so chosen, by default all, may be listed or counted."""
        if self._policy is not None:
            await self._check(Access(action="read", caller=current_tenant(), tenant=tenant, job=job, queue=queue))

    async def queue(self, name: str) -> None:
        """`PolicyDenied` unless the queue may be paused, resumed and scaled."""
        if self._policy is not None:
            await self._check(Access(action="pause", caller=current_tenant(), queue=name))

    async def _check(self, access: Access) -> None:
        if not await self._allows(access):
            what = access.job or access.queue or "runs"
            raise PolicyDenied(f"the application's policy does not allow to {access.action} {what!r} here")

    async def _allows(self, access: Access) -> bool:
        assert self._policy is not None
        began = time.monotonic()
        try:
            answer = self._policy.allows(access)
            if inspect.isawaitable(answer):
                answer = await asyncio.wait_for(answer, ANSWER_SECONDS)
        except Exception:
            logger.exception("the policy failed on %r: that denies it", access.action)
            return False
        # One that blocks the loop cannot be interrupted; its answer comes too late all the same.
        return answer is True and time.monotonic() - began < ANSWER_SECONDS


def _to_run(action: Action, run: Run, envelope: Envelope | None = None) -> Access:
    return Access(
        action=action,
        caller=current_tenant(),
        tenant=run.tenant,
        job=run.job,
        queue=run.queue,
        run=run,
        envelope=envelope,
    )
