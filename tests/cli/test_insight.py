"""Looking into it from the command line: explain, check, bulk operations, tail, doctor."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.cli.conftest import Here, Shell

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
