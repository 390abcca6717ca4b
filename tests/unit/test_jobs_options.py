"""Options: what each is turned into, and every value that is refused before anything is written."""

from __future__ import annotations

import math
from collections import UserDict
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from actorjobs.errors import InvalidOption
from actorjobs.jobs import (
    EnvelopeOptions,
    Process,
    Queue,
    check_concurrency,
    check_job_name,
    check_options,
    check_queue_name,
)
from actorjobs.retry import Retry

SECRET = "s3cr3t-hunter2"
EARLY, LATE = timezone(timedelta(hours=14)), timezone(-timedelta(hours=12))


class Session:
    def in_transaction(self) -> bool:
        return True


def refusal_of(**options: Any) -> str:
    with pytest.raises(InvalidOption) as refusal:
        check_options(options)
    assert SECRET not in str(refusal.value)
    assert refusal.value.__cause__ is None
    return str(refusal.value)


@pytest.mark.parametrize(
    ("name", "value", "checked"),
    [
        ("delay", 5, 5.0),
        ("delay", 0, 0.0),
        ("delay", timedelta(minutes=5), 300.0),
        ("delay", timedelta(days=365), 365 * 86400.0),
        ("run_at", datetime(2030, 1, 1, 2, tzinfo=timezone(timedelta(hours=2))), datetime(2030, 1, 1, tzinfo=UTC)),
        ("run_at", datetime(1999, 1, 1, tzinfo=UTC), datetime(1999, 1, 1, tzinfo=UTC)),
        ("queue", "e.mails_1-x", "e.mails_1-x"),
        ("priority", 0, 0),
        ("priority", 9, 9),
        ("idempotency_key", "w:42 ключ 😀", "w:42 ключ 😀"),
        ("idempotency_key", "k" * 255, "k" * 255),
        ("tenant", "acme", "acme"),
        ("tenant", "t" * 128, "t" * 128),
        ("retry", Retry(3), Retry(3)),
        ("timeout", timedelta(seconds=1), 1.0),
        ("expires_in", 0.5, 0.5),
        ("retention", timedelta(days=3650), 3650 * 86400.0),
        ("tags", ["b", "a", "b"], ("b", "a")),
        ("tags", {"b", "a"}, ("a", "b")),
        ("tags", (), ()),
        ("meta", {"a": datetime(2030, 1, 1, tzinfo=UTC)}, {"a": "2030-01-01T00:00:00+00:00"}),
        ("meta", UserDict({"a": (1, None)}), {"a": [1, None]}),
    ],
)
def test_a_good_option_is_normalised(name: str, value: Any, checked: Any) -> None:
    result = check_options({name: value})[name]
    assert result == checked
    assert type(result) is type(checked)


def test_every_option_may_say_nothing() -> None:
    names = [*EnvelopeOptions.__annotations__, "tx"]
    assert len(names) == 16
    assert check_options(dict.fromkeys(names)) == {}


def test_a_transaction_is_taken_as_it_is() -> None:
    session = Session()
    assert check_options({"tx": session})["tx"] is session


def test_run_at_is_kept_in_utc() -> None:
    moment = check_options({"run_at": datetime(2030, 1, 1, 2, tzinfo=timezone(timedelta(hours=2)))})["run_at"]
    assert moment.tzinfo is UTC


BAD_DURATIONS: list[Any] = [
    -1, -0.0, math.nan, math.inf, -math.inf, 1e300, 10**400, True, False, "5", SECRET, b"5", [5], {}, object(),
    timedelta.max, timedelta.min, timedelta(microseconds=-1),
]  # fmt: skip


@pytest.mark.parametrize("value", [*BAD_DURATIONS, timedelta(days=365, seconds=1), 31_536_001])
def test_a_bad_delay_is_refused(value: Any) -> None:
    assert refusal_of(delay=value).startswith("delay must be a number of seconds or a timedelta from 0 to 31,536,000")


