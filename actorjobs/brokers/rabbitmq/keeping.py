"""Keeping what is no hint, whatever it is: one message that no database takes must not stop the others."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace

from actorjobs.errors import StoreUnavailable
from actorjobs.ports import Quarantined, Store

logger = logging.getLogger("actorjobs.broker")

LARGEST_TOGETHER = 1 << 20
BYTES_KEPT = 4096
"""Of a body that the store refuses, as larger than its server takes in one statement."""


async def keep(store: Store, messages: Sequence[Quarantined]) -> None:
    """Quarantine them; after that they may be acknowledged. `StoreUnavailable`: some may be kept already."""
    for some in _portions(messages):
        await _keep_together(store, some)


def _portions(messages: Sequence[Quarantined]) -> Iterator[list[Quarantined]]:
    """Messages that are small enough together for one statement."""
    some: list[Quarantined] = []
    for message in messages:
        if some and sum(len(one.body) for one in some) + len(message.body) > LARGEST_TOGETHER:
            yield some
            some = []
        some.append(message)
    if some:
        yield some


async def _keep_together(store: Store, messages: Sequence[Quarantined]) -> None:
    try:
        await store.quarantine(messages)
    except StoreUnavailable:
        raise
    except Exception:
        for message in messages:
            await _keep_somehow(store, message)


async def _keep_somehow(store: Store, message: Quarantined) -> None:
    size = len(message.body)
    reason = f"{message.reason}; of its {size} bytes only the first are kept, the store refuses more"
    shorter = replace(message, body=message.body[:BYTES_KEPT], reason=reason)
    refused: Exception | None = None
    for attempt in (message, shorter, replace(shorter, body=b"", properties={})):
        try:
            await store.quarantine([attempt])
        except StoreUnavailable:
            raise
        except Exception as error:
            refused = error
        else:
            return
    logger.error(
        "a message of %d bytes from %s (%s) cannot be kept and is dropped: %s: it begins with %r",
        size,
        message.queue,
        message.reason,
        type(refused).__name__,
        bytes(message.body[:200]),
    )
