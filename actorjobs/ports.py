"""Every seam of the runtime on one page: what a store, a broker, a dispatcher and a running attempt must offer.

The store is the truth, a broker's message only a hint that something may be due. The attempt number is the fencing
token: every write of an attempt names `(run_id, attempt, owner)` and changes nothing when somebody else owns the run.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from contextvars import Context, ContextVar
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self, runtime_checkable

from actorjobs.errors import AmbiguousRuntime, DuplicateRun, NoRuntime
from actorjobs.lifecycle import Decision
from actorjobs.model import Attempt, Envelope, HistoryEntry, Outcome, Run, RunState
from actorjobs.records import record

if TYPE_CHECKING:
    from collections.abc import Iterator

# --- values that cross the seams -------------------------------------------------------------------------------------


@record
class Accepted:
    """The store's answer to a dispatch: the run, whether it existed before, and whether the dispatch has replaced what
    it was to do."""

    run_id: str
    existing: bool
    replaced: bool = False


@record
class Hint:
    """What a broker carries: this run, in this generation, may be due `delay` seconds from now.

    `seq` is the generation, which every write that makes the run claimable raises; None where the writer was not told
    it: such a hint only says that something of this queue is to be looked for.
    """

    run_id: str
    seq: int | None
    job: str
    queue: str
    delay: float = 0.0
    priority: int = 4
    traceparent: str | None = None
    tracestate: str | None = None
    baggage: str | None = None


@record
class Bid:
    """A wish to claim the run of a hint. `takes_suspect`: also if it was lost twice. `queue`: only if it is a run of
    that queue, since a pool must perform no others, whatever somebody puts into its queue."""

    run_id: str
    seq: int
    takes_suspect: bool = False
    queue: str | None = None


class Refused(StrEnum):
    """Why a bid brought no claim."""

    STALE = "stale"
    """Nothing to do for this hint any more: another generation, taken, ended, expired, or no such run."""
    EARLY = "early"
    """Not due yet: `seconds` say for how long."""
    LOCKED = "locked"
    """It could be claimed, but somebody holds its row just now: undecided, to be asked again."""
    SUSPECT = "suspect"
    """It was lost twice: only a bid that takes suspects gets it."""
    UNKNOWN = "unknown"
    """The job, or the version of its payload, is newer than this process; or the run is held."""
    PAUSED = "paused"
    """Its queue is paused."""


@record
class Refusal:
    """The store's answer to a bid that brought no claim."""

    why: Refused
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxFacts:
    """How the waiting runs of a queue stand towards the broker. `overdue` ones should have been published by the relay;
    `told` ones are due, and the broker should have a hint of each."""

    waiting: int = 0
    overdue: int = 0
    told: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerFacts:
    """What a broker has: messages ready by queue (None for a queue that is not there), those that nobody could deliver,
    and how its topology differs from what it should be."""

    version: str
    ready: Mapping[str, int | None]
    dead: int | None
    unrouted: int | None
    differences: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Quarantined:
    """A message that is no hint of ours, kept with its bytes. `id` and `at` are the store's to give."""

    queue: str
    """The broker's name of the queue that it came from."""
    reason: str
    body: bytes
    properties: Mapping[str, Any] = field(default_factory=dict[str, Any])
    id: str | None = None
    at: datetime | None = None


@record
class Fence:
    """What proves that a write comes from the one valid attempt."""

    run_id: str
    attempt: int
    owner: str


@record
class Claim:
    """A run taken for one attempt, with all that performing it needs. JSON columns stay text until they are used."""

    run_id: str
    seq: int
    owner: str
    job: str
    version: int
    queue: str
    tenant: str | None
    priority: int
    payload: str
    constructor_args: str | None
    attempt: int
    failures: int
    losses: int
    max_attempts: int
    timeout: float | None
    retry: str | None
    checkpoint: str | None
    traceparent: str | None
    tracestate: str | None
    baggage: str | None
    parent: str | None
    inserted_at: datetime
    available_at: datetime
    claimed_at: datetime

    @property
    def fence(self) -> Fence:
        return Fence(run_id=self.run_id, attempt=self.attempt, owner=self.owner)

    @property
    def hint(self) -> Hint:
        return Hint(
            run_id=self.run_id,
            seq=self.seq,
            job=self.job,
            queue=self.queue,
            priority=self.priority,
            traceparent=self.traceparent,
            tracestate=self.tracestate,
            baggage=self.baggage,
        )


