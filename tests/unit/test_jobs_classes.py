"""Class jobs: constructor arguments, inherited defaults, a backoff of their own, and what cannot be one."""

from __future__ import annotations

import dataclasses
import enum
import logging
import math
import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from types import ModuleType
from typing import Any, ClassVar, Generic, TypeVar

import pytest
from pydantic import BaseModel, RootModel

from actorjobs.errors import InvalidOption, PayloadInvalid, ResultInvalid
from actorjobs.jobs import Job, JobContext, JobRef, definition_of, definitions_in
from actorjobs.jobs.dispatch import Dispatchable
from actorjobs.retry import Fixed, Retry

SECRET = "s3cr3t-hunter2"


class Services:
    pass


class ReportRef(BaseModel):
    id: int


class Report(BaseModel):
    text: str


class BuildReport(Job[ReportRef, Report, Services]):
    """Build it."""

    name = "reports:build"
    queue = "reports"
    retries = 1
    retry_delay = 5
    timeout = timedelta(minutes=1)
    tags = ["report"]  # noqa: RUF012 - as a user writes it
    aliases = ["reports:make"]  # noqa: RUF012

    locale: str = "en"
    pages: list[int] = dataclasses.field(default_factory=list[int])

    async def perform(self, payload: ReportRef, ctx: JobContext[Services]) -> Report:
        return Report(text=f"{payload.id} {self.locale} {self.pages}")


class Plain(Job[ReportRef, None]):
    name = "plain:job"

    def perform(self, payload: ReportRef, ctx: JobContext) -> None: ...


P = TypeVar("P", bound=BaseModel)
R = TypeVar("R")


class ApplicationJob(Job[P, R, Services], Generic[P, R]):
    """An application's own base: no name, so abstract."""

    retry = Retry(7, Fixed(2))
    queue = "app"
    expires_in = 60
    region: str = "eu"


class Inherited(ApplicationJob[ReportRef, Report]):
    name = "app:inherited"
    city: str

    async def perform(self, payload: ReportRef, ctx: JobContext[Services]) -> Report:
        return Report(text=self.region + self.city)


class Overriding(ApplicationJob[ReportRef, Report]):
    name = "app:overriding"
    retries = 0
    queue = "own"
    expires_in = None

    async def perform(self, payload: ReportRef, ctx: JobContext[Services]) -> Report:
        return Report(text=self.region)


def fake() -> JobContext[Services]:
    return JobContext.fake(app=Services())


# --- definitions -----------------------------------------------------------------------------------------------------


def test_a_definition_holds_what_the_class_says() -> None:
    definition = BuildReport.definition
    assert (definition.name, definition.queue, definition.aliases) == ("reports:build", "reports", ("reports:make",))
    assert definition.retry == Retry(2, Fixed(5))
    assert (definition.timeout, definition.tags) == (60, ("report",))
    assert definition.script == f"{__name__}:BuildReport"
    assert (definition.is_async, definition.takes_context) == (True, True)
    assert not Plain.definition.is_async
    assert definition_of(BuildReport) is definition


def test_defaults_of_an_abstract_base_are_shared() -> None:
    definition = Inherited.definition
    assert (definition.queue, definition.expires_in, definition.retry) == ("app", 60, Retry(7, Fixed(2)))
    assert definition.decode_payload('{"id": 1}') == ReportRef(id=1)
    assert definition.decode_result({"text": "x"}) == Report(text="x")


def test_what_is_said_nearest_to_the_class_counts() -> None:
    definition = Overriding.definition
    assert (definition.queue, definition.expires_in, definition.retry) == ("own", None, Retry(1))


def test_semitras_words_may_come_from_two_levels() -> None:
    class Base(Job[P, R], Generic[P, R]):
        retry_delay = 3

    class Concrete(Base[ReportRef, None]):
        name = "a:b"
        retries = 4

        def perform(self, payload: ReportRef, ctx: JobContext) -> None: ...

    assert Concrete.definition.retry == Retry(5, Fixed(3))