@pytest.mark.parametrize("value", [*BAD_DURATIONS, 0, 0.0, timedelta(0)])
@pytest.mark.parametrize("name", ["timeout", "expires_in", "retention"])
def test_a_bad_positive_duration_is_refused(name: str, value: Any) -> None:
    assert refusal_of(**{name: value}).startswith(f"{name} must be a number of seconds or a timedelta above 0")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (datetime(2030, 1, 1), "time zone"),  # noqa: DTZ001 - naive is what is refused here
        (datetime(1, 1, 1, tzinfo=EARLY), "years 1970 to 9998"),
        (datetime(1, 1, 1, tzinfo=UTC), "years 1970 to 9998"),
        (datetime(1969, 12, 31, tzinfo=UTC), "years 1970 to 9998"),
        (datetime(9999, 12, 31, 23, 59, 59, tzinfo=LATE), "years 1970 to 9998"),
        (datetime(9999, 1, 1, tzinfo=UTC), "years 1970 to 9998"),
        (datetime(2030, 1, 1, tzinfo=UTC).date(), "must be a datetime"),
        ("2030-01-01T00:00:00Z", "must be a datetime"),
        (1_900_000_000, "must be a datetime"),
        (True, "must be a datetime"),
        (SECRET, "must be a datetime"),
    ],
)
def test_a_bad_run_at_is_refused(value: Any, message: str) -> None:
    assert message in refusal_of(run_at=value)


def test_delay_and_run_at_exclude_each_other() -> None:
    later = datetime(2030, 1, 1, tzinfo=UTC)
    assert "give one of them" in refusal_of(delay=1, run_at=later)
    with pytest.raises(InvalidOption, match="give one of them"):
        check_options({"delay": 1}, {"run_at": later})
    assert check_options({"delay": None}, {"run_at": later}) == {"run_at": later}


@pytest.mark.parametrize("value", [-1, 10, 300, True, "high", 4.0, math.nan, 10**30, SECRET])
def test_a_bad_priority_is_refused(value: Any) -> None:
    assert "priority must be a whole number from 0 to 9" in refusal_of(priority=value)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("", "1 to 255 characters, not 0"),
        (SECRET * 1_000, "1 to 255 characters, not 14000"),
        (SECRET + "\x00", "control characters"),
        (SECRET + "\n", "control characters"),
        ("\x7f", "control characters"),
        ("\x85", "control characters"),
        ("\ud800", "lone surrogates"),
        ("\u2028", "line separators"),
        (5, "must be a string"),
        (b"k", "must be a string"),
        (True, "must be a string"),
    ],
)
def test_a_bad_idempotency_key_is_refused(value: Any, message: str) -> None:
    assert message in refusal_of(idempotency_key=value)


@pytest.mark.parametrize("value", ["", SECRET * 10, "t" * 129, "a\x00", "a\r", "\ud800", 5, b"t", object()])
def test_a_bad_tenant_is_refused(value: Any) -> None:
    assert refusal_of(tenant=value).startswith("tenant must")


@pytest.mark.parametrize("value", [3, "3", {"attempts": 3}, Retry, True])
def test_a_bad_retry_is_refused(value: Any) -> None:
    assert "retry must be a Retry(...)" in refusal_of(retry=value)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("signup", "a list of strings"),
        (SECRET, "a list of strings"),
        (5, "a list of strings"),
        ({"a": 1}, "a list of strings"),
        ([SECRET * 5], "1 to 64 characters"),
        ([""], "1 to 64 characters"),
        (["a\n"], "control characters"),
        ([5], "must be a string"),
        ({"a", 5}, "must be a string"),
        ([None], "must be a string"),
        ([f"t{n}" for n in range(21)], "at most 20 tags, not 21"),
    ],
)
def test_bad_tags_are_refused(value: Any, message: str) -> None:
    assert message in refusal_of(tags=value)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "must be a JSON object"),
        ("{}", "must be a JSON object"),
        (SECRET, "must be a JSON object"),
        ({"a": math.nan}, "meta.a is NaN"),
        ({"a": {SECRET}}, "meta.a has the type set"),
        ({1: 2}, "has a key of type int"),
        ({"a": SECRET + "\x00"}, "meta.a holds a NUL"),
        ({"a": SECRET * 1_200}, "meta takes 16,808 bytes as JSON and at most 16,384 are kept"),
    ],
)
def test_bad_meta_is_refused(value: Any, message: str) -> None:
    assert message in refusal_of(meta=value)


