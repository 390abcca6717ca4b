"""The same for what is asked of a runtime explicitly."""

from __future__ import annotations

from typing import Any, assert_type

from actorjobs import Accepted, Access, CallNext, DispatchNext, Envelope, JobContext, Observation, Run, RunState
from actorjobs.jobs import RunHandle
from actorjobs.ports import RunFilter
from actorjobs.runtime import BulkResult, Explanation, Runtime

from .good import (
    WELCOME,
    BuildReport,
    Inherited,
    Numbers,
    Receipt,
    Session,
    add_up,
    export,
    plain,
    reference,
    reference_to_none,
    send_quietly,
    send_welcome,
    tick,
)


async def dispatching(runtime: Runtime) -> None:
    assert_type(await runtime.dispatch(send_welcome, WELCOME, delay=1), RunHandle[Receipt])
    assert_type(await runtime.dispatch(send_welcome.options(delay=1), WELCOME), RunHandle[Receipt])
    assert_type(await runtime.dispatch(send_quietly, WELCOME, tx=Session()), RunHandle[None])
    assert_type(await runtime.dispatch(add_up, Numbers([1])), RunHandle[int])
    assert_type(await runtime.dispatch(BuildReport, WELCOME, idempotency_key="x"), RunHandle[Receipt])
    assert_type(await runtime.dispatch(BuildReport.build(locale="de"), WELCOME), RunHandle[Receipt])
    assert_type(await runtime.dispatch(Inherited.build(city="Ulm"), WELCOME), RunHandle[int])
    assert_type(await runtime.dispatch(reference, WELCOME), RunHandle[Receipt])
    assert_type(await runtime.dispatch(reference_to_none, WELCOME), RunHandle[None])
    assert_type(await runtime.dispatch(export, 7, fmt="csv"), RunHandle[str])
    assert_type(await runtime.dispatch(export.options(delay=5), 7), RunHandle[str])
    assert_type(await runtime.dispatch(plain, 7), RunHandle[str])
    assert_type(await runtime.dispatch(tick), RunHandle[None])
    assert_type(await runtime.dispatch(send_welcome.envelope(WELCOME)), RunHandle[Any])
    assert_type(await runtime.dispatch_many([send_welcome.envelope(WELCOME)], tx=Session()), list[RunHandle[Any]])


runtime = Runtime(jobs=[send_welcome, export, BuildReport, "myapp.jobs"], queues={"emails": 20})


class OwnTenantOnly:
    async def allows(self, access: Access) -> bool:
        assert_type(access.run, Run | None)
        return access.caller == access.tenant


class Everybody:
    def allows(self, access: Access) -> bool:
        return True


async def timed(ctx: JobContext[Any], call_next: CallNext) -> Any:
    return await call_next(ctx)


async def stamped(envelope: Envelope, call_next: DispatchNext) -> Accepted:
    return await call_next(envelope)


async def told(observation: Observation) -> None:
    assert_type(observation.state, RunState | None)


guarded = Runtime(policy=OwnTenantOnly(), middleware=[timed], dispatch_middleware=[stamped], observers=[told, print])
open_to_all = Runtime(policy=Everybody())


async def managing(runtime: Runtime) -> None:
    assert_type(await runtime.runs.cancel_many(job="x", tag="y", rate=5, dry_run=True), BulkResult)
    assert_type(await runtime.runs.replay_many(RunFilter(state=(RunState.CANCELED,)), delay=5, limit=3), BulkResult)
    assert_type(await runtime.runs.retry_many(everything=True, on_progress=print), BulkResult)
    assert_type(await runtime.runs.explain("id"), Explanation)
