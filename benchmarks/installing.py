"""The environments of the peers: which versions, on which Python, and how they come into `.bench/`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.plan import FOLDER

_STAMP = "installed.txt"
_FAILURE = "failed.txt"
_UVLOOP = "uvloop>=0.21,<1"
"""The loop that `actorjobs worker` takes where it is installed: all asyncio workers have the same one."""
_VERSIONS = ("3.14", "3.13", "3.12", "3.11")


@dataclass(frozen=True, slots=True)
class Environment:
    """What is installed for a peer."""

    requirements: tuple[str, ...]
    oldest_python: tuple[int, int] = (3, 11)

    @property
    def stamp(self) -> str:
        return "\n".join(self.requirements) + "\n"


ENVIRONMENTS = {
    "dramatiq": Environment(("dramatiq[rabbitmq]>=2.2.1,<2.3", "pika>=1.4.4,<1.5")),
    "taskiq": Environment(("taskiq>=0.13,<0.14", "taskiq-aio-pika>=0.6.1,<0.7", "aio-pika>=10.2,<11", _UVLOOP)),
    "faststream": Environment(("faststream[rabbit]>=0.7.8,<0.8", "aio-pika>=10.2,<11", _UVLOOP)),
    "celery": Environment(("celery>=5.7,<5.8", "kombu>=5.7,<5.8")),
    "oban": Environment(("oban>=0.7,<0.8", _UVLOOP), oldest_python=(3, 12)),
    "pgqueuer": Environment(("pgqueuer[asyncpg]>=1.6,<1.7", "asyncpg>=0.30,<1", _UVLOOP)),
    "procrastinate": Environment(("procrastinate>=3.10,<3.11", "psycopg[binary,pool]>=3.2,<4", _UVLOOP)),
    "saq": Environment(("saq[postgres]>=0.26.4,<0.27", "psycopg[binary,pool]>=3.2,<4", _UVLOOP)),
}
"""The bounds of every peer, here and nowhere else."""


class NotInstallable(Exception):
    """Says why a peer cannot be measured here."""


def interpreter_of(name: str) -> Path:
    return FOLDER / name / "bin" / "python"


def is_installed(name: str) -> bool:
    """Whether the environment is there, with the bounds that hold now."""
    stamp = FOLDER / name / _STAMP
    return stamp.is_file() and stamp.read_text(encoding="utf-8") == ENVIRONMENTS[name].stamp


def install(name: str) -> None:
    """Make the environment and fill it from the package index, unless it is there. `NotInstallable` if that fails."""
    if is_installed(name):
        return
    environment, folder = ENVIRONMENTS[name], FOLDER / name
    shutil.rmtree(folder, ignore_errors=True)
    try:
        _fill(environment, name)
    except NotInstallable as error:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _FAILURE).write_text(str(error), encoding="utf-8")
        raise
    (folder / _STAMP).write_text(environment.stamp, encoding="utf-8")


def why_missing(name: str) -> str:
    """Of an environment that is not installed: what went wrong when it was tried, or how to try it."""
    failure = FOLDER / name / _FAILURE
    if failure.is_file():
        return f"its installation failed: {failure.read_text(encoding='utf-8')}"
    return "it is not installed: python -m benchmarks.peers --install"


def _fill(environment: Environment, name: str) -> None:
    _checked([str(find_python(environment.oldest_python)), "-m", "venv", "--clear", str(FOLDER / name)])
    _checked([str(interpreter_of(name)), "-m", "pip", "install", "-qq", *environment.requirements])


def versions(name: str) -> dict[str, str]:
    """What is installed of the packages that the bounds name."""
    names = [requirement.split(">")[0].split("[")[0] for requirement in ENVIRONMENTS[name].requirements]
    code = "import sys; from importlib.metadata import version; print(*map(version, sys.argv[1:]))"
    answer = _checked([str(interpreter_of(name)), "-c", code, *names])
    return dict(zip(names, answer.split(), strict=True))


def find_python(oldest: tuple[int, int]) -> Path:
    """An interpreter that is new enough and can make environments: the driver's own before all others."""
    for candidate in _candidates():
        if _is_new_enough(candidate, oldest):
            return candidate
    raise NotInstallable(f"it needs Python {oldest[0]}.{oldest[1]} or newer, and none was found")


def _candidates() -> Iterator[Path]:
    yield Path(sys.executable)
    for version in _VERSIONS:
        if (found := shutil.which(f"python{version}")) is not None:
            yield Path(found)
    # A shim on PATH fails for a version that is not switched on: the interpreters themselves do not.
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    yield from sorted(pyenv.glob("versions/*/bin/python3"))


def _is_new_enough(python: Path, oldest: tuple[int, int]) -> bool:
    code = f"import sys, ensurepip, venv; sys.exit(sys.version_info < {oldest!r})"
    try:
        return subprocess.run([str(python), "-c", code], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def _checked(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NotInstallable(" ".join((done.stderr or done.stdout).split())[-400:] or f"{command} failed")
    return done.stdout
