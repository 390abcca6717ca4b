"""Random work through the embedded broker on each database, held against a ledger. It is the same work every time."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from actorjobs.model import RunState
from tests.contract.machine import DeliveryMachine


def work_on(url: str, *, examples: int) -> None:
    ended_in: Counter[RunState] = Counter()
    machine: Any = partial(DeliveryMachine, url, ended_in)
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=50,
            deadline=None,
            derandomize=True,
            database=None,
            report_multiple_bugs=False,
            # Phase.shrink makes a failure shorter, which takes many minutes: add it when there is one to look at.
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )
    print(ended_in)
    # Fewer would mean that the machine no longer does anything.
    assert ended_in.total() >= 2 * examples
    assert ended_in[RunState.SUCCEEDED] >= examples


def test_on_sqlite(sqlite_url: str) -> None:
    work_on(sqlite_url, examples=25)


def test_on_postgres(postgres_url: str) -> None:
    work_on(postgres_url, examples=10)


def test_on_mariadb(mariadb_url: str) -> None:
    work_on(mariadb_url, examples=8)
