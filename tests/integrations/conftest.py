"""Tests marked `load` compare times: they are left out unless `-m` names the mark (`make load`)."""

from __future__ import annotations

from pathlib import Path

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    if "load" not in config.option.markexpr:
        left_out = {item for item in items if item.path.is_relative_to(here) and item.get_closest_marker("load")}
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
