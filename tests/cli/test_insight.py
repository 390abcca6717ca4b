"""Looking into it from the command line: explain, check, bulk operations, tail, doctor."""

from __future__ import annotations

import io
import json
import signal
import time
from typing import Any

import pytest

from tests.cli.conftest import Here, Shell
from tests.cli.test_cli import wait_for

MAIL = '{"email": "ada"}'


def dispatched(here: Here, *options: str, payload: str = MAIL) -> str:
    status, output, errors = here("dispatch", "mail:welcome", payload, *options, "--json")
    assert status == 0, errors
    return str(json.loads(output)["id"])


def as_json(here: Here, *arguments: str, status: int = 0) -> Any:
    found, output, errors = here(*arguments, "--json")
    assert found == status, errors
    return json.loads(output)


# --- explain ---------------------------------------------------------------------------------------------------------


def test_explain(here: Here) -> None:
    run_id = dispatched(here)
    status, output, _ = here("runs", "explain", run_id)
    assert status == 0
    assert "no worker" in output
    assert "No living worker serves queue emails; 0 workers live in all." in output
    here("queues", "pause", "emails", "--reason", "[red]down")
    found = as_json(here, "runs", "explain", run_id)
    assert (found["verdict"], found["run"]["id"]) == ("paused", run_id)
    assert found["reasons"][0] == "Queue emails is paused: [red]down."
    here("runs", "cancel", run_id)
    assert as_json(here, "runs", "explain", run_id)["verdict"] == "canceled"
    assert here("runs", "explain", "nonsense")[0] == 1


# --- check -----------------------------------------------------------------------------------------------------------

OTHER = """
    from pydantic import BaseModel
    import actorjobs as aj

    class Mail(BaseModel):
        email: int
        secret: str = ""

    @aj.job("mail:welcome", queue="emails")
    async def welcome(mail: Mail) -> None: ...

    runtime = aj.Runtime(jobs=[welcome])
"""


def test_check_against_pending(shell: Shell, here: Here) -> None:
    import textwrap

    (shell.folder / "other.py").write_text(textwrap.dedent(OTHER), encoding="utf-8")
    ids = [dispatched(here, payload='{"email": "canary-value"}') for _ in range(5)]
    assert here("dispatch", "test:sleep", '{"seconds": 1}')[0] == 0
    assert here("check")[0] == 0
    assert as_json(here, "check", "--against-pending") == {
        "jobs": ["mail:welcome", "test:sleep"],
        "queues": ["emails", "slow"],
        "checked": 6,
        "misfits": [],
    }
    assert here("check", "other:runtime")[0] == 0
    found = as_json(here, "check", "other:runtime", "--against-pending", status=1)
    assert [(m["job"], m["version"], m["runs"]) for m in found["misfits"]] == [
        ("mail:welcome", 1, 5),
        ("test:sleep", 1, 1),
    ]
    invalid, unknown = found["misfits"]
    assert "email" in invalid["reason"]
    assert invalid["examples"] == ids[:3]
    assert unknown["reason"] == "unknown job"
    status, output, errors = here("check", "other:runtime", "--against-pending")
    assert (status, "6 runs wait or run; 6 of them" in output) == (1, True)
    assert "canary-value" not in output + errors + json.dumps(found)


