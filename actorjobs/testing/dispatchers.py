"""Stand-ins for a runtime in tests of the code that dispatches: one performs at once, one only takes notes."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from contextvars import copy_context
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from types import TracebackType
from typing import Any, Self

from actorjobs.codec import decode, truncate_error
from actorjobs.errors import Cancel, IdempotencyConflict, InvalidOption, ResultTimeout, RunNotFound, Snooze
from actorjobs.jobs import Definition, RunHandle, definition_of, order_for
from actorjobs.model import Envelope, HistoryEntry, Run, RunState, new_id
from actorjobs.ports import Accepted, Transaction, dispatching_through
from actorjobs.worker.perform_here import perform_here

OnError = Callable[[BaseException, str], None]


class StandIn:
    """What both have in common: they accept envelopes, and inside `with` every dispatch goes to them."""

    def __init__(self) -> None:
        self._runs: dict[str, Run] = {}
        self._envelopes: dict[str, Envelope] = {}
        self._keys: dict[tuple[str | None, str, str], Envelope] = {}
        self._override: AbstractContextManager[None] | None = None

    def __enter__(self) -> Self:
        self._override = dispatching_through(self)
        self._override.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._override is not None:
            self._override.__exit__(kind, error, trace)

    @property
    def runs(self) -> Self:
        return self

    def knows(self, job: str) -> bool:
        return True

    async def dispatch(self, job: Any, /, *args: Any, **options: Any) -> RunHandle[Any]:
        """The same as `job.dispatch(...)`, through this dispatcher: the port that application code is given."""
        return await order_for(job, *args, **options).send(self)

    async def accept(self, envelope: Envelope, *, tx: Transaction | None = None) -> Accepted:
        existing = self._known(envelope)
        if existing is None:
            await self._take(envelope)
        return Accepted(run_id=existing or envelope.id, existing=existing is not None)

    def _known(self, envelope: Envelope) -> str | None:
        """The run that holds the envelope's key; `IdempotencyConflict` where it asks for something else."""
        key = (envelope.tenant, envelope.job, envelope.idempotency_key or envelope.id)
        first = self._keys.setdefault(key, envelope)
        if first is envelope:
            self._envelopes[envelope.id] = envelope
            return None
        if (first.payload, first.constructor_args) != (envelope.payload, envelope.constructor_args):
            raise IdempotencyConflict(
                f"the idempotency key was used for {envelope.job} with another payload", run_id=first.id
            )
        return first.id

    def accept_sync(self, envelope: Envelope, *, tx: Transaction | None = None) -> Accepted:
        raise NotImplementedError

    async def _take(self, envelope: Envelope) -> None:
        raise NotImplementedError

    # what a RunHandle asks for

    async def get(self, run_id: str) -> Run:
        try:
            return self._runs[run_id]
        except KeyError:
            raise RunNotFound(f"nothing with id {run_id} was dispatched through this {type(self).__name__}") from None

    async def wait(self, run_id: str, timeout: float | None) -> Run:
        run = await self.get(run_id)
        if run.finished_at is None:
            raise ResultTimeout(f"run {run_id} was only recorded, nobody performs it")
        return run

    async def events(self, run_id: str) -> AsyncIterator[HistoryEntry]:
        run = await self.get(run_id)
        yield HistoryEntry(at=run.inserted_at, event="accepted", state=RunState.QUEUED, attempt=0)
        if run.finished_at is not None:
            yield HistoryEntry(at=run.finished_at, event=run.state, state=run.state, attempt=run.attempt)

    async def cancel(self, run_id: str, *, reason: str | None = None) -> Run:
        run = await self.get(run_id)
        if run.finished_at is None:
            run = replace(run, state=RunState.CANCELED, canceled_at=datetime.now(UTC), reason=reason)
            self._runs[run_id] = run
        return run

    async def replay_run(self, run_id: str, *, delay: Any = None, reason: str | None = None) -> str:
        await self.get(run_id)
        changes = {"id": new_id(), "replay_of": run_id, "idempotency_key": None, "delay": delay, "run_at": None}
        return (await self.accept(self._envelopes[run_id].model_copy(update=changes))).run_id


