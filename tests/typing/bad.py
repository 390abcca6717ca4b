"""Calls that both checkers must refuse: one on every line that ends in `# E`, and nowhere else."""

from __future__ import annotations

from actorjobs.jobs import Job, JobContext, JobRef, Process, Queue, RunHandle, Unique, job
from actorjobs.retry import Retry

from .good import (
    WELCOME,
    BuildReport,
    Inherited,
    Receipt,
    Services,
    Welcome,
    export,
    plain,
    reference,
    send_bare,
    send_welcome,
)

RECEIPT = Receipt(to="")


async def payloads() -> None:
    await send_welcome.dispatch(RECEIPT)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # E
    await send_welcome.dispatch({"title": ""})  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # E
    await send_welcome.dispatch()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]  # E
    await send_welcome.dispatch_to("bulk", RECEIPT)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # E
    await send_welcome.dispatch_to(WELCOME)  # type: ignore[arg-type, call-arg]  # pyright: ignore[reportCallIssue]  # E
    send_welcome.dispatch_sync(RECEIPT)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # E
    send_welcome.envelope(RECEIPT)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # E
    await send_welcome.options(delay=1).dispatch(RECEIPT)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # E
    await BuildReport.dispatch(RECEIPT)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # E
    await BuildReport.dispatch_to("bulk", RECEIPT)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # E
    BuildReport.envelope(RECEIPT)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # E
    await BuildReport.build(locale="x").dispatch(RECEIPT)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # E
    await reference.dispatch(RECEIPT)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # E


async def arguments() -> None:
    await export.dispatch("x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # E
    await export.dispatch()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]  # E
    await export.dispatch(7, format="csv")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]  # E
    await export.dispatch(7, fmt=5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # E
    await export.dispatch(7, delay=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]  # E
    await plain.dispatch(7, "csv")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]  # E
    await plain.dispatch_to("bulk", "x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # E
    export.envelope("x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # E
    await export.options(delay=5).dispatch("x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # E


async def options() -> None:
    await send_welcome.dispatch(WELCOME, dely=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]  # E
    await send_welcome.dispatch(WELCOME, delay="3")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # E
    await send_welcome.dispatch(WELCOME, run_at="2030-01-01")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # E
    await send_welcome.dispatch(WELCOME, priority="high")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # E
    await send_welcome.dispatch(WELCOME, retry=3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # E
    await send_welcome.dispatch(WELCOME, tags=5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # E
    await send_welcome.dispatch(WELCOME, meta=[1])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # E
    await send_welcome.dispatch(WELCOME, tx="nonsense")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # E
    send_welcome.envelope(WELCOME, tx=None)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]  # E
    export.options(dely=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]  # E
    await BuildReport.dispatch(WELCOME, timeout="5")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # E
    Retry(attempts="3")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # E
    Retry(on=[OSError])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # E
    Retry(backoff=5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # E


async def constructor_arguments() -> None:
    BuildReport.build(local="x")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]  # E
    BuildReport.build(locale=3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # E
    BuildReport.build("de")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]  # E
    Inherited.build()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]  # E
    BuildReport(limit=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]  # E


async def results() -> None:
    number: int = await send_welcome.handle("x").result()  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]  # E
    text: RunHandle[str] = await send_welcome.dispatch(WELCOME)  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]  # E
    other: RunHandle[str] = await BuildReport.dispatch(WELCOME)  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]  # E
    await send_welcome.handle("x").result(timeout="1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # E
    print(number, text, other)


async def contexts(ctx: JobContext[Services]) -> None:
    await send_welcome(WELCOME, JobContext.fake())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # E
    await send_welcome(RECEIPT, JobContext.fake(app=Services()))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # E
    export(JobContext.fake(app=Services()), "x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # E
    await send_bare(WELCOME)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]  # E
    ctx.app.nothing  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]  # noqa: B018  # E
    JobContext.fake(atempt=2)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]  # E
    await ctx.progress("half")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # E
    await ctx.dispatch(send_welcome, RECEIPT)  # type: ignore[misc]  # pyright: ignore[reportArgumentType, reportCallIssue]  # E
    await ctx.dispatch(send_welcome, WELCOME, dely=3)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]  # E
    await ctx.dispatch(BuildReport, RECEIPT)  # type: ignore[misc]  # pyright: ignore[reportArgumentType, reportCallIssue]  # E
    await ctx.dispatch(export, "x")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]  # E
    await ctx.dispatch("mail:welcome", WELCOME)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]  # E
    ctx.dispatch_sync(export, 7, delay=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]  # E


def definitions() -> None:
    job("a:b", qeue="x")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]  # E
    job("a:b", timeout="30")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # E
    job("a:b", retries="3")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # E
    job("a:b", unique=True)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # E
    job("a:b", isolation="thread")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # E
    job("a:b", on_lease_loss="stop")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # E
    job("a:b", version="2")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # E
    Unique(("email",), on_conflict="ignore")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # E
    Unique(("email",), while_="running")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # E
    Process(memory="1 GiB")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # E
    Queue(actor=Receipt)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # E
    JobRef("a:b", int, None)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType, reportCallIssue]  # E
    JobRef("a:b", Welcome)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]  # E


class WrongPayload(Job[Welcome, Receipt]):
    name = "wrong:payload"

    async def perform(self, payload: Receipt, ctx: JobContext) -> Receipt:  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]  # E
        return payload


class WrongResult(Job[Welcome, Receipt]):
    name = "wrong:result"

    async def perform(self, payload: Welcome, ctx: JobContext) -> int:  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]  # E
        return 1


class WrongContext(Job[Welcome, None, Services]):
    name = "wrong:context"

    def perform(self, payload: Welcome, ctx: JobContext[int]) -> None: ...  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]  # E


class WrongOption(Job[Welcome, None]):
    name = "wrong:option"
    timeout = "30"  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]  # E
