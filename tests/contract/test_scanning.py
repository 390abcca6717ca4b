"""Paging where matches are rare: windows that are small enough to see that every id is looked at once."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.engine import Engine

from actorjobs.model import RunState
from actorjobs.ports import RunFilter, Store
from actorjobs.stores import SqlStore, scanning
from actorjobs.testing.store_suite.setting import brought_to, envelope
from tests.contract.databases import Stores


@pytest.fixture(params=["sqlite_url", "postgres_url"])
def url(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(request.param))


@pytest.fixture
async def store(stores: Stores, url: str, monkeypatch: pytest.MonkeyPatch) -> SqlStore:
    monkeypatch.setattr(scanning, "FIRST_WINDOW", 3)
    monkeypatch.setattr(scanning, "LARGEST_WINDOW", 5)
    monkeypatch.setattr(scanning, "IDS_AT_ONCE", 2)
    return await stores.opened(url)


async def to_the_end(store: Store, where: RunFilter, **options: Any) -> tuple[list[str], int]:
    """Every id, page after page, and how many pages were empty though there was more."""
    seen: list[str] = []
    empty, cursor = 0, None
    for _ in range(200):
        page = await store.list(where, limit=2, cursor=cursor, **options)
        assert len(page) <= 2
        seen += [run.id for run in page]
        empty += not page.runs and page.cursor is not None
        assert page.cursor is None or page.cursor != cursor
        cursor = page.cursor
        if cursor is None:
            return seen, empty
    raise AssertionError("the pages have no end")


@pytest.mark.parametrize("patience", [0.0, 60.0], ids=["gives up at once", "has time"])
@pytest.mark.parametrize("few", [0, 5000], ids=["many", "few"])
async def test_no_run_is_left_out_or_doubled(
    store: SqlStore, monkeypatch: pytest.MonkeyPatch, patience: float, few: int
) -> None:
    monkeypatch.setattr(scanning, "SCAN_SECONDS", patience)
    monkeypatch.setattr(scanning, "FEW", few)
    runs = [
        await brought_to(store, state, tags=("rare",) if number == 0 else ())
        for number, state in itertools.product(range(3), RunState)
    ]
    ids = sorted(run.id for run in runs)
    choices = [None, *itertools.combinations(RunState, 1), *itertools.combinations(RunState, 2), tuple(RunState)]
    for is_oldest_first, states in itertools.product((True, False), choices):
        for tag in (None, "rare", "nobody"):
            wanted = {
                run.id for run in runs if (states is None or run.state in states) and (tag is None or tag in run.tags)
            }
            found, _ = await to_the_end(store, RunFilter(state=states, tag=tag), is_oldest_first=is_oldest_first)
            in_order = [id for id in (ids if is_oldest_first else ids[::-1]) if id in wanted]
            assert found == in_order, (is_oldest_first, states, tag)


async def test_a_short_page_has_a_cursor_that_goes_on(store: SqlStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scanning, "SCAN_SECONDS", 0.0)
    first = envelope(job="suite:rare")
    await store.insert([first, *(envelope() for _ in range(20))])
    page = await store.list(RunFilter(job="suite:rare"), limit=2, cursor=None)
    assert (list(page), page.cursor is not None) == ([], True)
    found, empty = await to_the_end(store, RunFilter(job="suite:rare"))
    assert found == [first.id]
    assert empty >= 5


async def test_runs_of_other_namespaces_fill_windows_but_no_pages(stores: Stores, url: str, store: SqlStore) -> None:
    from actorjobs.clock import SystemClock
    from actorjobs.stores import open_store

    own = envelope()
    await store.insert([own])
    other = await open_store(url, namespace="other", clock=SystemClock())
    await other.open()
    await other.insert([envelope() for _ in range(30)])
    await other.close()
    assert await to_the_end(store, RunFilter()) == ([own.id], 0)


async def test_on_sqlite_what_is_rare_is_found_by_its_index(stores: Stores, sqlite_url: str) -> None:
    store = await stores.opened(sqlite_url)
    await brought_to(store, RunState.SUCCEEDED)
    asked: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if "FROM actorjobs_runs" in statement:
            asked.append((statement, parameters))

    event.listen(Engine, "before_cursor_execute", note)
    try:
        for states in ((RunState.EXPIRED,), (RunState.EXPIRED, RunState.CANCELED), (RunState.QUEUED, RunState.RUNNING)):
            await store.list(RunFilter(state=states), limit=5, cursor=None)
            await store.count_by_state(RunFilter(state=states))
        await store.queues()
        await store.marks([], 5)
    finally:
        event.remove(Engine, "before_cursor_execute", note)
    assert len(asked) > 10
    async with store.engine.connect() as connection:
        for statement, parameters in asked:
            plan = (await connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)).mappings().all()
            steps = [str(row["detail"]) for row in plan]
            assert not [step for step in steps if step.startswith("SCAN actorjobs_runs") and "INDEX" not in step], steps
            if "state IN ('" in statement or "state = '" in statement:
                assert not [step for step in steps if "sqlite_autoindex" in step], (statement, steps)
