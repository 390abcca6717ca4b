"""What a store has to say about each run, worked out the simple way: one thing at a time, in memory, from the law."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from actorjobs.lifecycle import LOSSES_UNTIL_SUSPECT, TERMINAL, WAITING, Decision, advance
from actorjobs.model import Envelope, Outcome, Run, RunState, Transition
from actorjobs.ports import Fence, Mark, Settlement

Slot = tuple[str, object]
"""The place that a unique run takes: while what, and with which payload."""


@dataclass
class Entry:
    """A run as it should be."""

    envelope: Envelope
    state: RunState
    available_at: datetime
    expires_at: datetime | None
    max_attempts: int
    seq: int = 1
    attempt: int = 0
    failures: int = 0
    losses: int = 0
    owner: str | None = None
    is_asked: bool = False
    slot: Slot | None = None
    successes: int = 0

    @property
    def id(self) -> str:
        return self.envelope.id

    @property
    def waits(self) -> bool:
        return self.state in WAITING

    @property
    def is_suspect(self) -> bool:
        return self.losses >= LOSSES_UNTIL_SUSPECT

    @property
    def urgency(self) -> tuple[int, datetime]:
        return (-self.envelope.priority, self.available_at)

    def is_due(self, now: datetime) -> bool:
        return self.waits and self.available_at <= now and (self.expires_at is None or self.expires_at > now)

    def agrees_with(self, run: Run, mark: Mark) -> None:
        """What the store says of the run is what is written here."""
        ours = (self.state, self.attempt, self.seq, self.failures, self.losses, self.max_attempts, self.is_asked)
        is_asked = run.cancel_requested_at is not None
        theirs = (run.state, run.attempt, mark.seq, run.failures, run.losses, run.max_attempts, is_asked)
        assert theirs == ours, f"{run.id}: the store says {theirs}, not {ours}"
        assert run.available_at == self.available_at
        assert run.expires_at == self.expires_at
        assert (run.finished_at is not None) == (self.state in TERMINAL)
        if self.state is RunState.RUNNING:
            assert run.claimed_by == self.owner
        assert run.failures <= run.max_attempts
        assert self.successes == (self.state is RunState.SUCCEEDED)


@dataclass
class Ledger:
    """All runs of a namespace, and who lives."""

    runs: dict[str, Entry] = field(default_factory=dict[str, Entry])
    alive: set[str] = field(default_factory=set[str])
    silent: dict[str, datetime] = field(default_factory=dict[str, datetime])
    """Workers that died without a word, with their last beat."""
    paused: set[str] = field(default_factory=set[str])
    ended: dict[tuple[Fence, Outcome], RunState] = field(default_factory=dict[tuple[Fence, Outcome], RunState])

    # accepting

    def twin_of(self, envelope: Envelope) -> Entry | None:
        slot = slot_of(envelope)
        return next((entry for entry in self.runs.values() if slot is not None and entry.slot == slot), None)

    def holder_of(self, key: str | None) -> Entry | None:
        holders = (entry for entry in self.runs.values() if entry.envelope.idempotency_key == key)
        return None if key is None else next(holders, None)

    def accept(self, envelope: Envelope, now: datetime) -> Entry:
        due, expires_at = _times(envelope, now)
        state = RunState.SCHEDULED if due > now else RunState.QUEUED
        entry = Entry(envelope, state, due, expires_at, envelope.max_attempts, slot=slot_of(envelope))
        self.runs[entry.id] = entry
        return entry

    def replace(self, twin: Entry, envelope: Envelope, now: datetime) -> None:
        twin.state = advance(twin.state, Transition.RESCHEDULE)
        twin.available_at, twin.expires_at = _times(envelope, now)
        twin.max_attempts, twin.seq = envelope.max_attempts, twin.seq + 1
        twin.envelope = envelope.model_copy(update={"id": twin.id})

    # delivering

    def offered(self, queue: str, now: datetime, *, suspects: bool) -> list[Entry]:
        """What may start now, the most urgent first."""
        if queue in self.paused:
            return []
        mine = (entry for entry in self.runs.values() if entry.envelope.queue == queue)
        due = (entry for entry in mine if entry.is_due(now) and entry.is_suspect == suspects)
        return sorted(due, key=lambda entry: entry.urgency)

    def next_due(self, queue: str, now: datetime) -> datetime | None:
        mine = (entry for entry in self.runs.values() if entry.envelope.queue == queue and entry.waits)
        return min((entry.available_at for entry in mine if entry.available_at > now), default=None)

    def claim(self, entry: Entry, owner: str) -> None:
        entry.state = advance(entry.state, Transition.CLAIM)
        entry.attempt, entry.owner = entry.attempt + 1, owner
        if entry.slot is not None and entry.slot[0] == "queued":
            entry.slot = None

    def settle(self, settlement: Settlement, now: datetime) -> RunState | None:
        """What the store has to answer."""
        fence = settlement.fence
        entry, end = self.runs[fence.run_id], (fence, settlement.outcome)
        if entry.state is not RunState.RUNNING or (entry.attempt, entry.owner) != (fence.attempt, fence.owner):
            return self.ended.get(end)
        self._end(entry, settlement.decision, now)
        self.ended[end] = entry.state
        return entry.state

    def _end(self, entry: Entry, decision: Decision, now: datetime) -> None:
        is_success = decision.transition is Transition.SUCCEED
        is_canceled = entry.is_asked and not is_success
        entry.state = advance(entry.state, Transition.CANCEL if is_canceled else decision.transition)
        entry.failures, entry.losses = decision.failures, decision.losses
        entry.successes += is_success
        if entry.state in TERMINAL:
            entry.slot = None
        else:
            entry.available_at, entry.seq = now + timedelta(seconds=decision.delay), entry.seq + 1

    def lost(self) -> set[str]:
        """What runs under the name of somebody dead."""
        running = (entry for entry in self.runs.values() if entry.state is RunState.RUNNING)
        return {entry.id for entry in running if entry.owner not in self.alive | set(self.silent)}

    # operators, and time

    def cancel(self, entry: Entry) -> None:
        if entry.waits:
            entry.state, entry.slot = advance(entry.state, Transition.CANCEL), None
        elif entry.state is RunState.RUNNING:
            entry.is_asked = True

    def reopen(self, entry: Entry, now: datetime) -> None:
        entry.state, entry.slot = advance(entry.state, Transition.REOPEN), slot_of(entry.envelope)
        entry.available_at, entry.expires_at, entry.seq = now, None, entry.seq + 1
        entry.max_attempts, entry.losses, entry.is_asked = entry.failures + 1, 0, False

    def reschedule(self, entry: Entry, due: datetime) -> None:
        entry.state = advance(entry.state, Transition.RESCHEDULE)
        entry.available_at, entry.seq = due, entry.seq + 1

    def expire(self, now: datetime) -> set[str]:
        expired = [e for e in self.runs.values() if e.waits and e.expires_at is not None and e.expires_at <= now]
        for entry in expired:
            entry.state, entry.slot = advance(entry.state, Transition.EXPIRE), None
        return {entry.id for entry in expired}

    def unfinished(self) -> Iterable[Entry]:
        return (entry for entry in self.runs.values() if entry.state not in TERMINAL)


def slot_of(envelope: Envelope) -> Slot | None:
    return None if envelope.unique is None else (envelope.unique["while_"], envelope.payload)


def _times(envelope: Envelope, now: datetime) -> tuple[datetime, datetime | None]:
    expires_at = None if envelope.expires_in is None else now + timedelta(seconds=envelope.expires_in)
    return now + timedelta(seconds=envelope.delay or 0.0), expires_at
