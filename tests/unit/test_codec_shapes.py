"""Types as JSON: written, checked by their own validators, read back; secrets and input never in a message."""

from __future__ import annotations

import math
import sys
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from functools import partial
from typing import Annotated, Any, Literal

import pytest
from pydantic import (
    AfterValidator,
    AliasPath,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    EmailStr,
    Field,
    PlainSerializer,
    RootModel,
    Secret,
    SecretBytes,
    SecretStr,
    computed_field,
    field_serializer,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticCustomError

from actorjobs.codec import LIMITS, Shape
from actorjobs.errors import InvalidOption, PayloadInvalid, ResultInvalid

SECRET = "s3cr3t-hunter2"


def shape(annotation: Any) -> Shape:
    return Shape(annotation, what="payload")


def round_trip(annotation: Any, value: Any) -> Any:
    kind = shape(annotation)
    return kind.decode(kind.encode(value)[1])


def refusal_of(act: Any, error: type[Exception] = PayloadInvalid) -> str:
    with pytest.raises(error) as refusal:
        act()
    assert refusal.value.__cause__ is None
    assert refusal.value.__context__ is None or refusal.value.__suppress_context__
    assert SECRET not in str(refusal.value)
    return str(refusal.value)


class Colour(Enum):
    RED = "red"


class Item(BaseModel):
    price: float = 0
    note: str | None = None


class Order(BaseModel):
    at: datetime
    total: Decimal
    colour: Colour
    tags: frozenset[str]
    pair: tuple[int, str]
    items: list[Item]
    raw: bytes = b""


# --- what comes back -------------------------------------------------------------------------------------------------


def test_a_model_comes_back_equal() -> None:
    order = Order(
        at=datetime(2030, 1, 1, tzinfo=UTC),
        total=Decimal("1.10"),
        colour=Colour.RED,
        tags=frozenset({"a", "b"}),
        pair=(1, "x"),
        items=[Item(price=1.5), Item(note="😀")],
        raw="é".encode(),
    )
    assert round_trip(Order, order) == order


class Aliased(BaseModel):
    model_config = ConfigDict(extra="forbid")
    both: int = Field(alias="bothAlias")
    written: int = Field(serialization_alias="writtenAlias")
    read: int = Field(validation_alias="readAlias")
    deep: int = Field(validation_alias=AliasPath("deep", "er"))
    inner: Item | None = Field(default=None, alias="innerAlias")

    @computed_field
    def doubled(self) -> int:
        return 2 * self.both


def test_aliases_and_computed_fields_do_not_get_in_the_way() -> None:
    written = Aliased.model_validate({"bothAlias": 1, "written": 2, "readAlias": 3, "deep": {"er": 4}})
    assert round_trip(Aliased, written) == written
    value, _ = shape(Aliased).encode(written)
    assert value == {"both": 1, "written": 2, "read": 3, "deep": 4, "inner": None}


class Swapped(BaseModel):
    a: int = Field(alias="b")
    b: int = Field(alias="a")


def test_an_alias_that_is_another_fields_name_swaps_nothing() -> None:
    assert round_trip(Swapped, Swapped(b=1, a=2)) == Swapped(b=1, a=2)


def test_json_from_outside_uses_the_models_own_aliases() -> None:
    assert shape(Swapped).adopt({"b": 1, "a": 2}) == Swapped(b=1, a=2)
    message = refusal_of(lambda: shape(Aliased).adopt({"both": 1, "written": 2, "readAlias": 3, "deep": {"er": 4}}))
    assert "payload.bothAlias: Field required" in message
    assert "payload.both: Extra inputs are not permitted" in message


class Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    at: datetime
    count: int


def test_a_strict_model_stays_strict() -> None:
    value = Strict(at=datetime(2030, 1, 1, tzinfo=UTC), count=1)
    assert round_trip(Strict, value) == value
    for count in ("1", True, 1.0):
        outside = {"at": "2030-01-01T00:00:00Z", "count": count}
        message = refusal_of(partial(shape(Strict).adopt, outside))
        assert message == "payload.count: Input should be a valid integer"


def test_a_lax_model_stays_lax() -> None:
    assert shape(Item).adopt({"price": "1.5", "unknown": 1}) == Item(price=1.5)


def test_a_subclass_is_written_as_the_declared_model() -> None:
    class Special(Item):
        extra: int = 1

    assert shape(Item).encode(Special(price=2))[0] == {"price": 2.0, "note": None}


class Cat(BaseModel):
    kind: Literal["cat"] = Field("cat", alias="kindAlias")


class Dog(BaseModel):
    kind: Literal["dog"] = Field("dog", alias="kindAlias")


Pet = RootModel[Annotated[Cat | Dog, Field(discriminator="kind")]]


def test_a_discriminated_union_finds_its_member() -> None:
    assert round_trip(Pet, Pet(Dog())) == Pet(Dog())


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (RootModel[list[int]], RootModel[list[int]]([1, 2])),
        (Item | None, None),
        (dict[int, list[Item]], {1: [Item()]}),
        (set[int], {1, 2}),
        (Decimal, Decimal("0.10")),
        (Any, {"a": [1, None]}),
        (None, None),
    ],
)
def test_other_types_come_back_equal(annotation: Any, value: Any) -> None:
    assert round_trip(annotation, value) == value


