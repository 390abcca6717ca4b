"""Bad input on every way in: a typed error that says what is wrong, nothing written, and the runtime works on."""

from __future__ import annotations

import asyncio
import dataclasses
import enum
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, SecretBytes, SecretStr, field_validator

import actorjobs as aj
from tests.worker.conftest import MakeRuntime

ONCE = aj.Retry(attempts=1)
SECRET = "hunter2"


class Work(BaseModel):
    n: int = 0
    text: str = ""


@aj.job("bad:work", queue="work", retry=ONCE)
async def work(payload: Work) -> int:
    return payload.n


@aj.job("bad:plain", queue="work", retry=ONCE)
async def plain(n: int) -> int:
    return n


class WorkClass(aj.Job[Work, int]):
    name = "bad:class"
    queue = "work"

    async def perform(self, payload: Work, ctx: aj.JobContext) -> int:
        return payload.n


reference = aj.JobRef("bad:elsewhere", Work, int, queue="work")

# --- options of a dispatch, on every way in --------------------------------------------------------------------------

LATER = datetime.now(UTC) + timedelta(hours=1)
DELAYS = [-1, -0.0, float("nan"), float("inf"), 1e300, True, "5", timedelta.max, timedelta(-1), timedelta(days=366)]
BAD_OPTIONS: dict[str, list[Any]] = {
    "delay": DELAYS,
    "run_at": [datetime(2030, 1, 1), datetime(1, 1, 1, tzinfo=UTC), "2030-01-01T00:00Z", 5, LATER.date()],  # noqa: DTZ001
    "priority": [-1, 10, 300, "high", 4.0, True],
    "timeout": [0, -1, float("inf"), float("nan"), "5", True, timedelta(0)],
    "expires_in": [0, -1, float("inf"), "5"],
    "retention": [0, -1, float("inf"), timedelta(days=4000)],
    "retry": [3, "3", {"attempts": 3}],
    "idempotency_key": ["", "k" * 10_240, "a\0b", 5, "\ud800", "a\nb"],
    "queue": ["", "amq.direct", "q" * 256, "a/b", "a#b", "a\nb", "🦆", "Work", 5, "wrok"],
    "tenant": ["", "t" * 129, "a\0b", 5],
    "tags": ["tag", [""], [5], ["t" * 65], [f"t{n}" for n in range(21)]],
    "meta": [[1], "text", {"n": float("nan")}, {"x": "y" * 20_000}, {5: 1}],
    "unique": [True, "email", {"by": None}, aj.Unique(("missing",))],
    "tx": ["begin", 5],
    "dely": [5],
}
CASES = [(name, value) for name, values in BAD_OPTIONS.items() for value in values]


def ways_in(runtime: aj.Runtime, options: dict[str, Any]) -> Iterator[Callable[[], Awaitable[Any]]]:
    yield lambda: work.dispatch(Work(), **options)
    yield lambda: work.options(**options).dispatch(Work())
    yield lambda: plain.options(**options).dispatch(1)
    yield lambda: WorkClass.dispatch(Work(), **options)
    yield lambda: runtime.dispatch(work, Work(), **options)
    yield lambda: asyncio.to_thread(lambda: work.dispatch_sync(Work(), **options))
    if options.get("queue") != "wrok":  # who implements the job elsewhere knows its queues
        yield lambda: reference.dispatch(Work(), **options)
    if "queue" not in options:
        yield lambda: work.dispatch_to("work", Work(), **options)
    if "tx" not in options and options.get("queue") != "wrok":

        async def built() -> None:
            runtime.envelope("bad:work", {"n": 1}, **options)

        yield built


@pytest.fixture
async def runtime(make_runtime: MakeRuntime) -> Any:
    async with make_runtime(work, plain, WorkClass, queues={"work": 2}).client() as runtime:
        yield runtime


async def none_was_written(runtime: aj.Runtime) -> None:
    assert len(await runtime.runs.list()) == 0
    handle = await work.dispatch(Work())
    assert (await handle.run()).state is aj.RunState.QUEUED


@pytest.mark.parametrize(("name", "value"), CASES, ids=[f"{name}-{index}" for index, (name, _) in enumerate(CASES)])
async def test_a_bad_option_is_refused_on_every_way_in(runtime: aj.Runtime, name: str, value: Any) -> None:
    expected = aj.UnknownQueue if value == "wrok" else aj.InvalidOption
    for way in ways_in(runtime, {name: value}):
        with pytest.raises(expected) as refusal:
            await way()
        assert 10 < len(str(refusal.value)) < 400
    await none_was_written(runtime)


