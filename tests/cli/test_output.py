"""Output that cannot be written, and how tables look where they go."""

from __future__ import annotations

import subprocess

import pytest

from tests.cli.conftest import Shell

MAIL = '{"email": "ada"}'


def into(shell: Shell, path: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    with open(path, "w") as target:
        return subprocess.run(
            shell.command(*arguments),
            cwd=shell.folder,
            env=shell.environment,
            stdout=target,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_a_run_that_is_accepted_is_told_although_the_disk_is_full(shell: Shell, options: tuple[str, ...]) -> None:
    done = into(shell, "/dev/full", "dispatch", "mail:welcome", MAIL, *options)
    told, why = done.stderr.splitlines()
    [run] = shell.json("runs", "list")["runs"]
    assert told == f"actorjobs: run {run['id']} is accepted"
    assert why == "actorjobs: the output cannot be written: No space left on device"
    assert done.returncode == 1


@pytest.mark.parametrize("command", ["--help", "runs list", "runs list --json", "db sql", "doctor"])
def test_output_that_cannot_be_written(shell: Shell, command: str) -> None:
    done = into(shell, "/dev/full", *command.split())
    assert done.stderr == "actorjobs: the output cannot be written: No space left on device\n"
    assert done.returncode == 1
    nobody = shell.start(*command.split())
    assert nobody.stdout is not None
    nobody.stdout.close()
    assert nobody.wait(60) == 141
