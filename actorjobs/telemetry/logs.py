"""Log records that say which attempt they are of, one line each, as text or as JSON."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, Final, TextIO

from opentelemetry import trace

from actorjobs.jobs import running_context

FORMATS: Final = ("text", "json")

FIELDS: Final = ("run_id", "job", "attempt", "tenant", "trace_id", "span_id")
"""What a record is given while a handler runs."""

_USUAL: Final = frozenset({*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"})


class AttemptFilter(logging.Filter):
    """Puts the attempt at hand on every record that is made while its handler runs, in its tasks and threads too: the
    `FIELDS` as attributes, where the call gives no others. Drops nothing.

    Give it to a handler (`handler.addFilter`): a logger's filters do not see what is logged below that logger.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        context = running_context()
        if context is not None:
            told: dict[str, Any] = {name: getattr(context, name, None) for name in FIELDS}
            here = trace.get_current_span().get_span_context()
            is_inside = here.is_valid and f"{here.trace_id:032x}" == context.trace_id
            told["span_id"] = f"{here.span_id:016x}" if is_inside else (context.traceparent or "")[36:52]
            for name, value in told.items():
                if value is not None and getattr(record, name, None) is None:
                    setattr(record, name, value)
        return True


class TextFormatter(logging.Formatter):
    """A line for people: what the attempt is comes at its end, as `run_id=... job=...`."""

    def __init__(self, *, is_for_terminal: bool = False) -> None:
        """On a terminal a traceback keeps its lines; elsewhere one event is one line."""
        super().__init__("%(asctime)s %(levelname)s %(process)d %(name)s: %(message)s")
        self._is_for_terminal = is_for_terminal

    def formatMessage(self, record: logging.LogRecord) -> str:
        told = ((name, getattr(record, name, None)) for name in FIELDS)
        return " ".join([_one_line(super().formatMessage(record)), *(f"{n}={_one_line(str(v))}" for n, v in told if v)])

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return text if self._is_for_terminal else _one_line(text)


class JsonFormatter(logging.Formatter):
    """An object on a line of its own: `time` (UTC), `level`, `logger`, `message`, `process`, the attempt, whatever the
    call gives as `extra` (what is no JSON as its `repr`), `exception` with the traceback, and `stack` if asked for."""

    def format(self, record: logging.LogRecord) -> str:
        told: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "process": record.process,
        }
        extra = {name: value for name, value in vars(record).items() if name not in _USUAL and value is not None}
        told = {**extra, **told}
        if record.exc_info:
            told["exception"] = self.formatException(record.exc_info)
        elif record.exc_text:  # a child process has written its traceback out
            told["exception"] = record.exc_text
        if record.stack_info:
            told["stack"] = self.formatStack(record.stack_info)
        try:
            return _json(told)
        except (TypeError, ValueError, RecursionError):
            return _json({name: _sound(value) for name, value in told.items()})


def configure_logs(level: int, log_format: str, *, stream: TextIO | None = None) -> None:
    """Have the process log to standard error: our own loggers from that level on, others from warnings on."""
    target: TextIO = sys.stderr if stream is None else stream
    handler = logging.StreamHandler(target)
    handler.addFilter(AttemptFilter())
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter(is_for_terminal=target.isatty()))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("actorjobs").setLevel(level)


def _json(value: object) -> str:
    return json.dumps(value, default=_shown, ensure_ascii=True, allow_nan=False)


def _sound(value: object) -> object:
    """The value if it is JSON, else what it looks like: an `extra` may be anything, and its event is not to be lost."""
    try:
        _json(value)
    except (TypeError, ValueError, RecursionError):
        return _shown(value)
    return value


def _shown(value: object) -> str:
    try:
        return repr(value)
    except Exception:
        return f"<{type(value).__name__}>"


def _one_line(text: str) -> str:
    """The text with what would break its line, or steer a terminal, written out."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)
