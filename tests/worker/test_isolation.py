"""Handlers in child processes: what they are told, what they may do, and every way in which they end."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

import actorjobs as aj
from actorjobs.worker.isolation import crew, messages, orders, process
from actorjobs.worker.isolation.messages import Garbled
from tests.worker import isolated_jobs as jobs
from tests.worker.conftest import MakeRuntime
from tests.worker.isolated_jobs import Odd, Services, Work

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

ROOT = Path(__file__).parents[2]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def children() -> set[int]:
    listed = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return {int(pid) for pid in listed if is_alive(int(pid))}


async def until(condition: Callable[[], object], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        await asyncio.sleep(0.005)


async def ends_as(handle: aj.RunHandle[Any]) -> tuple[aj.Run, list[aj.Outcome]]:
    from actorjobs.ports import find_dispatcher

    runtime = find_dispatcher("any")
    assert isinstance(runtime, aj.Runtime)
    run = await runtime.runs.wait(handle.id, timeout=20)
    return run, [attempt.outcome for attempt in await runtime.runs.attempts(handle.id)]


# what a handler is told and gives


async def test_a_handler_sees_all_it_would_see_here(make_runtime: MakeRuntime) -> None:
    async with make_runtime(jobs.tell, jobs.tell_sync, context=jobs.services):
        seen: list[dict[str, Any]] = []
        for job in (jobs.tell, jobs.tell_sync):
            handle = await job.options(tenant="acme", timeout=30).dispatch(Work())
            told = await handle.result(timeout=20)
            run = await handle.run()
            assert told["run"] == told["current"] == handle.id
            assert told["tenant"] == ["acme", "acme"]
            assert (told["trace"], told["attempt"], told["deadline"]) == (run.trace_id, 1, True)
            assert told["pid"] != os.getpid()
            assert told["app"] == told["pid"]  # the context was opened anew
            assert told["stdin"] == ""
            seen.append(told)
        [child] = children()
        assert [told["pid"] for told in seen] == [child, child]  # reused
        assert seen[0]["fds"] < 12
    assert not children()


async def test_a_class_with_arguments_and_its_own_backoff(make_runtime: MakeRuntime) -> None:
    async with make_runtime(jobs.Report):
        handle = await jobs.Report.build(language="fr").dispatch(Work(what="sales"))
        [child] = await asyncio.gather(handle.result(timeout=20), return_exceptions=True)
        run, outcomes = await ends_as(handle)
    assert str(child).startswith("sales in fr, by ")
    assert outcomes == [aj.Outcome.FAILED, aj.Outcome.FAILED, aj.Outcome.SUCCEEDED]
    assert run.errors[0].name == "Odd"
    assert "in perform" in run.errors[0].stack


async def test_the_job_and_the_defaults_say_what_is_retried(make_runtime: MakeRuntime) -> None:
    defaults = aj.JobDefaults(retry=aj.Retry(attempts=7, never=(Odd,)))
    async with make_runtime(jobs.never, jobs.only_on, jobs.undeclared, defaults=defaults):
        for job, attempts, reason in (
            (jobs.never, 1, "permanent"),
            (jobs.only_on, 2, "exhausted"),
            (jobs.undeclared, 1, "permanent"),
        ):
            run, outcomes = await ends_as(await job.dispatch(Work()))
            assert (outcomes, run.reason) == ([aj.Outcome.FAILED] * attempts, reason)


async def test_signals_from_threads_and_task_groups_of_the_child(make_runtime: MakeRuntime) -> None:
    expected = {
        "snooze": (aj.RunState.SUCCEEDED, [aj.Outcome.SNOOZED, aj.Outcome.SUCCEEDED], 0),
        "later": (aj.RunState.SUCCEEDED, [aj.Outcome.FAILED, aj.Outcome.SUCCEEDED], 1),
        "fail": (aj.RunState.DEAD_LETTERED, [aj.Outcome.FAILED], 1),
        "cancel": (aj.RunState.CANCELED, [aj.Outcome.CANCELED], 0),
    }
    async with make_runtime(jobs.steer, jobs.steer_sync, queues={"default": 2}):
        for what, (state, outcomes, failures) in expected.items():
            for dispatching in (
                jobs.steer.dispatch(Work(what=what, where="thread")),
                jobs.steer.dispatch(Work(what=what, where="group")),
                jobs.steer_sync.dispatch(Work(what=what)),
            ):
                run, ended = await ends_as(await dispatching)
                assert (run.state, ended, run.failures) == (state, outcomes, failures)
        assert len(children()) == 1


async def test_large_values_and_invalid_ones(make_runtime: MakeRuntime) -> None:
    value = "ab\u20ac\n" * 33_000
    async with make_runtime(jobs.echo, jobs.bad_result, jobs.self_canceled):
        assert await (await jobs.echo.dispatch(value)).result(timeout=20) == value
        run, outcomes = await ends_as(await jobs.bad_result.dispatch(Work()))
        assert (outcomes, run.reason, run.errors[-1].name) == ([aj.Outcome.FAILED], "permanent", "ResultInvalid")
        run, _ = await ends_as(await jobs.self_canceled.dispatch(Work()))
        assert run.errors[-1].name == "CanceledItself"


# what it may do


async def test_progress_and_checkpoints_reach_the_record(make_runtime: MakeRuntime) -> None:
    async with make_runtime(jobs.resume, jobs.resume_sync):
        handle = await jobs.resume.dispatch(Work())
        assert await handle.result(timeout=20) == {"done": 7}
        run = await handle.run()
        assert (run.progress, run.errors[0].message) == ({"fraction": 0.5, "message": None}, "{'done': 7}")
        handle = await jobs.resume_sync.dispatch(Work())
        assert await handle.result(timeout=20) == {"done": 8}
        run = await handle.run()
        assert run.progress == {"fraction": 0.75, "message": "nearly"}
        assert (run.errors[0].name, run.errors[0].message) == (
            "ProcessDied",
            "the child process ended with exit status 1 in the middle of its run",
        )


async def test_dispatches_go_through_the_worker(make_runtime: MakeRuntime) -> None:
    async with make_runtime(jobs.dispatch, jobs.dispatch_sync, jobs.echo) as runtime:
        handle = await jobs.dispatch.options(tenant="acme").dispatch(Work())
        told = await handle.result(timeout=20)
        parent = await handle.run()
        linked = await runtime.runs.get(told["linked"])
        loose = await runtime.runs.get(told["loose"])
        assert (linked.parent, linked.tenant, linked.trace_id) == (handle.id, "acme", parent.trace_id)
        assert (loose.parent, loose.tenant, loose.trace_id) == (None, "acme", parent.trace_id)
        assert told["again"] == [told["loose"], True]
        assert (told["result"], told["run"], told["canceled"]) == ("linked", handle.id, "canceled")
        assert told["replay"] == linked.id
        kinds = [error.partition(":")[0] for error in told["errors"]]
        assert kinds == ["IdempotencyConflict", "UnknownQueue", "InvalidOption", "RunNotFound", "ResultTimeout"]
        assert told["errors"][0].endswith(f"use a new key for new work {told['loose']}")

        handle = await jobs.dispatch_sync.dispatch(Work())
        one, two = await handle.result(timeout=20)
        assert (await runtime.runs.get(one)).parent == handle.id
        assert (await runtime.runs.get(two)).parent is None


async def test_a_child_may_open_a_client_but_no_pools(make_runtime: MakeRuntime) -> None:
    async with make_runtime(jobs.nested, jobs.echo) as runtime:
        run_id, refusal = await (await jobs.nested.dispatch(runtime.settings.store_url)).result(timeout=20)
        assert (await runtime.runs.wait(run_id, timeout=20)).result == "from below"
        assert "cannot start pools" in refusal


async def test_what_a_run_leaves_behind_speaks_for_no_other(make_runtime: MakeRuntime, tmp_path: Path) -> None:
    async with make_runtime(jobs.leave, jobs.following, jobs.echo) as runtime:
        await (await jobs.leave.dispatch(str(tmp_path / "said"))).result(timeout=20)
        handle = await jobs.following.dispatch(str(tmp_path / "said"))
        assert await handle.result(timeout=20) == "ContextMissing ContextMissing ContextMissing"
        assert (await handle.run()).progress is None
        assert sum((await runtime.runs.count_by_state()).values()) == 2


async def test_a_stored_payload_is_validated_in_the_child(make_runtime: MakeRuntime) -> None:
    async with make_runtime(jobs.echo) as runtime:
        handle = await jobs.echo.options(delay=0.2).dispatch("x")
        async with runtime.store.engine.begin() as connection:
            change = text("UPDATE actorjobs_runs SET payload = '{\"nonsense\": 1}' WHERE id = :id")
            await connection.execute(change, {"id": handle.id})
        run, outcomes = await ends_as(handle)
        assert (outcomes, run.reason, run.errors[-1].name) == ([aj.Outcome.FAILED], "permanent", "PayloadInvalid")


async def test_log_records_come_out_here(make_runtime: MakeRuntime, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with make_runtime(jobs.log, jobs.fork):
        handle = await jobs.log.dispatch(Work())
        await handle.result(timeout=20)
        assert await (await jobs.fork.dispatch(Work())).result(timeout=20) == "7"
    [told] = [record for record in caplog.records if record.name == "actorjobs.job"]
    [wrong] = [record for record in caplog.records if record.name == "elsewhere"]
    assert told.getMessage() == "told by the child \N{REPLACEMENT CHARACTER}"
    assert (told.levelname, told.funcName, told.__dict__["run_id"]) == ("INFO", "log", handle.id)
    assert told.__dict__["shade"] == {"of": "blue"}
    assert told.process != os.getpid()
    assert wrong.exc_text is not None
    assert "Odd: broken" in wrong.exc_text


# how it is ended


async def test_cancel_and_time_out_kill_what_cannot_be_interrupted(make_runtime: MakeRuntime, tmp_path: Path) -> None:
    async with make_runtime(jobs.spin, jobs.sleep, queues={"default": 1}):
        for number, job in enumerate((jobs.spin, jobs.sleep)):
            mark = tmp_path / str(number)
            handle = await job.dispatch(Work(where=str(mark)))
            await until(lambda mark=mark: mark.exists() and mark.read_text())
            began = time.monotonic()
            await handle.cancel()
            run, outcomes = await ends_as(handle)
            assert time.monotonic() - began < 1.5
            assert (run.state, outcomes) == (aj.RunState.CANCELED, [aj.Outcome.CANCELED])
            assert not is_alive(int(mark.read_text()))

        handle = await jobs.spin.options(timeout=1.5).dispatch(Work(where=str(tmp_path / "late")))
        run, outcomes = await ends_as(handle)
        assert (run.state, outcomes) == (aj.RunState.DEAD_LETTERED, [aj.Outcome.TIMED_OUT])
        assert run.errors[-1].name == "AttemptTimedOut"
        assert not children()


async def test_shutdown_kills_and_hands_back(make_runtime: MakeRuntime, tmp_path: Path) -> None:
    runtime = make_runtime(jobs.family, grace=0)
    async with runtime:
        mark = tmp_path / "pids"
        handle = await jobs.family.dispatch(Work(where=str(mark)))
        await until(lambda: mark.exists() and len(mark.read_text().split()) == 2)
    pids = [int(pid) for pid in mark.read_text().split()]
    await until(lambda: not any(map(is_alive, pids)))  # what it had started is killed with it
    async with runtime.client():
        assert (await handle.run()).state is aj.RunState.QUEUED
        [attempt] = await runtime.runs.attempts(handle.id)
        assert attempt.outcome is aj.Outcome.INTERRUPTED


async def test_a_time_out_during_the_start_keeps_the_child(make_runtime: MakeRuntime) -> None:
    async with make_runtime(jobs.pid) as runtime:
        _, outcomes = await ends_as(await jobs.pid.options(timeout=0.05).dispatch())
        assert outcomes == [aj.Outcome.TIMED_OUT]
        [child] = children()  # not ready yet
        handle = await jobs.pid.dispatch()
        assert await handle.result(timeout=20) == child
        [attempt] = await runtime.runs.attempts(handle.id)
        run = await handle.run()
        assert attempt.started_at is not None
        assert run.claimed_at is not None
        assert attempt.started_at - run.claimed_at > timedelta(seconds=0.05)  # it has not started before its child


DEATHS = [
    (Work(what="_exit", where="0"), "the child process ended with exit status 0 in the middle of its run"),
    (Work(what="_exit", where="3"), "the child process ended with exit status 3 in the middle of its run"),
    (Work(what="segfault"), "the child process was killed by SIGSEGV"),
    (Work(what="SIGKILL"), "the child process was killed by SIGKILL: probably out of memory"),
    (Work(what="garbage"), "the child process was killed: it wrote what is no message"),
    (Work(what="hang up"), "the child process was killed: it closed its line to the worker"),
]


async def test_a_death_is_one_failed_attempt_and_nothing_else(make_runtime: MakeRuntime) -> None:
    async with make_runtime(jobs.die, jobs.die_sync, jobs.die_twice, jobs.here, queues={"default": 4}) as runtime:
        neighbour = await jobs.here.dispatch()
        for index, (work, message) in enumerate(DEATHS):
            run, outcomes = await ends_as(await (jobs.die_sync if index % 2 else jobs.die).dispatch(work))
            assert outcomes == [aj.Outcome.FAILED]
            assert [(error.name, error.message) for error in run.errors] == [("ProcessDied", message)]
            assert (run.state, run.reason, run.losses) == (aj.RunState.DEAD_LETTERED, "exhausted", 0)
        assert not children()
        assert await neighbour.result(timeout=20) == os.getpid()
        handle = await jobs.die_twice.dispatch(Work(what="SIGKILL"))
        assert await handle.result(timeout=20) in children()
        run, outcomes = await ends_as(await jobs.die_sync.dispatch(Work(what="exit")))
        assert [error.name for error in run.errors] == ["SystemExit"]  # as it is for a handler that runs here
        assert runtime.health == {}


async def test_a_child_that_closes_its_line_is_a_failed_attempt(make_runtime: MakeRuntime) -> None:
    async with make_runtime(jobs.die, jobs.die_sync, queues={"default": 4}):
        closing = [Work(what="close", where=last) for last in ("6", "90", "100")]
        given = [*closing, Work(what="put another in its place")]
        handles = [await job.dispatch(work) for work in given for job in (jobs.die, jobs.die_sync)]
        for handle in handles:
            run, outcomes = await ends_as(handle)
            assert outcomes == [aj.Outcome.FAILED]
            assert [error.name for error in run.errors] == ["ProcessDied"]
            assert "exit status 74" in run.errors[0].message
            assert run.errors[0].message.endswith(": probably it closed descriptors that were not its own")
        assert not children()


async def test_an_idle_child_that_dies_is_replaced(make_runtime: MakeRuntime) -> None:
    async with make_runtime(jobs.pid):
        first = await (await jobs.pid.dispatch()).result(timeout=20)
        os.kill(first, signal.SIGSTOP)  # it will not even notice that it was given a run
        handle = await jobs.pid.dispatch()
        await asyncio.sleep(0.05)
        os.kill(first, signal.SIGKILL)
        second = await handle.result(timeout=20)
        _, outcomes = await ends_as(handle)
        assert (second != first, outcomes) == (True, [aj.Outcome.SUCCEEDED])


async def test_idle_children_leave_the_context_and_end(
    make_runtime: MakeRuntime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crew, "IDLE_SECONDS", 0.05)
    monkeypatch.setenv("TEST_LEFT", str(tmp_path))
    async with make_runtime(jobs.pid, context=jobs.services):
        pid = await (await jobs.pid.dispatch()).result(timeout=20)
        await until(lambda: not children())
        assert (tmp_path / str(pid)).exists()


async def test_limits(make_runtime: MakeRuntime) -> None:
    async with make_runtime(jobs.eat, jobs.tight, jobs.burn, queues={"default": 4}):
        assert await (await jobs.tight.dispatch(Work())).result(timeout=20) is None  # the least is enough to begin with
        handles = [await jobs.burn.dispatch(Work()), await jobs.eat.dispatch(Work())]
        burnt, eaten = [(await ends_as(handle))[0].errors[-1] for handle in handles]
        assert burnt.message == "the child process was killed by SIGXCPU: its cpu= seconds are used up"
        assert eaten.name == "MemoryError"
        before = children()
        assert await (await jobs.eat.dispatch(Work(what="little"))).result(timeout=20) in before
        assert await (await jobs.burn.dispatch(Work(what="tell"))).result(timeout=20) == [64]
        assert len(children()) == 3  # those with other limits are not exchanged


async def test_a_child_that_takes_more_than_its_memory_does_not_start(make_runtime: MakeRuntime) -> None:
    async with make_runtime(jobs.tight, context=jobs.spacious):
        [error] = (await ends_as(await jobs.tight.dispatch(Work())))[0].errors
    assert error.message.startswith("the child process did not start: InvalidOption: memory=268,435,456 bytes is less")


async def test_a_start_that_fails_is_a_failed_attempt(make_runtime: MakeRuntime, monkeypatch: Any) -> None:
    async with make_runtime(jobs.pid, context=entered_here_only):
        run, outcomes = await ends_as(await jobs.pid.dispatch())
    assert outcomes == [aj.Outcome.FAILED]
    assert run.errors[-1].message == "the child process did not start: ValueError: no children please"
    assert "in entered_here_only" in run.errors[-1].stack

    monkeypatch.setattr(process, "START_SECONDS", 0.01)
    async with make_runtime(jobs.pid):
        run, outcomes = await ends_as(await jobs.pid.dispatch())
    assert run.errors[-1].message == "the child process did not start within 0.01 s"
    assert not children()


@asynccontextmanager
async def entered_here_only() -> Any:
    if os.getpid() != TESTS:
        raise ValueError("no children please")
    yield None


TESTS = int(os.environ.setdefault("TEST_ISOLATION_PID", str(os.getpid())))


async def test_a_virtual_clock_waits_for_children(make_runtime: MakeRuntime) -> None:
    clock = aj.VirtualClock()
    async with make_runtime(jobs.pid, jobs.Report, clock=clock):
        handle = await jobs.pid.options(delay=5).dispatch()
        await clock.advance(6)
        assert await handle.result() in children()
        handle = await jobs.Report.dispatch(Work(what="x"))
        await clock.advance(1)
        assert "x in en" in str(await handle.result())


async def test_an_envelope_is_performed_here(make_runtime: MakeRuntime) -> None:
    async with make_runtime(jobs.pid) as runtime:
        assert await runtime.perform_envelope(jobs.pid.envelope()) == os.getpid()


# what cannot be imported


@pytest.mark.parametrize(
    "factory",
    [lambda: jobs.services(), partial(jobs.services), Services().__init__, jobs.services()],
    ids=["lambda", "partial", "bound", "value"],
)
async def test_a_context_that_no_child_can_import_is_refused(make_runtime: MakeRuntime, factory: Any) -> None:
    runtime = make_runtime(jobs.pid, context=factory)
    with pytest.raises(aj.InvalidOption, match="at the top of a module"):
        await runtime.open()
    assert not runtime.is_open


async def test_a_job_under_another_name_is_refused(make_runtime: MakeRuntime) -> None:
    with pytest.raises(aj.InvalidOption, match=r"'iso:renamed'.*not found there"):
        await make_runtime(renamed).open()


def _function(payload: Work) -> None: ...


renamed = aj.job("iso:renamed", isolation="process")(_function)


# scripts

SCRIPT = """
import asyncio, contextlib, os, sys
import actorjobs as aj

