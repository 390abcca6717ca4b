"""JSON text in and out of the store: what is kept exactly, what is refused, and where the refusal says it was."""

from __future__ import annotations

import dataclasses
import enum
import json
import math
import sys
import time
import uuid
from collections import UserDict
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, RootModel

from actorjobs import codec
from actorjobs.codec import LIMITS, MAX_DEPTH
from actorjobs.errors import InvalidOption, PayloadInvalid, ResultInvalid

SECRET = "s3cr3t-hunter2"


def nested(depth: int) -> Any:
    value: Any = 1
    for level in range(depth):
        value = [value] if level % 2 else {"a": value}
    return value


def assert_shows_no_other(error: Exception) -> None:
    """A chained error would show the input in every log."""
    assert error.__cause__ is None
    assert error.__context__ is None or error.__suppress_context__


def refusal_of(value: Any, **how: Any) -> str:
    with pytest.raises(PayloadInvalid) as refusal:
        codec.encode(value, **how)
    assert_shows_no_other(refusal.value)
    return str(refusal.value)


# --- encode ----------------------------------------------------------------------------------------------------------

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00")),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00")), inner)
    ),
)


@given(json_values)
def test_every_json_value_comes_back_as_it_was(value: Any) -> None:
    text = codec.encode(value)
    assert codec.decode(text) == value
    assert codec.parse(text) == value


@pytest.mark.parametrize(
    "text",
    ["__proto__", "\ufffe", "\uffff", "😀", "\u202e", "<script>", "\\u0000", 'a"]}[{', "\x1b[31m", "\x7f", "null"],
)
def test_strange_text_is_kept_byte_for_byte(text: str) -> None:
    value = {text: [text, None]}
    assert codec.decode(codec.encode(value)) == value
    assert codec.parse(json.dumps(value)) == value


class Colour(enum.Enum):
    RED = "red"
    NAN = math.nan


@dataclasses.dataclass
class Point:
    x: float
    y: Any = None


class Model(BaseModel):
    when: datetime | None = None
    price: float = 0


def test_what_has_one_obvious_form_is_written_in_it() -> None:
    value = {
        "at": datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC),
        "on": date(2030, 1, 2),
        "id": uuid.UUID(int=1),
        "colour": Colour.RED,
        "point": Point(1, (2, 3)),
        "model": Model(price=1),
    }
    assert codec.decode(codec.encode(value)) == {
        "at": "2030-01-02T03:04:05+00:00",
        "on": "2030-01-02",
        "id": "00000000-0000-0000-0000-000000000001",
        "colour": "red",
        "point": {"x": 1, "y": [2, 3]},
        "model": {"when": None, "price": 1.0},
    }


itself: list[Any] = []
itself.append(itself)


@pytest.mark.parametrize(
    ("value", "path", "reason"),
    [
        (math.nan, "payload", "NaN or infinite"),
        ({"items": [{}, {"price": math.nan}]}, "payload.items[1].price", "NaN or infinite"),
        ({"a": None, "b": [math.inf]}, "payload.b[0]", "NaN or infinite"),
        ([Point(-math.inf)], "payload[0].x", "NaN or infinite"),
        ({"c": Colour.NAN}, "payload.c", "NaN or infinite"),
        ({"m": Model(price=math.nan)}, "payload.m.price", "NaN or infinite"),
        ({"n": 2**64}, "payload.n", "more than 64 bits"),
        ({"n": -(2**63) - 1}, "payload.n", "more than 64 bits"),
        ({"n": 10**5000}, "payload.n", "more than 64 bits"),
        ({"t": "a\x00b"}, "payload.t", "NUL character"),
        ({"o": {"k\x00": 1}}, "payload.o", "has a key that holds a NUL"),
        (["\ud800"], "payload[0]", "lone surrogate"),
        ({"\udfff": 1}, "payload", "has a key that holds a lone surrogate"),
        ({"a": {1: 2}}, "payload.a", "has a key of type int"),
        ({"a": {None: 2}}, "payload.a", "has a key of type NoneType"),
        ({"a": {(1, 2): 2}}, "payload.a", "has a key of type tuple"),
        ({"a b": {"ключ": {"x" * 50: {1}}}}, None, "the type set"),
        ({"a": b"x"}, "payload.a", "the type bytes"),
        ({"a": {1, 2}}, "payload.a", "the type set"),
        ({"a": Decimal("1.1")}, "payload.a", "the type Decimal"),
        ({"a": timedelta(1)}, "payload.a", "the type timedelta"),
        ({"a": 1j}, "payload.a", "the type complex"),
        ({"a": object()}, "payload.a", "the type object"),
        ({"a": (n for n in [1])}, "payload.a", "the type generator"),
        ({"a": sys.stdout}, "payload.a", "cannot be written as JSON"),
        ({"a": len}, "payload.a", "cannot be written as JSON"),
        (itself, "payload" + "[0]" * MAX_DEPTH, "more than 32 levels"),
    ],
)
def test_what_json_cannot_hold_is_refused_by_path(value: Any, path: str | None, reason: str) -> None:
    message = refusal_of(value)
    assert reason in message
    if path is not None:
        assert message.startswith(path + " "), message