# --- what does not fit -----------------------------------------------------------------------------------------------


class Trusting(BaseModel):
    count: int
    item: Item | None = None


def test_an_instance_that_was_never_validated_is_validated() -> None:
    message = refusal_of(lambda: shape(Trusting).encode(Trusting.model_construct(count=SECRET)))
    assert message.startswith("payload.count: Input should be a valid integer")
    changed = Trusting(count=1, item=Item())
    changed.item = SECRET  # type: ignore[assignment]
    assert "payload.item: Input should be an object" in refusal_of(lambda: shape(Trusting).encode(changed))


class Forgetful(BaseModel):
    needed: int = Field(exclude=True)


def test_a_model_that_does_not_write_what_it_needs_is_refused() -> None:
    assert refusal_of(lambda: shape(Forgetful).encode(Forgetful(needed=1))) == "payload.needed: Field required"


class Loose(BaseModel):
    value: Any = None
    values: dict[str, Any] = {}
    number: float = 0.0
    raw: bytes = b""


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")


itself: list[Any] = []
itself.append(itself)


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (Loose(number=math.nan), "payload.number is NaN or infinite"),
        (Loose(value=math.inf), "payload.value is NaN or infinite"),
        (Loose(values={"a": [math.nan]}), "payload.values.a[0] is NaN or infinite"),
        (Loose(value="\ud800" + SECRET), "payload.value holds a lone surrogate"),
        (Loose(value=SECRET + "\x00"), "payload.value holds a NUL character"),
        (Loose(values={"\x00": 1}), "payload.values has a key that holds a NUL"),
        (Loose(value=2**70), "payload.value is an integer of more than 64 bits"),
        (Loose(value=itself), "payload.value" + "[0]" * 31 + " is nested more than 32 levels deep"),
        (Loose(value=deep(32)), "is nested more than 32 levels deep"),
        (Loose(value=deep(500)), "is nested more than 32 levels deep"),
        (Loose(value=object()), "payload.value has the type object"),
        (Loose(value=[None, {"a": math.nan}]), "payload.value[1].a is NaN or infinite"),
        (Loose(value=(None, {math.nan})), "payload.value[1][0] is NaN or infinite"),
        (RootModel[Any](math.nan), "payload is NaN or infinite"),
        (RootModel[Any](RootModel[Any]([None, math.nan])), "payload[1] is NaN or infinite"),
        (RootModel[list[float]]([1, math.inf]), "payload[1] is NaN or infinite"),
        (Open(extra=math.inf), "payload.extra is NaN or infinite"),
        (Loose(value=sys), "payload.value has the type module"),
        (Loose(raw=b"\xff" + SECRET.encode()), "payload.raw has the type bytes"),
        (Loose(value=SECRET * 20_000), "payload takes 280,0"),
    ],
)
def test_what_json_cannot_hold_is_refused_by_path(value: BaseModel, message: str) -> None:
    assert message in refusal_of(lambda: shape(type(value)).encode(value))