class InlineDispatcher(StandIn):
    """Performs every dispatch at once, in the caller's process, once: `with InlineDispatcher(app=...):`.

    Delays are not waited for and failures are not retried. A failing handler's error goes to `on_error(error, job)`;
    without one it is raised by the dispatch. `jobs` is needed only for jobs that are defined inside functions.
    """

    def __init__(self, *, jobs: Iterable[Any] = (), app: Any = None, on_error: OnError | None = None) -> None:
        super().__init__()
        self._definitions = {definition.name: definition for definition in map(definition_of, jobs)}
        self._app = app
        self._on_error = on_error

    async def _take(self, envelope: Envelope) -> None:
        definition = self._definition(envelope)
        try:
            result = await perform_here(definition, envelope, dispatcher=self, app=self._app)
        except Snooze as snooze:
            self._runs[envelope.id] = _accepted(envelope, wait=snooze.delay)
        except Cancel as canceled:
            ended = replace(_accepted(envelope), state=RunState.CANCELED, canceled_at=datetime.now(UTC))
            self._runs[envelope.id] = replace(ended, attempt=1, reason=canceled.reason)
        except Exception as error:
            self._runs[envelope.id] = _finished(envelope, RunState.DEAD_LETTERED, error=error)
            if self._on_error is None:
                raise
            self._on_error(error, envelope.job)
        else:
            self._runs[envelope.id] = _finished(envelope, RunState.SUCCEEDED, result=_plain(definition, result))

    def accept_sync(self, envelope: Envelope, *, tx: Transaction | None = None) -> Accepted:
        """The same in a thread with a loop of its own, so that it works wherever it is called."""
        with ThreadPoolExecutor(1) as thread:
            work = partial(asyncio.run, self.accept(envelope, tx=tx))
            return thread.submit(copy_context().run, work).result()

    def _definition(self, envelope: Envelope) -> Definition:
        """The job of that name: one that was given, or the one that its `script` names among loaded modules."""
        known = self._definitions.get(envelope.job)
        if known is not None:
            return known
        module, _, path = (envelope.script or "").partition(":")
        value: Any = sys.modules.get(module)
        for name in path.split("."):
            value = getattr(value, name, None)
        try:
            return definition_of(value)
        except InvalidOption:
            raise InvalidOption(
                f"InlineDispatcher does not know the job {envelope.job!r}: give it as InlineDispatcher(jobs=[...])"
            ) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Dispatched:
    """One recorded dispatch."""

    job: str
    payload: Any
    queue: str
    envelope: Envelope


class RecordingDispatcher(StandIn):
    """Takes notes of every dispatch and performs nothing: `with RecordingDispatcher() as recorded:`."""

    def __init__(self) -> None:
        super().__init__()
        self.dispatches: list[Dispatched] = []

    async def _take(self, envelope: Envelope) -> None:
        self._note(envelope)

    def accept_sync(self, envelope: Envelope, *, tx: Transaction | None = None) -> Accepted:
        existing = self._known(envelope)
        if existing is None:
            self._note(envelope)
        return Accepted(run_id=existing or envelope.id, existing=existing is not None)

    def _note(self, envelope: Envelope) -> None:
        self._runs[envelope.id] = _accepted(envelope)
        self.dispatches.append(
            Dispatched(job=envelope.job, payload=envelope.payload, queue=envelope.queue, envelope=envelope)
        )

    def of(self, job: Any) -> Sequence[Dispatched]:
        """The dispatches of one job, given as the job or by its name."""
        name = job if isinstance(job, str) else _name_of(job)
        return [dispatched for dispatched in self.dispatches if dispatched.job == name]

    def assert_dispatched(
        self, job: Any, payload: Any = None, *, times: int | None = None, **options: Any
    ) -> Dispatched:
        """Fail unless the job was dispatched (so many times), with this payload and these envelope fields if given."""
        found = [one for one in self.of(job) if _fits(one.envelope, payload, options)]
        wanted = f"{_name_of(job)!r}" + (f" with {payload!r}" if payload is not None else "")
        wanted += f" and {options!r}" if options else ""
        seen = ", ".join(f"{one.job} {one.payload!r}" for one in self.dispatches) or "nothing"
        if times is not None and len(found) != times:
            raise AssertionError(f"{wanted} was dispatched {len(found)} times, not {times}; dispatched was: {seen}")
        if not found and times != 0:
            raise AssertionError(f"{wanted} was not dispatched; dispatched was: {seen}")
        return found[0] if found else Dispatched(job=_name_of(job), payload=None, queue="", envelope=_NOTHING)

    def assert_not_dispatched(self, job: Any) -> None:
        found = self.of(job)
        if found:
            first = found[0].payload
            raise AssertionError(f"{_name_of(job)!r} was dispatched {len(found)} times, first with {first!r}")

    def assert_nothing_dispatched(self) -> None:
        if self.dispatches:
            raise AssertionError(f"dispatched was: {', '.join(one.job for one in self.dispatches)}")