async def test_two_ways_to_say_when_are_one_too_many(runtime: aj.Runtime) -> None:
    for way in ways_in(runtime, {"delay": 5, "run_at": LATER}):
        with pytest.raises(aj.InvalidOption, match="delay= and run_at="):
            await way()
    await none_was_written(runtime)


MADE_BY_HAND: dict[str, list[Any]] = {
    "delay": [-1.0, 1e300, float("nan"), float("inf")],
    "priority": [-1, 10],
    "queue": ["", "amq.x", "a b", "wrok"],
    "max_attempts": [0, -1, 10**9],
    "timeout": [0.0, -1.0, float("inf")],
    "version": [-1, 0, 2**31],
    "id": ["", "../x", "x" * 10_240, "00000000-0000-7000-8000-00000000000G"],
    "traceparent": ["00-0-0-0", "x" * 10_240, f"00-{'0' * 32}-{'0' * 16}-01"],
    "idempotency_key": ["", "k" * 300, "a\0b"],
    "retry": [{"attempts": 0}, {"backoff": "soon"}],
    "unique": [{"by": []}, {"wile": 1}],
    "tenant": ["", "t" * 200, "\ud800"],
    "payload": [{"n": "many"}, [1], None, {"n": float("nan")}],
    "meta": [{"n": float("nan")}],
}
BY_HAND = [(name, value) for name, values in MADE_BY_HAND.items() for value in values]


@pytest.mark.parametrize(("name", "value"), BY_HAND, ids=[f"{name}-{n}" for n, (name, _) in enumerate(BY_HAND)])
async def test_an_envelope_made_by_hand_is_held_to_the_same(runtime: aj.Runtime, name: str, value: Any) -> None:
    fields: dict[str, Any] = {"job": "bad:work", "queue": "work", "payload": {"n": 1}}
    bad = aj.Envelope(**fields | {name: value})
    good = aj.Envelope(**fields)
    with pytest.raises((aj.InvalidOption, aj.PayloadInvalid, aj.UnknownQueue)):
        await runtime.dispatch(bad)
    with pytest.raises((aj.InvalidOption, aj.PayloadInvalid, aj.UnknownQueue), match="envelope 1"):
        await runtime.dispatch_many([good, bad, good])
    await none_was_written(runtime)


async def test_one_bad_one_among_a_hundred_thousand(runtime: aj.Runtime) -> None:
    envelopes = [aj.Envelope(job="bad:work", queue="work", payload={"n": 1}) for _ in range(99_999)]
    envelopes.insert(77_777, aj.Envelope(job="bad:work", queue="work", payload={"n": "x"}))
    with pytest.raises(aj.PayloadInvalid, match="envelope 77777"):
        await runtime.dispatch_many(envelopes)
    await none_was_written(runtime)


async def test_the_policy_of_retries_is_checked_where_it_is_made() -> None:
    for make in (
        lambda: aj.Retry(attempts=-1),
        lambda: aj.Retry(attempts=10**9),
        lambda: aj.Retry(attempts="3"),  # type: ignore[arg-type]
        lambda: aj.Retry(attempts=2.5),  # type: ignore[arg-type]
        lambda: aj.Custom(),
        lambda: aj.Custom(1, -2),
        lambda: aj.Custom(*range(1_000_000)),
        lambda: aj.Exponential(jitter=2),
        lambda: aj.Exponential(base=60, cap=5),
    ):
        with pytest.raises(aj.InvalidOption):
            make()


@pytest.mark.parametrize("name", ["__init__", "os.system", "Bad:Work", "bad:unknown", "", "a b", "x" * 200])
async def test_a_job_is_found_by_its_name_and_never_imported(runtime: aj.Runtime, name: str) -> None:
    with pytest.raises((aj.UnknownJob, aj.InvalidOption)):
        runtime.envelope(name, {"n": 1})
    with pytest.raises((aj.UnknownJob, aj.InvalidOption)):
        await runtime.perform_envelope(aj.Envelope(job=name, queue="work", payload={}))