@pytest.mark.parametrize("value", ["nonsense", 5, object(), SECRET])
def test_a_bad_transaction_is_refused(value: Any) -> None:
    assert "tx must be a SQLAlchemy" in refusal_of(tx=value)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("dely", "delay"), ("timout", "timeout"), ("idempotencykey", "idempotency_key"), ("qeue", "queue")],
)
def test_an_unknown_option_suggests_the_nearest(name: str, nearest: str) -> None:
    assert refusal_of(**{name: SECRET}) == f"there is no option '{name}': did you mean '{nearest}'?"


def test_an_unknown_option_like_no_other_lists_them_all() -> None:
    message = refusal_of(zzzzz=1)
    assert message.startswith(
        "there is no option 'zzzzz': known are delay, expires_in, idempotency_key, key_expires_in, "
    )


QUEUES_THAT_ARE_NONE: list[Any] = [
    "", "a" * 101, "a" * 256, "a/b", "a#b", "a b", "a\n", "\na", "A", "é", "😀", "-a", ".a", "_a", "a:b", "a*b",
    "amq.x", "amq.gen-1", 5, None, b"a", True,
]  # fmt: skip


@pytest.mark.parametrize("name", QUEUES_THAT_ARE_NONE)
def test_a_bad_queue_name_is_refused(name: Any) -> None:
    with pytest.raises(InvalidOption, match="a queue name"):
        check_queue_name(name)
    if name is not None:
        assert "a queue name" in refusal_of(queue=name)


@pytest.mark.parametrize("name", ["a", "0", "emails", "amqp.x", "a" * 100, "a.b_c-d"])
def test_a_good_queue_name_is_kept(name: str) -> None:
    assert check_queue_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "", "a" * 129, "__init__", "_x", ":a", "a b", "a/b", "mail:Welcome", "a\n", "a\x00", "é:a", "a;b", "a$",
        5, None, True, b"a", [],
    ],
)  # fmt: skip
def test_a_bad_job_name_is_refused(name: Any) -> None:
    with pytest.raises(InvalidOption, match="a job name"):
        check_job_name(name)


@pytest.mark.parametrize("name", ["a", "mail:welcome", "os.system", "0", "a" * 128, "a.b_c-d:e"])
def test_a_good_job_name_is_kept(name: str) -> None:
    assert check_job_name(name) == name


def test_a_name_in_a_message_is_short_and_plain() -> None:
    with pytest.raises(InvalidOption) as refusal:
        check_job_name("Ключ\n" * 100)
    message = str(refusal.value)
    assert message.isascii()
    assert "\n" not in message
    assert len(message) < 400


@pytest.mark.parametrize("value", [0, -1, 10_001, 10**9, True, "10", 2.5, math.nan, None])
def test_a_bad_concurrency_is_refused(value: Any) -> None:
    with pytest.raises(InvalidOption, match="concurrency must be a whole number from 1 to 10,000"):
        Queue(concurrency=value)
    with pytest.raises(InvalidOption, match="concurrency"):
        check_concurrency(value)


def test_a_queue_is_a_value() -> None:
    assert Queue() == Queue(concurrency=10)
    assert (Queue(1).concurrency, Queue(10_000).concurrency) == (1, 10_000)


def test_a_child_needs_room_for_itself() -> None:
    assert Process(memory=256 * 1024 * 1024).memory == 256 * 1024 * 1024
    with pytest.raises(InvalidOption, match="from 268,435,456 on, since a child takes some 160 MB before"):
        Process(memory=256 * 1024 * 1024 - 1)
