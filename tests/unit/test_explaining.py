"""Why a run is not running: every reason, from facts made up for it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from actorjobs.clock import VirtualClock
from actorjobs.errors import BrokerUnavailable
from actorjobs.model import Envelope, ErrorInfo, Run, RunState
from actorjobs.ports import BrokerFacts, QueueInfo, Serves, WorkerInfo
from actorjobs.runtime.explaining import MOST_AHEAD, Facts, explain
from actorjobs.testing import MemoryStore

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)


@pytest.fixture
async def run() -> Run:
    store = MemoryStore(clock=VirtualClock(NOW))
    [accepted] = await store.insert([Envelope(job="mail:send", queue="mail")])
    assert not isinstance(accepted, Exception)
    return await store.get(accepted.run_id)


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def worker(name: str = "w1", *, beat: float = 2.0, is_dead: bool = False, **serves: Any) -> WorkerInfo:
    given: dict[str, Any] = {"jobs": {"mail:send": 1}, "queues": {"mail": 10}} | serves
    return WorkerInfo(id=name, host="h", boot_id="b", pid=1, beat_at=ago(beat), is_dead=is_dead, serves=Serves(**given))


def judged(run: Run, *workers: WorkerInfo, ahead: int = 0, broker: Any = None, **queue: Any) -> tuple[str, str]:
    mail = QueueInfo(name="mail", **queue)
    known = Facts(run=run, now=NOW, workers=workers, queue=mail, ahead=ahead, broker=broker)
    found = explain(known)
    assert all(reason[0].isupper() or reason[0].isdigit() or reason[0] in "`a" for reason in found.reasons)
    return found.verdict, "\n".join(found.reasons)


def broker_with(ready: int | None) -> BrokerFacts:
    return BrokerFacts(version="4.0", ready={"mail": ready}, dead=0, unrouted=0, differences=[])


@pytest.mark.parametrize(
    ("broker", "verdict", "says"),
    [
        (None, "next", "0 due runs of its queue go first"),
        (broker_with(3), "next", "RabbitMQ has 3 hints of its queue ready"),
        (broker_with(None), "broker", "RabbitMQ has no queue for mail"),
        (BrokerUnavailable("no route to host"), "broker", "cannot be reached from here: no route to host"),
    ],
)
async def test_what_rabbitmq_has_to_do_with_it(run: Run, broker: Any, verdict: str, says: str) -> None:
    found, reasons = judged(run, worker(), broker=broker)
    assert found == verdict
    assert says in reasons
    assert ("RabbitMQ" in reasons) is (broker is not None)
    assert judged(run, broker=broker)[0] == "no worker"


@pytest.mark.parametrize(
    ("changes", "queue", "workers", "verdict", "says"),
    [
        ({}, {}, [], "no worker", "No living worker serves queue mail; 0 workers live"),
        ({}, {}, [worker(is_dead=True)], "no worker", "0 workers live"),
        ({}, {}, [worker(queues={"other": 1})], "no worker", "1 worker live"),
        ({"available_at": ago(-90)}, {}, [worker()], "not due", "due in 90.0 s"),
        ({"available_at": ago(-7200), "state": RunState.RETRYING, "failures": 2}, {}, [], "not due", "2 h after 2 f"),
        ({"expires_at": ago(5)}, {}, [worker()], "expired", "had to start before 2026-05-01 11:59:55 UTC"),
        ({"expires_at": ago(-5)}, {}, [worker()], "next", "expires in 5.0 s"),
        ({"expires_at": ago(-5)}, {}, [], "no worker", "expires in 5.0 s"),
        ({}, {"is_paused": True, "reason": "db down"}, [worker()], "paused", "is paused: db down"),
        ({}, {"is_paused": True}, [], "paused", "no reason was given"),
        ({}, {}, [worker(jobs={"other": 1})], "held", "No worker of queue mail knows a job mail:send; 1 of them live"),
        ({"version": 3}, {}, [worker(), worker("w2", jobs={"mail:send": 2})], "held", "know mail:send in 1, 2"),
        ({}, {}, [worker(holds={"mail": "actor fails"})], "held", "held by every worker that serves it: actor fails"),
        ({}, {}, [worker(holds={"mail": "x"}), worker("w2")], "next", "0 of 20 places"),
        ({"hold": "limit"}, {}, [worker()], "held", "It is held: limit"),
        ({"losses": 3}, {}, [worker()], "suspect", "lost 3 times in a row"),
        ({}, {"running": 10}, [worker()], "busy", "All 10 places of queue mail on 1 living worker are taken: 10"),
        ({}, {"running": 3}, [worker()], "next", "3 of 10 places"),
    ],
)
def test_why_a_run_waits(
    run: Run, changes: Any, queue: Any, workers: list[WorkerInfo], verdict: str, says: str
) -> None:
    found, reasons = judged(replace(run, **changes), *workers, **queue)
    assert (found, says in reasons) == (verdict, True), (found, reasons)


def test_all_reasons_are_told_the_first_one_first(run: Run) -> None:
    verdict, reasons = judged(replace(run, available_at=ago(-9)), is_paused=True)
    assert verdict == "not due"
    assert [line.split()[0] for line in reasons.splitlines()] == ["It", "Queue", "No"]


def test_the_place_in_line(run: Run) -> None:
    assert "7 due runs of its queue go first" in judged(run, worker(), running=10, ahead=7)[1]
    assert f"At least {MOST_AHEAD} due runs" in judged(run, worker(), running=10, ahead=MOST_AHEAD)[1]
    assert judged(run, worker(), running=5, ahead=5)[0] == "in line"
    assert judged(run, worker(), running=10, ahead=0)[0] == "busy"


@pytest.mark.parametrize(
    ("changes", "workers", "verdict", "says"),
    [
        ({}, [worker()], "running", "running for 30.0 s, in attempt 1, on worker w1"),
        ({}, [worker()], "running", "renewed the lease 2.0 s ago"),
        ({}, [worker(beat=21)], "running", "silent for 21.0 s"),
        ({"cancel_requested_at": ago(4)}, [worker()], "canceling", "asked to end 4.0 s ago"),
        ({}, [worker(is_dead=True)], "lost", "which was declared dead"),
        ({}, [worker(is_dead=True), worker("w2")], "lost", "1 living worker will take it back"),
        ({}, [], "lost", "doctor --repair"),
    ],
)
def test_where_a_run_runs(run: Run, changes: Any, workers: list[WorkerInfo], verdict: str, says: str) -> None:
    running = replace(
        run, **{"state": RunState.RUNNING, "attempt": 1, "claimed_at": ago(30), "claimed_by": "w1"} | changes
    )
    found, reasons = judged(running, *workers)
    assert (found, says in reasons) == (verdict, True), (found, reasons)


@pytest.mark.parametrize(
    ("state", "changes", "says"),
    [
        (RunState.SUCCEEDED, {"completed_at": ago(1)}, "It succeeded at 2026-05-01 11:59:59 UTC, after 2 attempts."),
        (RunState.DEAD_LETTERED, {"reason": "exhausted", "max_attempts": 2}, "all 2 attempts"),
        (RunState.DEAD_LETTERED, {"reason": "poison"}, "its worker died"),
        (
            RunState.DEAD_LETTERED,
            {"errors": (ErrorInfo(name="E", message="no\nmore", attempt=2),)},
            "E in attempt 2: no",
        ),
        (RunState.CANCELED, {"reason": "wrong file"}, "Reason: wrong file"),
        (RunState.EXPIRED, {"expires_at": ago(9)}, "had to start before 2026-05-01 11:59:51 UTC"),
    ],
)
def test_how_a_run_ended(run: Run, state: RunState, changes: Any, says: str) -> None:
    verdict, reasons = judged(replace(run, state=state, attempt=2, **changes))
    assert (verdict, says in reasons) == (state.value, True), reasons
    assert ("runs retry" in reasons) == (state is not RunState.SUCCEEDED)
