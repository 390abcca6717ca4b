"""Envelopes that a job has built, which need not be looked at a second time."""

from __future__ import annotations

from functools import partial
from typing import Any
from weakref import ref

import orjson

from actorjobs.model import Envelope


class Built:
    """Remembers envelopes for as long as somebody holds them. One is frozen, but the dicts in it are not."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[ref[Envelope], bytes]] = {}

    def note(self, envelope: Envelope) -> Envelope:
        """The envelope itself."""
        key = id(envelope)
        self._known[key] = (ref(envelope, partial(self._forget, key)), _content(envelope))
        return envelope

    def has(self, envelope: Envelope) -> bool:
        """Whether it is one of these, and as it was. A copy is none."""
        known = self._known.get(id(envelope))
        if known is None or known[0]() is not envelope:
            return False
        try:
            return known[1] == _content(envelope)
        except TypeError:  # somebody has put something into it that is not JSON
            return False

    def _forget(self, key: int, _gone: Any) -> None:
        self._known.pop(key, None)


def _content(envelope: Envelope) -> bytes:
    """What can be changed in it."""
    return orjson.dumps((envelope.payload, envelope.constructor_args, envelope.meta, envelope.retry, envelope.unique))
