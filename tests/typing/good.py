"""What users write, and the types both checkers must infer for it. Checked, never executed."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, Generic, assert_type

from pydantic import BaseModel, Field, RootModel
from typing_extensions import TypeVar

from actorjobs.jobs import (
    Actor,
    ArgsDispatchable,
    Definition,
    Dispatchable,
    FakeContext,
    Job,
    JobContext,
    JobRef,
    Process,
    Queue,
    RunHandle,
    Unique,
    current_context,
    job,
)
from actorjobs.model import Envelope, HistoryEntry, Run
from actorjobs.retry import Custom, Exponential, Fixed, Retry


class Services:
    mailer: int = 1


class Session:
    def in_transaction(self) -> bool:
        return True


class Welcome(BaseModel):
    email: str
    title: str = Field(min_length=3)


class Receipt(BaseModel):
    to: str


class Numbers(RootModel[list[int]]):
    pass


class Mailer(Actor):
    def __init__(self) -> None:
        self.sent = 0


def upcast(payload: Any, version: int) -> dict[str, Any]:
    return {"email": payload["mail"], "title": "old"}


@job(
    "mail:versioned",
    version=2,
    upcast=upcast,
    unique=Unique(("email",), while_="queued", on_conflict="replace"),
    isolation=Process(memory=512 * 1024 * 1024),
    on_lease_loss="continue",
)
async def versioned(payload: Welcome, ctx: JobContext[Services]) -> None:
    assert_type(ctx.actor(Mailer), Mailer)
    assert_type(ctx.actor(Mailer).sent, int)
    await versioned.dispatch(payload, unique=False)
    await versioned.dispatch(payload, unique=Unique(period=timedelta(hours=1), on_conflict="raise"))
    Queue(concurrency=4, actor=Mailer)


class Versioned(Job[Welcome, None]):
    name = "mail:versioned-class"
    version = 2
    unique = Unique()
    isolation = "process"
    on_lease_loss = "continue"

    @classmethod
    def upcast(cls, payload: Any, version: int) -> Any:
        return payload


# --- function jobs ---------------------------------------------------------------------------------------------------


@job("mail:welcome", queue="emails", retry=Retry(attempts=5), timeout=30)
async def send_welcome(payload: Welcome, ctx: JobContext[Services]) -> Receipt:
    assert_type(ctx.app, Services)
    assert_type(ctx.attempt, int)
    assert_type(ctx.state, dict[str, Any])
    return Receipt(to=payload.email)


@job("mail:bare")
async def send_bare(payload: Welcome, ctx: JobContext) -> int:
    assert_type(ctx.app, None)
    return 1


@job("mail:quiet", retries=3, retry_delay=timedelta(seconds=5), tags=["mail"], aliases=["mail:silent"])
async def send_quietly(payload: Welcome) -> None: ...


@job("mail:thread", retry=Retry(3, Exponential(base=1, cap=timedelta(hours=1)), on=OSError, never=(KeyError,)))
def send_in_thread(payload: Welcome, ctx: JobContext[Services]) -> str:
    ctx.progress_sync(0.5)
    ctx.check_canceled()
    return ""


@job("numbers:sum", retry=Retry(backoff=Custom(10, 30, timedelta(minutes=2))))
def add_up(payload: Numbers) -> int:
    return sum(payload.root)


@job("reports:export", queue="reports")
def export(ctx: JobContext[Services], report_id: int, fmt: str = "pdf") -> str:
    return fmt


@job("reports:plain", retry=Retry(2, Fixed(1)))
async def plain(report_id: int, *, fmt: str = "pdf") -> str:
    return fmt


@job("reports:context-only")
async def context_only(ctx: JobContext[Services]) -> int:
    return ctx.app.mailer


@job("tick:tock")
def tick() -> None: ...


# --- class jobs ------------------------------------------------------------------------------------------------------


class BuildReport(Job[Welcome, Receipt, Services]):
    name = "reports:build"
    queue = "reports"
    retries = 1
    retry_delay = 5
    limit: ClassVar[int] = 5
    locale: str = "en"
    pages: list[int] = dataclasses.field(default_factory=list[int])

    async def perform(self, payload: Welcome, ctx: JobContext[Services]) -> Receipt:
        assert_type(ctx.app, Services)
        return Receipt(to=self.locale)

    def backoff(self, failures: int, error: BaseException) -> float | timedelta | None:
        return timedelta(seconds=failures)


class InThread(Job[Welcome, str]):
    name = "reports:thread"
    timeout = 30
    retry = Retry(attempts=2)
    tags = ("a",)

    def perform(self, payload: Welcome, ctx: JobContext) -> str:
        assert_type(ctx.app, None)
        return ""


P = TypeVar("P", bound=BaseModel)
R = TypeVar("R")


class ApplicationJob(Job[P, R, Services], Generic[P, R]):
    queue = "app"
    region: str = "eu"


class Inherited(ApplicationJob[Welcome, int]):
    name = "app:inherited"
    city: str

    async def perform(self, payload: Welcome, ctx: JobContext[Services]) -> int:
        return len(self.region + self.city)


# --- references ------------------------------------------------------------------------------------------------------

reference = JobRef("mail:welcome", Welcome, Receipt, queue="emails")
reference_to_none = JobRef("mail:none", Welcome, None)
reference_to_list = JobRef("mail:list", Welcome, list[int])

WELCOME = Welcome(email="", title="abc")
WHEN = datetime(2030, 1, 1, tzinfo=UTC)


async def calling() -> None:
    assert_type(await send_welcome(WELCOME, JobContext.fake(app=Services())), Receipt)
    assert_type(await send_bare(WELCOME, JobContext.fake()), int)
    assert_type(await send_bare(WELCOME, JobContext.fake(attempt=2, state={"a": 1})), int)
    assert_type(send_in_thread(WELCOME, JobContext.fake(app=Services(), attempt=2)), str)
    assert_type(add_up(Numbers([1])), int)
    assert_type(export(JobContext.fake(app=Services()), 7, fmt="x"), str)
    assert_type(await plain(7, fmt="x"), str)
    assert_type(JobContext.fake(), FakeContext[None])
    assert_type(JobContext.fake(app=Services()), FakeContext[Services])
    assert_type(current_context(), JobContext[Any])
    assert_type(BuildReport(locale="de", pages=[1]).locale, str)
    assert_type(send_welcome.definition, Definition)
    assert_type(BuildReport.definition, Definition)
    assert_type(export.name, str)


async def dispatching() -> None:
    assert_type(
        await send_welcome.dispatch(WELCOME, delay=timedelta(minutes=5), idempotency_key="w:42"), RunHandle[Receipt]
    )
    assert_type(await send_welcome.dispatch_to("bulk", WELCOME, priority=9), RunHandle[Receipt])
    assert_type(await send_welcome.dispatch(WELCOME, tx=Session(), meta={"a": 1}, tags={"b"}), RunHandle[Receipt])
    assert_type(send_welcome.dispatch_sync(WELCOME, run_at=WHEN), RunHandle[Receipt])
    assert_type(send_welcome.envelope(WELCOME, run_at=WHEN, retry=Retry(2)), Envelope)
    assert_type(send_welcome.schedule(WELCOME, delay=None), Envelope)
    assert_type(send_welcome.options(delay=3), Dispatchable[Welcome, Receipt])
    assert_type(await send_welcome.options(delay=3, tx=None).dispatch(WELCOME), RunHandle[Receipt])
    assert_type(await send_bare.dispatch(WELCOME), RunHandle[int])
    assert_type(await send_quietly.dispatch(WELCOME), RunHandle[None])
    assert_type(await send_in_thread.dispatch(WELCOME), RunHandle[str])
    assert_type(await add_up.dispatch(Numbers([1])), RunHandle[int])
    assert_type(await export.dispatch(7), RunHandle[str])
    assert_type(await export.options(delay=5).dispatch(7, fmt="csv"), RunHandle[str])
    assert_type(await export.dispatch_to("bulk", 7, fmt="csv"), RunHandle[str])
    assert_type(export.dispatch_sync(report_id=7), RunHandle[str])
    assert_type(export.envelope(7), Envelope)
    assert_type(await plain.dispatch(7, fmt="csv"), RunHandle[str])
    assert_type(await context_only.dispatch(), RunHandle[int])
    assert_type(await tick.dispatch(), RunHandle[None])
    assert_type(await BuildReport.dispatch(WELCOME, timeout=5), RunHandle[Receipt])
    assert_type(await BuildReport.dispatch_to("bulk", WELCOME), RunHandle[Receipt])
    assert_type(BuildReport.dispatch_sync(WELCOME), RunHandle[Receipt])
    assert_type(BuildReport.envelope(WELCOME), Envelope)
    assert_type(BuildReport.schedule(WELCOME), Envelope)
    assert_type(BuildReport.build(locale="de"), Dispatchable[Welcome, Receipt])
    assert_type(await BuildReport.build(locale="de").dispatch(WELCOME, delay=1), RunHandle[Receipt])
    assert_type(await BuildReport.build().options(delay=1).dispatch(WELCOME), RunHandle[Receipt])
    assert_type(await BuildReport.options(queue="q").dispatch(WELCOME), RunHandle[Receipt])
    assert_type(await InThread.dispatch(WELCOME), RunHandle[str])
    assert_type(await Inherited.build(city="Ulm").dispatch(WELCOME), RunHandle[int])
    assert_type(await Inherited.build(city="Ulm", region="us").dispatch(WELCOME), RunHandle[int])
    assert_type(await reference.dispatch(WELCOME), RunHandle[Receipt])
    assert_type(await reference_to_none.dispatch(WELCOME), RunHandle[None])
    assert_type(await reference_to_list.dispatch(WELCOME), RunHandle[list[int]])


async def handles() -> None:
    handle = send_welcome.handle("x")
    assert_type(handle, RunHandle[Receipt])
    assert_type(BuildReport.handle("x"), RunHandle[Receipt])
    assert_type(export.handle("x"), RunHandle[str])
    assert_type(await handle.result(timeout=1), Receipt)
    assert_type(await handle.result(timedelta(seconds=1)), Receipt)
    assert_type(await handle.run(), Run)
    assert_type(await handle.cancel(reason="enough"), Run)
    assert_type(await handle.replay(delay=5), RunHandle[Receipt])
    assert_type(handle.events(), AsyncIterator[HistoryEntry])
    assert_type((handle.id, handle.existing), tuple[str, bool])
    takes_a_wider_one(handle)


def takes_a_wider_one(handle: RunHandle[BaseModel]) -> None: ...


async def within_a_handler(ctx: JobContext[Services]) -> None:
    await ctx.progress(0.4, "4 of 10")
    await ctx.checkpoint(page=3)
    assert_type(await ctx.dispatch(send_welcome, WELCOME, delay=1), RunHandle[Receipt])
    assert_type(await ctx.dispatch(BuildReport, WELCOME), RunHandle[Receipt])
    assert_type(await ctx.dispatch(BuildReport.build(locale="de"), WELCOME), RunHandle[Receipt])
    assert_type(await ctx.dispatch(reference_to_none, WELCOME), RunHandle[None])
    assert_type(await ctx.dispatch(export, 7, fmt="csv"), RunHandle[str])
    assert_type(await ctx.dispatch(export.options(delay=5), 7), RunHandle[str])
    assert_type(await ctx.dispatch(tick), RunHandle[None])
    assert_type(await ctx.dispatch(send_welcome.envelope(WELCOME), tx=Session()), RunHandle[Any])
    assert_type(ctx.dispatch_sync(send_welcome, WELCOME), RunHandle[Receipt])
    assert_type(ctx.dispatch_sync(BuildReport, WELCOME), RunHandle[Receipt])
    assert_type(ctx.dispatch_sync(export, 7), RunHandle[str])


def takes_any(one: Dispatchable[Welcome, Receipt], other: ArgsDispatchable[[int, str], str]) -> None: ...


takes_any(send_welcome, ArgsDispatchable[[int, str], str](export.definition, bind=print))
takes_any(BuildReport.build(), ArgsDispatchable[[int, str], str](export.definition, bind=print))