async def test_a_runtime_serves_the_loop_that_opened_it(runtime: aj.Runtime) -> None:
    def elsewhere(call: Callable[[], Awaitable[Any]]) -> None:
        async def main() -> None:
            await asyncio.wait_for(call(), 5)

        asyncio.run(main())

    calls: list[Callable[[], Awaitable[Any]]] = [
        lambda: work.dispatch(Work()),
        lambda: runtime.dispatch(work, Work()),
        lambda: runtime.dispatch_many([work.envelope(Work())]),
        lambda: runtime.runs.list(),
        lambda: runtime.queues.pause("work"),
    ]
    for call in calls:
        with pytest.raises(aj.InvalidOption, match="another event loop"):
            await asyncio.to_thread(elsewhere, call)
    await none_was_written(runtime)


# --- payloads --------------------------------------------------------------------------------------------------------


class Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    n: int
    inner: dict[str, int] = {}


class Colour(enum.Enum):
    RED = "red"


class Chosen(BaseModel):
    colour: Colour


@aj.job("bad:strict", queue="work", retry=ONCE)
async def strict(payload: Strict) -> None: ...


@aj.job("bad:chosen", queue="work", retry=ONCE)
async def chosen(payload: Chosen) -> None: ...


@pytest.mark.parametrize(
    ("job", "payload", "place"),
    [
        ("bad:strict", {"n": 1, "m": 2}, "m"),
        ("bad:strict", {"n": "1"}, "n"),
        ("bad:strict", {"n": True}, "n"),
        ("bad:strict", {"n": 1.0}, "n"),
        ("bad:strict", {}, "n"),
        ("bad:strict", {"n": None}, "n"),
        ("bad:strict", {"n": 1, "inner": {"x": SECRET}}, "inner.x"),
        ("bad:work", {"n": "many"}, "n"),
        ("bad:work", {"n": 2**70}, "64 bits"),
        ("bad:work", {"text": "a\0b"}, "NUL"),
        ("bad:work", {"text": "\ud800"}, "surrogate"),
        ("bad:chosen", {"colour": SECRET}, "colour"),
    ],
)
async def test_what_a_model_refuses_is_named_by_its_path(
    make_runtime: MakeRuntime, job: str, payload: Any, place: str
) -> None:
    async with make_runtime(strict, work, chosen).client() as runtime:
        with pytest.raises(aj.PayloadInvalid, match=place) as refusal:
            runtime.envelope(job, payload)
        assert SECRET not in str(refusal.value)


ODD_NAMES = [
    "__proto__",
    "constructor",
    "__class__",
    "$ref",
    "py/object",
    "!!python/object",
    "a.b",
    "c d",
    "🦆",
    "\u202e",
]


async def test_odd_names_and_texts_are_plain_data(make_runtime: MakeRuntime) -> None:
    @aj.job("bad:anything", retry=ONCE)
    async def anything(values: dict[str, Any]) -> dict[str, Any]:
        return values

    values: dict[str, Any] = {name: {name: f"{name}<script>';--\u200b"} for name in ODD_NAMES}
    async with make_runtime(anything):
        handle = await anything.dispatch(values)
        assert await handle.result(timeout=5) == values
        assert (await handle.run()).payload == {"values": values}


class Moody(BaseModel):
    text: str

    @field_validator("text")
    @classmethod
    def _odd(cls, text: str) -> str:
        if text == "error":
            raise RuntimeError(SECRET)
        if text == "exit":
            raise ValueError(f"not {SECRET}")
        return text


@aj.job("bad:moody", retry=ONCE)
async def moody(payload: Moody) -> str:
    return payload.text


async def test_a_validator_may_raise_what_it_likes(make_runtime: MakeRuntime) -> None:
    async with make_runtime(moody) as runtime:
        with pytest.raises(aj.PayloadInvalid, match="RuntimeError") as refusal:
            runtime.envelope("bad:moody", {"text": "error"})
        assert SECRET not in str(refusal.value)
        good = await moody.dispatch(Moody(text="fine"))
        assert await good.result(timeout=5) == "fine"


@pytest.mark.parametrize("secret", [SecretStr, SecretBytes])
def test_a_secret_would_be_kept_as_asterisks(secret: type) -> None:
    class Login(BaseModel):
        password: secret  # type: ignore[valid-type]

    with pytest.raises(aj.InvalidOption, match="secret"):

        @aj.job("bad:login")
        async def login(payload: Login) -> None: ...


@dataclasses.dataclass
class Point:
    x: int


circular: list[Any] = []
circular.append(circular)
UNSENDABLE = [circular, object(), float("nan"), {1: "a"}, {"a": b"\xff"}, ["a", {"b"}]]


