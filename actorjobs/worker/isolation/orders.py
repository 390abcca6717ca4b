"""An attempt on its way to a child, and its verdict on the way back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import orjson

from actorjobs import codec
from actorjobs.jobs import Definition, JobContext
from actorjobs.lifecycle import Ending
from actorjobs.model import Outcome
from actorjobs.ports import AttemptLink, Claim
from actorjobs.retry import Retry
from actorjobs.worker.isolation.messages import Garbled, Message
from actorjobs.worker.isolation.places import find
from actorjobs.worker.isolation.plan import error_places
from actorjobs.worker.outcome import Verdict

_CONTEXT = ("run_id", "job", "queue", "attempt", "failures", "max_attempts", "tenant", "traceparent")


def order_for(
    definition: Definition,
    claim: Claim,
    ctx: JobContext[Any],
    *,
    dice: float,
    trace: Mapping[str, str] | None = None,
) -> Message:
    """All that a child needs for one attempt. `dice` is its share of chance: a child throws none of its own. `trace` is
    what its spans are to be below; None where nobody records any."""
    retry = definition.retry if claim.retry is None else definition.retry.overridden_by(orjson.loads(claim.retry))
    return {
        "say": "run",
        "script": definition.script,
        "payload": claim.payload,
        "version": claim.version,
        "constructor_args": claim.constructor_args,
        "context": {name: getattr(ctx, name) for name in _CONTEXT},
        "deadline": None if ctx.deadline is None else ctx.deadline.isoformat(),
        "checkpoint": claim.checkpoint,
        "retry": Retry(retry.attempts, retry.backoff, max_elapsed=retry.max_elapsed).to_json(),
        "errors": error_places(definition),
        "waited": (claim.claimed_at - claim.inserted_at).total_seconds(),
        "dice": dice,
        "trace": trace,
    }


def context_of(order: Message, *, app: Any, link: AttemptLink) -> JobContext[Any]:
    """What the handler sees, made anew in the child."""
    deadline = order["deadline"]
    return JobContext(
        **order["context"],
        deadline=None if deadline is None else datetime.fromisoformat(deadline),
        app=app,
        link=link,
        checkpoint=order["checkpoint"],
    )


def retry_of(order: Message, definition: Definition) -> Retry:
    """The policy in force: figures from the worker, exception classes from the job or else from the defaults."""
    places: Mapping[str, Any] = order["errors"]
    if places:
        on = None if places["on"] is None else tuple(map(find, places["on"]))
        kinds = Retry(on=on, never=tuple(map(find, places["never"])))
    else:
        kinds = definition.retry
    return kinds.overridden_by(order["retry"])


def message_of(verdict: Verdict) -> Message:
    ending = verdict.ending
    return {
        "say": "ended",
        "outcome": ending.outcome.value,
        "delay": ending.delay,
        "permanent": ending.permanent,
        "error": None if verdict.error is None else codec.encode_error(verdict.error),
        "result": verdict.result,
    }


def verdict_of(message: Message) -> Verdict:
    """What the child made of the attempt; `Garbled` if it makes no sense."""
    try:
        outcome, delay, error = Outcome(message["outcome"]), float(message["delay"]), message["error"]
        result, permanent = message["result"], message["permanent"] is True
        if outcome not in (Outcome.SUCCEEDED, Outcome.FAILED, Outcome.SNOOZED, Outcome.CANCELED):
            raise ValueError
        if not 0 <= delay < math.inf or not (result is None or isinstance(result, str)):
            raise ValueError
        return Verdict(
            ending=Ending(outcome=outcome, delay=delay, permanent=permanent),
            error=None if error is None else codec.decode_error(error),
            result=result if outcome is Outcome.SUCCEEDED else None,
        )
    except (KeyError, TypeError, ValueError):
        raise Garbled("it wrote what is no message") from None
