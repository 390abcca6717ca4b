"""Both checkers, in strict mode: what users write is accepted and inferred, and each marked call is refused.

The comments that keep the ordinary runs of the checkers quiet are taken out of a copy first, so that nothing hides.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

import actorjobs

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
ROOT = Path(actorjobs.__file__).parents[1]
FILES = ("good", "bad", "good_runtime", "bad_runtime")
SUPPRESSION = re.compile(r"\s+# (?:type|pyright): ignore\[[^]]*\]")
REFUSED_MARK = re.compile(r"# E$")

Errors = Mapping[str, dict[int, str]]


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a package `case`: the fixtures without their suppressions."""
    directory = tmp_path_factory.mktemp("typing")
    (directory / "case").mkdir()
    for name in FILES:
        text = (HERE / f"{name}.py").read_text()
        (directory / "case" / f"{name}.py").write_text(SUPPRESSION.sub("", text))
    return directory


@pytest.fixture(scope="module")
def mypy(case: Path) -> Errors:
    """What `mypy --strict` says, by file and line."""
    command = [sys.executable, "-m", "mypy", "--strict", "--python-version=3.11", "--explicit-package-bases"]
    command += ["--config-file=", "--follow-imports=silent", "--no-pretty", "--no-color-output", "case"]
    command += [f"--cache-dir={ROOT / '.mypy_cache' / 'typing-tests'}"]
    done = subprocess.run(
        command, cwd=case, env={**os.environ, "MYPYPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    found = re.findall(r"^case/(\w+)\.py:(\d+): error: (.*)$", done.stdout, re.MULTILINE)
    return _by_file((name, int(line), message) for name, line, message in found)


@pytest.fixture(scope="module")
def pyright(case: Path) -> Errors:
    """What pyright says in strict mode, by file and line."""
    settings = {
        "include": ["case"],
        "typeCheckingMode": "strict",
        "pythonVersion": "3.11",
        "extraPaths": [str(ROOT)],
    }
    (case / "pyrightconfig.json").write_text(json.dumps(settings))
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable]
    done = subprocess.run(command, cwd=case, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return _by_file(
        (Path(problem["file"]).stem, problem["range"]["start"]["line"] + 1, problem["message"])
        for problem in json.loads(done.stdout)["generalDiagnostics"]
        if problem["severity"] == "error"
    )


def _by_file(problems: Iterable[tuple[str, int, str]]) -> Errors:
    errors: dict[str, dict[int, str]] = {name: {} for name in FILES}
    for name, line, message in problems:
        errors[name].setdefault(line, message)
    return errors


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_exactly_the_marked_lines_are_refused(
    name: str, checker: str, case: Path, request: pytest.FixtureRequest
) -> None:
    lines = (case / "case" / f"{name}.py").read_text().splitlines()
    marked = {number: line for number, line in enumerate(lines, 1) if REFUSED_MARK.search(line)}
    errors: dict[int, str] = request.getfixturevalue(checker)[name]
    assert bool(marked) is name.startswith("bad")
    assert {n: lines[n - 1] for n in marked.keys() - errors.keys()} == {}, f"{checker} should refuse these"
    assert {n: errors[n] for n in errors.keys() - marked.keys()} == {}, f"{checker} should accept these"