@record
class Demand:
    """What a pool would take: up to `limit` due runs of `queue` whose job it knows, in a version that it knows.

    `jobs` maps a job's name to the newest version of its payloads that this process understands.

    `suspects` asks for runs that were lost twice, and only for those: a process performs at most one at a time.
    """

    queue: str
    jobs: Mapping[str, int]
    limit: int
    suspects: bool = False


@record
class Taken:
    """What a demand brought. `next_due` is seconds until the queue's next run is due; None when none waits.

    `suspects_due` says that a suspect waits that an ordinary demand does not take.
    """

    claims: Sequence[Claim]
    next_due: float | None = None
    suspects_due: bool = False


@record
class Settlement:
    """The end of an attempt and what becomes of its run. `result` and `error` are JSON text.

    `hint` is what to publish if the run waits again; `started_after` is seconds between the claim and the handler's
    first line, `taken` between the claim and the end. `trace_id` is the attempt's where that is not its run's.
    """

    fence: Fence
    hint: Hint
    outcome: Outcome
    decision: Decision
    result: str | None = None
    error: str | None = None
    actor: str | None = None
    started_after: float = 0.0
    taken: float | None = None
    tenant: str | None = None
    span_id: str | None = None
    trace_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Serves:
    """What a worker serves: jobs with the newest version it knows, queues with their concurrency, and why it takes
    nothing of a queue, where that is so."""

    jobs: Mapping[str, int] = field(default_factory=dict[str, int])
    queues: Mapping[str, int] = field(default_factory=dict[str, int])
    holds: Mapping[str, str] = field(default_factory=dict[str, str])
    measures: bool = False
    """Whether it could report the metrics that one worker reports for all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerInfo:
    """One process's lease: while it beats, the runs it claimed are its own."""

    id: str
    host: str
    boot_id: str
    pid: int
    lock_path: str | None = None
    started_at: datetime | None = None
    beat_at: datetime | None = None
    is_dead: bool = False
    blamed: str | None = None
    serves: Serves | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LostRun:
    """A running run whose owner is dead, with the figures that decide what becomes of it."""

    fence: Fence
    hint: Hint
    failures: int
    losses: int
    max_attempts: int
    tenant: str | None = None
    parent: str | None = None
    claimed_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueInfo:
    """A queue's row: what an operator wants of it. `concurrency` None leaves the application's figure in force."""

    name: str
    is_paused: bool = False
    concurrency: int | None = None
    reason: str | None = None
    waiting: int = 0
    running: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Queued:
    """How many runs of a queue are where. `oldest_age` is for how many seconds the first of the `ready` has been due;
    `scheduled` and `retrying` are not due yet."""

    ready: int = 0
    oldest_age: float = 0.0
    scheduled: int = 0
    retrying: int = 0
    running: int = 0
    dead_lettered: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """What waits in a store, and for how long: `queues` by name. Of `unpublished` runs the broker is not known to have
    been told, though they are due, the first of them for `unpublished_age` seconds."""

    queues: Mapping[str, Queued] = field(default_factory=dict[str, Queued])
    unpublished: int = 0
    unpublished_age: float = 0.0
    quarantined: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What operators want of this process now: read twice a second, so that a lost signal does no harm."""

    queues: Mapping[str, QueueInfo]
    cancel: Mapping[str, str | None] = field(default_factory=dict[str, str | None])
    """Runs of this owner to cancel, with the reason given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFilter:
    """Which runs to list or count; None leaves a criterion out. `since`/`until` bound `inserted_at`."""

    state: tuple[RunState, ...] | None = None
    job: str | None = None
    queue: str | None = None
    tenant: str | None = None
    tag: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    search: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPage:
    """One page of runs; `cursor` asks for the next one. Only a cursor of None means the end: where runs that match are
    rare, a page may be short, or empty, and still have a cursor, so that no page takes long."""

    runs: Sequence[Run]
    cursor: str | None = None

    def __iter__(self) -> Iterator[Run]:
        return iter(self.runs)

    def __len__(self) -> int:
        return len(self.runs)

    def __getitem__(self, index: int) -> Run:
        return self.runs[index]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """Where a run stands, in short: two marks of a run differ when something has happened to it in between."""

    run_id: str
    job: str
    queue: str
    tenant: str | None
    state: RunState
    attempt: int
    seq: int
    is_asked: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Purged:
    """What a purge did; `has_more` when it has not yet come to the newest run."""

    deleted: int
    has_more: bool


