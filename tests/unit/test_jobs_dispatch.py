"""From a call to an envelope to a handle: what is asked for, through whom, and in whose tenant and trace."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import BaseModel, Field

from actorjobs.errors import InvalidOption, NoRuntime, PayloadInvalid, ResultInvalid, ResultTimeout, RunFailed
from actorjobs.jobs import Job, JobContext, JobDefaults, JobRef, Queue, RunHandle, bind_context, job, order_for
from actorjobs.model import Envelope, ErrorInfo, HistoryEntry, Run, RunState, trace_id_of
from actorjobs.ports import Accepted, Transaction, dispatching_through
from actorjobs.retry import Exponential, Fixed, Retry
from actorjobs.tenancy import tenant

SECRET = "s3cr3t-hunter2"
WHEN = datetime(2030, 1, 1, tzinfo=UTC)


class Welcome(BaseModel):
    email: str
    title: str = Field(default="hello", min_length=3)


class Receipt(BaseModel):
    to: str


@job("mail:welcome", queue="emails", retry=Retry(3), timeout=30, tags=["mail"])
async def welcome(payload: Welcome) -> Receipt:
    return Receipt(to=payload.email)


@job("reports:export")
def export(report_id: int, fmt: str = "pdf") -> str:
    return fmt


class Build(Job[Welcome, Receipt]):
    name = "build:it"
    locale: str = "en"

    async def perform(self, payload: Welcome, ctx: JobContext) -> Receipt:
        return Receipt(to=self.locale)


class Session:
    def in_transaction(self) -> bool:
        return True


class Recorder:
    """A dispatcher that only takes note, and a reader of one prepared run."""

    def __init__(self, run: Run | Exception | None = None) -> None:
        self.accepted: list[tuple[Envelope, Transaction | None, str]] = []
        self.calls: list[tuple[Any, ...]] = []
        self.prepared = run

    @property
    def runs(self) -> Recorder:
        return self

    def knows(self, job: str) -> bool:
        return True

    async def accept(self, envelope: Envelope, *, tx: Transaction | None = None) -> Accepted:
        self.accepted.append((envelope, tx, "async"))
        return Accepted(run_id="run-" + envelope.job, existing=True)

    def accept_sync(self, envelope: Envelope, *, tx: Transaction | None = None) -> Accepted:
        self.accepted.append((envelope, tx, "sync"))
        return Accepted(run_id="run-" + envelope.job, existing=False)

    async def get(self, run_id: str) -> Run:
        self.calls.append(("get", run_id))
        return self._run()

    async def wait(self, run_id: str, timeout: float | None) -> Run:
        self.calls.append(("wait", run_id, timeout))
        return self._run()

    async def cancel(self, run_id: str, *, reason: str | None = None) -> Run:
        self.calls.append(("cancel", run_id, reason))
        return self._run()

    async def replay_run(self, run_id: str, *, delay: Any = None, reason: str | None = None) -> str:
        self.calls.append(("replay", run_id, delay, reason))
        return "replayed"

    async def events(self, run_id: str) -> AsyncIterator[HistoryEntry]:
        yield HistoryEntry(at=WHEN, event=run_id, state=RunState.QUEUED, attempt=0)

    def _run(self) -> Run:
        if isinstance(self.prepared, Exception):
            raise self.prepared
        assert self.prepared is not None
        return self.prepared


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    recorder = Recorder()
    with dispatching_through(recorder):
        yield recorder


def a_run(state: RunState = RunState.SUCCEEDED, **fields: Any) -> Run:
    values: dict[str, Any] = dict.fromkeys(Run.__dataclass_fields__)
    values |= {"id": "r1", "job": "mail:welcome", "state": state, "attempt": 1, "errors": ()}
    return Run(**(values | fields))


# --- envelopes -------------------------------------------------------------------------------------------------------


def test_an_envelope_holds_what_the_job_declares() -> None:
    envelope = welcome.envelope(Welcome(email="a"))
    assert (envelope.job, envelope.queue, envelope.payload) == (
        "mail:welcome",
        "emails",
        {"email": "a", "title": "hello"},
    )
    assert (envelope.max_attempts, envelope.timeout, envelope.tags) == (3, 30, ("mail",))
    assert envelope.script == f"{__name__}:welcome"
    assert (envelope.priority, envelope.retry, envelope.parent, envelope.tenant) == (4, None, None, None)
    assert (envelope.delay, envelope.run_at, envelope.meta, envelope.constructor_args) == (None, None, {}, {})


def test_options_of_a_dispatch_overlay_those_of_the_job() -> None:
    envelope = welcome.envelope(
        Welcome(email="a"),
        delay=timedelta(minutes=5),
        queue="bulk",
        priority=9,
        idempotency_key="w:42",
        tenant="acme",
        retry=Retry(8, Fixed(1), max_elapsed=60),
        timeout=1,
        expires_in=2,
        retention=3,
        tags=["x"],
        meta={"a": 1},
    )
    assert (envelope.delay, envelope.queue, envelope.priority) == (300, "bulk", 9)
    assert (envelope.idempotency_key, envelope.tenant) == ("w:42", "acme")
    assert envelope.max_attempts == 8
    assert envelope.retry is not None
    assert Retry.from_json(envelope.retry) == Retry(8, Fixed(1), max_elapsed=60)
    assert (envelope.timeout, envelope.expires_in, envelope.retention) == (1, 2, 3)
    assert (envelope.tags, envelope.meta) == (("x",), {"a": 1})
    assert welcome.envelope(Welcome(email="a"), run_at=WHEN).run_at == WHEN


def test_an_envelope_survives_json() -> None:
    envelope = Build.build(locale="de").envelope(Welcome(email="a"), run_at=WHEN, retry=Retry(2), tags=["a"])
    assert Envelope.model_validate_json(envelope.model_dump_json()) == envelope


def test_options_may_be_set_beforehand_and_later_ones_win() -> None:
    bulk = welcome.options(queue="bulk", delay=5).options(delay=6, priority=1)
    envelope = bulk.envelope(Welcome(email="a"), priority=2)
    assert (envelope.queue, envelope.delay, envelope.priority) == ("bulk", 6, 2)
    assert welcome.envelope(Welcome(email="a")).queue == "emails"
    assert export.options(delay=5, queue="q").envelope(7, fmt="csv").delay == 5
    assert Build.options(delay=5).envelope(Welcome(email="a")).delay == 5


def test_bad_options_are_refused_when_they_are_set() -> None:
    for act in (
        lambda: welcome.options(delay=-1),
        lambda: export.options(dely=3),  # type: ignore[call-arg]
        lambda: Build.options(priority=77),
        lambda: welcome.envelope(Welcome(email="a"), retry=Retry(on=OSError)),
        lambda: welcome.options(delay=1).envelope(Welcome(email="a"), run_at=WHEN),
    ):
        with pytest.raises(InvalidOption):
            act()


def test_every_envelope_has_an_id_and_a_trace_of_its_own() -> None:
    one, two = (welcome.envelope(Welcome(email="a")) for _ in range(2))
    assert one.id != two.id
    assert one.trace_id != two.trace_id
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-01", one.traceparent or "")


def test_schedule_is_another_word_for_envelope() -> None:
    assert welcome.schedule(Welcome(email="a"), delay=1).delay == 1
    assert export.schedule(7).payload == {"report_id": 7, "fmt": "pdf"}
    assert Build.schedule(Welcome(email="a")).job == "build:it"


def test_the_tenant_at_hand_is_taken_along() -> None:
    with tenant("acme"):
        assert welcome.envelope(Welcome(email="a")).tenant == "acme"
        assert welcome.envelope(Welcome(email="a"), tenant="other").tenant == "other"
        assert export.envelope(1).tenant == "acme"
    with tenant("a\x00"), pytest.raises(InvalidOption, match="tenant"):
        welcome.envelope(Welcome(email="a"))


async def test_within_a_handler_the_trace_goes_on() -> None:
    context = JobContext.fake()
    bind_context(context)
    envelope = welcome.envelope(Welcome(email="a"))
    assert envelope.trace_id == context.trace_id == trace_id_of(context.traceparent)
    assert envelope.parent is None, "only ctx.dispatch makes children"


def test_a_payload_is_validated_before_anything_else() -> None:
    with pytest.raises(PayloadInvalid, match=r"payload\.title: String should have at least 3 characters"):
        welcome.envelope(Welcome.model_construct(email=SECRET, title="x"))
    with pytest.raises(PayloadInvalid, match="payload must be Welcome, not Receipt"):
        welcome.envelope(Receipt(to=SECRET))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((), {}, "payload: missing a required argument: 'report_id'"),
        ((1, "a", 2), {}, "payload: too many positional arguments"),
        ((1,), {"report_id": 1}, "payload: multiple values for argument 'report_id'"),
        ((1,), {"format": SECRET}, "payload: got an unexpected keyword argument 'format'"),
        ((1,), {"delay": 5}, "(options are set before: .options(delay=...).dispatch(...))"),
        ((SECRET,), {}, "payload.report_id: Input should be a valid integer"),
        ((1,), {"fmt": 5}, "payload.fmt: Input should be a valid string"),
        ((True,), {"fmt": SECRET + "\x00"}, "payload.fmt holds a NUL"),
    ],
)
def test_plain_arguments_that_do_not_fit_are_refused(args: Any, kwargs: Any, message: str) -> None:
    with pytest.raises(PayloadInvalid) as refusal:
        export.envelope(*args, **kwargs)
    assert message in str(refusal.value)
    assert SECRET not in str(refusal.value)
    assert refusal.value.__cause__ is None


def test_an_envelope_carries_no_transaction() -> None:
    for act in (
        lambda: welcome.envelope(Welcome(email="a"), tx=Session()),  # type: ignore[call-arg]
        lambda: export.options(tx=Session()).envelope(1),
        lambda: Build.options(tx=Session()).envelope(Welcome(email="a")),
    ):
        with pytest.raises(InvalidOption, match="an envelope carries no transaction"):
            act()


# --- dispatching -----------------------------------------------------------------------------------------------------


async def test_dispatch_goes_through_the_dispatcher_at_hand(recorder: Recorder) -> None:
    session = Session()
    run = await welcome.dispatch(Welcome(email="a"), delay=1, tx=session)
    await export.options(tx=session).dispatch(7)
    await Build.dispatch(Welcome(email="a"))
    await Build.build(locale="de").dispatch(Welcome(email="a"))
    assert (run.id, run.existing) == ("run-mail:welcome", True)
    assert [(e.job, tx, how) for e, tx, how in recorder.accepted] == [
        ("mail:welcome", session, "async"),
        ("reports:export", session, "async"),
        ("build:it", None, "async"),
        ("build:it", None, "async"),
    ]
    assert [e.constructor_args for e, _, _ in recorder.accepted[2:]] == [{"locale": "en"}, {"locale": "de"}]


async def test_dispatch_to_names_the_queue(recorder: Recorder) -> None:
    await welcome.dispatch_to("bulk", Welcome(email="a"), delay=1)
    await export.dispatch_to("bulk", 7, fmt="csv")
    await Build.dispatch_to("bulk", Welcome(email="a"))
    assert [envelope.queue for envelope, _, _ in recorder.accepted] == ["bulk"] * 3
    with pytest.raises(InvalidOption, match="already names the queue"):
        await welcome.dispatch_to("bulk", Welcome(email="a"), queue="other")
    with pytest.raises(InvalidOption, match="a queue name"):
        await export.dispatch_to("No Queue", 7)


def test_dispatch_sync_is_the_same_from_a_thread(recorder: Recorder) -> None:
    assert welcome.dispatch_sync(Welcome(email="a")).existing is False
    assert export.dispatch_sync(7).id == "run-reports:export"
    assert Build.dispatch_sync(Welcome(email="a")).id == "run-build:it"
    assert {how for _, _, how in recorder.accepted} == {"sync"}


async def test_without_a_runtime_a_dispatch_says_so() -> None:
    with pytest.raises(NoRuntime, match="'mail:welcome'"):
        await welcome.dispatch(Welcome(email="a"))
    with pytest.raises(NoRuntime):
        await welcome.handle("x").run()


def test_an_order_can_be_made_of_whatever_can_be_dispatched() -> None:
    envelope = welcome.envelope(Welcome(email="a"))
    session = Session()
    assert order_for(welcome, Welcome(email="a"), delay=1).envelope.delay == 1
    assert order_for(export, 7, fmt="csv").envelope.payload == {"report_id": 7, "fmt": "csv"}
    assert order_for(Build, Welcome(email="a")).envelope.job == "build:it"
    assert order_for(Build.build(locale="x"), Welcome(email="a")).envelope.constructor_args == {"locale": "x"}
    assert order_for(envelope, tx=session).envelope is envelope
    assert order_for(envelope, tx=session).tx is session
    for stranger in (5, "mail:welcome", None, Welcome, object()):
        with pytest.raises(InvalidOption, match="dispatch takes a job or an envelope"):
            order_for(stranger)
    with pytest.raises(InvalidOption, match="tx must be"):
        order_for(envelope, tx="nonsense")


# --- references ------------------------------------------------------------------------------------------------------


def test_a_reference_dispatches_what_another_service_implements() -> None:
    reference = JobRef("mail:welcome", Welcome, Receipt, queue="emails")
    envelope = reference.envelope(Welcome(email="a"), delay=1)
    assert (envelope.job, envelope.queue, envelope.script, envelope.delay) == ("mail:welcome", "emails", None, 1)
    assert "timeout" not in envelope.model_fields_set
    assert repr(reference) == "<reference to job 'mail:welcome'>"


@pytest.mark.parametrize(
    ("args", "queue", "message"),
    [
        (("Bad", Welcome, None), "q", "a job name"),
        (("a:b", int, None), "q", "the payload of a JobRef is a pydantic model"),
        (("a:b", list[int], None), "q", "the payload of a JobRef is a pydantic model"),
        (("a:b", None, None), "q", "the payload of a JobRef is a pydantic model"),
        (("a:b", Welcome, Session), "q", "result: this type cannot become JSON"),
        (("a:b", Welcome, None), "No Queue", "a queue name"),
    ],
)
def test_a_bad_reference_is_refused(args: Any, queue: str, message: str) -> None:
    with pytest.raises(InvalidOption, match=message):
        JobRef(*args, queue=queue)


# --- handles ---------------------------------------------------------------------------------------------------------


async def test_a_result_is_typed_again() -> None:
    recorder = Recorder(a_run(result={"to": "a"}))
    with dispatching_through(recorder):
        assert await welcome.handle("r1").result(timeout=timedelta(seconds=2)) == Receipt(to="a")
        assert await (await welcome.dispatch(Welcome(email="a"))).result() == Receipt(to="a")
    assert recorder.calls == [("wait", "r1", 2.0), ("wait", "run-mail:welcome", None)]


async def test_a_result_that_no_longer_fits_is_refused() -> None:
    with dispatching_through(Recorder(a_run(result={"other": SECRET}))), pytest.raises(ResultInvalid) as refusal:
        await welcome.handle("r1").result()
    assert str(refusal.value) == "result.to: Field required"


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (
            a_run(
                RunState.DEAD_LETTERED,
                attempt=2,
                errors=(ErrorInfo(name="A", message="first"), ErrorInfo(name="ValueError", message="boom")),
            ),
            "run r1 of 'mail:welcome' is dead_lettered after 2 attempts: ValueError: boom",
        ),
        (a_run(RunState.CANCELED, reason="user left"), "run r1 of 'mail:welcome' is canceled: user left"),
        (a_run(RunState.EXPIRED, attempt=0), "run r1 of 'mail:welcome' is expired"),
    ],
)
async def test_a_run_that_ended_otherwise_raises(run: Run, message: str) -> None:
    with dispatching_through(Recorder(run)), pytest.raises(RunFailed) as failure:
        await welcome.handle("r1").result()
    assert str(failure.value) == message
    assert (failure.value.run_id, failure.value.state) == ("r1", run.state)


async def test_a_time_out_is_passed_on() -> None:
    with dispatching_through(Recorder(ResultTimeout("late"))), pytest.raises(ResultTimeout):
        await welcome.handle("r1").result(timeout=0)
    with dispatching_through(Recorder(a_run())), pytest.raises(InvalidOption, match="timeout"):
        await welcome.handle("r1").result(timeout=-1)


async def test_a_handle_manages_its_run() -> None:
    run = a_run()
    recorder = Recorder(run)
    with dispatching_through(recorder):
        handle = welcome.handle("r1")
        assert await handle.run() is run
        assert await handle.cancel("enough") is run
        again = await handle.replay(delay=timedelta(seconds=5), reason="fixed")
        assert [entry.event async for entry in again.events()] == ["replayed"]
    assert isinstance(again, RunHandle)
    assert recorder.calls == [("get", "r1"), ("cancel", "r1", "enough"), ("replay", "r1", 5.0, "fixed")]
    assert repr(handle) == "<run r1 of 'mail:welcome'>"


async def test_a_handle_from_a_dispatch_stays_with_its_runtime(recorder: Recorder) -> None:
    run = await welcome.dispatch(Welcome(email="a"))
    recorder.prepared = a_run()
    with dispatching_through(None):
        assert await run.run() is recorder.prepared


# --- defaults of a runtime -------------------------------------------------------------------------------------------


def test_defaults_fill_in_what_neither_job_nor_dispatch_says() -> None:
    defaults = JobDefaults(retry=Retry(9), timeout=timedelta(minutes=1), expires_in=5, retention=6, tags=["d"])
    bare = defaults.complete(export.envelope(1))
    assert (bare.max_attempts, bare.timeout, bare.expires_in, bare.retention, bare.tags) == (9, 60, 5, 6, ("d",))
    full = defaults.complete(welcome.envelope(Welcome(email="a"), expires_in=77))
    assert (full.max_attempts, full.timeout, full.expires_in, full.retention, full.tags) == (3, 30, 77, 6, ("mail",))
    assert defaults.complete(export.options(retry=Retry(2)).envelope(1)).max_attempts == 2


def test_defaults_fill_in_a_definition() -> None:
    defaults = JobDefaults(retry=Retry(9, Exponential(base=1)), timeout=60, tags=["d"])
    definition = export.definition.with_defaults(defaults)
    assert (definition.retry, definition.timeout, definition.tags) == (Retry(9, Exponential(base=1)), 60, ("d",))
    assert welcome.definition.with_defaults(defaults).retry == Retry(3)
    assert welcome.definition.with_defaults(JobDefaults()) is welcome.definition
    assert export.definition.timeout is None


@pytest.mark.parametrize(
    "bad", [{"retry": 5}, {"timeout": 0}, {"expires_in": -1}, {"retention": "x"}, {"tags": "x"}, {"timeout": True}]
)
def test_bad_defaults_are_refused(bad: Any) -> None:
    with pytest.raises(InvalidOption):
        JobDefaults(**bad)


def test_a_queue_has_ten_actors() -> None:
    assert Queue().concurrency == 10