@pytest.mark.parametrize("value", UNSENDABLE, ids=["circular", "object", "nan", "number as key", "bytes", "set"])
async def test_what_is_no_json_is_refused_by_its_place(make_runtime: MakeRuntime, value: Any) -> None:
    @aj.job("bad:any", retry=ONCE)
    async def anything(value: Any) -> None: ...

    async with make_runtime(anything).client() as runtime:
        envelope = aj.Envelope(job="bad:any", queue="default", payload={"value": value})
        with pytest.raises(aj.PayloadInvalid):
            await runtime.dispatch(envelope)
        if not isinstance(value, list | dict):
            with pytest.raises(aj.PayloadInvalid, match="value"):
                await anything.dispatch(value)


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (datetime(2030, 1, 2, tzinfo=UTC), "2030-01-02T00:00:00Z"),
        (uuid.UUID(int=5), str(uuid.UUID(int=5))),
        (Colour.RED, "red"),
        (Point(3), {"x": 3}),
        (Decimal("1.50"), "1.50"),
    ],
    ids=repr,
)
async def test_what_has_one_way_to_be_written_is_written_in_it(
    make_runtime: MakeRuntime, value: Any, kept: Any
) -> None:
    @aj.job("bad:any", retry=ONCE)
    async def anything(value: Any) -> None: ...

    async with make_runtime(anything).client():
        assert (await (await anything.dispatch(value)).run()).payload == {"value": kept}


async def test_a_model_that_has_changed_since_leaves_the_payload_for_a_replay(make_runtime: MakeRuntime) -> None:
    async with make_runtime(queues={"default": 1}).client() as producer:
        handle = await producer.dispatch(aj.Envelope(job="bad:moody", queue="default", payload={"txet": "x"}))
    async with make_runtime(moody) as runtime:
        run = await runtime.runs.wait(handle.id, timeout=5)
        assert (run.state, run.reason, run.payload) == (aj.RunState.DEAD_LETTERED, "permanent", {"txet": "x"})
        assert run.errors[0].name == "PayloadInvalid"
        again = await runtime.runs.replay(handle.id, payload={"text": "y"})
        assert await again.result(timeout=5) == "y"


# --- what handlers return, raise and leave behind --------------------------------------------------------------------


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no")

    __repr__ = __str__


class Circle(Exception):
    pass


def deep(levels: int) -> Exception:
    error: Exception = ValueError("inner")
    for _ in range(levels):
        error = ExceptionGroup("outer", [error, KeyError("beside")])
    return error


def circle() -> Exception:
    first, second = Circle("first"), Circle("second")
    first.__cause__, second.__cause__ = second, first
    return first


def bottomless(levels: int) -> None:
    if levels:
        bottomless(levels - 1)
    raise ValueError("from far below")


RAISED: dict[str, Callable[[], BaseException]] = {
    "long": lambda: ValueError("x" * 100_000_000),
    "hostile text": lambda: ValueError("\0\x1b[31m<script>\n\ud800"),
    "unprintable": Unprintable,
    "huge arguments": lambda: ValueError(*range(1_000_000)),
    "nested groups": lambda: deep(100),
    "circle of causes": circle,
    "interrupt": KeyboardInterrupt,
    "exit": lambda: SystemExit(3),
    "generator exit": GeneratorExit,
    "base": lambda: BaseException("bare"),
    "stop": lambda: StopIteration(5),
    "canceled": asyncio.CancelledError,
}
RETURNED: dict[str, Callable[[], Any]] = {
    "object": object,
    "nan": lambda: float("nan"),
    "circular": lambda: circular,
    "huge": lambda: "x" * 100_000_000,
    "bytes": lambda: b"bytes",
    "coroutine": lambda: None,
}
leaked: list[asyncio.Task[None]] = []
left_behind: ContextVar[str] = ContextVar("left_behind", default="clean")


@aj.job("bad:raises", queue="handlers", retry=ONCE)
async def raises(what: str) -> None:
    raise RAISED[what]()


@aj.job("bad:raises-in-thread", queue="handlers", retry=ONCE)
def raises_in_thread(what: str) -> None:
    raise RAISED[what]()


@aj.job("bad:deep", queue="handlers", retry=ONCE)
async def falls_deep() -> None:
    bottomless(900)