def test_a_path_with_odd_keys_stays_on_one_short_line() -> None:
    message = refusal_of({"a b": {"ключ\n": {"x" * 500: {1}}}})
    assert message.startswith(r"payload['a b']['\u043a\u043b\u044e\u0447\n']['" + "x" * 40 + "...'] has the type set")


def test_the_value_itself_is_never_shown() -> None:
    for value in ({"a": {SECRET}}, {"a": SECRET + "\x00"}, {"a": (SECRET, math.nan)}, [SECRET] * 30_000):
        assert SECRET not in refusal_of(value)


def test_depth_32_is_kept_and_33_is_not() -> None:
    assert codec.decode(codec.encode(nested(32))) == nested(32)
    assert "more than 32 levels" in refusal_of(nested(33))
    assert "more than 32 levels" in refusal_of(nested(1_000))


def test_depth_is_not_confused_by_brackets_in_strings_and_many_siblings() -> None:
    value = [{"a": ["[" * 100, "{" * 100]}] * 100
    assert codec.decode(codec.encode(value)) == value


def test_size_is_limited_in_bytes() -> None:
    room = LIMITS.payload - 2
    assert len(codec.encode("x" * room)) == LIMITS.payload
    assert refusal_of("x" * (room + 1)) == (
        "payload takes 262,145 bytes as JSON and at most 262,144 are kept: "
        "store the data elsewhere and pass a reference to it"
    )
    assert "bytes" in refusal_of("é" * (room // 2 + 1))
    assert "10 are kept" in refusal_of("0123456789", limit=10)


def test_what_one_run_may_keep() -> None:
    kib = 1024
    assert codec.Limits() == LIMITS
    assert (LIMITS.payload, LIMITS.result, LIMITS.checkpoint) == (256 * kib, 256 * kib, 256 * kib)
    assert (LIMITS.meta, LIMITS.constructor_args, LIMITS.progress_message) == (16 * kib, 16 * kib, kib)
    assert (LIMITS.error_message, LIMITS.error_stack) == (8 * kib, 32 * kib)


def test_the_error_and_the_name_are_the_callers() -> None:
    with pytest.raises(InvalidOption, match=r"^meta\.a holds a NUL"):
        codec.encode({"a": "\x00"}, what="meta", error=InvalidOption)
    with pytest.raises(ResultInvalid, match=r"^result\.a has the type object"):
        codec.encode_result({"a": object()})
    with pytest.raises(ResultInvalid, match="result takes"):
        codec.encode_result("x" * LIMITS.result)


class Hostile(UserDict[str, Any]):
    def items(self) -> Any:
        raise RuntimeError(SECRET)


endless = RootModel[Any](None)
endless.root = endless


@pytest.mark.parametrize(("value", "raised"), [(Hostile(a=1), "RuntimeError"), (endless, "RecursionError")])
def test_a_value_that_fights_back_is_refused(value: Any, raised: str) -> None:
    assert refusal_of(value) == f"payload cannot be read: looking into it raised {raised}"


def test_a_none_beside_many_numbers_costs_little() -> None:
    """The look for NaN behind every `null` must stay linear."""
    value = [{"id": n, "x": None, "y": [1.5, "a"]} for n in range(5_000)]
    started = time.perf_counter()
    codec.encode(value)
    assert time.perf_counter() - started < 0.5


# --- parse -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "nul", "{", "[1,", '{"a": 1', '"abc', "{} {}", "[1] x", "[1,]", '{"a":1,}', "{'a': 1}", "{a: 1}",
        "\ufeff{}", b"\xef\xbb\xbf{}", "{}".encode("utf-16"), "+1", "01", "1.", ".5", "0x10", "1e", "--1", "\uff11",
        "NaN", "Infinity", "-Infinity", '{"a": NaN}', "1e400", "-1e400", "[1e999]", '"\\x41"', '"\t"', '"\n"',
        "// c\n1", "/* c */ 1", "[" * 100_000, '{"a":' * 100_000, b'"\xff"', b'"\xc0\xaf"', b'"\xed\xa0\x80"',
        '"\\ud800"', '"\\udc00\\ud800"', '{"\\ud800": 1}', "\ud800", '"\ud800"', b"\x00", "\x00", "[\x00]",
    ],
)  # fmt: skip
def test_what_is_not_strict_json_is_refused(text: str | bytes) -> None:
    with pytest.raises(PayloadInvalid):
        codec.parse(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "payload has the key 'c' twice in one object"),
        ('{"a": 1, "\\u0061": 2}', "payload has the key 'a' twice in one object"),
        ('"a\\u0000b"', "payload holds a NUL character, which databases refuse"),
        ('{"a": [{"\\u0000": 1}]}', "payload.a[0] has a key that holds a NUL character, which databases refuse"),
        ("18446744073709551616", "payload holds an integer of more than 64 bits; use a string"),
        ("[-9223372036854775809]", "payload holds an integer of more than 64 bits; use a string"),
        ("1" * 300, "payload holds an integer of more than 64 bits; use a string"),
        (json.dumps(nested(33)), "more than 32 levels"),
        (json.dumps(nested(500)), "more than 32 levels"),
        ('{"a":\n  x}', "payload is not JSON: unexpected character"),
        ('{"a":\n  x}', "at line 2, column 3"),
        ('"' + "x" * LIMITS.payload + '"', "payload takes 262,146 bytes"),
        ("[" * 10**7, "payload takes 10,000,000 bytes"),
    ],
)
def test_what_parsers_read_differently_is_refused(text: str, message: str) -> None:
    with pytest.raises(PayloadInvalid) as refusal:
        codec.parse(text)
    assert message in str(refusal.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("18446744073709551615", 2**64 - 1),
        ("-9223372036854775808", -(2**63)),
        ("9007199254740993", 2**53 + 1),
        ("1.5e3", 1500.0),
        ("1e-400", 0.0),
        (" [1, 2]\r\n\t", [1, 2]),
        ('"\\ud83d\\ude00"', "😀"),
        ('"\\ufffe"', "\ufffe"),
        ('"\\\\u0000"', "\\u0000"),
        (b'{"\xc3\xa9": "\xe2\x82\xac"}', {"é": "€"}),
        ("null", None),
        ("true", True),
        ('{"__proto__": {"$ref": "py/object"}}', {"__proto__": {"$ref": "py/object"}}),
    ],
)
def test_strict_json_is_read_exactly(text: str | bytes, value: Any) -> None:
    assert codec.parse(text) == value
    assert type(codec.parse(text)) is type(value)