def test_check_says_what_is_wrong(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    assert here("check", "nomodule:app")[0] == 2
    monkeypatch.setenv("ACTORJOBS_STORE_URL", "sqlite:////no/such/folder/x.db")
    status, _, errors = here("check")
    assert (status, "does not exist" in errors) == (2, True)


# --- tail ------------------------------------------------------------------------------------------------------------


def test_tail_shows_what_happens_elsewhere(shell: Shell) -> None:
    shell.json("dispatch", "mail:welcome", MAIL)
    tail = shell.start("runs", "tail", "--json", "--limit", "3", "--since", "1h")
    run_id = shell.json("dispatch", "mail:welcome", MAIL)["id"]
    shell.json("runs", "cancel", run_id, "--reason", "enough")
    output, _ = tail.communicate(timeout=30)
    assert tail.returncode == 0, output
    steps = [json.loads(line) for line in output.splitlines()]
    assert [step["entry"]["event"] for step in steps] == ["accepted", "accepted", "canceled"]
    assert [step["run_id"] for step in steps[1:]] == [run_id, run_id]
    assert steps[2]["entry"]["detail"] == {"reason": "enough", "by": "command line"}
    filtered = shell("runs", "tail", "--since", "1h", "--limit", "1", "--state", "canceled", "--queue", "emails")
    assert run_id in filtered.stdout
    assert "canceled -> canceled" in filtered.stdout


def test_tail_ends_quietly(shell: Shell) -> None:
    shell.json("dispatch", "mail:welcome", MAIL)
    tail = shell.start("runs", "tail", "--since", "1h")
    assert tail.stdout is not None
    assert "accepted" in tail.stdout.readline()
    tail.send_signal(signal.SIGINT)
    output, _ = tail.communicate(timeout=20)
    assert (tail.returncode, output) == (0, "")
    piped = shell.start("runs", "tail", "--since", "1h")
    assert piped.stdout is not None
    piped.stdout.readline()
    piped.stdout.close()
    shell.json("dispatch", "mail:welcome", MAIL)
    assert piped.wait(timeout=20) == 141


@pytest.mark.parametrize("gap", [None, 0.0, 0.01])
@pytest.mark.parametrize("at", [0.0, 0.05])
def test_tail_ends_at_once_however_often_it_is_interrupted(shell: Shell, gap: float | None, at: float) -> None:
    shell.json("dispatch", "mail:welcome", MAIL)
    tail = shell.start("runs", "tail", "--since", "1h")
    assert tail.stdout is not None
    tail.stdout.readline()
    time.sleep(at)
    began = time.monotonic()
    tail.send_signal(signal.SIGINT)
    if gap is not None:
        time.sleep(gap)
        tail.send_signal(signal.SIGINT)
    try:
        output, _ = tail.communicate(timeout=10)
    finally:
        tail.kill()
    assert (tail.returncode, output) == (0, "")
    assert time.monotonic() - began < 2


# --- bulk ------------------------------------------------------------------------------------------------------------


def test_filters_in_place_of_an_id(here: Here) -> None:
    ids = [dispatched(here) for _ in range(3)]
    other = dispatched(here, "--tenant", "acme")
    assert as_json(here, "runs", "cancel", "--job", "mail:welcome", "--dry-run") == {
        "matched": 4,
        "done": 0,
        "skipped": 0,
        "failed": [],
    }
    assert as_json(here, "runs", "cancel", "--tenant", "acme", "--yes", "--rate", "100")["done"] == 1
    status, output, _ = here("runs", "cancel", "--queue", "emails", "--since", "1h", "--yes", "--reason", "wrong")
    assert (status, "cancel: 3 of 3 runs done, 0 skipped, 0 failed" in output) == (0, True)
    assert as_json(here, "runs", "show", ids[0])["run"]["reason"] == "wrong"
    assert as_json(here, "runs", "retry", "--state", "canceled", "--until", "2099-01-01T00:00Z", "-y")["done"] == 4
    assert as_json(here, "runs", "cancel", "--search", other, "-y")["done"] == 1
    assert as_json(here, "runs", "replay", "--state", "canceled", "-y", "--delay", "60")["done"] == 1
    counts = as_json(here, "runs", "count")
    assert (counts["queued"], counts["canceled"], counts["scheduled"]) == (3, 1, 1)
    status, output, _ = here("runs", "retry", "--job", "nobody", "--dry-run")
    assert (status, "0 runs match" in output) == (0, True)


def test_all_runs_or_only_some(here: Here) -> None:
    ids = [dispatched(here) for _ in range(4)]
    assert as_json(here, "runs", "cancel", "--all", "--dry-run", "--limit", "3")["matched"] == 3
    assert as_json(here, "runs", "cancel", "--job", "mail:welcome", "--limit", "1", "--yes")["done"] == 1
    assert as_json(here, "runs", "show", ids[0])["run"]["state"] == "canceled"
    assert as_json(here, "runs", "cancel", "--all", "--yes")["done"] == 3
    assert as_json(here, "runs", "replay", "--all", "--state", "canceled", "--limit", "2", "--yes")["done"] == 2
    assert as_json(here, "runs", "retry", "--all", "--yes")["done"] == 4
    assert as_json(here, "runs", "count")["queued"] == 6


def test_all_runs_are_asked_about_too(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(3):
        dispatched(here)
    monkeypatch.setattr("sys.stdin", Keyboard("n\n"))
    assert "cancel 3 runs? [y/N]" in here("runs", "cancel", "--all")[2]
    monkeypatch.setattr("sys.stdin", Keyboard("y\n"))
    assert "cancel 2 runs? [y/N]" in here("runs", "cancel", "--all", "--limit", "2")[2]
    assert as_json(here, "runs", "count")["queued"] == 1


def test_a_terminal_is_asked(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    dispatched(here)
    for answer, left in (("n", 1), ("y", 0)):
        keyboard = Keyboard(answer + "\n")
        monkeypatch.setattr("sys.stdin", keyboard)
        status, _, errors = here("runs", "cancel", "--queue", "emails")
        assert (status, "cancel 1 runs? [y/N]" in errors) == (0, True)
        assert as_json(here, "runs", "count")["queued"] == left


class Keyboard(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("verb", ["cancel", "replay", "retry"])
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "which runs? Give the id of one"),
        (("some-id", "--job", "x"), "not both"),
        (("some-id", "--dry-run"), "go with a filter"),
        (("some-id", "--limit", "2"), "go with a filter"),
        (("some-id", "--all", "--yes"), "not both"),
        (("--limit", "2", "--yes"), "which runs? Give the id of one"),
        (("--job", "x", "--yes", "--limit", "0"), "--limit"),
        (("--all",), "no terminal"),
        (("--job", "", "--state", "canceled", "--yes"), "--job is empty"),
        (("--job", "x"), "no terminal"),
        (("--job", "x", "--yes", "--rate", "0"), "rate"),
        (("--job", "x", "--yes", "--rate", "many"), "rate"),
        (("--state", "done", "--yes"), "a state is one of"),
        (("--since", "yesterday", "--yes"), "--since takes"),
    ],
)
def test_what_cannot_be_meant(here: Here, verb: str, arguments: tuple[str, ...], says: str) -> None:
    status, output, errors = here("runs", verb, *arguments)
    assert status == 2, errors
    assert says in " ".join(errors.replace("│", " ").split())
    assert "Traceback" not in output + errors


def test_states_that_cannot_be_are_refused(here: Here) -> None:
    for arguments in (
        ("cancel", "--state", "succeeded"),
        ("retry", "--state", "succeeded"),
        ("replay", "--state", "queued"),
    ):
        status, _, errors = here("runs", *arguments, "--yes")
        assert (status, "this cannot be done to" in errors) == (2, True)
    status, _, errors = here("runs", "replay", "--job", "x", "--yes", "--payload", "{}")
    assert (status, "--payload is for one run" in errors) == (2, True)


# --- doctor ----------------------------------------------------------------------------------------------------------


def findings(here: Here, *options: str, status: int = 0) -> dict[str, list[dict[str, str]]]:
    found: dict[str, list[dict[str, str]]] = {}
    for finding in as_json(here, "doctor", *options, status=status)["findings"]:
        found.setdefault(finding["check"], []).append(finding)
    return found


def test_a_healthy_store(here: Here) -> None:
    assert here("db", "upgrade")[0] == 0
    found = findings(here)
    assert {finding["level"] for check in found.values() for finding in check} == {"ok", "warning"}
    assert (found["workers"][0]["level"], found["lost runs"][0]["level"]) == ("warning", "ok")
    assert "journal wal, durable, writable" in found["file"][0]["found"]
    status, output, _ = here("doctor")
    assert (status, "start one: actorjobs worker APP" in output) == (0, True)


def test_a_queue_that_nobody_serves(here: Here) -> None:
    dispatched(here)
    [queue] = findings(here, status=1)["queue emails"]
    assert (queue["level"], "no living worker serves it; 1 wait" in queue["found"]) == ("error", True)
    here("queues", "pause", "emails", "--reason", "down")
    [queue] = findings(here)["queue emails"]
    assert (queue["level"], "reason: down" in queue["advice"]) == ("warning", True)


def test_dead_letters_by_error(shell: Shell) -> None:
    shell.json("dispatch", "mail:welcome", '{"email": "bad"}')
    for _ in range(40):
        shell("worker", "--burst")
        if shell.json("runs", "count")["dead_lettered"]:
            break
    [dead] = [f for f in shell.json("doctor")["findings"] if f["check"] == "dead letters"]
    assert (dead["level"], dead["found"]) == ("warning", "mail:welcome: 1 in the last day, of ValueError")


def test_runs_of_a_dead_worker_are_taken_back(shell: Shell) -> None:
    run_id = shell.json("dispatch", "test:sleep", '{"seconds": 60}')["id"]
    worker = shell.start("worker")
    wait_for(lambda: shell.json("runs", "count")["running"] == 1)
    worker.kill()
    worker.communicate(timeout=10)

    def repaired() -> str:
        done = shell("doctor", "--repair", "--json")
        assert done.returncode == 1, "the run waits now, and nobody serves its queue"
        return str(json.loads(done.stdout)["findings"])

    assert "took back 1 runs of dead workers" in repaired()
    assert shell.json("runs", "show", run_id)["run"]["state"] == "retrying"
    assert "took back 0 runs" in repaired()


def test_a_store_that_does_not_answer_is_a_finding(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACTORJOBS_STORE_URL", "postgresql://u:secret-canary@127.0.0.1:1/x")
    status, output, errors = here("doctor")
    assert (status, "error   store:" in output) == (1, True)
    assert "secret-canary" not in output + errors
    monkeypatch.setenv("ACTORJOBS_GRACE", "soon")
    assert here("doctor")[0] == 2
