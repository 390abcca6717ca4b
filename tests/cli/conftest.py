from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from actorjobs.cli import main

APP = """
    import asyncio, os, time
    from pydantic import BaseModel
    import actorjobs as aj

    class Mail(BaseModel):
        email: str

    @aj.job("mail:welcome", queue="emails", retry=aj.Retry(attempts=2, backoff=aj.Fixed(0.05)))
    async def welcome(mail: Mail) -> str:
        if mail.email == "bad":
            raise ValueError("[red]no[/red] \\x1b[31m address")
        return mail.email

    @aj.job("test:sleep", queue="slow")
    async def sleep(seconds: float) -> str:
        await asyncio.sleep(seconds)
        return "slept"

    runtime = aj.Runtime(jobs=[welcome, sleep], grace=20)
    not_a_runtime = 17
"""


class Shell:
    """Runs `actorjobs` as a user would, in a folder of the test's own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith("ACTORJOBS_")} | {
            "COLUMNS": "200",
            "ACTORJOBS_APP": "shop:runtime",
        }
        self._started: list[subprocess.Popen[str]] = []

    def __call__(self, *arguments: str, timeout: float = 60, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments),
            cwd=self.folder,
            env=self.environment | variables,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            stdin=subprocess.DEVNULL,
        )

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "actorjobs", *arguments]

    def json(self, *arguments: str) -> Any:
        done = self(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def start(self, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        """Killed at the end of the test, if it still runs then."""
        process = subprocess.Popen(
            self.command(*arguments),
            cwd=self.folder,
            env=self.environment | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
        )
        self._started.append(process)
        return process

    def close(self) -> None:
        for process in self._started:
            if process.poll() is None:
                process.kill()
                process.communicate()


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    (tmp_path / "shop.py").write_text(textwrap.dedent(APP), encoding="utf-8")
    shell = Shell(tmp_path)
    yield shell
    shell.close()


Here = Callable[..., tuple[int, str, str]]


@pytest.fixture
def here(shell: Shell, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Here:
    """Runs a command in this process, for what needs no process of its own: status, output, errors."""
    monkeypatch.chdir(shell.folder)
    monkeypatch.syspath_prepend(str(shell.folder))
    monkeypatch.delitem(sys.modules, "shop", raising=False)
    for name in os.environ:
        if name.startswith("ACTORJOBS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("ACTORJOBS_APP", "shop:runtime")
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        output = capsys.readouterr()
        return int(ended.value.code or 0), output.out, output.err

    return run
