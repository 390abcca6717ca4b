"""The fixtures that pytest has wherever actorjobs is installed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import BaseModel

import actorjobs as aj
from actorjobs.testing import RecordingDispatcher
from actorjobs.testing.harness import JobHarness

pytest_plugins = ["pytester"]


class Mail(BaseModel):
    to: str


SENT: list[str] = []


@aj.job("plugin:mail", retry=aj.Retry(attempts=3, backoff=aj.Fixed(60)))
async def mail(payload: Mail, ctx: aj.JobContext) -> None:
    if ctx.attempt < 3:
        raise ConnectionError("not yet")
    SENT.append(payload.to)


@pytest.fixture
def harness(job_harness: Callable[..., JobHarness]) -> JobHarness:
    SENT.clear()
    return job_harness(mail)


async def test_what_is_dispatched_is_noted(recorded_jobs: RecordingDispatcher) -> None:
    await mail.dispatch(Mail(to="ada"))
    recorded_jobs.assert_dispatched(mail, Mail(to="ada"), times=1)


def test_without_a_loop_too(recorded_jobs: RecordingDispatcher) -> None:
    mail.dispatch_sync(Mail(to="ada"))
    assert [one.payload for one in recorded_jobs.dispatches] == [{"to": "ada"}]


async def test_noted_beside_a_runtime_too(recorded_jobs: RecordingDispatcher, harness: JobHarness) -> None:
    async with harness as jobs:
        await mail.dispatch(Mail(to="ada"))
        run = await jobs.runtime.dispatch(mail, Mail(to="eve"))
        await jobs.advance(minutes=3)
        assert (await run.run()).state is aj.RunState.SUCCEEDED
    recorded_jobs.assert_dispatched(mail, Mail(to="ada"), times=1)
    assert SENT == ["eve"]


async def test_nothing_is_noted_any_more_afterwards() -> None:
    with pytest.raises(aj.NoRuntime):
        await mail.dispatch(Mail(to="ada"))


async def test_a_whole_runtime_in_virtual_time(harness: JobHarness) -> None:
    async with harness as jobs:
        run = await mail.dispatch(Mail(to="ada"))
        await jobs.drain()
        assert (await run.run()).state is aj.RunState.RETRYING
        await jobs.advance(minutes=3)
        assert (await run.run()).state is aj.RunState.SUCCEEDED
    assert SENT == ["ada"]


def test_a_project_of_its_own_has_them(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import asyncio
        import actorjobs as aj

        @aj.job("hello")
        async def hello(name: str) -> str:
            return f"hello {name}"

        def test_noted(recorded_jobs):
            hello.dispatch_sync("ada")
            recorded_jobs.assert_dispatched(hello, times=1)

        def test_performed(job_harness):
            async def main():
                async with job_harness(hello) as jobs:
                    run = await hello.dispatch("ada")
                    await jobs.drain()
                    assert await run.result() == "hello ada"
            asyncio.run(main())
        """
    )
    done = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    done.assert_outcomes(passed=2)


def test_every_test_has_a_store_of_its_own(job_harness: Callable[..., JobHarness], tmp_path: Path) -> None:
    assert str(tmp_path) in job_harness(mail).runtime.settings.store_url
