"""`@job`: which functions can be jobs, what their definitions say, and how they are called."""

from __future__ import annotations

import asyncio
import functools
import inspect
import math
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, cast

import pytest
from pydantic import BaseModel, Field, RootModel, SecretStr

from actorjobs import jobs
from actorjobs.errors import InvalidOption, PayloadInvalid, ResultInvalid
from actorjobs.jobs import ArgsJob, Definition, JobContext, PayloadJob, definition_of, job
from actorjobs.retry import Exponential, Fixed, Retry

if TYPE_CHECKING:
    from somewhere.else_ import Elsewhere  # type: ignore[import-not-found]

SECRET = "s3cr3t-hunter2"


class Services:
    pass


class Welcome(BaseModel):
    email: str
    title: str = Field(min_length=3)


class Receipt(BaseModel):
    to: str


@job(
    "mail:welcome",
    queue="emails",
    retry=Retry(attempts=3),
    timeout=30,
    priority=7,
    expires_in=timedelta(hours=1),
    retention=86400,
    tags=["mail"],
    aliases=["mail:greet"],
)
async def send_welcome(payload: Welcome, ctx: JobContext[Services]) -> Receipt:
    """Send it."""
    return Receipt(to=payload.email)


@job("mail:plain")
def send_plain(payload: Welcome) -> None:
    return None


@job("reports:export")
def export(ctx: JobContext[Services], report_id: int, fmt: str = "pdf") -> str:
    return f"{report_id}.{fmt}"


@job("reports:count")
async def count(when: datetime, *, ids: list[int], page: int | None = None) -> int:
    return len(ids)


@job("tick:tock")
async def tick() -> None: ...


def fake() -> JobContext[Services]:
    return JobContext.fake(app=Services())


# --- what a definition says ------------------------------------------------------------------------------------------


def test_a_definition_holds_what_the_decorator_was_told() -> None:
    definition = send_welcome.definition
    assert (definition.name, definition.queue, definition.aliases) == ("mail:welcome", "emails", ("mail:greet",))
    assert definition.retry == Retry(attempts=3)
    assert (definition.timeout, definition.expires_in, definition.retention) == (30, 3600, 86400)
    assert (definition.priority, definition.tags) == (7, ("mail",))
    assert definition.script == f"{__name__}:send_welcome"
    assert (definition.is_async, definition.takes_context) == (True, True)


def test_a_definition_has_safe_defaults() -> None:
    definition = send_plain.definition
    assert (definition.queue, definition.retry, definition.timeout) == ("default", Retry(), None)
    assert (definition.priority, definition.expires_in, definition.retention) == (4, None, None)
    assert (definition.tags, definition.aliases) == ((), ())
    assert (definition.is_async, definition.takes_context) == (False, False)


def test_a_job_looks_like_its_function() -> None:
    assert (send_welcome.__name__, send_welcome.__doc__) == ("send_welcome", "Send it.")  # type: ignore[attr-defined]
    assert inspect.signature(export).parameters.keys() == {"ctx", "report_id", "fmt"}
    assert repr(send_welcome) == "<job 'mail:welcome'>"
    assert send_welcome.name == "mail:welcome"


async def test_a_job_is_plainly_callable() -> None:
    assert await send_welcome(Welcome(email="a", title="abc"), fake()) == Receipt(to="a")
    assert export(fake(), 7, fmt="csv") == "7.csv"
    assert await count(datetime.now(UTC), ids=[1, 2]) == 2
    assert send_plain(Welcome(email="a", title="abc")) is None


def test_defining_imports_and_registers_nothing() -> None:
    assert jobs.definition_of(send_welcome) is send_welcome.definition
    assert isinstance(send_welcome, PayloadJob)
    assert isinstance(export, ArgsJob)


@pytest.mark.parametrize(
    ("words", "retry"),
    [
        ({"retries": 1, "retry_delay": 5}, Retry(2, Fixed(5))),
        ({"retries": 0}, Retry(1)),
        ({"retries": 9_999}, Retry(10_000)),
        ({"retry_delay": timedelta(minutes=1)}, Retry(5, Fixed(60))),
        ({"retry": Retry(7, Exponential(base=1))}, Retry(7, Exponential(base=1))),
        ({}, Retry()),
    ],
)
def test_retries_do_not_count_the_first_try(words: Any, retry: Retry) -> None:
    assert job("a:b", **words)(lambda_free).definition.retry == retry


