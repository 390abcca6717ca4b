"""Every metric as data: the instruments, the table in the documentation, the dashboards and the rules are made from
this list or held against it.

No attribute has more values than an application has queues, jobs and kinds of errors: no ids, no attempts, no workers.
A tenant is told of only where it was named as one to be told of.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from actorjobs.telemetry import conventions as names

SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
"""Bounds of buckets, as the semantic conventions advise for messaging."""

LONG_SECONDS: Final = (
    *(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0),
    *(10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0),
)
"""Bounds up to an hour, for what jobs take. A quantile is read off between two of them: fewer would make it a guess."""

SLOT_STATE: Final = "actorjobs.slot.state"
QUEUED_STATE: Final = "actorjobs.queue.state"
SWEEP_NAME: Final = "actorjobs.sweep.name"
SWEEP_OUTCOME: Final = "actorjobs.sweep.outcome"
HINT_OUTCOME: Final = "actorjobs.hint.outcome"
OTHER: Final = "_other"
"""Stands for every tenant that was not named as one to be told of."""


class Kind(StrEnum):
    """What an instrument is. Where several runtimes of a process report a series, counts and sums are added up, of
    gauges the largest counts."""

    COUNTER = "counter"
    HISTOGRAM = "histogram"
    SUM = "updowncounter"
    """A number that falls too, and that means something when added up over processes."""
    GAUGE = "gauge"


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One metric. `attributes` are all that its series may have."""

    name: str
    kind: Kind
    unit: str
    about: str
    attributes: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()
    is_global: bool = False
    """Reported by one worker for all: never to be added up."""

    @property
    def in_prometheus(self) -> str:
        """Its name there; that of a histogram has `_bucket`, `_sum` and `_count` behind it."""
        name = self.name.replace(".", "_")
        unit = "_seconds" if self.unit == "s" else ""
        return f"{name}{unit}{'_total' if self.kind is Kind.COUNTER else ''}"


def label(attribute: str) -> str:
    """The name of an attribute's label in Prometheus."""
    return attribute.replace(".", "_")


_CLIENT = (
    names.MESSAGING_SYSTEM,
    names.MESSAGING_OPERATION_NAME,
    names.MESSAGING_DESTINATION_NAME,
    names.SERVER_ADDRESS,
    names.SERVER_PORT,
    names.ERROR_TYPE,
)
_QUEUE = (names.QUEUE_NAME,)
_JOB = (names.QUEUE_NAME, names.JOB_NAME)
_RUN = (*_JOB, names.TENANT_ID)

