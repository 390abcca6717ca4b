"""What a doctor looks at: the store, its workers, and the runs that do not get on. Each check gives lines, never raises
for what it finds; `repair` does what the sweeps of a worker would do, by the same functions."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, Literal, TypeAlias

from actorjobs.clock import Clock
from actorjobs.errors import BrokerUnavailable
from actorjobs.lifecycle import WAITING
from actorjobs.model import Run, RunState
from actorjobs.ports import Broker, OutboxFacts, QueueInfo, RunFilter, Settlement, Store, Tracer, WorkerInfo
from actorjobs.stores import SqlStore
from actorjobs.worker.lease import DEAD_AFTER_SECONDS, Lease, is_known_dead
from actorjobs.worker.sweeps import expire, rescue

Level: TypeAlias = Literal["ok", "warning", "error"]

MOST_RUNS: Final = 1000
"""How many runs of a queue, and how many pages of dead letters, are looked at."""
DEAD_LETTER_PAGES: Final = 5
CLOCK_WARNING_SECONDS: Final = 2.0
CLOCK_ERROR_SECONDS: Final = 60.0
LOW_DISK_BYTES: Final = 1 << 30
NO_DISK_BYTES: Final = 100 << 20
LATE_SECONDS: Final = 60.0
VERY_LATE_SECONDS: Final = 600.0
BLOCKED_SECONDS: Final = 0.6
IN_HAND: Final = 1000
"""So many hints may be with workers, neither ready in the broker nor lost."""
DAY: Final = timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of a doctor's report: what was looked at, what was found, and what to do about it."""

    check: str
    level: Level
    found: str
    advice: str = ""


async def examine(store: SqlStore) -> list[Finding]:
    """Every check, in the order of what depends on what."""
    workers, queues, now = await store.workers(), await store.queues(), await store.now()
    found = [await _clock(store), *await _file(store), *_workers(workers, now)]
    found += await _lost(store)
    async for finding in _queues(store, queues, workers, now):
        found.append(finding)
    return [*found, *await _dead_letters(store, now)]


async def _clock(store: Store) -> Finding:
    before = datetime.now(UTC)
    theirs = await store.now()
    ours = before + (datetime.now(UTC) - before) / 2
    apart = abs((theirs - ours).total_seconds())
    level: Level = "error" if apart > CLOCK_ERROR_SECONDS else "warning" if apart > CLOCK_WARNING_SECONDS else "ok"
    advice = "" if level == "ok" else "set both hosts' clocks by NTP: run_at= and since= are given in this host's time"
    return Finding(
        check="clock", level=level, found=f"this host and the database are {apart:.2f} s apart", advice=advice
    )


async def _file(store: SqlStore) -> list[Finding]:
    facts = await store.file_facts()
    if facts is None:
        return []
    found = [
        Finding(
            check="file",
            level="ok" if facts.journal_mode == "wal" and facts.is_durable and facts.is_writable else "error",
            found=f"{facts.path}: {_bytes(facts.size)}, journal {facts.journal_mode}, "
            f"{'durable' if facts.is_durable else 'not durable'}, {'' if facts.is_writable else 'not '}writable",
            advice="" if facts.is_writable else "let this user write the file and its folder",
        ),
        Finding(
            check="disk",
            level="error" if facts.free < NO_DISK_BYTES else "warning" if facts.free < LOW_DISK_BYTES else "ok",
            found=f"{_bytes(facts.free)} free",
            advice="" if facts.free >= LOW_DISK_BYTES else "make room, or keep runs for less time: ACTORJOBS_KEEP_...",
        ),
    ]
    if facts.is_on_network:
        found.append(
            Finding(check="file", level="error", found=f"on {facts.file_system}", advice="move it to a local disk")
        )
    return found


def _workers(workers: Sequence[WorkerInfo], now: datetime) -> list[Finding]:
    living = [worker for worker in workers if not worker.is_dead]
    silent = [one for one in living if one.beat_at and (now - one.beat_at).total_seconds() > DEAD_AFTER_SECONDS]
    gone = [one for one in silent if is_known_dead(one)]
    found = [
        Finding(
            check="workers",
            level="ok" if len(living) > len(silent) else "warning",
            found=f"{len(living) - len(silent)} alive, {len(workers) - len(living)} declared dead in the last day",
            advice="" if len(living) > len(silent) else "start one: actorjobs worker APP",
        )
    ]
    for worker in silent:
        age = 0.0 if worker.beat_at is None else (now - worker.beat_at).total_seconds()
        how = "its process has ended" if worker in gone else "nobody has declared it dead"
        advice = (
            "--repair, or any living worker, takes back its runs" if worker in gone else "a living worker judges it"
        )
        found.append(
            Finding(check="workers", level="warning", found=f"{worker.id} silent for {age:.0f} s: {how}", advice=advice)
        )
    return found


