"""Envelopes that come from outside: one made by hand is held to what a dispatch of its job would be held to."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from actorjobs import codec
from actorjobs.errors import InvalidOption
from actorjobs.jobs import Definition, unique_digest
from actorjobs.jobs.options import check_options, check_version
from actorjobs.model import Envelope
from actorjobs.retry import MOST_ATTEMPTS, Retry

_OPTIONS = (
    "delay",
    "run_at",
    "queue",
    "priority",
    "idempotency_key",
    "key_expires_in",
    "tenant",
    "timeout",
    "expires_in",
    "retention",
)
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


def check_made_by_hand(envelope: object, definition: Definition | None) -> Envelope:
    """The envelope itself. `InvalidOption` or `PayloadInvalid` for what no dispatch would have built; the payload is
    looked at where the job is known."""
    if not isinstance(envelope, Envelope):
        raise InvalidOption(f"an Envelope is needed here, not a value of type {type(envelope).__name__}")
    costly = {"tags": envelope.tags or None, "meta": envelope.meta or None}  # looked at if there are any
    check_options({name: getattr(envelope, name) for name in _OPTIONS} | costly)
    if not 1 <= envelope.max_attempts <= MOST_ATTEMPTS:
        raise InvalidOption(f"max_attempts lies between 1 and {MOST_ATTEMPTS}, not {envelope.max_attempts}")
    if envelope.retry is not None:
        Retry.from_json(envelope.retry)
    if envelope.traceparent is not None and _TRACEPARENT.fullmatch(envelope.traceparent) is None:
        raise InvalidOption("traceparent is no W3C trace context: leave it out to get one")
    check_version(envelope.version)
    if envelope.unique is not None:
        unique_digest(envelope)
    if definition is not None:
        constructor_args = codec.encode(envelope.constructor_args, what="constructor_args")
        definition.decode_payload(codec.encode(envelope.payload), constructor_args, version=envelope.version)
    return envelope


def check_are_several(envelopes: object) -> None:
    """`InvalidOption` for one envelope where a list of them is needed."""
    if isinstance(envelopes, Envelope):
        raise InvalidOption("dispatch_many takes a list of envelopes, as in [envelope]")


def check_is_list(name: str, value: object) -> None:
    """`InvalidOption` unless it is a list or a tuple."""
    if not isinstance(value, list | tuple):
        raise InvalidOption(f"{name}= takes a list, as in {name}=[...], not a value of type {type(value).__name__}")


def check_is_names(name: str, value: Collection[object]) -> None:
    """`InvalidOption` unless it holds names; one name alone would be taken for its letters."""
    if isinstance(value, str) or not all(isinstance(one, str) for one in value):
        raise InvalidOption(f"{name}= takes names, as in {name}={{'acme'}}")


def check_is_mapping(name: str, value: object) -> None:
    """`InvalidOption` unless it is a mapping."""
    if not isinstance(value, Mapping):
        raise InvalidOption(f"{name}= takes a dict, as in {name}={{'emails': 10}}, not a {type(value).__name__}")
