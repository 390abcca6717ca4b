"""`actorjobs worker --reload`: real processes, and files that change under them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import Here, Shell

SECONDS = 30.0
QUEUE = """
@aj.job("test:{name}", queue="{name}")
async def job_{name}(number: int) -> None: ...

runtime = aj.Runtime(jobs=[welcome, sleep, job_{name}], grace=20)
"""


class Reloading:
    """A worker that reloads, and what it has said so far."""

    def __init__(self, shell: Shell) -> None:
        self.app = shell.folder / "shop.py"
        self.source = self.app.read_text(encoding="utf-8")
        self.process = shell.start("worker", "--reload")
        self._said = ""
        self._more = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._more:
                self._said += line
                self._more.notify_all()

    def wait_for(self, words: str, times: int = 1) -> None:
        with self._more:
            found = self._more.wait_for(lambda: self._said.count(words) >= times, SECONDS)
            assert found, f"{words!r} was not said {times} times:\n{self._said}"

    def says(self, words: str) -> bool:
        with self._more:
            return words in self._said

    def add_queue(self, name: str) -> None:
        self.app.write_text(self.source + QUEUE.format(name=name), encoding="utf-8")

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def status(self) -> int:
        status = self.process.wait(SECONDS)
        self._reader.join(SECONDS)
        return status

    def child(self) -> int:
        [child] = self.children()
        return child

    def children(self) -> list[int]:
        ps = ["ps", "-o", "pid=", "--ppid", str(self.process.pid)]
        return [int(line) for line in subprocess.run(ps, capture_output=True, check=False).stdout.split()]

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()  # its children notice, and end
        self.status()
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def reloading(shell: Shell) -> Iterator[Reloading]:
    worker = Reloading(shell)
    try:
        worker.wait_for("performing runs of emails, slow")
        yield worker
    finally:
        worker.close()


def wait_until(check: Callable[[], object]) -> None:
    deadline = time.monotonic() + SECONDS
    while not check():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def start_sleeping(shell: Shell, seconds: float) -> str:
    run = shell.json("dispatch", "test:sleep", f'{{"seconds": {seconds}}}')
    wait_until(lambda: shell.json("runs", "count")["running"] == 1)
    return str(run["id"])


@pytest.mark.system
def test_a_change_starts_a_new_worker_and_a_signal_ends_both(reloading: Reloading) -> None:
    first = reloading.child()
    reloading.add_queue("fresh")
    reloading.wait_for("performing runs of emails, fresh, slow")
    second = reloading.child()
    assert first != second
    assert not is_alive(first)
    (reloading.app.parent / "notes.txt").write_text("nothing to do with it", encoding="utf-8")
    (reloading.app.parent / "settings.toml").write_text("", encoding="utf-8")
    reloading.wait_for("performing runs of", times=3)
    assert not reloading.says("notes.txt")
    third = reloading.child()
    reloading.signal(signal.SIGINT)
    assert reloading.status() == 0
    assert not is_alive(third)


@pytest.mark.system
def test_broken_source_is_shown_and_waits_for_the_next_change(reloading: Reloading) -> None:
    reloading.app.write_text("def broken(:\n", encoding="utf-8")
    reloading.wait_for("actorjobs: importing 'shop' failed: SyntaxError")
    reloading.wait_for("the worker ended (status 2)")
    assert reloading.children() == []
    reloading.add_queue("fixed")
    reloading.wait_for("performing runs of emails, fixed, slow")
    assert not reloading.says("Traceback")


@pytest.mark.system
def test_a_signal_while_the_worker_is_down_ends_with_its_status(reloading: Reloading) -> None:
    reloading.app.write_text("import nothing_of_that_name\n", encoding="utf-8")
    reloading.wait_for("the worker ended (status 2)")
    reloading.signal(signal.SIGTERM)
    assert reloading.status() == 2


@pytest.mark.system
def test_running_work_ends_first_and_a_change_meanwhile_is_not_lost(shell: Shell, reloading: Reloading) -> None:
    run = start_sleeping(shell, 2)
    reloading.add_queue("second")
    reloading.wait_for("'shop.py' changed")
    reloading.add_queue("third")
    reloading.wait_for("performing runs of emails, slow, third")
    shown = shell.json("runs", "show", run)
    assert (shown["run"]["state"], shown["run"]["attempt"]) == ("succeeded", 1)
    assert not reloading.says("slow, second")


@pytest.mark.system
def test_one_signal_while_it_reloads_does_not_hurry(shell: Shell, reloading: Reloading) -> None:
    run = start_sleeping(shell, 2)
    reloading.add_queue("late")
    reloading.wait_for("stopping: running work has")
    reloading.signal(signal.SIGTERM)
    assert reloading.status() == 0
    assert shell.json("runs", "show", run)["run"]["state"] == "succeeded"
    assert not reloading.says("late, slow")


@pytest.mark.system
def test_a_second_signal_hurries(shell: Shell, reloading: Reloading) -> None:
    run = start_sleeping(shell, 60)
    reloading.signal(signal.SIGINT)
    reloading.wait_for("stopping: running work has")
    reloading.signal(signal.SIGINT)
    assert reloading.status() == 3
    assert shell.json("runs", "show", run)["run"]["state"] == "queued"


@pytest.mark.system
def test_the_worker_does_not_outlive_its_parent(reloading: Reloading) -> None:
    child = reloading.child()
    reloading.signal(signal.SIGKILL)
    wait_until(lambda: not is_alive(child))


@pytest.mark.system
def test_a_change_that_leaves_time_and_size_alone_is_seen(reloading: Reloading) -> None:
    reloading.add_queue("abc")
    reloading.wait_for("performing runs of abc, emails, slow")
    before = reloading.app.stat()
    # Put in place at once, with the time it will keep: a later change of the time alone would be another change.
    fresh = reloading.app.with_suffix(".new")
    fresh.write_text(reloading.source + QUEUE.format(name="xyz"), encoding="utf-8")
    os.utime(fresh, ns=(before.st_atime_ns, before.st_mtime_ns))
    fresh.rename(reloading.app)
    assert reloading.app.stat().st_size == before.st_size
    reloading.wait_for("performing runs of emails, slow, xyz")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("shop.py", True),
        ("shop/deep/jobs.py", True),
        ("pyproject.toml", True),
        ("actorjobs.db", False),
        ("actorjobs.db-wal", False),
        ("notes.txt", False),
        ("shop/__pycache__/jobs.cpython-311.pyc", False),
        (".venv/lib/thing.py", False),
        ("env/lib/python3.11/site-packages/thing.py", False),
        (".git/hook.py", False),
        (".ruff_cache/x.py", False),
        ("shop/.#jobs.py", False),
    ],
)
def test_what_counts_as_source(path: str, expected: bool) -> None:
    from watchfiles import Change

    from actorjobs.cli.reload import is_source

    # The project itself may well lie below a folder that is ignored inside of it.
    folder = Path("/home/ada/.venv/project")
    assert is_source(folder)(Change.modified, str(folder / path)) is expected


@pytest.mark.parametrize("arguments", [("--processes", "2"), ("--burst",)])
def test_what_does_not_go_with_reload(here: Here, arguments: tuple[str, ...]) -> None:
    status, output, errors = here("worker", "--reload", *arguments)
    assert (status, output) == (2, "")
    assert "--reload keeps one worker" in errors
    assert len(errors.splitlines()) == 1


def test_a_missing_package_is_named(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "watchfiles", None)
    monkeypatch.delitem(sys.modules, "actorjobs.cli.reload", raising=False)
    status, _, errors = here("worker", "--reload")
    assert status == 2
    assert "--reload needs watchfiles: pip install 'actorjobs[reload]'" in errors