@runtime_checkable
class Transaction(Protocol):
    """What `tx=` takes: SQLAlchemy's Session, AsyncSession, Connection and AsyncConnection all satisfy it."""

    def in_transaction(self) -> bool: ...


# --- the store -------------------------------------------------------------------------------------------------------

PUBLISH_GRACE_SECONDS = 5.0
"""How long a process that has made a run claimable has to publish its hint before the relay does."""

PUBLISH_AHEAD_SECONDS = 900.0
"""How long before it is due a run's hint may leave: from then on it waits in the broker."""

PROMISED_SECONDS = 30.0
"""How long a staged hint is left to the one who staged it."""

LOST_AFTER_SECONDS = 30.0


class Store(Protocol):
    """The durable record of runs in one namespace, in the verbs of the domain.

    Group verbs take sequences and commit them in one transaction; their answers come in the same order. All raise
    `StoreUnavailable` when the database does not answer.
    """

    @property
    def url(self) -> str:
        """The store's address without its password."""
        ...

    async def open(self) -> None:
        """Connect and check the schema (`SchemaOutdated`). Idempotent."""
        ...

    async def close(self) -> None: ...

    # accepting
    async def insert(
        self, envelopes: Sequence[Envelope], *, publish_in: float = PUBLISH_GRACE_SECONDS
    ) -> Sequence[Accepted | Exception]:
        """Accept each envelope on its own: a conflict or an error is the answer of that one alone. The relay publishes
        what is not known to be published in so many seconds."""
        ...

    async def insert_all(
        self,
        envelopes: Sequence[Envelope],
        tx: Transaction | None = None,
        *,
        publish_in: float = PUBLISH_GRACE_SECONDS,
    ) -> Sequence[Accepted]:
        """Accept all or none, in the caller's transaction if given: that the relay publishes once it is committed."""
        ...

    # delivering
    async def take(self, demands: Sequence[Demand], owner: str) -> Sequence[Taken]:
        """Find and claim due runs for `owner`: highest priority first, then the longest due."""
        ...

    async def claim(self, bids: Sequence[Bid], jobs: Mapping[str, int], owner: str) -> Sequence[Claim | Refusal]:
        """Claim the runs of these hints for `owner`, each if its generation is right, it waits, is due, not held, and
        its job and version are among `jobs`. Rows that somebody else has locked are passed over. One answer a bid; of
        two bids for one run the first is the one."""
        ...

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[RunState | None]:
        """Record how attempts ended. The run's new state, or None where the fence no longer holds.

        A cancel request turns every decision but success into `canceled`.
        """
        ...

    async def save_progress(self, fence: Fence, progress: str) -> bool: ...

    async def save_checkpoint(self, fence: Fence, checkpoint: str) -> bool: ...

    async def running(self, owner: str) -> Sequence[Claim]:
        """What the record says this owner is running."""
        ...

    # the outbox: which runs a broker has yet to be told of
    async def identity(self) -> str:
        """What tells the runs of this namespace in this database from all others: a UUID, made once and kept."""
        ...

    async def stage(self, limit: int) -> Sequence[Hint]:
        """The hints of up to `limit` waiting runs whose time to be published has come, the longest overdue first. Each
        is promised to the caller for `PROMISED_SECONDS`: nobody else is given it meanwhile."""
        ...

    async def mark_published(self, hints: Sequence[Hint]) -> None:
        """The broker has these: they leave the outbox, where the run still waits in the hint's generation."""
        ...

    async def publish_later(
        self, hints: Sequence[Hint], seconds: float, *, doubling_to: float | None = None, as_new: bool = False
    ) -> None:
        """Have these runs, where they still wait in the hint's generation, published in so many seconds, and not before
        `PUBLISH_AHEAD_SECONDS` ahead of their being due. With `doubling_to` the seconds double each time this happens
        to a run until it is claimed, up to so many. `as_new` is for hints whose message is used up: the run gets a new
        generation, for which no confirm of the old one can count."""
        ...

    async def publish_now(self, queue: str, jobs: Sequence[str]) -> int:
        """Have due runs of these jobs published whose publishing was put off in vain before; how many."""
        ...

    async def note_queue(self, queue: str, *, is_absent: bool) -> None:
        """The broker was just seen to have no message ready in this queue, or not even the queue."""
        ...

    async def restage_lost(self, queue: str, overtaken: Mapping[int, datetime], limit: int) -> int:
        """Put up to `limit` runs back into the outbox, in the same generation, whose hints must be lost; how many.

        A hint's age counts from its publishing or its being due, whichever is later. It is lost when it was published
        before its queue was seen absent; when it was `LOST_AFTER_SECONDS` old when its queue was seen empty; or when it
        is older than the moment that `overtaken` names for its priority. A run is given back for this reason once in a
        minute at most, doubling to a quarter of an hour.
        """
        ...

    async def outbox_facts(self) -> Mapping[str, OutboxFacts]:
        """How the waiting runs of each queue stand towards the broker; counted, so it takes a while."""
        ...

    async def quarantine(self, messages: Sequence[Quarantined]) -> None:
        """Keep messages that are no hints."""
        ...

    async def quarantined(self, limit: int, after: str | None = None) -> Sequence[Quarantined]:
        """Messages in quarantine, oldest first; those after the message of that id."""
        ...

    async def release_quarantined(self, ids: Sequence[str]) -> int:
        """Delete these messages; how many there were."""
        ...

    # leases
    async def join(self, worker: WorkerInfo) -> datetime:
        """Register a lease; the database's time."""
        ...

    async def beat(self, owner: str) -> datetime | None:
        """Renew the lease; the database's time, or None when the owner has been declared dead."""
        ...

    async def leave(self, owner: str) -> None: ...

    async def blame(self, owner: str, run_id: str) -> None:
        """Note which run is bringing this worker down, so that only that one is counted as lost."""
        ...

    async def serve(self, owner: str, serves: Serves) -> None:
        """Note what this worker serves, so that others can tell why a run does not start."""
        ...

    async def workers(self) -> Sequence[WorkerInfo]: ...

    async def declare_dead(self, silent_for: float, known_dead: Sequence[str] = ()) -> Sequence[str]:
        """Mark as dead the workers that have not beaten for so many seconds, and those known to be dead."""
        ...

    async def lost_runs(self, limit: int) -> Sequence[LostRun]:
        """Running runs whose owner is dead or gone, oldest claim first."""
        ...

    # the wishes of operators
    async def wishes(self, owner: str) -> Wishes: ...

    async def queues(self) -> Sequence[QueueInfo]: ...

    async def backlog(self) -> Backlog:
        """What waits and what is stuck, by queue; every queue that is declared or has runs is in it. Counted by indexes
        alone where there are such, but counted: ask a few times a minute, not for every run."""
        ...

    async def declare_queues(self, names: Sequence[str]) -> None: ...

    async def set_queue(
        self, name: str, *, is_paused: bool | None = None, concurrency: int | None = None, reason: str | None = None
    ) -> QueueInfo: ...

    # sweeps
    async def expire(self, limit: int) -> Sequence[str]:
        """End waiting runs whose time to start has passed; their ids."""
        ...

    async def purge(self, keep: Mapping[RunState, float | None], limit: int) -> Purged:
        """Look at the next `limit` runs that may be old enough, in the order of their ids, and delete those that ended
        more than `keep[state]` seconds ago (None keeps them; a run's own `retention` wins)."""
        ...

    # managing
    async def now(self) -> datetime:
        """The time that the runs of this store go by."""
        ...

    async def get(self, run_id: str) -> Run:
        """`RunNotFound` when the namespace has no such run."""
        ...

    async def envelope(self, run_id: str) -> Envelope:
        """What was asked for when the run was dispatched, without its key: what a replay starts from."""
        ...

    async def states(self, run_ids: Sequence[str]) -> Mapping[str, RunState]:
        """The states of these runs; ids that do not exist are left out."""
        ...

    async def list(self, where: RunFilter, *, limit: int, cursor: str | None, is_oldest_first: bool = False) -> RunPage:
        """One page in the order of the ids. It looks for about a second and then gives what it has, with a cursor."""
        ...

    async def count_by_state(self, where: RunFilter) -> Mapping[RunState, int]: ...

    async def attempts(self, run_id: str) -> Sequence[Attempt]: ...

    async def history(self, run_id: str) -> Sequence[HistoryEntry]: ...

    async def marks(self, run_ids: Sequence[str], limit: int) -> Sequence[Mark]:
        """Where these runs stand, the newest `limit` runs, and up to `limit` of those that wait and that run."""
        ...

    async def cancel(self, run_id: str, reason: str | None, by: str | None) -> Run:
        """Cancel a waiting run at once, ask for the cancelling of a running one; a terminal one stays as it is."""
        ...

    async def reopen(self, run_id: str, reason: str | None, by: str | None) -> Run:
        """`RunStateConflict` unless dead-lettered, canceled or expired."""
        ...

    async def cancel_many(self, run_ids: Sequence[str], reason: str | None, by: str | None) -> Sequence[Run | None]:
        """The same for a group, in one transaction; None where nothing is left to cancel or to ask for."""
        ...

    async def reopen_many(
        self, run_ids: Sequence[str], reason: str | None, by: str | None
    ) -> Sequence[Run | DuplicateRun | None]:
        """The same for a group, in one transaction; None where the state does not allow it or the run is gone."""
        ...

    async def ahead(self, run: Run, most: int) -> int:
        """How many due runs of its queue go before this waiting one, counted up to `most`."""
        ...

    async def reschedule(self, run_id: str, run_at: datetime, by: str | None) -> Run:
        """`RunStateConflict` unless waiting."""
        ...

    async def delete(self, run_id: str) -> None:
        """`RunStateConflict` while running."""
        ...

    # noticing what other processes commit
    def watch(self, notice: Callable[[], None]) -> AbstractAsyncContextManager[None]:
        """Call `notice` whenever another process may have committed something, without saying what."""
        ...

    def announce(self) -> None:
        """Have other processes told that something was committed, where the database does not do so by itself."""
        ...