async def _lost(store: Store) -> list[Finding]:
    lost = await store.lost_runs(MOST_RUNS)
    if not lost:
        return [Finding(check="lost runs", level="ok", found="no run is running under a dead worker")]
    count = f"{len(lost)}{'+' if len(lost) == MOST_RUNS else ''}"
    return [
        Finding(
            check="lost runs",
            level="error",
            found=f"{count} runs are running under no living worker, {lost[0].fence.run_id} for the longest",
            advice="start a worker, or use --repair",
        )
    ]


async def _queues(
    store: Store, queues: Sequence[QueueInfo], workers: Sequence[WorkerInfo], now: datetime
) -> AsyncIterator[Finding]:
    served = {name for worker in workers if not worker.is_dead and worker.serves for name in worker.serves.queues}
    for queue in queues:
        if queue.waiting:
            where = RunFilter(queue=queue.name, state=tuple(state for state in RunState if state in WAITING))
            page = await store.list(where, limit=MOST_RUNS, cursor=None, is_oldest_first=True)
            for finding in _of_queue(queue, list(page), is_served=queue.name in served, now=now):
                yield finding
        elif queue.is_paused:
            yield Finding(check=f"queue {queue.name}", level="warning", found="is paused", advice=_resume(queue))


def _of_queue(queue: QueueInfo, seen: Sequence[Run], *, is_served: bool, now: datetime) -> list[Finding]:
    check = f"queue {queue.name}"
    due = [run for run in seen if run.available_at <= now]
    late = max(((now - run.available_at).total_seconds() for run in due), default=0.0)
    words = f"{queue.waiting} wait, {queue.running} run"
    if seen:
        words += f"; the oldest was accepted {_age(now - seen[0].inserted_at)} ago"
    if queue.is_paused:
        return [Finding(check=check, level="warning", found=f"is paused; {words}", advice=_resume(queue))]
    if not is_served:
        advice = f"start a worker that serves it: actorjobs worker APP -Q {queue.name}"
        level: Level = "error" if due else "warning"
        return [Finding(check=check, level=level, found=f"no living worker serves it; {words}", advice=advice)]
    found = [Finding(check=check, level="ok", found=words)]
    if late > LATE_SECONDS:
        found.append(
            Finding(
                check=check,
                level="error" if late > VERY_LATE_SECONDS else "warning",
                found=f"runs are due for up to {_age(timedelta(seconds=late))}",
                advice="give it more places (queues scale) or workers; `runs explain RUN` says what holds one up",
            )
        )
    held = Counter(run.hold for run in seen if run.hold is not None)
    for reason, count in sorted(held.items()):
        example = next(run.id for run in seen if run.hold == reason)
        found.append(
            Finding(
                check=check,
                level="error",
                found=f"{count} are held: {reason}",
                advice=f"deploy code that knows them, or cancel them; actorjobs runs explain {example}",
            )
        )
    return found


def _resume(queue: QueueInfo) -> str:
    why = f" (reason: {queue.reason})" if queue.reason else ""
    return f"actorjobs queues resume {queue.name}{why}"


async def _dead_letters(store: Store, now: datetime) -> list[Finding]:
    counted: Counter[tuple[str, str]] = Counter()
    cursor, more = None, ""
    for _ in range(DEAD_LETTER_PAGES):
        where = RunFilter(state=(RunState.DEAD_LETTERED,))
        page = await store.list(where, limit=MOST_RUNS, cursor=cursor)
        for run in page:
            if run.failed_at is not None and now - run.failed_at <= DAY:
                counted[run.job, run.errors[-1].name if run.errors else run.reason or "unknown"] += 1
        cursor = page.cursor
        if cursor is None:
            break
    else:
        more = " at least"
    if not counted:
        return [Finding(check="dead letters", level="ok", found="none in the last day")]
    return [
        Finding(
            check="dead letters",
            level="warning",
            found=f"{job}:{more} {count} in the last day, of {error}",
            advice=f"actorjobs runs list --state dead_lettered --job {job}; when it is mended, runs retry",
        )
        for (job, error), count in counted.most_common(20)
    ]


