"""The table of what the seeds do is whole, and every test that it names exists."""

from __future__ import annotations

import subprocess
import sys
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def test_every_row_has_a_test_that_exists() -> None:
    done = subprocess.run([sys.executable, ROOT / "scripts/seeds"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_what_is_wrong_is_named() -> None:
    loader = SourceFileLoader("seeds", str(ROOT / "scripts" / "seeds"))
    spec = spec_from_loader("seeds", loader)
    assert spec is not None
    seeds: Any = module_from_spec(spec)
    loader.exec_module(seeds)
    table = (ROOT / "docs" / "seeds.md").read_text(encoding="utf-8")
    assert seeds.problems(table) == []
    lines = table.splitlines()
    row = next(index for index, line in enumerate(lines) if line.startswith("| SQ-05"))
    without = "\n".join(lines[:row] + lines[row + 1 :])
    assert seeds.problems(without) == ["SQ-05 has no row"]
    untested = "\n".join([*lines[:row], "| SQ-05 | `id` | |", *lines[row + 1 :]])
    assert seeds.problems(untested) == ["SQ-05 has no test"]
    mistaken = table.replace("::test_registration`", "::test_registering`", 1)
    assert seeds.problems(mistaken) == ["FRJ-01: there is no tests/worker/test_runtime.py::test_registering"]
    assert seeds.problems(table + "\n| SQ-99 | x | `tests/unit/test_seeds.py::test_what_is_wrong_is_named` |") == [
        "SQ-99 is no row of a seed"
    ]