def test_none_beside_anything_sound_is_kept() -> None:
    for value in (None, [None, datetime(2030, 1, 1, tzinfo=UTC)], {"a": (1.5, None), "b": Decimal("NaN")}, Colour.RED):
        shape(Loose).encode(Loose(value=value))


def test_a_nan_written_as_text_is_the_models_own_choice() -> None:
    class Spelled(BaseModel):
        model_config = ConfigDict(ser_json_inf_nan="strings")
        number: Annotated[float, PlainSerializer(str)] = 0

    assert math.isnan(round_trip(Spelled, Spelled(number=math.nan)).number)


class Raising(BaseModel):
    serializer: str = ""
    validator: str = ""

    @field_serializer("serializer")
    def write(self, value: str) -> str:
        if value:
            raise ZeroDivisionError(value)
        return value

    @field_validator("validator")
    def read(cls, value: str) -> str:
        if value:
            raise LookupError(value)
        return value


def test_code_of_the_model_may_raise_what_it_likes() -> None:
    wrong = Raising.model_construct(serializer="", validator=SECRET)
    assert refusal_of(lambda: shape(Raising).encode(wrong)) == "payload: a validator raised LookupError"
    text = f'{{"validator": "{SECRET}"}}'
    assert refusal_of(lambda: shape(Raising).decode(text)) == "payload: a validator raised LookupError"
    message = refusal_of(lambda: shape(Raising).encode(Raising(serializer=SECRET)))
    assert message.startswith("payload cannot be written as JSON")


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", '"x"', "5", "{}", '{"count": null}', '{"count": "x"}', '{"count": 1, "item": 5}', "\ud800"],
)
def test_stored_text_that_does_not_fit_is_refused(text: str) -> None:
    refusal_of(lambda: shape(Trusting).decode(text))


def test_problems_are_listed_up_to_five() -> None:
    class Many(BaseModel):
        a: int
        b: int
        c: int
        d: int
        e: int
        f: int
        g: int

    message = refusal_of(lambda: shape(Many).decode("{}"))
    assert message.count("Field required") == 5
    assert message.endswith("; and 2 more")


# --- messages --------------------------------------------------------------------------------------------------------


def echo(value: str) -> str:
    raise ValueError(f"{value} is not good")


def echo_part(value: str) -> str:
    raise ValueError(f"nothing called {value[2:10]} is known")


def echo_oddly(value: str) -> str:
    raise PydanticCustomError("my_kind", "cannot use {value}", {"value": value})


class Echoing(BaseModel):
    whole: Annotated[str, AfterValidator(echo)] | None = None
    part: Annotated[str, AfterValidator(echo_part)] | None = None
    custom: Annotated[str, BeforeValidator(echo_oddly)] | None = None
    tagged: Annotated[Cat | Dog, Field(discriminator="kind")] | None = None

    @model_validator(mode="after")
    def check(self) -> Echoing:
        return self


class Whole(BaseModel):
    token: str

    @model_validator(mode="after")
    def check(self) -> Whole:
        raise ValueError(f"rejected: {self.token}")


class Listed(BaseModel):
    tokens: list[Any]

    @model_validator(mode="after")
    def check(self) -> Listed:
        raise ValueError(f"rejected: {self.tokens[1]}")


@pytest.mark.parametrize(
    ("model", "data", "path"),
    [
        (Echoing, {"whole": SECRET}, "payload.whole: "),
        (Echoing, {"part": SECRET}, "payload.part: "),
        (Echoing, {"custom": SECRET}, "payload.custom: "),
        (Echoing, {"tagged": {"kindAlias": SECRET}}, "payload.tagged: "),
        (Whole, {"token": SECRET}, "payload: "),
        (Listed, {"tokens": ["harmless", [SECRET]]}, "payload: "),
    ],
)
def test_a_validator_that_quotes_its_input_is_not_quoted(model: Any, data: Any, path: str) -> None:
    message = refusal_of(lambda: shape(model).adopt(data))
    assert message.startswith(path)
    assert SECRET[2:10] not in message
    assert "its reason is left out" in message


