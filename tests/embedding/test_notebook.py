"""A loop that runs already, and that nobody may run: cells await at their top level."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def performed(command: list[str], folder: Path) -> str:
    variables = {"PYTHONPATH": str(Path(__file__).parents[2]), "IPYTHONDIR": str(folder), "NO_COLOR": "1"}
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("ACTORJOBS_")}
    done = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=inherited | variables,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr, done.stdout + done.stderr
    return done.stdout


def test_cells_of_a_notebook_share_a_runtime(tmp_path: Path) -> None:
    said = performed(["-m", "tests.embedding.notebook"], tmp_path)
    assert said.splitlines() == ["result 42", "redefined 43", "listed 2", "is open False"]
