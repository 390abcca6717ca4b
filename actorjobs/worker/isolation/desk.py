"""What a handler in a child asks of its worker, done here on its behalf."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import copy_context
from functools import cache
from typing import Any

from pydantic import TypeAdapter

from actorjobs.jobs import JobContext
from actorjobs.model import Envelope, Run
from actorjobs.ports import Dispatcher, Tracer
from actorjobs.worker.isolation.messages import Message


class Desk:
    """Answers for one attempt, through the context and the dispatcher that the attempt would have in this process.

    `variables` are those of the attempt: whoever is asked on its behalf sees its tenant.
    """

    def __init__(
        self,
        ctx: JobContext[Any],
        dispatcher: Dispatcher,
        on_start: Callable[[], None],
        tracer: Tracer | None = None,
    ) -> None:
        self.variables = copy_context()
        self.on_start = on_start
        self._ctx = ctx
        self._dispatcher = dispatcher
        self._tracer = tracer

    async def answer(self, ask: Message) -> Any:
        """The answer as a JSON value. Raises what the same would raise here; `KeyError` for nonsense."""
        match ask["what"]:
            case "progress":
                return await self._ctx.progress(ask["fraction"], ask["message"])
            case "checkpoint":
                return await self._ctx.checkpoint(**ask["state"])
            case "accept":
                if self._tracer is not None and ask["trace"] is not None:
                    self._tracer.carry_on(ask["trace"])
                accepted = await self._dispatcher.accept(Envelope.model_validate(ask["envelope"]))
                return {"run_id": accepted.run_id, "existing": accepted.existing}
            case "get":
                return shown(await self._dispatcher.runs.get(ask["run_id"]))
            case "wait":
                return shown(await self._dispatcher.runs.wait(ask["run_id"], ask["timeout"]))
            case "cancel":
                return shown(await self._dispatcher.runs.cancel(ask["run_id"], reason=ask["reason"]))
            case "replay":
                runs = self._dispatcher.runs
                return await runs.replay_run(ask["run_id"], delay=ask["delay"], reason=ask["reason"])
            case _:
                raise KeyError(ask["what"])


def shown(run: Run) -> Any:
    """A run as JSON."""
    return _runs().dump_python(run, mode="json")


def read(value: Any) -> Run:
    """The run that `shown` wrote."""
    return _runs().validate_python(value)


@cache
def _runs() -> TypeAdapter[Run]:
    return TypeAdapter(Run)