# --- the broker ------------------------------------------------------------------------------------------------------


class Delivery(Protocol):
    """A run to perform, claimed already, as a broker hands it out."""

    @property
    def hint(self) -> Hint: ...

    @property
    def claim(self) -> Claim: ...

    def ended(self) -> None:
        """Its handler has ended, and its place is free; the outcome is on its way to the store."""
        ...

    def ack(self) -> None:
        """Its outcome is on record, or nobody's affair any more."""
        ...


class Consumer(Protocol):
    """One queue's stream of deliveries for one pool."""

    @property
    def owes(self) -> bool:
        """Whether runs are claimed, or just being claimed, that `receive` has not returned yet: it is to be called for
        them, if with a limit of 0."""
        ...

    async def receive(self, limit: int) -> Sequence[Delivery]:
        """Wait for at least one delivery and return at most `limit`. Empty only after `stop` or `recall`."""
        ...

    def recall(self) -> None:
        """A `receive` that waits returns at once: the pool has another number of places by now, or wants nothing."""
        ...

    def stop(self) -> None:
        """Take nothing more; a `receive` that waits returns at once."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerFigures:
    """What a process and its broker have to do with each other. `hints` counts, since the start, what has become of the
    hints that left: `confirmed`, `returned`, `refused`, or `timed_out` for those that were never confirmed."""

    is_connected: bool
    is_blocked: bool
    """Whether the broker takes nothing from this process, for want of memory or disk."""
    on_their_way: int
    hints: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """A duty to be seen to every so many seconds; `fn` returns True when there is more to do at once."""

    name: str
    seconds: float
    fn: Callable[[], Coroutine[Any, Any, bool | None]]


class Broker(Protocol):
    """Wakes pools. Its messages may be lost, doubled or late without harm: the store decides."""

    @property
    def is_idle(self) -> bool:
        """True when it is not about to deliver anything; asked under a virtual clock."""
        ...

    @property
    def health(self) -> Mapping[str, str]:
        """What is wrong, by part; empty when nothing is."""
        ...

    @property
    def connection(self) -> Any:
        """The driver's connection that hints go out by, for what an application does with the broker itself, on
        channels of its own; None while there is none. It may be another one after the next fault."""
        ...

    @property
    def sweeps(self) -> Sequence[Sweep]:
        """Duties of its own that a worker is to see to."""
        ...

    @property
    def is_taking(self) -> bool:
        """False when a hint that it were given now would be left to the relay."""
        ...

    @property
    def figures(self) -> BrokerFigures | None:
        """How this process and the broker stand; None where there is no broker besides the store."""
        ...

    async def open(self) -> None:
        """Begin to publish. Waits for nobody."""
        ...

    async def start_delivering(self, queues: Sequence[str], wake: Callable[[str], None]) -> None:
        """Begin to deliver from these queues. `wake(name)` has the worker see to a duty now: `control`, or a sweep of
        the broker's. `BrokerUnavailable` and `TopologyMismatch` for what only a person can mend; not for a broker that
        is down."""
        ...

    async def stop_delivering(self) -> None: ...

    async def close(self) -> None: ...

    def publish(self, hints: Sequence[Hint]) -> None:
        """Announce runs whose rows are committed. Never waits, never raises for a broker that is down."""
        ...

    def signal(self) -> None:
        """Have every process look at once at what operators wish. May be lost."""
        ...

    async def facts(self, queues: Sequence[str]) -> BrokerFacts | None:
        """What the broker has of these queues; None where there is no broker besides the store. `BrokerUnavailable`."""
        ...

    async def repair(self, queues: Sequence[str]) -> int:
        """Publish again what must have been lost of these queues, and what is overdue; how many hints."""
        ...

    def consume(self, queue: str, jobs: Mapping[str, int], owner: Callable[[], str | None]) -> Consumer:
        """Deliveries of `queue` for jobs of these names; nothing is claimed while `owner()` is None."""
        ...


# --- traces ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """Where runs go, in the words of a trace: the messaging system, what it calls a queue of ours, and where it is."""

    system: str
    name: Callable[[str], str]
    host: str | None = None
    port: int | None = None


class Sending(Protocol):
    """Dispatches as a trace shows them. What is raised within is their failure."""

    @property
    def envelopes(self) -> Sequence[Envelope]:
        """What is to be stored: each in the trace context that its attempts are to go by."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def answered(self, answers: Sequence[Accepted]) -> None:
        """They were accepted, or existed."""
        ...


