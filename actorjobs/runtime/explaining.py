"""Why a run is not running: `runtime.runs.explain`. First what is known is read, then a pure function judges it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from actorjobs.errors import BrokerUnavailable
from actorjobs.lifecycle import LOSSES_UNTIL_SUSPECT, REOPENABLE, TERMINAL
from actorjobs.model import Run, RunState
from actorjobs.ports import Broker, BrokerFacts, QueueInfo, Serves, Store, WorkerInfo
from actorjobs.worker.lease import DEAD_AFTER_SECONDS

MOST_AHEAD: Final = 1000
"""How far a run's place in line is counted."""
SHOWN_CHARACTERS: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Why a run is not running, or that it does.

    `verdict` is the run's state if it is over; `running`, `canceling` or `lost` (its worker is dead) while it runs; and
    for one that waits what stands in its way first: `expired`, `not due`, `paused`, `held`, `no worker`, `broker`
    (RabbitMQ does not answer, or has no such queue), `suspect`, `busy`, `in line`, or `next` when nothing does.
    `reasons` are sentences, all that apply, in that order.
    """

    run: Run
    verdict: str
    reasons: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What an explanation is made of."""

    run: Run
    now: datetime
    workers: Sequence[WorkerInfo]
    queue: QueueInfo
    ahead: int = 0
    broker: BrokerFacts | BrokerUnavailable | None = None
    """What RabbitMQ says, or why it says nothing; None where none is needed."""

    @property
    def living(self) -> list[WorkerInfo]:
        return [worker for worker in self.workers if not worker.is_dead]

    @property
    def serving(self) -> list[tuple[WorkerInfo, Serves]]:
        """The living workers that serve the run's queue, with what they serve."""
        return [(one, one.serves) for one in self.living if one.serves and self.run.queue in one.serves.queues]


async def facts(store: Store, broker: Broker, run: Run) -> Facts:
    """Read what bears on this run now."""
    queues = {queue.name: queue for queue in await store.queues()} if run.state not in TERMINAL else {}
    is_waiting = run.state not in TERMINAL and run.state is not RunState.RUNNING
    return Facts(
        run=run,
        now=await store.now(),
        workers=[] if run.state in TERMINAL else await store.workers(),
        queue=queues.get(run.queue, QueueInfo(name=run.queue)),
        ahead=await store.ahead(run, MOST_AHEAD) if is_waiting else 0,
        broker=await _broker_facts(broker, run.queue) if is_waiting else None,
    )


async def _broker_facts(broker: Broker, queue: str) -> BrokerFacts | BrokerUnavailable | None:
    try:
        return await broker.facts([queue])
    except BrokerUnavailable as error:
        return error


def explain(known: Facts) -> Explanation:
    """Judge the facts. Pure."""
    run = known.run
    if run.state in TERMINAL:
        return Explanation(run=run, verdict=run.state.value, reasons=tuple(_over(run)))
    found = list(_running(known) if run.state is RunState.RUNNING else _waiting(known))
    return Explanation(run=run, verdict=found[0][0], reasons=tuple(sentence for _, sentence in found))


def _over(run: Run) -> Iterator[str]:
    at = "at an unknown time" if run.finished_at is None else f"at {_clock(run.finished_at)}"
    tries = _number(run.attempt, "attempt")
    match run.state:
        case RunState.SUCCEEDED:
            yield f"It succeeded {at}, after {tries}."
        case RunState.DEAD_LETTERED:
            yield f"It became a dead letter {at}, after {tries}: {_why_dead(run)}."
        case RunState.CANCELED:
            yield f"It was canceled {at}, after {tries}." + (f" Reason: {_short(run.reason)}" if run.reason else "")
        case _:
            limit = "" if run.expires_at is None else f"it had to start before {_clock(run.expires_at)} and did not"
            yield f"It expired {at}, after {tries}: {limit or 'its time to start had passed'}."
    if run.errors:
        last = run.errors[-1]
        yield f"Its last error was {last.name} in attempt {last.attempt}: {_short(last.message)}"
    if run.state in REOPENABLE:
        yield "`runs retry` gives it one more attempt, `runs replay` makes a new run of it."


def _why_dead(run: Run) -> str:
    words = {
        "exhausted": f"all {run.max_attempts} attempts that it may have failed",
        "permanent": "the failure was a permanent one, not to be retried",
        "poison": "time and again its worker died while performing it",
    }
    return words.get(run.reason or "", run.reason or "no reason is on record")


def _running(known: Facts) -> Iterator[tuple[str, str]]:
    run = known.run
    owner = next((worker for worker in known.workers if worker.id == run.claimed_by), None)
    since = "" if run.claimed_at is None else f" for {_span(known.now - run.claimed_at)}"
    if owner is None or owner.is_dead:
        died = "was declared dead" if owner is not None else "is gone"
        yield "lost", f"It ran{since}, in attempt {run.attempt}, on worker {run.claimed_by}, which {died}."
        yield "lost", _rescue(known)
        return
    verdict = "running" if run.cancel_requested_at is None else "canceling"
    yield verdict, f"It has been running{since}, in attempt {run.attempt}, on worker {owner.id}."
    if run.cancel_requested_at is not None:
        ago = _span(known.now - run.cancel_requested_at)
        yield verdict, f"It was asked to end {ago} ago; a handler that does not come to an await cannot be stopped."
    if owner.beat_at is not None:
        age = known.now - owner.beat_at
        if age.total_seconds() > DEAD_AFTER_SECONDS:
            yield verdict, f"Its worker has been silent for {_span(age)}; others will declare it dead and take it over."
        else:
            yield verdict, f"Its worker renewed the lease {_span(age)} ago; the limit is {DEAD_AFTER_SECONDS:g} s."