def test_a_base_may_be_generic_in_part_and_deep() -> None:
    T = TypeVar("T")

    class Page(BaseModel, Generic[T]):
        item: T

    class One(Job[Page[T], T], Generic[T]):
        pass

    class Two(One[T], Generic[T]):
        pass

    class Concrete(Two[int]):
        name = "a:b"

        def perform(self, payload: Page[int], ctx: JobContext) -> int:
            return payload.item

    assert Concrete.definition.decode_payload('{"item": "5"}').item == 5
    with pytest.raises(PayloadInvalid):
        Concrete.definition.decode_payload('{"item": "x"}')
    with pytest.raises(ResultInvalid):
        Concrete.definition.encode_result("x")


def test_an_abstract_class_can_do_nothing() -> None:
    for act in (
        lambda: definition_of(ApplicationJob),
        lambda: ApplicationJob.envelope(ReportRef(id=1)),
        lambda: ApplicationJob.build(),
        lambda: ApplicationJob.handle("x"),
        lambda: ApplicationJob.options(delay=1),
    ):
        with pytest.raises(InvalidOption, match="ApplicationJob is abstract: give it a name"):
            act()
    assert not hasattr(ApplicationJob, "definition")


def test_a_subclass_of_a_concrete_job_needs_a_name_of_its_own() -> None:
    class Child(BuildReport):
        pass

    with pytest.raises(InvalidOption, match="Child is abstract"):
        definition_of(Child)

    class Named(BuildReport):
        name = "reports:child"
        zone: str = "a"

    assert Named.definition.name == "reports:child"
    assert Named.definition.aliases == (), "an alias belongs to one class"
    assert Named.envelope(ReportRef(id=1)).constructor_args == {"locale": "en", "pages": [], "zone": "a"}
    assert BuildReport.definition.name == "reports:build"


def test_the_jobs_of_a_module_are_found_without_the_abstract_ones() -> None:
    found = definitions_in(sys.modules[__name__])
    assert [definition.name for definition in found] == [
        "reports:build",
        "plain:job",
        "app:inherited",
        "app:overriding",
        "patient:job",
    ]


def test_a_reference_cannot_be_registered() -> None:
    with pytest.raises(InvalidOption, match="register the job itself"):
        definition_of(JobRef("a:b", ReportRef, None))


# --- constructor arguments -------------------------------------------------------------------------------------------


def test_constructor_arguments_are_kept_on_the_run_with_defaults() -> None:
    assert BuildReport.build(locale="de").envelope(ReportRef(id=1)).constructor_args == {"locale": "de", "pages": []}
    assert BuildReport.envelope(ReportRef(id=1)).constructor_args == {"locale": "en", "pages": []}
    assert Plain.envelope(ReportRef(id=1)).constructor_args == {}
    assert Plain.build().envelope(ReportRef(id=1)).constructor_args == {}
    assert isinstance(BuildReport.build(), Dispatchable)
    assert BuildReport.build(locale="de").options(delay=1).envelope(ReportRef(id=1)).constructor_args["locale"] == "de"


async def test_the_worker_constructs_the_job_from_stored_arguments() -> None:
    definition = BuildReport.definition
    bound = definition.decode_payload('{"id": 1}', '{"locale": "de", "pages": [2]}')
    assert await definition.invoke(bound, '{"locale": "de", "pages": [2]}', fake()) == Report(text="1 de [2]")
    assert await definition.invoke(bound, None, fake()) == Report(text="1 en []")
    bound = Inherited.definition.decode_payload('{"id": 1}', '{"city": "Ulm"}')
    assert await Inherited.definition.invoke(bound, '{"city": "Ulm"}', fake()) == Report(text="euUlm")


def test_a_class_is_plainly_constructible() -> None:
    assert BuildReport(locale="fr").locale == "fr"
    assert BuildReport().pages is not BuildReport().pages
    with pytest.raises(TypeError):
        BuildReport("fr")  # type: ignore[misc]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"local": SECRET}, "constructor_args: got an unexpected keyword argument 'local'"),
        ({"locale": 5}, "constructor_args.locale: Input should be a valid string"),
        ({"pages": [SECRET]}, "constructor_args.pages[0]: Input should be a valid integer"),
        ({"pages": SECRET}, "constructor_args.pages: Input should be a valid list"),
        ({"locale": SECRET + "\x00"}, "constructor_args.locale holds a NUL"),
        ({"locale": SECRET * 1_200}, "at most 16,384 are kept"),
    ],
)
def test_constructor_arguments_that_do_not_fit_are_refused(arguments: Any, message: str) -> None:
    with pytest.raises(PayloadInvalid) as refusal:
        BuildReport.build(**arguments)
    assert message in str(refusal.value)
    assert SECRET not in str(refusal.value)