@pytest.mark.parametrize("digits", [5_000, 250_000])
def test_a_huge_number_costs_no_time(digits: int) -> None:
    started = time.perf_counter()
    with pytest.raises(PayloadInvalid):
        codec.parse("9" * digits)
    assert time.perf_counter() - started < 0.2


def test_the_input_is_never_shown() -> None:
    for text in (f'{{"a": {SECRET}}}', f'["{SECRET}", "{SECRET}\\u0000"]', f'"{SECRET}', f'{{"a":"{SECRET}","a":1}}'):
        with pytest.raises(PayloadInvalid) as refusal:
            codec.parse(text)
        assert SECRET not in str(refusal.value)
        assert_shows_no_other(refusal.value)


@given(st.binary(max_size=60) | st.text(max_size=60) | json_values.map(json.dumps))
def test_parse_gives_a_value_or_its_own_error(text: str | bytes) -> None:
    try:
        value = codec.parse(text)
    except PayloadInvalid:
        return
    assert codec.decode(codec.encode(value)) == value


@given(st.text(st.sampled_from('[]{}",:\\u0019.-eEnultrfas \n'), max_size=40))
def test_parse_survives_what_looks_like_json(text: str) -> None:
    try:
        value = codec.parse(text)
    except PayloadInvalid:
        return
    assert json.loads(text) == value


def test_decode_refuses_what_is_no_json() -> None:
    with pytest.raises(PayloadInvalid, match="stored JSON cannot be read"):
        codec.decode(f"{{{SECRET}")
