"""A run as its dispatcher sees it: what became of it, and what may still be done about it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any, Generic

from typing_extensions import TypeVar

from actorjobs.errors import RunFailed
from actorjobs.model import HistoryEntry, Run, RunState
from actorjobs.ports import Dispatcher, RunReader, find_dispatcher
from actorjobs.retry import Duration, seconds

R_co = TypeVar("R_co", covariant=True)


class RunHandle(Generic[R_co]):
    """One run, with its result typed. It holds an id and no connection: what it tells is asked for each time."""

    __slots__ = ("_decode", "_dispatcher", "_job", "_runs", "existing", "id")

    def __init__(
        self,
        id: str,
        *,
        job: str,
        decode: Callable[[Any], R_co],
        runs: RunReader | None = None,
        dispatcher: Dispatcher | None = None,
        existing: bool = False,
    ) -> None:
        """`decode` makes a result of its JSON value; without `runs` or `dispatcher` the runtime is looked up."""
        self.id = id
        self.existing = existing
        self._job = job
        self._decode = decode
        self._runs = runs
        self._dispatcher = dispatcher

    async def run(self) -> Run:
        """The run as it stands. `RunNotFound` when it was never accepted or has been deleted."""
        return await self._reader.get(self.id)

    async def result(self, timeout: Duration | None = None) -> R_co:
        """What the handler returned, once the run has succeeded.

        `RunFailed` when it ends in another way, `ResultTimeout` after `timeout` seconds (the run goes on),
        `ResultInvalid` when the stored result no longer fits the declared type.
        """
        limit = None if timeout is None else seconds(timeout, "timeout")
        run = await self._reader.wait(self.id, limit)
        if run.state is not RunState.SUCCEEDED:
            raise _failure(run)
        return self._decode(run.result)

    async def cancel(self, reason: str | None = None) -> Run:
        """Cancel the run: at once while it waits, as soon as its handler lets go while it runs."""
        return await self._reader.cancel(self.id, reason=reason)

    async def replay(self, *, delay: Duration | None = None, reason: str | None = None) -> RunHandle[R_co]:
        """Ask for a new run with the same payload, linked to this one by `replay_of`."""
        wait = None if delay is None else seconds(delay, "delay")
        new_id = await self._reader.replay_run(self.id, delay=wait, reason=reason)
        return RunHandle(new_id, job=self._job, decode=self._decode, runs=self._runs, dispatcher=self._dispatcher)

    def events(self) -> AsyncIterator[HistoryEntry]:
        """Every step in the life of the run, from its acceptance to its end, as it happens."""
        return self._reader.events(self.id)

    @property
    def _reader(self) -> RunReader:
        if self._runs is not None:
            return self._runs
        # Asked each time: a runtime that was closed and opened again has another reader.
        return (self._dispatcher or find_dispatcher(self._job)).runs

    def __repr__(self) -> str:
        return f"<run {self.id} of {self._job!r}>"


def _failure(run: Run) -> RunFailed:
    error = run.errors[-1] if run.errors else None
    why = f": {error.name}: {error.message}" if error else f": {run.reason}" if run.reason else ""
    attempts = f" after {run.attempt} attempts" if run.attempt > 1 else ""
    return RunFailed(f"run {run.id} of {run.job!r} is {run.state}{attempts}{why}", run_id=run.id, state=run.state)