def _rescue(known: Facts) -> str:
    count = len(known.living)
    if not count:
        return "No worker lives that could take it back: start one, or run `actorjobs doctor --repair`."
    return f"{_number(count, 'living worker')} will take it back within seconds; it then waits for another attempt."


def _waiting(known: Facts) -> Iterator[tuple[str, str]]:
    """Whatever stands in the way of a waiting run, the first thing first."""
    yield from _timing(known)
    yield from _wishes(known)
    stops = [*_workers(known), *_broker(known)]
    yield from stops
    if not stops:
        yield from _line(known)
    yield from _expiring(known)


def _timing(known: Facts) -> Iterator[tuple[str, str]]:
    run, now = known.run, known.now
    if run.expires_at is not None and run.expires_at <= now:
        yield "expired", f"It had to start before {_clock(run.expires_at)}: the next sweep of a worker ends it."
    if run.available_at > now:
        why = f" after {_number(run.failures, 'failure')}" if run.state is RunState.RETRYING else ""
        yield "not due", f"It is due in {_span(run.available_at - now)}{why}, at {_clock(run.available_at)}."


def _wishes(known: Facts) -> Iterator[tuple[str, str]]:
    run, queue = known.run, known.queue
    if queue.is_paused:
        why = f": {_short(queue.reason)}" if queue.reason else "; no reason was given"
        yield "paused", f"Queue {run.queue} is paused{why}."


def _workers(known: Facts) -> Iterator[tuple[str, str]]:
    """What keeps every worker from taking it."""
    run, serving = known.run, known.serving
    if not serving:
        count = len(known.living)
        yield "no worker", f"No living worker serves queue {run.queue}; {_number(count, 'worker')} live in all."
        return
    versions = sorted({serves.jobs[run.job] for _, serves in serving if run.job in serves.jobs})
    if not versions:
        yield "held", f"No worker of queue {run.queue} knows a job {run.job}; {len(serving)} of them live."
    elif run.version > versions[-1]:
        known_ones = ", ".join(map(str, versions))
        yield "held", f"Its payload is of version {run.version}; the living workers know {run.job} in {known_ones}."
    reasons = {serves.holds.get(run.queue) for _, serves in serving}
    if None not in reasons:
        for reason in sorted(str(reason) for reason in reasons):
            yield "held", f"The queue is held by every worker that serves it: {_short(reason)}"
    elif run.hold is not None and run.hold not in ("paused", "unknown job", "newer version"):
        yield "held", f"It is held: {run.hold}."


def _broker(known: Facts) -> Iterator[tuple[str, str]]:
    """What keeps RabbitMQ from telling a worker of it."""
    broker, queue = known.broker, known.run.queue
    if isinstance(broker, BrokerUnavailable):
        yield "broker", f"RabbitMQ cannot be reached from here: {_short(str(broker))}"
        yield "broker", "The run is safe in the store; a worker publishes its hint once RabbitMQ answers."
    elif broker is not None and broker.ready.get(queue, 0) is None:
        yield "broker", f"RabbitMQ has no queue for {queue}: a worker that serves it makes one, or `topology apply`."


def _line(known: Facts) -> Iterator[tuple[str, str]]:
    """Its place among the runs that could start as well."""
    run, serving = known.run, known.serving
    slots = sum(serves.queues[run.queue] for _, serves in serving)
    running = known.queue.running
    workers = _number(len(serving), "living worker")
    if run.losses >= LOSSES_UNTIL_SUSPECT:
        yield (
            "suspect",
            f"Its worker was lost {run.losses} times in a row while performing it: a process performs one such run "
            "at a time, and each loss makes it wait longer.",
        )
    verdict = "busy" if running >= slots else "in line" if known.ahead else "next"
    if running >= slots:
        yield verdict, f"All {slots} places of queue {run.queue} on {workers} are taken: {running} runs are running."
    else:
        yield verdict, f"{running} of {slots} places of queue {run.queue} on {workers} are taken."
    count = f"At least {MOST_AHEAD}" if known.ahead >= MOST_AHEAD else f"{known.ahead}"
    yield verdict, f"{count} due runs of its queue go first: of higher priority, or due for longer."
    if isinstance(known.broker, BrokerFacts):
        yield verdict, f"RabbitMQ has {known.broker.ready.get(run.queue) or 0} hints of its queue ready."


def _expiring(known: Facts) -> Iterator[tuple[str, str]]:
    """What will end it soon; never the reason why it does not start."""
    run, now = known.run, known.now
    if run.expires_at is not None and now < run.expires_at <= max(run.available_at, now + timedelta(minutes=1)):
        yield "next", f"It expires in {_span(run.expires_at - now)} unless it has started by then."


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")


def _span(span: timedelta) -> str:
    """So long, to two figures that matter."""
    seconds = max(span.total_seconds(), 0.0)
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes = int(seconds // 60)
    if minutes < 120:
        return f"{minutes} min"
    return f"{minutes // 60} h" if minutes < 2880 else f"{minutes // 1440} days"


def _clock(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S} UTC"


def _short(words: str | None) -> str:
    """The first line of somebody's words."""
    line = next(iter((words or "").splitlines()), "")
    return line if len(line) <= SHOWN_CHARACTERS else line[:SHOWN_CHARACTERS] + "…"