class Oops(Exception): ...

@contextlib.asynccontextmanager
async def context():
    yield "app of " + __name__

@aj.job("main:who", isolation="process", retry=aj.Retry(2, aj.Fixed(0.01), never=(Oops,)))
async def who(ctx: aj.JobContext[str], fail: bool) -> list[str]:
    if fail:
        raise Oops(os.path.basename(sys.argv[0]))
    print("printed", flush=True)
    return [__name__, ctx.app, sys.modules["__main__"].__file__ == __file__ and "same"]

async def main():
    async with aj.Runtime(store="sqlite:///" + sys.argv[1], jobs=[who], context=context, grace=1) as runtime:
        print(await (await who.dispatch(False)).result(timeout=20))
        run = await runtime.runs.wait((await who.dispatch(True)).id, timeout=20)
        print(run.attempt, run.errors[-1].name, run.errors[-1].message)
"""


@pytest.mark.parametrize("how", ["path", "module"])
async def test_handlers_of_the_main_script(tmp_path: Path, how: str) -> None:
    script = tmp_path / "the_script.py"
    script.write_text(SCRIPT + "\nif __name__ == '__main__':\n    asyncio.run(main())\n")
    done = await run_script([str(script)] if how == "path" else ["-m", "the_script"], tmp_path)
    assert done.stderr.count("\n") == 1  # the log says that it failed, as it was asked to
    assert "Oops" in done.stderr
    assert done.stdout.splitlines() == [
        "printed",
        "['__mp_main__', 'app of __mp_main__', 'same']",
        "1 Oops the_script.py",
    ]


async def test_a_script_without_a_guard_starts_nothing_twice(tmp_path: Path) -> None:
    script = tmp_path / "open_script.py"
    script.write_text(SCRIPT + "\nasyncio.run(main())\n")
    done = await run_script([str(script)], tmp_path)
    assert "RunFailed" in done.stderr
    assert "ProcessDied: the child process did not start: InvalidOption: a child process imports" in done.stderr
    assert 'if __name__ == "__main__"' in done.stderr


async def run_script(arguments: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", *arguments, str(cwd / "runs.db")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return await asyncio.to_thread(
        subprocess.run, command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=60
    )


WORKER = """
import asyncio, json, sys
import actorjobs as aj
from tests.worker import isolated_jobs as jobs