def lambda_free() -> None: ...


# --- the way in and out ----------------------------------------------------------------------------------------------


async def call(definition: Definition, payload: str, ctx: JobContext[Any] | None = None) -> Any:
    value = definition.invoke(definition.decode_payload(payload), None, ctx or fake())
    return await value if definition.is_async else value


async def test_a_worker_calls_a_handler_from_stored_json() -> None:
    assert await call(send_welcome.definition, '{"email": "a", "title": "abc"}') == Receipt(to="a")
    assert await call(send_plain.definition, '{"email": "a", "title": "abc"}') is None
    assert await call(export.definition, '{"report_id": 7, "fmt": "csv"}') == "7.csv"
    assert await call(count.definition, '{"when": "2030-01-01T00:00:00Z", "ids": [1], "page": null}') == 1
    assert await call(tick.definition, "{}") is None


async def test_a_parameter_that_came_later_takes_its_default() -> None:
    assert await call(export.definition, '{"report_id": 7}') == "7.pdf"


@pytest.mark.parametrize(
    ("definition", "text", "path"),
    [
        (send_welcome.definition, f'{{"email": "{SECRET}", "title": "x"}}', "payload.title: String should have"),
        (send_welcome.definition, f'"{SECRET}"', "payload: Input should be an object"),
        (send_welcome.definition, f"{{{SECRET}", "payload: Invalid JSON"),
        (export.definition, f'{{"report_id": "{SECRET}"}}', "payload.report_id: Input should be a valid integer"),
        (export.definition, f'{{"report_id": 1, "x": "{SECRET}"}}', "payload.x: Extra inputs are not permitted"),
        (export.definition, "{}", "payload.report_id: Field required"),
        (export.definition, "[7]", "payload: Input should be an object"),
        (tick.definition, '{"a": 1}', "payload.a: Extra inputs are not permitted"),
    ],
)
def test_stored_json_is_validated_again(definition: Definition, text: str, path: str) -> None:
    with pytest.raises(PayloadInvalid) as refusal:
        definition.decode_payload(text)
    assert str(refusal.value).startswith(path)
    assert SECRET not in str(refusal.value)
    assert refusal.value.__suppress_context__


def test_a_function_takes_no_constructor_arguments() -> None:
    good = '{"email": "a", "title": "abc"}'
    for nothing in (None, "", "{}", "null"):
        send_welcome.definition.decode_payload(good, nothing)
    with pytest.raises(PayloadInvalid, match="constructor_args: this job takes none"):
        send_welcome.definition.decode_payload(good, '{"locale": "en"}')


def test_json_from_outside_becomes_a_payload() -> None:
    assert send_welcome.definition.encode_payload({"email": "a", "title": "abc"}) == {"email": "a", "title": "abc"}
    assert export.definition.encode_payload({"report_id": "7"}) == {"report_id": 7, "fmt": "pdf"}
    assert tick.definition.encode_payload({}) == {}


@pytest.mark.parametrize(
    ("definition", "value", "message"),
    [
        (send_welcome.definition, Receipt(to=SECRET), "payload must be Welcome, not Receipt"),
        (send_welcome.definition, {"email": SECRET}, "payload.title: Field required"),
        (send_welcome.definition, SECRET, "payload: Input should be an object"),
        (send_welcome.definition, None, "payload: Input should be an object"),
        (send_welcome.definition, object(), "payload has the type object"),
        (export.definition, [7], "payload: Input should be an object"),
        (export.definition, {"report_id": SECRET}, "payload.report_id: Input should be a valid integer"),
        (export.definition, {"report_id": math.nan}, "payload.report_id is NaN"),
    ],
)
def test_json_from_outside_that_does_not_fit_is_refused(definition: Definition, value: Any, message: str) -> None:
    with pytest.raises(PayloadInvalid) as refusal:
        definition.encode_payload(value)
    assert message in str(refusal.value)
    assert SECRET not in str(refusal.value)


