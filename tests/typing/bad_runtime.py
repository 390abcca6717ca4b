"""Calls of a runtime that both checkers must refuse: one on every line that ends in `# E`, and nowhere else."""

from __future__ import annotations

from actorjobs.runtime import Runtime

from .good import WELCOME, BuildReport, Receipt, export, plain, reference, send_welcome

RECEIPT = Receipt(to="")


async def dispatching(runtime: Runtime) -> None:
    await runtime.dispatch(send_welcome, RECEIPT)  # type: ignore[misc]  # pyright: ignore[reportArgumentType, reportCallIssue]  # E
    await runtime.dispatch(send_welcome)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]  # E
    await runtime.dispatch(send_welcome, WELCOME, dely=3)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]  # E
    await runtime.dispatch(send_welcome, WELCOME, delay="3")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]  # E
    await runtime.dispatch(send_welcome, WELCOME, tx="nonsense")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]  # E
    await runtime.dispatch(BuildReport, RECEIPT)  # type: ignore[misc]  # pyright: ignore[reportArgumentType, reportCallIssue]  # E
    await runtime.dispatch(BuildReport.build(locale="de"), RECEIPT)  # type: ignore[misc]  # pyright: ignore[reportArgumentType, reportCallIssue]  # E
    await runtime.dispatch(reference, RECEIPT)  # type: ignore[misc]  # pyright: ignore[reportArgumentType, reportCallIssue]  # E
    await runtime.dispatch(export, "x")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]  # E
    await runtime.dispatch(export, 7, delay=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]  # E
    await runtime.dispatch(plain, 7, "csv")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]  # E
    await runtime.dispatch(send_welcome.envelope(WELCOME), delay=3)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]  # E
    await runtime.dispatch("mail:welcome", WELCOME)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]  # E
    await runtime.dispatch(RECEIPT)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]  # E
    await runtime.dispatch_many([WELCOME])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]  # E
    number: int = await (await runtime.dispatch(send_welcome, WELCOME)).result()  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]  # E
    print(number)