class Trying(Protocol):
    """One attempt as a trace shows it."""

    @property
    def traceparent(self) -> str:
        """The W3C `traceparent` of whatever happens in it."""
        ...

    def enter(self, variables: Context) -> None:
        """Make it the current one in these context variables, for as long as they live."""
        ...

    def end(self, settlement: Settlement) -> None:
        """It came to this. An attempt that never ends is never shown."""
        ...


class Tracer(Protocol):
    """Shows dispatches and attempts to whoever collects traces."""

    @property
    def is_on(self) -> bool:
        """False where nobody records anything: then attempts need not be told."""
        ...

    def sending(self, envelopes: Sequence[Envelope], *, is_batch: bool = False) -> Sending:
        """These are about to be accepted, a batch of them in one transaction."""
        ...

    def trying(self, claim: Claim, *, actor: str, previous: Attempt | None = None) -> Trying:
        """An actor takes this run; `previous` is the attempt before, if there was one."""
        ...

    def lost(self, run: LostRun, *, previous: Attempt | None = None) -> Trying:
        """An attempt whose worker died, as it was when it began."""
        ...

    def carried(self) -> Mapping[str, str] | None:
        """The current context for another process, by the names of W3C's headers; None where there is none."""
        ...

    def carry_on(self, carried: Mapping[str, str]) -> None:
        """Make a context from another process the current one, for the rest of this `contextvars` context."""
        ...