async def examine_broker(broker: Broker, store: Store) -> list[Finding]:
    """What the broker has, held against what the store says of the same queues."""
    queues = [queue.name for queue in await store.queues()]
    try:
        facts = await broker.facts(queues)
    except BrokerUnavailable as error:
        advice = "dispatches are accepted all the same, and published when it is back; check the address and the server"
        return [Finding(check="broker", level="error", found=str(error), advice=advice)]
    if facts is None:
        return []
    found = [Finding(check="broker", level="ok", found=f"RabbitMQ {facts.version} answers")]
    for difference in facts.differences:
        advice = (
            "actorjobs topology apply makes what is missing; what differs, delete by hand when it is empty, then apply"
        )
        found.append(Finding(check="topology", level="warning", found=difference, advice=advice))
    broker.signal()  # a broker tells of its want of memory or disk those alone who send something
    await asyncio.sleep(BLOCKED_SECONDS)
    for part, problem in broker.health.items():
        advice = "dispatches are accepted all the same, and published when that is over"
        found.append(Finding(check=part, level="error", found=problem, advice=advice))
    outbox = await store.outbox_facts()
    found += [_drift(queue, facts.ready[queue], outbox.get(queue, OutboxFacts())) for queue in queues]
    for name, count in (("dead", facts.dead), ("unrouted", facts.unrouted)):
        if count:
            advice = "a living worker takes them out and has them sent again"
            found.append(Finding(check=f"hints {name}", level="warning", found=f"{count} wait there", advice=advice))
    kept = await store.quarantined(MOST_RUNS)
    if kept:
        words = f"{len(kept)}{'+' if len(kept) == MOST_RUNS else ''} messages that are no hints of ours"
        advice = "actorjobs quarantine list tells where each came from and what is wrong with it"
        found.append(Finding(check="quarantine", level="warning", found=words, advice=advice))
    return found


def _drift(queue: str, ready: int | None, outbox: OutboxFacts) -> Finding:
    """Hints that wait in the broker, against due runs that wait for theirs."""
    check = f"hints {queue}"
    words = (
        f"{outbox.told} due runs wait with a hint, {'no queue' if ready is None else f'{ready} messages'} in RabbitMQ"
    )
    if ready is None:
        level: Level = "error" if outbox.told else "warning"
        advice = "a worker that serves it makes it; `actorjobs topology apply` and --repair do so now"
        return Finding(check=check, level=level, found=words, advice=advice)
    if outbox.overdue:
        words += f"; {outbox.overdue} are overdue to be published"
        advice = "is a worker running, and does the broker confirm? --repair publishes them"
        return Finding(check=check, level="error", found=words, advice=advice)
    if outbox.told > ready + IN_HAND:
        advice = (
            "the rest are in the hands of workers, or lost: then they are published again within a minute; or --repair"
        )
        return Finding(check=check, level="warning", found=words, advice=advice)
    return Finding(check=check, level="ok", found=words)


async def repair_broker(broker: Broker, store: Store) -> list[Finding]:
    """Have hints published again that must be lost or are overdue."""
    try:
        count = await broker.repair([queue.name for queue in await store.queues()])
    except BrokerUnavailable as error:
        return [Finding(check="repair", level="error", found=f"hints: {error}")]
    return [Finding(check="repair", level="ok", found=f"published {count} hints that were lost or overdue")]


async def repair(store: Store, clock: Clock, tracer: Tracer) -> list[Finding]:
    """Take back runs of dead workers and end overdue ones. Judges no worker that it does not know to be dead."""
    settled: list[Settlement] = []
    expired: list[str] = []
    lease = Lease(clock=clock)

    def on_settled(settlement: Settlement, state: RunState | None) -> None:
        if state is not None:
            settled.append(settlement)

    while await rescue(store, lease, on_settled, lambda owner: None, tracer):
        pass
    while await expire(store, lambda run_id, state: expired.append(run_id)):
        pass
    words = f"took back {len(settled)} runs of dead workers, ended {len(expired)} whose time to start had passed"
    return [Finding(check="repair", level="ok", found=words)]


def _age(span: timedelta) -> str:
    minutes = span.total_seconds() / 60
    if minutes < 2:
        return f"{minutes * 60:.0f} s"
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.0f} h"


def _bytes(count: int) -> str:
    return f"{count / 2**30:.1f} GB" if count >= 2**30 else f"{count / 2**20:.1f} MB"
