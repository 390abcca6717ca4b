"""The command line, as a user calls it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import textwrap
import time
import urllib.error
import urllib.request
from collections.abc import Callable

import pytest

from actorjobs.stores.schema import HEAD
from tests.cli.conftest import Here, Shell


def wait_for(check: Callable[[], object], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_dispatch_work_and_look(shell: Shell) -> None:
    first = shell.json("dispatch", "mail:welcome", '{"email": "ada"}', "--key", "k1")
    again = shell.json("dispatch", "mail:welcome", '{"email": "ada"}', "--key", "k1")
    assert (again["id"], first["existing"], again["existing"]) == (first["id"], False, True)
    bad = shell.json("dispatch", "mail:welcome", '{"email": "bad"}')
    worked = shell("worker", "--burst")
    assert worked.returncode == 0, worked.stderr
    shown = shell.json("runs", "show", first["id"])
    assert (shown["run"]["state"], shown["run"]["result"]) == ("succeeded", "ada")
    assert [entry["event"] for entry in shown["history"]] == ["accepted", "started", "succeeded"]
    wait_for(lambda: shell("worker", "--burst").returncode == 0 and shell.json("runs", "count")["dead_lettered"] == 1)
    table = shell("runs", "show", bad["id"])
    assert table.returncode == 0
    assert "[red]no[/red]" in table.stdout
    assert "\x1b" not in table.stdout
    listed = shell.json("runs", "list", "--state", "dead_lettered", "--since", "1h")
    assert [run["id"] for run in listed["runs"]] == [bad["id"]]
    assert shell.json("runs", "retry", bad["id"])["state"] == "queued"
    assert shell.json("runs", "cancel", bad["id"], "--reason", "enough")["reason"] == "enough"
    replayed = shell.json("runs", "replay", bad["id"], "--payload", '{"email": "fine"}')
    assert replayed["replay_of"] == bad["id"]
    assert shell.json("runs", "reschedule", replayed["id"], "2099-01-31T12:00Z")["state"] == "scheduled"
    assert shell("runs", "delete", replayed["id"]).returncode == 0
    assert shell("runs", "show", replayed["id"]).returncode == 1


def test_a_file_is_dispatched_and_its_bad_lines_are_named(shell: Shell) -> None:
    lines = ['{"email": "a"}', "not json", "", '{"email": 1}', '{"email": "b"}', '{"email": "x", "email": "y"}']
    (shell.folder / "mails.jsonl").write_text("\n".join(lines), encoding="utf-8")
    done = shell("dispatch", "mail:welcome", "--file", "mails.jsonl")
    assert done.returncode == 2
    assert "2 runs accepted, 3 lines refused" in done.stdout
    assert [line.split(":")[0] for line in done.stderr.splitlines() if line.startswith("line ")] == [
        "line 2",
        "line 4",
        "line 6",
    ]
    assert shell.json("runs", "count")["queued"] == 2


def test_a_stuck_handler_does_not_keep_the_process(shell: Shell) -> None:
    stuck = """
    @aj.job("test:stuck", queue="slow")
    async def stuck(seconds: float) -> None:
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                pass

    runtime = aj.Runtime(jobs=[welcome, sleep, stuck], grace=0.2)
    """
    with (shell.folder / "shop.py").open("a", encoding="utf-8") as app:
        app.write(textwrap.dedent(stuck))
    shell.json("dispatch", "test:stuck", '{"seconds": 1}')
    worker = shell.start("worker")
    wait_for(lambda: shell.json("runs", "count")["running"] == 1)
    worker.send_signal(signal.SIGTERM)
    time.sleep(0.1)
    worker.send_signal(signal.SIGTERM)
    began = time.monotonic()
    output, _ = worker.communicate(timeout=20)
    assert time.monotonic() - began < 5, output
    assert worker.returncode == 3
    assert shell.json("runs", "count")["queued"] == 1


def test_queues(shell: Shell) -> None:
    assert shell.json("queues", "pause", "emails", "--reason", "down")[0]["is_paused"] is True
    shell("dispatch", "mail:welcome", '{"email": "ada"}')
    assert shell("worker", "--burst").returncode == 0
    assert shell.json("runs", "count")["queued"] == 1
    [queue] = [q for q in shell.json("queues", "list") if q["name"] == "emails"]
    assert (queue["waiting"], queue["reason"]) == (1, "down")
    shell("queues", "resume", "emails")
    assert shell.json("queues", "scale", "emails", "3")[0]["concurrency"] == 3
    assert shell("worker", "--burst", "-Q", "slow:1").returncode == 0
    assert shell.json("runs", "count")["queued"] == 1
    assert shell("worker", "--burst", "-Q", "emails:1").returncode == 0
    assert shell.json("runs", "count")["succeeded"] == 1


def test_the_schema(shell: Shell) -> None:
    assert shell("db", "check").returncode == 1
    assert shell("db", "upgrade").returncode == 0
    assert shell("db", "check").returncode == 0
    assert shell.json("db", "current") == {"version": HEAD, "needed": HEAD}
    sql = shell("db", "sql", "--store", "postgresql://nobody:secret-canary@nowhere/x")
    assert "CREATE TABLE actorjobs_runs" in sql.stdout
    assert "secret-canary" not in sql.stdout + sql.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (("worker", "nomodule:app"), 2, "no module 'nomodule'"),
        (("worker", "shop:missing"), 2, "has no 'missing'"),
        (("worker", "shop:not_a_runtime"), 2, "is a int, not a Runtime"),
        (("worker", "shop"), 2, "module:attribute"),
        (("worker", "-Q", "emails:0"), 2, "-Q takes"),
        (("worker", "-Q", "emails:٣"), 2, "-Q takes"),
        (("worker", "-Q", ""), 2, "-Q takes"),
        (("worker", "-Q", "emails,emails"), 2, "twice"),
        (("worker", "-Q", "emial"), 2, "did you mean 'emails'"),
        (("worker", "--processes", "0"), 2, "processes"),
        (("worker", "--processes", "abc"), 2, "processes"),
        (("worker", "--health-port", "99999"), 2, "health-port"),
        (("worker", "--log-level", "loud"), 2, "log-level"),
        (("worker", "--health-port", "65535", "--processes", "2"), 2, "no port for 2 processes"),
        (("worker", "--metrics-port", "99999"), 2, "metrics-port"),
        (("worker", "--metrics-port", "65535", "--processes", "2"), 2, "--metrics-port 65535 leaves no port"),
        (("runs", "list", "--since", "0001-01-01T00:00+14:00"), 2, "years"),
        (("runs", "list", "--until", "9999-12-31T23:59-14:00"), 2, "years"),
        (("db", "sql", "--store", "postgresql://u@h:secret-canary/d"), 2, "not a URL"),
        (("dispatch", "mail:welcom", "{}"), 2, "did you mean 'mail:welcome'"),
        (("dispatch", "os.system", "{}"), 2, "no job 'os.system'"),
        (("dispatch", "mail:welcome"), 2, "payload"),
        (("dispatch", "mail:welcome", "{"), 2, "not JSON"),
        (("dispatch", "mail:welcome", '{"email": NaN}'), 2, "not JSON"),
        (("dispatch", "mail:welcome", "{}"), 2, "email"),
        (("dispatch", "mail:welcome", '{"email":"a"}', "--queue", "emials"), 2, "did you mean 'emails'"),
        (("dispatch", "mail:welcome", '{"email":"a"}', "--delay", "-1"), 2, "delay"),
        (("dispatch", "mail:welcome", '{"email":"a"}', "--delay", "nan"), 2, "delay"),
        (("dispatch", "mail:welcome", '{"email":"a"}', "--priority", "11"), 2, "priority"),
        (("dispatch", "mail:welcome", '{"email":"a"}', "--key", ""), 2, "key"),
        (("dispatch", "mail:welcome", "--file", "missing.jsonl"), 2, "missing.jsonl"),
        (("dispatch", "mail:welcome", "--file", "."), 2, "no file"),
        (("runs", "show", "no-such-run"), 1, "no run"),
        (("runs", "show", "' OR 1=1 --"), 1, "no run"),
        (("runs", "list", "--limit", "0"), 2, "limit"),
        (("runs", "list", "--limit", "٣"), 2, "limit"),
        (("runs", "list", "--state", "done"), 2, "a state is one of"),
        (("runs", "list", "--since", "yesterday"), 2, "--since takes"),
        (("runs", "list", "--since", "2026-01-31T12:00"), 2, "--since takes"),
        (("runs", "list", "--cursor", "x' OR 1"), 2, "cursor"),
        (("queues", "pause", "BAD NAME"), 2, "queue"),
        (("queues", "scale", "emails", "0"), 2, "concurrency"),
        (("db", "current", "--store", "mysqlite://x"), 2, "no store speaks"),
        (("db", "current", "--store", "not a url"), 2, "not a URL"),
        (("db", "current", "--store", "postgresql://u:secret-canary@127.0.0.1:1/x"), 1, "does not answer"),
        (("db", "current", "--store", "postgresql://u:secret-canary@127.0.0.1:99999/x"), 2, "port"),
        (("db", "current", "--store", "postgresql://u:secret-canary@127.0.0.1/x?sslmod=x"), 2, "sslmod"),
        (("db", "current", "--store", "postgresql://u:hunt@secret-canary/2@127.0.0.1/x"), 2, "%40"),
        (("db", "current", "--store", "sqlite:////no/such/folder/x.db"), 2, "does not exist"),
        (("db", "current", "--store", "sqlite:///."), 2, "folder"),
        (("nonsense",), 2, "No such command"),
        (("runs", "--nonsense"), 2, "No such option"),
    ],
)
def test_bad_input_is_one_line_and_never_a_traceback(
    here: Here, arguments: tuple[str, ...], status: int, says: str
) -> None:
    found, output, errors = here(*arguments)
    assert found == status, errors
    assert says in " ".join(errors.replace("│", " ").split())
    assert "Traceback" not in errors + output
    assert "secret-canary" not in errors + output


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("ACTORJOBS_STORE_URL", "redis://:secret-canary@x", "no store speaks"),
        ("ACTORJOBS_STORE_URL", "", "ACTORJOBS_STORE_URL"),
        ("ACTORJOBS_GRACE", "soon", "ACTORJOBS_GRACE"),
        ("ACTORJOBS_GRACE", "-1", "ACTORJOBS_GRACE"),
        ("ACTORJOBS_NAMESPACE", "Bad Space", "ACTORJOBS_NAMESPACE"),
        ("ACTORJOBS_KEEP_SUCCEEDED", "nan", "ACTORJOBS_KEEP_SUCCEEDED"),
        ("ACTORJOBS_BROKER_URL", "redis://u:secret-canary@x/", "embedded"),
        ("ACTORJOBS_APP", "nothing", "module:attribute"),
    ],
)
def test_bad_variables_are_named(
    here: Here, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, says: str
) -> None:
    monkeypatch.setenv(variable, value)
    found, _, errors = here("runs", "list")
    assert found == 2, errors
    assert says in errors
    assert "Traceback" not in errors
    assert "secret-canary" not in errors


def test_bad_settings_in_pyproject_are_named(shell: Shell) -> None:
    shell.environment.pop("ACTORJOBS_APP")
    (shell.folder / "pyproject.toml").write_text('[tool.actorjobs]\nstoer_url = "x"\n', encoding="utf-8")
    done = shell("runs", "list")
    assert (done.returncode, "did you mean 'store_url'" in done.stderr) == (2, True)
    (shell.folder / "pyproject.toml").write_text("[tool.actorjobs\n", encoding="utf-8")
    assert "pyproject.toml cannot be read" in shell("runs", "list").stderr
    (shell.folder / "pyproject.toml").write_text('[tool.actorjobs]\napp = "shop:runtime"\n', encoding="utf-8")
    assert shell("worker", "--burst").returncode == 0


def test_a_corrupt_store_is_one_line(shell: Shell) -> None:
    (shell.folder / "actorjobs.db").write_bytes(b"this is no database at all, not by any means" * 100)
    done = shell("runs", "list")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "actorjobs.db" in done.stderr


def test_sigterm_drains_and_exits_with_0(shell: Shell) -> None:
    run = shell.json("dispatch", "test:sleep", '{"seconds": 5}')
    worker = shell.start("worker")
    wait_for(lambda: shell.json("runs", "count")["running"] == 1)
    worker.send_signal(signal.SIGTERM)
    output, _ = worker.communicate(timeout=20)
    assert worker.returncode == 0, output
    assert shell.json("runs", "show", run["id"])["run"]["state"] == "succeeded"


def test_a_second_signal_leaves_at_once_and_hands_back(shell: Shell) -> None:
    run = shell.json("dispatch", "test:sleep", '{"seconds": 60}')
    worker = shell.start("worker")
    wait_for(lambda: shell.json("runs", "count")["running"] == 1)
    worker.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    began = time.monotonic()
    worker.send_signal(signal.SIGTERM)
    output, _ = worker.communicate(timeout=20)
    assert time.monotonic() - began < 5, output
    assert worker.returncode == 3
    shown = shell.json("runs", "show", run["id"])
    assert (shown["run"]["state"], shown["run"]["failures"]) == ("queued", 0)
    assert [attempt["outcome"] for attempt in shown["attempts"]] == ["interrupted"]


def test_processes_are_kept_and_end_together(shell: Shell) -> None:
    port = free_port()
    parent = shell.start("worker", "--processes", "2", "--health-port", str(port))

    def status(number: int, path: str) -> int:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port + number}{path}", timeout=2) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    wait_for(lambda: status(0, "/ready") == 200 and status(1, "/ready") == 200)
    assert status(0, "/live") == 200
    assert status(0, "/nonsense") == 404
    children = _children(parent.pid)
    assert len(children) == 2
    os.kill(children[0], signal.SIGKILL)
    wait_for(lambda: len(set(_children(parent.pid)) - set(children)) == 1)
    wait_for(lambda: status(0, "/ready") == 200 and status(1, "/ready") == 200)
    parent.send_signal(signal.SIGTERM)
    output, _ = parent.communicate(timeout=30)
    assert parent.returncode == 0, output


def test_a_process_whose_port_is_taken_comes_once_it_is_free(shell: Shell) -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        port = taken.getsockname()[1]
        parent = shell.start("worker", "--processes", "2", "--health-port", str(port - 1))
        assert parent.stdout is not None
        said = iter(parent.stdout.readline, "")
        assert any("worker process 2 died (status 2)" in line for line in said)
    wait_for(lambda: len(_children(parent.pid)) == 2)
    parent.send_signal(signal.SIGTERM)
    output, _ = parent.communicate(timeout=30)
    assert parent.returncode == 0, output


def test_children_that_all_refuse_end_their_parent(shell: Shell) -> None:
    done = shell("worker", "--processes", "2", "-Q", "nobody-declared-this")
    assert done.returncode == 2


def test_children_do_not_outlive_their_parent(shell: Shell) -> None:
    parent = shell.start("worker", "--processes", "2")
    wait_for(lambda: len(_children(parent.pid)) == 2)
    children = _children(parent.pid)
    time.sleep(2)
    parent.kill()
    parent.wait()
    wait_for(lambda: not any(_is_alive(pid) for pid in children))
    assert parent.stdout is not None
    parent.stdout.close()


def _children(pid: int) -> list[int]:
    done = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False)
    return sorted(int(line) for line in done.stdout.split())


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{pid}/stat", encoding="utf-8") as stat:
        return stat.read().split()[2] != "Z"


def test_output_survives_a_closed_pipe_and_a_narrow_terminal(shell: Shell) -> None:
    lines = "".join(json.dumps({"email": f"{number}"}) + "\n" for number in range(30))
    (shell.folder / "many.jsonl").write_text(lines, encoding="utf-8")
    assert shell("dispatch", "mail:welcome", "--file", "many.jsonl").returncode == 0
    program = " ".join(shell.command("runs", "list"))
    done = subprocess.run(
        f"{program} | head -n 1",
        shell=True,
        cwd=shell.folder,
        env=shell.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stderr
    assert shell("runs", "list", COLUMNS="1").returncode == 0
    assert shell("runs", "list", LANG="C", LC_ALL="C", NO_COLOR="1", PYTHONIOENCODING="ascii:strict").returncode == 0