def returning(annotation: Any) -> Definition:
    def handler() -> Any: ...

    handler.__annotations__["return"] = annotation
    return job("a:b")(handler).definition


@pytest.mark.parametrize(
    ("annotation", "value", "text", "back"),
    [
        (Receipt, Receipt(to="a"), '{"to":"a"}', Receipt(to="a")),
        (Receipt, {"to": "a"}, '{"to":"a"}', Receipt(to="a")),
        (None, None, None, None),
        (NoReturn, None, None, None),
        (int | None, None, None, None),
        (int | None, 5, "5", 5),
        (Any, {"a": [1]}, '{"a":[1]}', {"a": [1]}),
        (Any, None, None, None),
        (datetime, datetime(2030, 1, 1, tzinfo=UTC), '"2030-01-01T00:00:00Z"', datetime(2030, 1, 1, tzinfo=UTC)),
        (set[int], {1}, "[1]", {1}),
        (dict[int, str], {1: "a"}, '{"1":"a"}', {1: "a"}),
        (tuple[int, Receipt], (1, Receipt(to="x")), '[1,{"to":"x"}]', (1, Receipt(to="x"))),
    ],
)
def test_a_result_is_stored_and_read_back_typed(annotation: Any, value: Any, text: str | None, back: Any) -> None:
    definition = returning(annotation)
    assert definition.encode_result(value) == text
    stored = None if text is None else __import__("json").loads(text)
    restored = definition.decode_result(stored)
    assert restored == back
    assert type(restored) is type(back)


@pytest.mark.parametrize(
    ("annotation", "value", "message"),
    [
        (Receipt, None, "result: Input should be a valid dictionary or instance of Receipt"),
        (Receipt, Welcome(email=SECRET, title="abc"), "result: Input should be a valid dictionary or instance"),
        (Receipt, {"to": 5}, "result.to: Input should be a valid string"),
        (None, SECRET, "result: Input should be None"),
        (int, SECRET, "result: Input should be a valid integer"),
        (float, math.nan, "result is NaN or infinite"),
        (dict[str, float], {"a": math.inf, "b": 1}, "result.a is NaN or infinite"),
        (Any, {"a": math.nan}, "result.a is NaN or infinite"),
        (Any, object(), "result has the type object"),
        (Any, b"x", "result has the type bytes"),
        (Any, {"a": {SECRET}}, "result.a has the type set"),
        (bytes, b"\xff", "result has the type bytes"),
        (str, SECRET * 20_000, "result takes 280,002 bytes"),
        (str, SECRET + "\x00", "result holds a NUL"),
    ],
)
def test_a_result_that_does_not_fit_is_refused(annotation: Any, value: Any, message: str) -> None:
    with pytest.raises(ResultInvalid) as refusal:
        returning(annotation).encode_result(value)
    assert message in str(refusal.value)
    assert SECRET not in str(refusal.value)
    assert refusal.value.__context__ is None or refusal.value.__suppress_context__


def test_a_stored_result_that_no_longer_fits_is_refused() -> None:
    with pytest.raises(ResultInvalid, match=r"result\.to: Field required"):
        returning(Receipt).decode_result({"a": 1})
    with pytest.raises(ResultInvalid, match="result: Input should be an object"):
        returning(Receipt).decode_result(None)


def test_a_result_without_annotation_may_be_any_json() -> None:
    @job("a:b")
    def handler():  # type: ignore[no-untyped-def]
        return None

    assert cast("Definition", handler.definition).encode_result({"a": 1}) == '{"a":1}'


# --- annotations -----------------------------------------------------------------------------------------------------


def test_types_of_the_enclosing_function_are_found() -> None:
    class Local(BaseModel):
        x: int

    @job("a:b")
    async def handler(payload: Local, ctx: JobContext) -> Local:
        return payload

    assert handler.definition.decode_payload('{"x": 1}') == Local(x=1)


def test_the_apps_own_type_may_be_known_to_checkers_only() -> None:
    @job("a:b")
    async def handler(payload: Welcome, ctx: JobContext[Elsewhere]) -> None: ...

    @job("a:c")
    async def plain(ctx: jobs.JobContext[Elsewhere], x: int) -> None: ...

    assert handler.definition.takes_context
    assert plain.definition.takes_context