SENT = Metric(
    name=names.MESSAGING_CLIENT_SENT_MESSAGES,
    kind=Kind.COUNTER,
    unit="{message}",
    about="Runs dispatched; with an error, dispatches that failed",
    attributes=_CLIENT,
)
OPERATION_DURATION = Metric(
    name=names.MESSAGING_CLIENT_OPERATION_DURATION,
    kind=Kind.HISTOGRAM,
    unit="s",
    about="How long a dispatch (send) took to be committed, or the outcome of an attempt (settle), one at a time",
    attributes=(*_CLIENT, names.MESSAGING_OPERATION_TYPE),
    bounds=SECONDS,
)
CONSUMED = Metric(
    name=names.MESSAGING_CLIENT_CONSUMED_MESSAGES,
    kind=Kind.COUNTER,
    unit="{message}",
    about="Runs handed to a handler, each attempt once",
    attributes=_CLIENT,
)
PROCESS_DURATION = Metric(
    name=names.MESSAGING_PROCESS_DURATION,
    kind=Kind.HISTOGRAM,
    unit="s",
    about="How long attempts took, as the semantic conventions have it",
    attributes=_CLIENT,
    bounds=SECONDS,
)
QUEUE_WAIT = Metric(
    name="actorjobs.queue.wait.duration",
    kind=Kind.HISTOGRAM,
    unit="s",
    about="How long runs that were due waited for their claim",
    attributes=_RUN,
    bounds=LONG_SECONDS,
)
ATTEMPT_DURATION = Metric(
    name="actorjobs.attempt.duration",
    kind=Kind.HISTOGRAM,
    unit="s",
    about="How long attempts took",
    attributes=(*_RUN, names.ATTEMPT_OUTCOME, names.ERROR_TYPE),
    bounds=LONG_SECONDS,
)
RUN_DURATION = Metric(
    name="actorjobs.run.duration",
    kind=Kind.HISTOGRAM,
    unit="s",
    about="From the acceptance of a run to its end, delays and retries included",
    attributes=(*_RUN, names.RUN_STATE),
    bounds=LONG_SECONDS,
)
RUNS = Metric(
    name="actorjobs.runs",
    kind=Kind.COUNTER,
    unit="{run}",
    about="Runs that came to their end, by their last state",
    attributes=(*_RUN, names.RUN_STATE),
)
RETRIES = Metric(
    name="actorjobs.retries",
    kind=Kind.COUNTER,
    unit="{run}",
    about="Failed attempts after which the run is tried again",
    attributes=_JOB,
)
DEAD_LETTERS = Metric(
    name="actorjobs.dead_letters", kind=Kind.COUNTER, unit="{run}", about="Runs given up", attributes=_JOB
)
LEASES_LOST = Metric(
    name="actorjobs.leases.lost",
    kind=Kind.COUNTER,
    unit="{run}",
    about="Attempts whose worker died or lost its lease, counted by whoever took the run back",
    attributes=_JOB,
)
DEDUPLICATED = Metric(
    name="actorjobs.enqueue.deduplicated",
    kind=Kind.COUNTER,
    unit="{run}",
    about="Dispatches that were given a run that existed",
    attributes=_JOB,
)
STALE_SETTLES = Metric(
    name="actorjobs.settles.stale",
    kind=Kind.COUNTER,
    unit="{attempt}",
    about="Outcomes that came too late: somebody else owned the run by then",
    attributes=_JOB,
)
QUEUE_DEPTH = Metric(
    name="actorjobs.queue.depth",
    kind=Kind.GAUGE,
    unit="{run}",
    about="Runs in the store: ready, scheduled, retrying, running, dead_lettered",
    attributes=(*_QUEUE, QUEUED_STATE),
    is_global=True,
)
OLDEST_AGE = Metric(
    name="actorjobs.queue.oldest_age",
    kind=Kind.GAUGE,
    unit="s",
    about="For how long the run that waits longest has been due",
    attributes=_QUEUE,
    is_global=True,
)
OUTBOX_PENDING = Metric(
    name="actorjobs.outbox.pending",
    kind=Kind.GAUGE,
    unit="{run}",
    about="Runs that are due and of which the broker is not known to have been told",
    is_global=True,
)
OUTBOX_AGE = Metric(
    name="actorjobs.outbox.oldest_age",
    kind=Kind.GAUGE,
    unit="s",
    about="For how long the first of them has been due",
    is_global=True,
)
QUARANTINED = Metric(
    name="actorjobs.quarantine.size",
    kind=Kind.GAUGE,
    unit="{message}",
    about="Messages from the broker that are no hints, kept for somebody to look at",
    is_global=True,
)
SLOTS = Metric(
    name="actorjobs.worker.slots",
    kind=Kind.SUM,
    unit="{slot}",
    about="Places of a pool in use: busy with a handler, or settling what it came to",
    attributes=(*_QUEUE, SLOT_STATE),
)
SLOTS_LIMIT = Metric(
    name="actorjobs.worker.slots.limit",
    kind=Kind.SUM,
    unit="{slot}",
    about="Runs that the pool may perform at once",
    attributes=_QUEUE,
)
MAILBOX_SIZE = Metric(
    name="actorjobs.actor.mailbox.size",
    kind=Kind.SUM,
    unit="{run}",
    about="Runs claimed that no actor of the pool has taken yet",
    attributes=_QUEUE,
)
LOOP_LAG = Metric(
    name="actorjobs.worker.loop.lag",
    kind=Kind.HISTOGRAM,
    unit="s",
    about="How much later than asked the event loop called, looked at every second",
    bounds=SECONDS,
)
SWEEPS = Metric(
    name="actorjobs.sweeps",
    kind=Kind.COUNTER,
    unit="{call}",
    about="Calls of a worker's periodic duties (expiry, rescue, relay and others), done or failed",
    attributes=(SWEEP_NAME, SWEEP_OUTCOME),
)
SWEEP_DURATION = Metric(
    name="actorjobs.sweep.last_duration",
    kind=Kind.GAUGE,
    unit="s",
    about="How long the last call of a duty took",
    attributes=(SWEEP_NAME,),
)
OBSERVATIONS_DROPPED = Metric(
    name="actorjobs.observations.dropped",
    kind=Kind.COUNTER,
    unit="{observation}",
    about="Observations that the application's observers were too slow for",
)
BROKER_CONNECTED = Metric(
    name="actorjobs.broker.connected", kind=Kind.GAUGE, unit="1", about="1 while the connection to publish on stands"
)
BROKER_BLOCKED = Metric(
    name="actorjobs.broker.blocked",
    kind=Kind.GAUGE,
    unit="1",
    about="1 while the broker takes nothing, for want of memory or disk",
)
BROKER_HINTS = Metric(
    name="actorjobs.broker.hints",
    kind=Kind.COUNTER,
    unit="{hint}",
    about="Hints published, by what became of them: confirmed, returned, refused, or timed_out without a confirm",
    attributes=(HINT_OUTCOME,),
)
BROKER_PENDING = Metric(
    name="actorjobs.broker.hints.pending",
    kind=Kind.SUM,
    unit="{hint}",
    about="Hints on their way to the broker, confirms included",
)

METRICS: Final = (
    *(SENT, OPERATION_DURATION, CONSUMED, PROCESS_DURATION),
    *(
        QUEUE_WAIT,
        ATTEMPT_DURATION,
        RUN_DURATION,
        RUNS,
        RETRIES,
        DEAD_LETTERS,
        LEASES_LOST,
        DEDUPLICATED,
        STALE_SETTLES,
    ),
    *(QUEUE_DEPTH, OLDEST_AGE, OUTBOX_PENDING, OUTBOX_AGE, QUARANTINED),
    *(SLOTS, SLOTS_LIMIT, MAILBOX_SIZE, LOOP_LAG, SWEEPS, SWEEP_DURATION, OBSERVATIONS_DROPPED),
    *(BROKER_CONNECTED, BROKER_BLOCKED, BROKER_HINTS, BROKER_PENDING),
)
"""All of them, in the order in which the documentation has them."""


def table() -> str:
    """The list as a table of the documentation (Markdown)."""
    rows = ["| metric | kind, unit | attributes | what it says |", "|---|---|---|---|"]
    for one in METRICS:
        attributes = ", ".join(f"`{attribute}`" for attribute in one.attributes) or "-"
        where = " (one worker tells for all)" if one.is_global else ""
        rows.append(f"| `{one.name}` | {one.kind}, {one.unit} | {attributes} | {one.about}{where} |")
    return "\n".join([*rows, ""])