# --- what a handler and a dispatch see -------------------------------------------------------------------------------


class AttemptLink(Protocol):
    """What a JobContext needs of the attempt it stands for."""

    async def save_progress(self, fraction: float, message: str | None) -> None: ...

    async def save_checkpoint(self, state: Mapping[str, Any]) -> None: ...

    def run_on_loop(self, make: Callable[[], Any]) -> Any:
        """From a worker thread: await `make()` on the runtime's loop and return what it gives."""
        ...


class RunReader(Protocol):
    """What a RunHandle needs of a runtime."""

    async def get(self, run_id: str) -> Run: ...

    async def wait(self, run_id: str, timeout: float | None) -> Run:
        """The run once it is terminal; `ResultTimeout` after `timeout` seconds."""
        ...

    def events(self, run_id: str) -> AsyncIterator[HistoryEntry]: ...

    async def cancel(self, run_id: str, *, reason: str | None = None) -> Run: ...

    async def replay_run(self, run_id: str, *, delay: Any = None, reason: str | None = None) -> str: ...


class Dispatcher(Protocol):
    """Accepts envelopes: a runtime, or a stand-in for one in a test."""

    @property
    def runs(self) -> RunReader: ...

    def knows(self, job: str) -> bool:
        """Whether a job of this name is registered here."""
        ...

    async def accept(self, envelope: Envelope, *, tx: Transaction | None = None) -> Accepted: ...

    def accept_sync(self, envelope: Envelope, *, tx: Transaction | None = None) -> Accepted:
        """The same from a thread that is not the loop's."""
        ...