def test_a_union_of_models_and_an_annotated_model_are_one_payload() -> None:
    @job("a:b")
    def either(payload: Welcome | Receipt) -> None: ...

    @job("a:c")
    def annotated(payload: Annotated[Receipt, Field(description="x")], ctx: JobContext, /) -> None: ...

    assert either.definition.decode_payload('{"to": "x"}') == Receipt(to="x")
    assert either.definition.encode_payload(Receipt(to="x")) == {"to": "x"}
    assert annotated.definition.decode_payload('{"to": "x"}') == Receipt(to="x")


def test_constraints_of_a_parameter_count() -> None:
    @job("a:b")
    def handler(count: Annotated[int, Field(gt=0)]) -> None: ...

    with pytest.raises(PayloadInvalid, match=r"payload\.count: Input should be greater than 0"):
        handler.envelope(0)


def test_a_root_model_carries_any_other_type() -> None:
    @job("a:b")
    def handler(payload: RootModel[list[int]]) -> int:
        return sum(payload.root)

    definition = handler.definition
    assert definition.encode_payload(RootModel[list[int]]([1, 2])) == [1, 2]
    assert definition.invoke(definition.decode_payload("[1, 2]"), None, fake()) == 3


def test_parameters_may_have_any_name() -> None:
    @job("a:b")
    def handler(model_config: int, _private: int, copy: int, schema: int, self_: int = 0) -> int:
        return model_config + _private + copy + schema + self_

    payload = handler.envelope(1, 2, copy=3, schema=4).payload
    assert payload == {"model_config": 1, "_private": 2, "copy": 3, "schema": 4, "self_": 0}
    assert handler.definition.invoke(payload, None, fake()) == 10


# --- what cannot be a job --------------------------------------------------------------------------------------------


def two_models(payload: Welcome, other: Receipt) -> None: ...
def model_and_scalar(payload: Welcome, count: int) -> None: ...
def model_ctx_scalar(payload: Welcome, ctx: JobContext, count: int) -> None: ...
def context_first(ctx: JobContext, payload: Welcome) -> None: ...
def keyword_payload(*, payload: Welcome) -> None: ...
def keyword_context(payload: Welcome, *, ctx: JobContext) -> None: ...
def context_last(count: int, ctx: JobContext) -> None: ...
def keyword_only_context(*, ctx: JobContext) -> None: ...
def two_contexts(ctx: JobContext, again: JobContext) -> None: ...
def optional_context(ctx: JobContext | None = None) -> None: ...
def star_args(*args: int) -> None: ...
def star_kwargs(**kwargs: int) -> None: ...
def positional_only(count: int, /) -> None: ...
def unannotated(count) -> None: ...  # type: ignore[no-untyped-def]
def method(self, count: int) -> None: ...  # type: ignore[no-untyped-def]
def unknown_type(count: Elsewhere) -> None: ...
def unknown_result() -> Elsewhere: ...
def strange_type(count: Services) -> None: ...
def strange_result() -> Services: ...
def secret(password: SecretStr) -> None: ...
def bad_default(count: int = "x") -> None: ...  # type: ignore[assignment]
def none_default(count: int = None) -> None: ...  # type: ignore[assignment]  # noqa: RUF013


def generator() -> Iterator[int]:
    yield 1


async def async_generator() -> AsyncIterator[int]:
    yield 1


class Callable_:
    def __call__(self) -> None: ...

    def bound(self) -> None: ...


class SecretModel(BaseModel):
    password: SecretStr