@pytest.mark.parametrize("secret", ["123456", 123456, 4711, "ab1"])
def test_short_values_and_numbers_are_not_quoted_either(secret: Any) -> None:
    class Quoting(BaseModel):
        value: Annotated[Any, AfterValidator(lambda value: echo(f"<{value}>"))]

    assert str(secret) not in refusal_of(lambda: shape(Quoting).adopt({"value": secret}))


def test_a_validators_own_words_are_kept() -> None:
    class Span(BaseModel):
        start: int
        end: int
        mail: EmailStr = "a@example.org"

        @model_validator(mode="after")
        def check(self) -> Span:
            if self.end < self.start:
                raise ValueError("end comes before start")
            return self

    message = refusal_of(lambda: shape(Span).adopt({"start": 7_000_000, "end": 4}))
    assert message == "payload: Value error, end comes before start"
    message = refusal_of(lambda: shape(Span).adopt({"start": 1, "end": 2, "mail": "not-a-mail"}))
    assert message.startswith("payload.mail: value is not a valid email address")


# --- secrets ---------------------------------------------------------------------------------------------------------


class Inner(BaseModel):
    key: SecretStr


class Recursive(BaseModel):
    children: list[Recursive] = []
    token: SecretBytes | None = None


@pytest.mark.parametrize(
    ("annotation", "path"),
    [
        (Inner, "payload.key"),
        (Secret[int], "payload"),
        (RootModel[list[Inner]], "payload.key"),
        (dict[str, Inner | None], "payload.key"),
        (Recursive, "payload.token"),
    ],
)
def test_a_secret_that_would_become_asterisks_is_refused(annotation: Any, path: str) -> None:
    message = refusal_of(lambda: shape(annotation), InvalidOption)
    assert message.startswith(f"{path} is a secret, which pydantic writes as asterisks")


class Revealing(BaseModel):
    key: SecretStr

    @field_serializer("key")
    def reveal(self, value: SecretStr) -> str:
        return value.get_secret_value()


class RevealingWhole(BaseModel):
    key: SecretStr

    @model_serializer
    def reveal(self) -> dict[str, str]:
        return {"key": self.key.get_secret_value()}


class Hiding(BaseModel):
    key: SecretStr

    @field_serializer("key", mode="wrap")
    def hide(self, value: SecretStr, write: Any) -> Any:
        return write(value)


@pytest.mark.parametrize("model", [Revealing, RevealingWhole])
def test_a_secret_that_its_model_writes_is_kept(model: Any) -> None:
    assert round_trip(model, model(key=SecretStr(SECRET))).key.get_secret_value() == SECRET


def test_a_serializer_that_writes_asterisks_after_all_is_noticed() -> None:
    message = refusal_of(lambda: shape(Hiding).encode(Hiding(key=SecretStr(SECRET))))
    assert "would keep a secret as asterisks" in message


def test_asterisks_in_a_type_without_secrets_are_just_text() -> None:
    assert round_trip(Item, Item(note="**********")).note == "**********"


# --- types -----------------------------------------------------------------------------------------------------------


class Stranger:
    pass


class Incomplete(BaseModel):
    other: NotYetThere  # type: ignore[name-defined]  # noqa: F821


@pytest.mark.parametrize("annotation", [Stranger, list[Stranger], Incomplete])
def test_a_type_that_pydantic_does_not_know_is_refused(annotation: Any) -> None:
    assert refusal_of(lambda: shape(annotation), InvalidOption).startswith("payload: this type cannot become JSON: ")


@pytest.mark.parametrize("value", [b"x", {1}, Decimal(1), object()])
def test_without_a_type_only_json_is_written(value: object) -> None:
    assert "has the type" in refusal_of(lambda: shape(Any).encode(value))
    assert "has the type" in refusal_of(lambda: shape(object).encode(value))


def test_limit_and_error_are_the_callers() -> None:
    kind = Shape(str, what="result", error=ResultInvalid, limit=10)
    with pytest.raises(ResultInvalid, match="result takes 12 bytes"):
        kind.encode("0123456789")
    with pytest.raises(ResultInvalid, match="result: Input should be a valid string"):
        kind.decode("5")
    assert LIMITS.result == 256 * 1024
