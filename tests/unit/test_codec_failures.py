"""Errors as they are kept: short, printable, and made in bounded time whatever the exception does."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actorjobs import codec
from actorjobs.codec import Limits, clip, truncate_error
from actorjobs.errors import PayloadInvalid
from actorjobs.model import ErrorInfo


def caught(raise_it: Callable[[], Any]) -> BaseException:
    try:
        raise_it()
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


def fail(error: BaseException) -> Any:
    raise error


def sink(depth: int) -> None:
    if depth == 0:
        raise ValueError("bottom")
    rise(depth - 1)


def rise(depth: int) -> None:
    sink(depth)


class Own(Exception):
    pass


class Raises(Exception):
    def __str__(self) -> str:
        raise KeyError("no text")

    __repr__ = __str__


class Exits(Exception):
    def __str__(self) -> str:
        raise SystemExit(3)


class Recurses(Exception):
    def __str__(self) -> str:
        return str(self)


class NoText(Exception):
    def __str__(self) -> str:
        return 5  # type: ignore[return-value]


class Sly(str):
    def __getitem__(self, key: Any) -> str:
        raise RuntimeError("not to be sliced")

    def __len__(self) -> int:
        raise RuntimeError("not to be measured")


class SlyText(Exception):
    def __str__(self) -> str:
        return Sly("sly text")


class BadMeta(type):
    @property
    def __module__(cls) -> str:
        raise RuntimeError("no module")


class BadClass(Exception, metaclass=BadMeta):
    pass


class BadNotes(Exception):
    @property
    def __notes__(self) -> list[str]:
        raise RuntimeError("no notes")


class BadTrace(Exception):
    @property
    def __cause__(self) -> BaseException:  # type: ignore[override]
        raise RuntimeError("no cause")


def test_an_error_is_kept_with_its_name_message_and_stack() -> None:
    at = datetime(2030, 1, 1, tzinfo=UTC)
    info = truncate_error(caught(lambda: fail(ValueError("boom"))), attempt=2, attempt_by="w1", attempted_at=at)
    assert (info.name, info.message, info.attempt, info.attempt_by, info.attempted_at) == (
        "ValueError",
        "boom",
        2,
        "w1",
        at,
    )
    assert info.stack.startswith("Traceback (most recent call last):\n")
    assert "in fail\n    raise error" in info.stack
    assert info.stack.endswith("ValueError: boom\n")
    assert "left out" not in info.stack


def test_the_name_is_short_and_the_stack_says_where_the_class_is_from() -> None:
    class Local(Exception):
        pass

    assert (truncate_error(Own()).name, truncate_error(Own()).stack) == ("Own", f"{__name__}.Own\n")
    assert (truncate_error(Local()).name, truncate_error(Local()).stack) == ("Local", f"{__name__}.Local\n")
    assert truncate_error(KeyError("x")).stack == "KeyError: 'x'\n"
    assert len(truncate_error(type("X" * 5_000, (Exception,), {})()).name) <= 200


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (Raises("x"), "Raises.__str__ raised KeyError"),
        (Exits("x"), "Exits.__str__ raised SystemExit"),
        (Recurses("x"), "Recurses.__str__ raised RecursionError"),
        (NoText("x"), "NoText.__str__ raised TypeError"),
        (SlyText(), "sly text"),
        (ValueError(), ""),
        (KeyError("k"), "'k'"),
        (BadNotes("n"), "n"),
    ],
)
def test_a_message_that_cannot_be_had_is_named(error: Exception, message: str) -> None:
    info = truncate_error(caught(lambda: fail(error)))
    assert message in info.message
    assert info.name in info.stack


@pytest.mark.parametrize("error", [BadClass("bad"), BadTrace("bad")])
def test_a_class_that_fights_back_costs_only_its_own_details(error: Exception) -> None:
    assert truncate_error(error).message == "bad"


def test_a_message_is_cut_at_8_kib_and_says_so() -> None:
    info = truncate_error(ValueError("é" * 10_000_000))
    assert len(info.message.encode()) <= 8 * 1024
    assert info.message.endswith("\n[shortened; 10,000,000 characters in all]")
    assert len(info.message.encode()) > 8_000


def test_unstorable_characters_are_replaced() -> None:
    info = truncate_error(ValueError("a\x00b\ud800c\x1b[31m<b>\n"))
    assert info.message == "a\ufffdb\ufffdc\x1b[31m<b>\n"
    info.stack.encode()


@pytest.mark.parametrize("argument", [b"x" * 10**8, ["x" * 100] * 10**6, {n: n for n in range(20_000)}])
def test_a_huge_argument_is_not_printed(argument: Any) -> None:
    started = time.perf_counter()
    info = truncate_error(ValueError(argument))
    assert info.message == f"(not shown: an argument is a {type(argument).__name__} of {len(argument):,} items)"
    assert time.perf_counter() - started < 0.1


def test_of_a_long_stack_the_most_recent_frames_are_kept() -> None:
    def chain(depth: int) -> BaseException:
        error: BaseException = ValueError("deep")
        for _ in range(depth):
            error = caught(lambda error=error: fail(error))  # type: ignore[misc]
        return error

    started = time.perf_counter()
    info = truncate_error(chain(5_000))
    assert time.perf_counter() - started < 1
    assert "earlier frames left out]" in info.stack
    assert info.stack.endswith("ValueError: deep\n")
    assert len(info.stack.encode()) <= 32 * 1024


def test_a_stack_over_its_limit_keeps_its_end() -> None:
    info = truncate_error(caught(lambda: sink(40)), limits=Limits(error_stack=1_000))
    assert len(info.stack.encode()) <= 1_000
    assert info.stack.startswith("[shortened; ")
    assert info.stack.endswith('raise ValueError("bottom")\nValueError: bottom\n')


def test_a_cause_and_a_context_are_told() -> None:
    def handle() -> None:
        try:
            try:
                fail(KeyError("first"))
            except KeyError:
                fail(OSError("second"))
        except OSError as error:
            raise ValueError("third") from error

    stack = truncate_error(caught(handle)).stack
    order = [stack.index(text) for text in ("KeyError: 'first'", "During handling", "OSError: second")]
    assert order == sorted(order)
    assert stack.index("direct cause") < stack.index("ValueError: third")


def test_a_suppressed_context_stays_out() -> None:
    def handle() -> None:
        try:
            fail(KeyError("hidden"))
        except KeyError:
            raise ValueError("shown") from None

    assert "hidden" not in truncate_error(caught(handle)).stack


def test_cycles_and_long_chains_end() -> None:
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    assert truncate_error(first).stack.count("ValueError: ") == 2
    first.__cause__ = first
    assert truncate_error(first).stack.count("ValueError: ") == 1
    last = ValueError("last")
    link = last
    for number in range(10_000):
        link.__cause__ = ValueError(number)
        link = link.__cause__
    stack = truncate_error(last).stack
    assert stack.startswith("[earlier exceptions of the chain left out]")
    assert stack.endswith("ValueError: last\n")


def test_a_group_is_told_in_part() -> None:
    group = ExceptionGroup("many", [ValueError(number) for number in range(100_000)])
    started = time.perf_counter()
    info = truncate_error(group)
    assert time.perf_counter() - started < 0.2
    assert info.message == "many (100000 sub-exceptions)"
    assert "1 of 100000\n  | ValueError: 0\n" in info.stack
    assert info.stack.endswith("99995 more left out\n")


def test_a_deeply_nested_group_is_told_in_part() -> None:
    error: Exception = ValueError("core")
    for _ in range(3_000):
        error = ExceptionGroup("g", [error])
    stack = truncate_error(error).stack
    assert stack.count("ExceptionGroup") == 3
    assert "1 more left out" in stack


def test_notes_are_kept() -> None:
    error = ValueError("x")
    error.add_note("look at row 7")
    assert truncate_error(error).stack == "ValueError: x\nlook at row 7\n"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(2), GeneratorExit(), StopIteration(1)])
def test_no_kind_of_exception_is_too_odd(error: BaseException) -> None:
    assert truncate_error(error).name == type(error).__name__


@given(st.text(), st.integers(80, 200), st.booleans())
def test_clip_never_exceeds_its_limit(text: str, limit: int, keep_end: bool) -> None:
    clipped = clip(text * 7, limit, keep_end=keep_end)
    assert len(clipped.encode()) <= limit
    assert "\x00" not in clipped


def test_an_error_comes_back_as_it_was_kept() -> None:
    info = truncate_error(caught(lambda: fail(ValueError("é\x00"))), attempt=3)
    assert codec.decode_error(codec.encode_error(info), attempt=3) == info
    assert codec.decode_error('{"name": "E", "message": "m"}') == ErrorInfo(name="E", message="m")


@pytest.mark.parametrize("text", ["", "{", "[]", "5", "null", "{}", '{"name": "x"}'])
def test_a_damaged_stored_error_is_refused(text: str) -> None:
    with pytest.raises(PayloadInvalid, match="stored error"):
        codec.decode_error(text)