def secret_payload(payload: SecretModel) -> None: ...


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (two_models, "a model stands beside other parameters"),
        (model_and_scalar, "a model stands beside other parameters"),
        (model_ctx_scalar, "a model stands beside other parameters"),
        (context_first, "ctx stands before the payload"),
        (keyword_payload, "cannot be keyword-only"),
        (keyword_context, "cannot be keyword-only"),
        (context_last, "ctx must be the first parameter"),
        (keyword_only_context, "cannot be keyword-only"),
        (two_contexts, "the only context"),
        (optional_context, "this type cannot become JSON"),
        (star_args, r"\*args"),
        (star_kwargs, r"\*kwargs"),
        (positional_only, "'count' is positional-only"),
        (unannotated, "'count' has no annotation"),
        (method, "a method cannot be a job"),
        (unknown_type, "'count' is annotated with 'Elsewhere', which is not known at run time"),
        (unknown_result, "the result is annotated with 'Elsewhere'"),
        (strange_type, "payload: this type cannot become JSON"),
        (strange_result, "result: this type cannot become JSON"),
        (secret, r"payload\.password is a secret"),
        (secret_payload, r"payload\.password is a secret"),
        (bad_default, "the default of 'count': Input should be a valid integer"),
        (none_default, "the default of 'count': Input should be a valid integer"),
        (generator, "cannot be a generator"),
        (async_generator, "cannot be a generator"),
        (lambda: None, "a lambda has no name"),
        (functools.partial(lambda_free), "not a value of type partial"),
        (functools.partial(functools.partial(lambda_free)), "not a value of type partial"),
        (Callable_(), "not a value of type Callable_"),
        (Callable_().bound, "not a value of type method"),
        (Callable_, "for a class derive from Job"),
        (BaseModel, "for a class derive from Job"),
        (len, "not a value of type builtin_function_or_method"),
        (send_welcome, "not a value of type PayloadJob"),
        (staticmethod(lambda_free), "not a value of type staticmethod"),
        (5, "not a value of type int"),
        (None, "not a value of type NoneType"),
    ],
)
def test_what_cannot_be_a_job_is_refused_at_definition(function: Any, message: str) -> None:
    with pytest.raises(InvalidOption, match=f"^job 'a:b': .*{message}") as refusal:
        job("a:b")(function)
    assert refusal.value.__cause__ is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"queue": "No Queue"}, "a queue name"),
        ({"queue": 5}, "a queue name"),
        ({"retry": 3}, r"retry must be a Retry\(...\)"),
        ({"retries": -1}, "retries must be a whole number from 0"),
        ({"retries": 10**9}, "retries must be a whole number"),
        ({"retries": "3"}, "retries must be a whole number"),
        ({"retries": 2.5}, "retries must be a whole number"),
        ({"retries": True}, "retries must be a whole number"),
        ({"retry_delay": -1}, "retry_delay must be"),
        ({"retry_delay": math.nan}, "retry_delay must be"),
        ({"retry": Retry(), "retries": 1}, "give one or the other"),
        ({"retry": Retry(), "retry_delay": 1}, "give one or the other"),
        ({"timeout": 0}, "timeout must be"),
        ({"timeout": -1}, "timeout must be"),
        ({"timeout": math.inf}, "timeout must be"),
        ({"timeout": "30"}, "timeout must be"),
        ({"priority": 10}, "priority must be"),
        ({"priority": True}, "priority must be"),
        ({"expires_in": 0}, "expires_in must be"),
        ({"retention": -5}, "retention must be"),
        ({"tags": "mail"}, "tags must be a list"),
        ({"tags": ["x" * 65]}, "1 to 64 characters"),
        ({"aliases": "mail:greet"}, "aliases must be a list"),
        ({"aliases": ["Bad Name"]}, "a job name"),
        ({"aliases": ["a:b"]}, "aliases must differ"),
        ({"aliases": ["a:c", "a:c"]}, "aliases must differ"),
        ({"aliases": [5]}, "a job name"),
    ],
)
def test_a_bad_option_is_refused_at_definition(options: Any, message: str) -> None:
    with pytest.raises(InvalidOption, match=f"^job 'a:b': .*{message}"):
        job("a:b", **options)(lambda_free)


def test_a_bad_name_is_refused_at_once() -> None:
    with pytest.raises(InvalidOption, match="a job name"):
        job("Mail Welcome")


@pytest.mark.parametrize("value", [5, "mail:welcome", None, lambda_free, BaseModel])
def test_only_jobs_have_a_definition(value: Any) -> None:
    with pytest.raises(InvalidOption, match="not a job"):
        definition_of(value)


def test_the_coroutine_is_made_but_not_run_by_invoke() -> None:
    coroutine = tick.definition.invoke({}, None, fake())
    assert asyncio.iscoroutine(coroutine)
    coroutine.close()