async def main(store, *marks):
    async with aj.Runtime(store=store, jobs=[jobs.spin, jobs.family, jobs.pid], queues={"default": 3}):
        await jobs.spin.dispatch(jobs.Work(where=marks[0]))
        await jobs.family.dispatch(jobs.Work(where=marks[1]))
        print(json.dumps([await (await jobs.pid.dispatch()).result()]), flush=True)
        await asyncio.sleep(600)

asyncio.run(main(*sys.argv[1:]))
"""


async def test_children_die_with_their_worker(tmp_path: Path) -> None:
    marks = [tmp_path / "spin", tmp_path / "family"]  # one never lets go of the interpreter, one has a child itself
    command = [sys.executable, "-c", WORKER, f"sqlite:///{tmp_path}/runs.db", *map(str, marks)]
    worker = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=subprocess.PIPE)
    try:
        assert worker.stdout is not None
        [idle] = json.loads(await worker.stdout.readline())
        await until(lambda: all(mark.exists() and mark.read_text() for mark in marks), 20)
    finally:
        worker.kill()
        await worker.communicate()
    pids = [idle, *(int(pid) for mark in marks for pid in mark.read_text().split())]
    assert len(set(pids)) == 4
    await until(lambda: not any(map(is_alive, pids)), 5)


# the messages


def test_what_a_child_says_is_checked() -> None:
    sound = {"outcome": "failed", "delay": 1, "permanent": False, "error": None, "result": None}
    assert orders.verdict_of(sound).ending.delay == 1
    for nonsense in (
        {"outcome": "interrupted"},
        {"outcome": 7},
        {"delay": -1},
        {"delay": "soon"},
        {"result": 5},
        {"error": "no json"},
    ):
        with pytest.raises(Garbled):
            orders.verdict_of({**sound, **nonsense})
    for body in (b"", b"[]", b"{}", b'{"say": 1}', b"\xff"):
        with pytest.raises(Garbled):
            messages.unpack(body)
    with pytest.raises(Garbled):
        messages.size_of(b"HTTP")


def test_errors_cross_the_line_with_type_and_facts() -> None:
    for error in (
        aj.InvalidOption("no"),
        aj.DuplicateRun("twin", run_id="7"),
        aj.RunFailed("bad", run_id="8", state="canceled"),
    ):
        again = messages.error_of(messages.failure_of(error))
        assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))
    foreign = messages.error_of(messages.failure_of(KeyError("x")))
    assert (type(foreign), str(foreign)) == (aj.ActorJobsError, "KeyError: 'x'")


# --- what stays in the worker ----------------------------------------------------------------------------------------


async def test_middleware_and_policy_stay_in_the_worker(make_runtime: MakeRuntime) -> None:
    seen: list[tuple[str, str]] = []
    callers: set[str | None] = set()

    async def middleware(ctx: aj.JobContext[Any], call_next: Any) -> Any:
        try:
            result = await call_next(ctx)
        except Exception as error:
            seen.append((ctx.job, str(error)))
            raise
        seen.append((ctx.job, type(result).__name__))
        return f"{result}!" if isinstance(result, str) else result

    class Policy:
        def allows(self, access: aj.Access) -> bool:
            callers.add(access.caller)
            return access.caller in (None, access.tenant)

    made = make_runtime(jobs.echo, jobs.never, jobs.steer, jobs.dispatch_sync, middleware=[middleware], policy=Policy())
    async with made as runtime:
        assert await (await jobs.echo.dispatch("hello")).result(timeout=20) == "hello!"
        run, _ = await ends_as(await jobs.never.dispatch(Work()))
        assert [error.name for error in run.errors] == ["Odd"]
        assert seen[0] == ("iso:echo", "str")
        assert seen[1][1].startswith("Odd")
        handle = await jobs.dispatch_sync.options(tenant="acme").dispatch(Work())
        for child in await handle.result(timeout=20):
            assert (await runtime.runs.get(child)).tenant == "acme"
        assert callers == {None, "acme"}
