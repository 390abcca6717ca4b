from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actorjobs.brokers.rabbitmq import message
from actorjobs.brokers.rabbitmq.message import LARGEST_BODY, Undecodable
from actorjobs.ports import Hint

RUN = "01a20701-7676-70f6-8ad4-bbc3afecb116"
HINT = Hint(run_id=RUN, seq=3, job="mail:welcome", queue="emails")
GOOD = {"v": 1, "store": "s", "run": RUN, "seq": 3, "job": "mail:welcome", "due": 1.0}


def test_a_hint_survives_the_way() -> None:
    assert message.decode(message.encode(HINT, "s", 12.3456), store="s", queue="emails") == HINT


def test_it_carries_no_payload() -> None:
    assert set(orjson.loads(message.encode(HINT, "s", 1.0))) == {"v", "store", "run", "seq", "job", "due"}


def test_what_is_not_known_is_ignored() -> None:
    assert message.decode(orjson.dumps(GOOD | {"new": 1}), store="s", queue="emails") == HINT


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 3000, "not JSON"),
        (b"[1]", "not a JSON object"),
        (b"x" * (LARGEST_BODY + 1), "bytes"),
        (orjson.dumps(GOOD | {"v": 2}), "version 2"),
        (orjson.dumps(GOOD | {"store": "other"}), "another store"),
        (orjson.dumps(GOOD | {"run": 5}), "name a run"),
        (orjson.dumps(GOOD | {"job": None}), "name a run"),
        (orjson.dumps(GOOD | {"run": "01a2"}), "name a run"),
        (orjson.dumps(GOOD | {"run": RUN[:-1] + "\0"}), "name a run"),
        (orjson.dumps(GOOD | {"v": True}), "of version True"),
        (orjson.dumps(GOOD | {"seq": 0}), "generation"),
        (orjson.dumps(GOOD | {"seq": "3"}), "generation"),
        (orjson.dumps(GOOD | {"seq": True}), "generation"),
        (orjson.dumps(GOOD | {"seq": -1}), "generation"),
        (orjson.dumps(GOOD | {"seq": 2**31}), "generation"),
    ],
)
def test_what_is_no_hint_says_why(body: bytes, reason: str) -> None:
    decoded = message.decode(body, store="s", queue="q")
    assert isinstance(decoded, Undecodable)
    assert reason in decoded.reason


@given(st.binary(max_size=5000))
def test_no_bytes_whatever_are_an_error(body: bytes) -> None:
    assert isinstance(message.decode(body, store="s", queue="q"), Undecodable)


@given(
    st.recursive(st.none() | st.booleans() | st.integers(-9, 2**40) | st.text(), lambda x: st.lists(x), max_leaves=5)
)
def test_no_field_whatever_is_an_error(value: object) -> None:
    for field in GOOD:
        message.decode(orjson.dumps(GOOD | {field: value}), store="s", queue="q")
