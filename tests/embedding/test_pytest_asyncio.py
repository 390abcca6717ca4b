"""Runtimes as fixtures of pytest-asyncio: one for each test, and one for all of a module, in the module's loop."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest
import pytest_asyncio

import actorjobs as aj
from tests.embedding.life import JOBS, double, live


@pytest_asyncio.fixture
async def opened(runtime: aj.Runtime) -> AsyncGenerator[aj.Runtime]:
    async with runtime:
        yield runtime


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[aj.Runtime]:
    async with aj.Runtime(store=f"sqlite:///{tmp_path_factory.mktemp('shared')}/runs.db", jobs=JOBS) as runtime:
        yield runtime


async def test_a_runtime_of_the_tests_own(opened: aj.Runtime) -> None:
    await live(opened)


class TestShared:
    """They take turns with one runtime, which lives on between them."""

    pytestmark = pytest.mark.asyncio(loop_scope="module")

    async def test_the_first(self, shared: aj.Runtime) -> None:
        await live(shared)

    async def test_the_second(self, shared: aj.Runtime) -> None:
        assert await (await double.dispatch(3)).result(timeout=10) == 6

    @pytest.mark.asyncio(loop_scope="function")
    async def test_one_on_another_loop_is_told_so(self, shared: aj.Runtime) -> None:
        with pytest.raises(aj.InvalidOption, match="another event loop"):
            await double.dispatch(3)