@aj.job("bad:returns", queue="handlers", retry=aj.Retry(attempts=3, backoff=aj.Fixed(0.01)))
async def returns(what: str) -> Any:
    return RETURNED[what]()


@aj.job("bad:leaves", queue="handlers", retry=ONCE)
async def leaves_behind() -> str:
    before = left_behind.get()
    left_behind.set("dirty")
    leaked.append(asyncio.create_task(asyncio.sleep(0.05)))
    return before


@pytest.fixture
async def handlers(make_runtime: MakeRuntime) -> Any:
    jobs = (raises, raises_in_thread, falls_deep, returns, leaves_behind, work)
    async with make_runtime(*jobs, queues={"handlers": 2}) as runtime:
        yield runtime


async def fails(runtime: aj.Runtime, handle: aj.RunHandle[Any]) -> aj.Run:
    run = await runtime.runs.wait(handle.id, timeout=20)
    assert run.state is aj.RunState.DEAD_LETTERED
    assert await (await work.dispatch(Work(n=7))).result(timeout=5) == 7
    return run


@pytest.mark.parametrize("what", RAISED)
async def test_whatever_is_raised_fails_the_attempt_and_nothing_else(handlers: aj.Runtime, what: str) -> None:
    for job in (raises, raises_in_thread):
        run = await fails(handlers, await job.dispatch(what))
        [error] = run.errors
        assert len(error.message) < 10_000
        assert len(error.stack) < 40_000
        assert "\0" not in error.message + error.stack
        assert run.attempt == 1


async def test_a_long_stack_is_cut(handlers: aj.Runtime) -> None:
    run = await fails(handlers, await falls_deep.dispatch())
    assert run.errors[0].message == "from far below"
    assert len(run.errors[0].stack) < 40_000


@pytest.mark.parametrize("what", sorted(RETURNED.keys() - {"coroutine"}))
async def test_a_result_that_cannot_be_kept_is_not_tried_again(handlers: aj.Runtime, what: str) -> None:
    run = await fails(handlers, await returns.dispatch(what))
    assert (run.attempt, run.errors[0].name) == (1, "ResultInvalid")


async def test_what_a_handler_leaves_behind_is_its_own(handlers: aj.Runtime) -> None:
    for _ in range(3):
        assert await (await leaves_behind.dispatch()).result(timeout=5) == "clean"
    assert left_behind.get() == "clean"
    await asyncio.gather(*leaked)


# --- definitions -----------------------------------------------------------------------------------------------------


async def test_registration_is_closed_once_pools_run(make_runtime: MakeRuntime, tmp_path: Path) -> None:
    async with make_runtime(work) as runtime:
        with pytest.raises(aj.RegistrationClosed):
            runtime.register(plain)

    @aj.job("bad:work")
    async def impostor() -> None: ...

    with pytest.raises(aj.DuplicateJob, match="bad:work"):
        make_runtime(work, impostor)
    for nonsense in (5, "no.such.module", object(), lambda: None, aj.JobRef("x:y", Work, None)):
        with pytest.raises(aj.InvalidOption):
            make_runtime(nonsense)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"jobs": work}, "jobs= takes a list"),
        ({"jobs": "bad.jobs"}, "jobs= takes a list"),
        ({"queues": ["work"]}, "queues= takes a dict"),
        ({"middleware": ways_in}, "middleware= takes a list"),
        ({"observers": print}, "observers= takes a list"),
        ({"policy": aj.Access}, "no class"),
        ({"policy": 5}, "method allows"),
    ],
)
def test_arguments_of_the_wrong_kind_are_named(options: dict[str, Any], words: str) -> None:
    with pytest.raises(aj.InvalidOption, match=words):
        aj.Runtime(**options)


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///", "sqlite:///:memory:"])
async def test_a_store_in_memory_would_keep_nothing(url: str) -> None:
    with pytest.raises(aj.InvalidOption, match="in memory no run would last"):
        async with aj.Runtime(store=url).client():
            pass


async def test_the_worker_s_log_tells_of_failures(make_runtime: MakeRuntime, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="actorjobs")
    async with make_runtime(raises, queues={"handlers": 1}) as runtime:
        handle = await raises.dispatch("hostile text")
        await runtime.runs.wait(handle.id, timeout=5)
    [line] = [record.getMessage() for record in caplog.records if handle.id in record.getMessage()]
    assert "(bad:raises): attempt 1 failed: ValueError" in line
    assert line.endswith("the run is dead_lettered")
    assert line.isprintable()