def test_a_required_constructor_argument_must_be_given() -> None:
    with pytest.raises(PayloadInvalid, match="constructor_args: missing a required argument: 'city'"):
        Inherited.envelope(ReportRef(id=1))
    with pytest.raises(PayloadInvalid, match="constructor_args"):
        Plain.build(x=1)  # type: ignore[call-arg]


@pytest.mark.parametrize("stored", [f'{{"locale": ["{SECRET}"]}}', f'{{"local": "{SECRET}"}}', "[]", "{", '"x"'])
def test_stored_constructor_arguments_are_validated_again(stored: str) -> None:
    with pytest.raises(PayloadInvalid, match=r"^constructor_args") as refusal:
        BuildReport.definition.decode_payload('{"id": 1}', stored)
    assert SECRET not in str(refusal.value)
    with pytest.raises(PayloadInvalid, match=r"^constructor_args"):
        BuildReport.definition.invoke(ReportRef(id=1), stored, fake())


def test_arguments_for_a_job_that_takes_none_are_refused() -> None:
    Plain.definition.decode_payload('{"id": 1}', "{}")
    with pytest.raises(PayloadInvalid, match="takes none"):
        Plain.definition.decode_payload('{"id": 1}', '{"a": 1}')


def test_a_constructor_argument_is_read_where_its_class_is_written() -> None:
    elsewhere = ModuleType("elsewhere")
    source = """
from __future__ import annotations
import enum
from typing import Generic, TypeVar
from actorjobs.jobs import Job
P, R = TypeVar("P"), TypeVar("R")
class OnlyHere(enum.Enum):
    A = "a"
class Base(Job[P, R], Generic[P, R]):
    where: OnlyHere = OnlyHere.A
"""
    sys.modules["elsewhere"] = elsewhere
    try:
        exec(source, vars(elsewhere))

        class Concrete(elsewhere.Base[ReportRef, None]):  # type: ignore[name-defined,misc]
            name = "a:b"

            def perform(self, payload: ReportRef, ctx: JobContext) -> None: ...

    finally:
        del sys.modules["elsewhere"]
    assert Concrete.envelope(ReportRef(id=1)).constructor_args == {"where": "a"}


def test_types_of_the_enclosing_function_are_found() -> None:
    class Shade(enum.Enum):
        DARK = "dark"

    class Concrete(Job[ReportRef, None]):
        name = "a:b"
        shade: Shade = Shade.DARK

        def perform(self, payload: ReportRef, ctx: JobContext) -> None: ...

    assert Concrete.build(shade=Shade.DARK).envelope(ReportRef(id=1)).constructor_args == {"shade": "dark"}


def test_a_class_variable_is_no_constructor_argument() -> None:
    class WithConstant(Job[ReportRef, None]):
        name = "a:b"
        limit: ClassVar[int] = 5

        def perform(self, payload: ReportRef, ctx: JobContext) -> None: ...

    assert WithConstant.envelope(ReportRef(id=1)).constructor_args == {}


# --- backoff ---------------------------------------------------------------------------------------------------------


class Patient(Job[ReportRef, None]):
    name = "patient:job"
    answer: Any = None

    def perform(self, payload: ReportRef, ctx: JobContext) -> None: ...

    def backoff(self, failures: int, error: BaseException) -> Any:
        if self.answer == "raise":
            raise RuntimeError("no")
        if self.answer == "failures":
            return 10 * failures
        if self.answer == "minute":
            return timedelta(minutes=1)
        return self.answer


@pytest.mark.parametrize(
    ("stored", "seconds"),
    [(None, None), ('{"answer": 2.5}', 2.5), ('{"answer": "failures"}', 30), ('{"answer": "minute"}', 60)],
)
def test_a_job_may_set_its_own_backoff(stored: str | None, seconds: float | None) -> None:
    assert Patient.definition.backoff_override(3, ValueError(), stored) == seconds


