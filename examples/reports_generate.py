"""A report on a queue of its own: the job owns how it is dispatched, callers never build a message.

Run it: python examples/reports_generate.py
"""

import asyncio

import actorjobs as aj

REPORTS: dict[int, list[int]] = {7: [3, 5, 8], 8: []}


class Reports:
    """The service that does the work; the job only connects it to the queue."""

    def generate(self, report_id: int, fmt: str) -> str:
        if report_id not in REPORTS:
            raise aj.Fail(f"there is no report {report_id}")
        return f"{fmt}:{sum(REPORTS[report_id])}"


@aj.job("reports:generate", queue="reports", retry=aj.Retry(attempts=3, backoff=aj.Fixed(0.1)), timeout=30)
def generate(ctx: aj.JobContext, report_id: int, fmt: str = "pdf") -> str:
    """Runs in a thread, so it may block. A payload of ids keeps the run small and the data fresh."""
    ctx.progress_sync(0.5, f"report {report_id}")
    return Reports().generate(report_id, fmt)


async def request_report(report_id: int, *, fmt: str = "pdf") -> aj.RunHandle[str]:
    """What the rest of the application calls."""
    return await generate.options(tags=["report"]).dispatch(report_id, fmt=fmt)


async def main() -> None:
    runtime = aj.Runtime(jobs=[generate], queues={"reports": aj.Queue(concurrency=2)})
    async with runtime:
        print("made:", await (await request_report(7)).result(timeout=10))
        print("made:", await (await request_report(8, fmt="csv")).result(timeout=10))
        try:
            await (await request_report(9)).result(timeout=10)
        except aj.RunFailed as error:
            print("for good:", error)
        try:
            runtime.register(generate)
        except aj.RegistrationClosed as error:
            print("too late:", error)
        page = await runtime.runs.list(queue="reports", tag="report")
        print("on record:", sorted(str(run.state) for run in page))


if __name__ == "__main__":
    asyncio.run(main())
