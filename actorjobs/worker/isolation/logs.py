"""Log records of a child, written by its worker as if they had been made there."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, Final

from actorjobs import codec

logger = logging.getLogger("actorjobs.worker")

LONGEST_TEXT: Final = 64 * 1024
_SPELLED_OUT: Final = frozenset({"args", "exc_info", "exc_text", "message", "msg"})


class Forwarding(logging.Handler):
    """Hands records to the worker; in a process forked by a handler, which has no line of its own, to stderr."""

    def __init__(self, send: Callable[[Mapping[str, Any]], bool]) -> None:
        super().__init__()
        self._send = send
        self._formatter = logging.Formatter()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            if not self._send(self._fields(record)) and logging.lastResort is not None:
                logging.lastResort.handle(record)
        except Exception:
            self.handleError(record)

    def _fields(self, record: logging.LogRecord) -> dict[str, Any]:
        fields = {name: _sound(value) for name, value in vars(record).items() if name not in _SPELLED_OUT}
        fields["msg"] = codec.clip(record.getMessage(), LONGEST_TEXT)
        if record.exc_info:
            fields["exc_text"] = codec.clip(self._formatter.formatException(record.exc_info), LONGEST_TEXT)
        return fields


def _sound(value: object) -> object:
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int):
        return value if -(1 << 63) <= value < 1 << 63 else repr(value)
    if isinstance(value, str):
        return codec.clip(value, LONGEST_TEXT)
    try:
        return codec.decode(codec.encode(value, limit=LONGEST_TEXT))
    except Exception:  # an `extra` may be anything
        return codec.clip(repr(value), LONGEST_TEXT)


def write_again(fields: Mapping[str, Any]) -> None:
    """Log a child's record here, if this process wants to see it."""
    record = logging.makeLogRecord(dict(fields))
    try:
        target = logging.getLogger(record.name)
        if target.isEnabledFor(record.levelno):
            target.handle(record)
    except Exception:  # a filter or handler of the application: no reason to end its child
        logger.warning("a log record of a child process cannot be written", exc_info=True)


def levels() -> dict[str, int]:
    """The levels set in this process, by logger; the root's is under ''."""
    known = logging.root.manager.loggerDict.items()
    own = {name: logger.level for name, logger in known if isinstance(logger, logging.Logger) and logger.level}
    return {"": logging.root.level, **own}


def set_levels(wanted: Mapping[str, int]) -> None:
    for name, level in wanted.items():
        logging.getLogger(name or None).setLevel(level)