_override: ContextVar[Dispatcher | None] = ContextVar("actorjobs_dispatcher", default=None)
_open: list[Dispatcher] = []
_in_place_of_all: list[Dispatcher] = []


@contextmanager
def dispatching_through(dispatcher: Dispatcher | None) -> Generator[None]:
    """Have every dispatch below this block go through `dispatcher`."""
    token = _override.set(dispatcher)
    try:
        yield
    finally:
        _override.reset(token)


@contextmanager
def dispatching_everywhere_through(dispatcher: Dispatcher) -> Generator[None]:
    """The same for the whole process, but for what says otherwise in its own context; for a test, whose fixtures have
    other contexts than what it calls."""
    _in_place_of_all.append(dispatcher)
    try:
        yield
    finally:
        _in_place_of_all.remove(dispatcher)


def bind_dispatcher(dispatcher: Dispatcher | None) -> None:
    """Have every dispatch of the current context go through `dispatcher`; for contexts made for one attempt."""
    _override.set(dispatcher)


def open_dispatcher(dispatcher: Dispatcher) -> None:
    _open.append(dispatcher)


def close_dispatcher(dispatcher: Dispatcher) -> None:
    if dispatcher in _open:
        _open.remove(dispatcher)


def find_dispatcher(job: str) -> Dispatcher:
    """Who accepts a dispatch of `job` made here: an override or the running handler's runtime, the only open one,
    or the only open one that registers the job. `NoRuntime` or `AmbiguousRuntime` otherwise."""
    chosen = _override.get()
    if chosen is not None:
        return chosen
    if _in_place_of_all:
        return _in_place_of_all[-1]
    if len(_open) == 1:
        return _open[0]
    if not _open:
        raise NoRuntime(
            f"no runtime is open to accept {job!r}: enter `async with runtime:` or `async with runtime.client():` first"
        )
    knowing = [candidate for candidate in _open if candidate.knows(job)]
    if len(knowing) == 1:
        return knowing[0]
    raise AmbiguousRuntime(
        f"{len(_open)} runtimes are open and {len(knowing)} of them register {job!r}: "
        "name one with `runtime.dispatch(...)` or `with runtime.override():`"
    )