_NOTHING = Envelope(job="none", queue="none")


def _name_of(job: Any) -> str:
    name = job if isinstance(job, str) else getattr(job, "name", None)
    if not isinstance(name, str):
        raise InvalidOption("name the job itself, or its name as a string")
    return name


def _fits(envelope: Envelope, payload: Any, options: dict[str, Any]) -> bool:
    wanted = payload.model_dump(mode="json") if hasattr(payload, "model_dump") else payload
    return (wanted is None or envelope.payload == wanted) and all(
        getattr(envelope, name, None) == (value.total_seconds() if isinstance(value, timedelta) else value)
        for name, value in options.items()
    )


def _plain(definition: Definition, result: Any) -> Any:
    text = definition.encode_result(result)
    return None if text is None else decode(text)


def _accepted(envelope: Envelope, wait: float | None = None) -> Run:
    now = datetime.now(UTC)
    due = max(envelope.run_at or now, now + timedelta(seconds=wait or envelope.delay or 0))
    return Run(
        id=envelope.id,
        namespace="test",
        job=envelope.job,
        version=envelope.version,
        queue=envelope.queue,
        state=RunState.SCHEDULED if due > now or wait is not None else RunState.QUEUED,
        hold=None,
        tenant=envelope.tenant,
        priority=envelope.priority,
        payload=envelope.payload,
        constructor_args=envelope.constructor_args,
        result=None,
        progress=None,
        checkpoint=None,
        errors=(),
        attempt=0,
        failures=0,
        losses=0,
        max_attempts=envelope.max_attempts,
        timeout=envelope.timeout,
        inserted_at=now,
        available_at=due,
        expires_at=None,
        claimed_at=None,
        attempted_at=None,
        completed_at=None,
        failed_at=None,
        canceled_at=None,
        expired_at=None,
        claimed_by=None,
        cancel_requested_at=None,
        reason=None,
        script=envelope.script,
        unique_digest=None,
        uniqueness_config=None,
        idempotency_key=envelope.idempotency_key,
        traceparent=envelope.traceparent,
        trace_id=envelope.trace_id,
        replay_of=envelope.replay_of,
        parent=envelope.parent,
        tags=envelope.tags,
        meta=envelope.meta,
    )


def _finished(envelope: Envelope, state: RunState, *, result: Any = None, error: BaseException | None = None) -> Run:
    now = datetime.now(UTC)
    has_failed = error is not None
    return replace(
        _accepted(envelope),
        state=state,
        attempt=1,
        failures=int(has_failed),
        result=result,
        errors=() if error is None else (replace(truncate_error(error), attempt=1, attempted_at=now),),
        attempted_at=now,
        completed_at=None if has_failed else now,
        failed_at=now if has_failed else None,
    )
