"""Quarantine: messages that are no hints of ours, kept as they came until somebody has looked at them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from math import isfinite
from typing import Any, cast

import orjson
from sqlalchemy import Connection, delete, insert, select

from actorjobs.codec import LIMITS, MAX_DEPTH, clip, decode
from actorjobs.errors import InvalidOption
from actorjobs.ports import Quarantined
from actorjobs.stores.core import StoreCore
from actorjobs.stores.rows import Row
from actorjobs.stores.schema import quarantine

LONGEST_QUEUE = 255
LARGEST_ID = LARGEST_NUMBER = 2**63 - 1
KEPT_FOR = timedelta(days=30)
PURGED_AT_ONCE = 500


class Quarantine(StoreCore):
    """Verbs on messages in quarantine."""

    async def quarantine(self, messages: Sequence[Quarantined]) -> None:
        def work(connection: Connection) -> None:
            own = {"namespace": self._namespace, "at": self._now(connection)}
            for message in messages:  # each by itself: a body may be large
                connection.execute(insert(quarantine).values(**own, **kept(message)))

        if messages:
            await self._database.write(work)

    async def quarantined(self, limit: int, after: str | None = None) -> Sequence[Quarantined]:
        later = quarantine.c.id > (0 if after is None else checked_id(after))
        query = select(quarantine).where(quarantine.c.namespace == self._namespace, later)
        query = query.order_by(quarantine.c.id).limit(limit)
        return await self._database.read(
            lambda connection: [quarantined_of(row) for row in connection.execute(query).mappings()]
        )

    async def release_quarantined(self, ids: Sequence[str]) -> int:
        known = [int(id) for id in ids if is_id(id)]
        released = delete(quarantine).where(quarantine.c.namespace == self._namespace, quarantine.c.id.in_(known))
        return await self._database.write(lambda connection: connection.execute(released).rowcount) if known else 0


def purge_quarantine(connection: Connection, namespace: str, now: datetime) -> None:
    """Delete the oldest messages, if they are older than they may become."""
    oldest = select(quarantine.c.id, quarantine.c.at).where(quarantine.c.namespace == namespace)
    found = connection.execute(oldest.order_by(quarantine.c.id).limit(PURGED_AT_ONCE)).all()
    ids = [row.id for row in found if row.at < now - KEPT_FOR]
    if ids:
        connection.execute(delete(quarantine).where(quarantine.c.id.in_(ids)))


def is_id(text: str) -> bool:
    """Whether it could be the id of a message in quarantine."""
    return text.isascii() and text.isdecimal() and len(text) < 20 and int(text) <= LARGEST_ID


def checked_id(text: str) -> int:
    if not is_id(text):
        raise InvalidOption("that is not the id of a message in quarantine: start again without one")
    return int(text)


def kept(message: Quarantined) -> dict[str, Any]:
    """A message as every database keeps it."""
    return {
        "queue": clip(message.queue, LONGEST_QUEUE),
        "reason": clip(message.reason, LIMITS.error_message),
        "body": bytes(message.body),
        "properties": orjson.dumps({_told(key): _plain(value) for key, value in message.properties.items()}).decode(),
    }


def _plain(value: object, depth: int = 1) -> Any:
    """The value as JSON can hold it, told in words where it cannot."""
    match value:
        case None | bool():
            return value
        case str():
            return _told(value)
        case int() if abs(value) <= LARGEST_NUMBER:
            return int(value)
        case float() if isfinite(value):
            return value
        case Mapping() if depth < MAX_DEPTH:
            items = cast("Mapping[object, object]", value).items()
            return {_told(key): _plain(item, depth + 1) for key, item in items}
        case list() | tuple() if depth < MAX_DEPTH:
            return [_plain(item, depth + 1) for item in cast("Sequence[object]", value)]
        case _:
            return _in_words(value)


def _in_words(value: object) -> str:
    try:
        return _told(repr(value))
    except Exception:  # what describes itself may fail, or be too deep
        return f"<{type(value).__name__}>"


def _told(value: object) -> str:
    return clip(str(value), LIMITS.error_message)


def quarantined_of(row: Row) -> Quarantined:
    return Quarantined(
        id=str(row["id"]),
        at=row["at"],
        queue=row["queue"],
        reason=row["reason"],
        body=bytes(row["body"]),
        properties=decode(row["properties"]),
    )
