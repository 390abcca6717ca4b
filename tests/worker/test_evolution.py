"""Payload versions, jobs that nobody knows yet, uniqueness and lost leases, as an application meets them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pydantic import BaseModel

import actorjobs as aj
from actorjobs.worker.lease import ABANDON_AFTER_SECONDS
from tests.worker.conftest import MakeRuntime


class Address(BaseModel):
    street: str
    city: str


def split_address(payload: Any, version: int) -> Any:
    if version == 1:
        payload = {"address": payload["text"]}
    street, _, city = payload["address"].partition(", ")
    return {"street": street, "city": city}


@aj.job("mail:letter", version=3, upcast=split_address, retry=aj.Retry(attempts=1))
async def letter(payload: Address) -> str:
    return payload.city


class Letter(aj.Job[Address, str]):
    name = "mail:letter-class"
    version = 2

    @classmethod
    def upcast(cls, payload: Any, version: int) -> Any:
        return split_address(payload, version)

    async def perform(self, payload: Address, ctx: aj.JobContext) -> str:
        return payload.city


def old(job: str, version: int, payload: Any) -> aj.Envelope:
    return aj.Envelope(job=job, version=version, queue="default", payload=payload)


@pytest.mark.parametrize(
    ("job", "version", "payload"),
    [
        ("mail:letter", 1, {"text": "Elm St, Springfield"}),
        ("mail:letter", 2, {"address": "Elm St, Springfield"}),
        ("mail:letter", 3, {"street": "Elm St", "city": "Springfield"}),
        ("mail:letter-class", 1, {"text": "Elm St, Springfield"}),
    ],
)
async def test_older_payloads_are_brought_up_to_date(
    make_runtime: MakeRuntime, job: str, version: int, payload: Any
) -> None:
    async with make_runtime(letter, Letter) as runtime:
        handle = await runtime.dispatch(old(job, version, payload))
        assert await handle.result(timeout=5) == "Springfield"
        assert (await handle.run()).payload == payload
        assert await runtime.perform_envelope(old(job, version, payload)) == "Springfield"


async def test_a_dispatch_says_which_version_its_payload_has(make_runtime: MakeRuntime) -> None:
    async with make_runtime(letter).client():
        handle = await letter.dispatch(Address(street="a", city="b"))
        assert (await handle.run()).version == 3


async def test_an_upcast_that_fails_refuses_the_payload(make_runtime: MakeRuntime) -> None:
    async with make_runtime(letter) as runtime:
        with pytest.raises(aj.PayloadInvalid, match="upcast from version 1 raised KeyError") as refusal:
            await runtime.dispatch(old("mail:letter", 1, {"secret": "hunter2"}))
        assert "hunter2" not in str(refusal.value)
        with pytest.raises(aj.PayloadInvalid, match="knows mail:letter up to 3"):
            await runtime.dispatch(old("mail:letter", 4, {}))


async def test_what_a_newer_producer_asks_for_waits_visibly(make_runtime: MakeRuntime) -> None:
    async with make_runtime(queues={"default": 1}).client() as producer:
        newer = await producer.dispatch(old("mail:letter", 3, {"street": "a", "city": "b"}))
        unknown = await producer.dispatch(old("mail:new", 1, {}))
    today = aj.job("mail:letter", version=2)(_letter_of_yesterday)
    async with make_runtime(today) as yesterday:
        assert (await yesterday.runs.get(newer.id)).hold == "newer version"
        assert (await yesterday.runs.get(unknown.id)).hold == "unknown job"
        assert [run.hold for run in await yesterday.runs.list()] == ["unknown job", "newer version"]
    async with make_runtime(letter) as tomorrow:
        run = await tomorrow.runs.wait(newer.id, timeout=5)
        assert (run.state, run.result, run.attempt) == (aj.RunState.SUCCEEDED, "b", 1)


async def _letter_of_yesterday(payload: Address) -> None: ...


@aj.job("mail:digest", unique=aj.Unique(("email",), while_="queued", on_conflict="replace"))
async def digest(email: str, n: int = 0) -> int:
    return n


async def test_unique_runs_through_dispatches(make_runtime: MakeRuntime) -> None:
    async with make_runtime(digest).client():
        first = await digest.options(delay=60).dispatch("a@x", 1)
        again = await digest.options(delay=0).dispatch("a@x", 2)
        assert (again.id, again.existing) == (first.id, True)
        assert (await first.run()).payload == {"email": "a@x", "n": 2}
        strict = digest.options(unique=aj.Unique(("email",), on_conflict="raise"))
        handle = await strict.dispatch("a@x")
        with pytest.raises(aj.DuplicateRun) as refusal:
            await strict.dispatch("a@x")
        assert refusal.value.run_id == handle.id
        free = digest.options(unique=False)
        assert len({(await free.dispatch("a@x")).id for _ in range(3)}) == 3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"by": ()}, "1 to 20 fields"),
        ({"by": "email"}, "list of field names"),
        ({"by": (5,)}, "1 to 20 fields"),
        ({"while_": "running"}, "'active', 'queued'"),
        ({"on_conflict": "ignore"}, "'return', 'raise', 'replace'"),
        ({"period": 0}, "period"),
        ({"period": -1}, "period"),
        ({"period": float("nan")}, "period"),
        ({"period": True}, "period"),
        ({"period": 60, "while_": "queued"}, "leave out while_"),
    ],
)
def test_rules_that_cannot_work_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(aj.InvalidOption, match=words):
        aj.Unique(**options)


def test_a_field_that_does_not_exist_is_refused_where_the_job_is_defined() -> None:
    with pytest.raises(aj.InvalidOption, match=r"job 'x:y': unique: there is no field 'mail'; the payload has email"):

        @aj.job("x:y", unique=aj.Unique(("mail",)))
        async def handler(email: str) -> None: ...


@pytest.mark.parametrize("unique", [{"by": None, "wile": 1}, {"by": 5}, {"period": "1"}, {"by": ["nope"]}])
async def test_rules_in_envelopes_are_checked(make_runtime: MakeRuntime, unique: dict[str, Any]) -> None:
    async with make_runtime(digest).client() as runtime:
        with pytest.raises(aj.InvalidOption):
            await runtime.dispatch(
                aj.Envelope(job="mail:digest", queue="default", payload={"email": "a", "n": 1}, unique=unique)
            )
        assert len(await runtime.runs.list()) == 0


@pytest.mark.parametrize("choice", ["cancel", "continue"])
async def test_a_handler_may_go_on_without_a_lease(
    make_runtime: MakeRuntime, choice: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[str | None] = []
    began, let_go = asyncio.Event(), asyncio.Event()

    @aj.job("test:stubborn", on_lease_loss=choice, retry=aj.Retry(attempts=1))
    async def stubborn(ctx: aj.JobContext) -> None:
        began.set()
        try:
            await let_go.wait()
        finally:
            ended.append(ctx.cancel_reason)

    async with make_runtime(stubborn) as runtime:
        handle = await stubborn.dispatch()
        await began.wait()
        lease = runtime._open_one.worker.lease  # type: ignore[union-attr]
        with monkeypatch.context() as frozen:
            frozen.setattr(type(lease), "age", property(lambda self: ABANDON_AFTER_SECONDS + 1))
            await asyncio.sleep(1.2)
        assert ended == (["lost"] if choice == "cancel" else [])
        let_go.set()
        run = await runtime.runs.wait(handle.id, timeout=20)
        assert run.state is aj.RunState.SUCCEEDED
        assert run.attempt == (2 if choice == "cancel" else 1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"version": 0}, "version"),
        ({"version": True}, "version"),
        ({"version": "2"}, "version"),
        ({"upcast": 5}, "upcast is a function"),
        ({"isolation": "thread"}, "isolation is 'process'"),
        ({"isolation": True}, "isolation is 'process'"),
        ({"on_lease_loss": "stop"}, "'cancel' or 'continue'"),
        ({"unique": True}, "unique must be Unique"),
        ({"unique": {"by": None}}, "unique must be Unique"),
    ],
)
def test_options_that_cannot_work_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(aj.InvalidOption, match=words):

        @aj.job("test:bad", **options)
        async def bad() -> None: ...