@pytest.mark.parametrize(
    "stored", ['{"answer": "raise"}', '{"answer": "x"}', '{"answer": -1}', '{"answer": true}', "["]
)
def test_a_backoff_that_fails_leaves_it_to_the_policy(stored: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "actorjobs.job"):
        assert Patient.definition.backoff_override(1, ValueError(), stored) is None
    assert "backoff() of job 'patient:job' failed" in caplog.text


def test_a_job_without_a_backoff_is_not_even_constructed() -> None:
    assert BuildReport.definition.backoff_override(1, ValueError(), "damaged") is None


# --- what cannot be a job class --------------------------------------------------------------------------------------


def make(body: dict[str, Any], base: Any = Job[ReportRef, None]) -> type:
    """A class statement with this body; `perform` is there unless the body says otherwise."""

    def perform(self: Any, payload: Any, ctx: Any) -> None: ...

    full = {"name": "a:b", "perform": perform, "__module__": __name__, **body}
    return __import__("types").new_class("X", (base,), {}, lambda namespace: namespace.update(full))


async def generating(self: Any, payload: Any, ctx: Any) -> AsyncIterator[int]:
    yield 1


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"name": "No Name"}, "a job name"),
        ({"name": ""}, "a job name"),
        ({"name": None}, "a job name"),
        ({"name": 5}, "a job name"),
        ({"perform": Job.perform}, "it needs a method `async def perform"),
        ({"perform": None}, "it needs a method"),
        ({"perform": 5}, "it needs a method"),
        ({"perform": staticmethod(lambda payload, ctx: None)}, "it needs a method"),
        ({"perform": lambda self: None}, "must take just these two"),
        ({"perform": lambda self, payload: None}, "must take just these two"),
        ({"perform": lambda self, payload, ctx, more: None}, "must take just these two"),
        ({"perform": generating}, "cannot be a generator"),
        ({"queue": "A B"}, "a queue name"),
        ({"timeout": 0}, "timeout must be"),
        ({"timeout": math.nan}, "timeout must be"),
        ({"priority": 11}, "priority must be"),
        ({"priority": -1}, "priority must be"),
        ({"expires_in": 0}, "expires_in must be"),
        ({"retention": "x"}, "retention must be"),
        ({"tags": "abc"}, "tags must be a list"),
        ({"aliases": ["a:b"]}, "aliases must differ"),
        ({"retry": 5}, "retry must be a Retry"),
        ({"retries": -1}, "retries must be"),
        ({"retry_delay": -1}, "retry_delay must be"),
        ({"retry": Retry(), "retries": 1}, "give one or the other"),
        ({"__init__": lambda self: None}, "write no __init__"),
        ({"__annotations__": {"queue": str}, "queue": "x"}, "'queue' belongs to the job"),
        ({"__annotations__": {"name": str}}, "'name' belongs to the job"),
        ({"__annotations__": {"dispatch": int}}, "'dispatch' belongs to the job"),
        ({"__annotations__": {"items": list}, "items": []}, "mutable default"),
        ({"__annotations__": {"item": "Elsewhere"}}, "'item' is annotated with 'Elsewhere'"),
        ({"__annotations__": {"item": Services}}, "constructor_args: this type cannot become JSON"),
        ({"__annotations__": {"item": int}, "item": "x"}, "the default of 'item'"),
    ],
)
def test_what_cannot_be_a_job_class_is_refused_at_definition(body: Any, message: str) -> None:
    with pytest.raises(InvalidOption, match=f"^job 'X': .*{message}") as refusal:
        make(body)
    assert refusal.value.__cause__ is None


def test_priority_zero_is_a_priority() -> None:
    assert definition_of(make({"priority": 0})).priority == 0


@pytest.mark.parametrize("base", [Job, Job[int, None], Job[list[int], None], Job[P, None]])  # type: ignore[type-var]
def test_the_payload_of_a_class_is_a_model(base: Any) -> None:
    with pytest.raises(InvalidOption, match="say what it takes and gives"):
        make({}, base)


def test_a_root_model_is_a_payload() -> None:
    assert definition_of(make({}, Job[RootModel[list[int]], None])).encode_payload([1]) == [1]


def test_a_result_must_be_storable() -> None:
    with pytest.raises(InvalidOption, match="result: this type cannot become JSON"):
        make({}, Job[ReportRef, Services])
