"""A record says of which attempt it is, wherever below the handler it is made, and is one line."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import actorjobs as aj
from actorjobs.telemetry.logs import AttemptFilter, JsonFormatter, TextFormatter
from tests.cli.conftest import Shell
from tests.telemetry.conftest import Traces

APP = logging.getLogger("shop.mail")


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    """What is logged on the way to a terminal that is none, as JSON."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.addFilter(AttemptFilter())
    handler.setFormatter(JsonFormatter())
    logging.root.addHandler(handler)
    yield stream
    logging.root.removeHandler(handler)


@aj.job("chatty", retry=aj.Retry(1))
async def chatty(ctx: aj.JobContext, fails: bool) -> None:
    APP.warning("on the loop")
    await asyncio.to_thread(APP.warning, "in a thread")
    await asyncio.create_task(_later())
    ctx.log.warning("by ctx.log", extra={"order": 7})
    if fails:
        raise ValueError("two\nlines")


async def _later() -> None:
    APP.warning("in a task")


def _lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


async def test_every_record_below_a_handler_names_its_attempt(
    traces: Traces, sqlite_url: str, written: io.StringIO
) -> None:
    async with traces.runtime(sqlite_url, chatty) as runtime:
        run = await chatty.options(tenant="acme").dispatch(False)
        await run.result(timeout=10)
        [attempt] = await runtime.runs.attempts(run.id)
        APP.warning("afterwards")
    told = {
        "run_id": run.id,
        "job": "chatty",
        "attempt": 1,
        "tenant": "acme",
        "trace_id": attempt.trace_id,
        "span_id": attempt.span_id,
    }
    lines = [line for line in _lines(written) if line["level"] == "warning"]
    assert [line["message"] for line in lines] == [
        "on the loop",
        "in a thread",
        "in a task",
        "by ctx.log",
        "afterwards",
    ]
    assert [{name: line.get(name) for name in told} for line in lines[:4]] == [told] * 4
    assert lines[3]["order"] == 7
    assert not told.keys() & lines[4].keys()


async def test_without_an_sdk_the_ids_are_those_of_the_record(sqlite_url: str, written: io.StringIO) -> None:
    async with aj.Runtime(store=sqlite_url, jobs=[chatty]) as runtime:
        run = await chatty.dispatch(False)
        await run.result(timeout=10)
        [attempt] = await runtime.runs.attempts(run.id)
    lines = [line for line in _lines(written) if line["logger"] == "shop.mail"]
    assert {(line["trace_id"], line["span_id"]) for line in lines} == {(attempt.trace_id, attempt.span_id)}


async def test_the_line_about_a_failure_names_the_attempt_too(
    traces: Traces, sqlite_url: str, written: io.StringIO
) -> None:
    async with traces.runtime(sqlite_url, chatty) as runtime:
        run = await chatty.options(tenant="acme").dispatch(True)
        await runtime.runs.wait(run.id, timeout=10)
        [attempt] = await runtime.runs.attempts(run.id)
    [line] = [line for line in _lines(written) if line["logger"] == "actorjobs.runtime"]
    assert (line["run_id"], line["attempt"], line["span_id"]) == (run.id, 1, attempt.span_id)
    assert (line["job"], line["tenant"], line["trace_id"]) == ("chatty", "acme", attempt.trace_id)
    assert "two lines" in line["message"]


def _record(message: str, *arguments: object, error: BaseException | None = None, **extra: Any) -> logging.LogRecord:
    info = None if error is None else (type(error), error, error.__traceback__)
    record = logging.LogRecord("shop", logging.ERROR, __file__, 1, message, arguments, info)
    vars(record).update(extra)
    return record


class _Unshowable:
    def __repr__(self) -> str:
        raise RuntimeError("not to be shown")


CIRCULAR: list[Any] = []
CIRCULAR.append(CIRCULAR)


def _raised() -> ValueError:
    try:
        raise ValueError("a\r\nb")
    except ValueError as error:
        return error


EVENTS = [
    _record("plain"),
    _record("two\nlines \x1b[31m\u2028 of %s", "a\nb", run_id="r1", tenant="a\nb"),
    _record("failed", error=_raised(), run_id="r1", attempt=2, odd=object()),
    _record("not utf: \udcff", extra_text="\udcff"),
    _record("no JSON", pairs={(1, 2): 2}, circular=CIRCULAR, number=float("nan"), odd=_Unshowable(), order=7),
    _record("with its stack", stack_info="Stack (most recent call last):\n  File"),
]


@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()])
@pytest.mark.parametrize("record", EVENTS)
def test_one_event_is_one_line(formatter: logging.Formatter, record: logging.LogRecord) -> None:
    text = formatter.format(record)
    assert len(text.splitlines()) == 1
    assert text.isprintable()
    text.encode()


def test_whatever_an_extra_is_its_event_is_json() -> None:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    told = json.loads(JsonFormatter().format(EVENTS[4]), parse_constant=refuse)
    assert (told["message"], told["order"], told["pairs"], told["number"]) == ("no JSON", 7, "{(1, 2): 2}", "nan")
    assert (told["circular"], told["odd"]) == ("[[...]]", "<_Unshowable>")
    assert json.loads(JsonFormatter().format(EVENTS[5]))["stack"].startswith("Stack")


def test_text_ends_with_the_attempt() -> None:
    text = TextFormatter().format(_record("sent %s", "it", run_id="r1", job="mail", attempt=2))
    assert text.endswith(" ERROR " + f"{EVENTS[0].process} shop: sent it run_id=r1 job=mail attempt=2")


def test_a_terminal_shows_a_traceback_as_people_read_it() -> None:
    text = TextFormatter(is_for_terminal=True).format(_record("failed", error=_raised()))
    assert text.splitlines()[1] == "Traceback (most recent call last):"


def test_json_has_the_traceback_and_a_time_in_utc() -> None:
    told = json.loads(JsonFormatter().format(EVENTS[2]))
    assert told["exception"].startswith("Traceback")
    assert "ValueError: a\r\nb" in told["exception"]
    assert told["time"].endswith("+00:00")
    assert (told["run_id"], told["attempt"], told["level"]) == ("r1", 2, "error")


def test_what_the_call_gives_stays() -> None:
    record = _record("x", run_id="mine")
    assert AttemptFilter().filter(record)
    assert vars(record)["run_id"] == "mine"


@pytest.mark.system
@pytest.mark.parametrize("processes", [[], ["--processes", "2"]])
def test_a_worker_writes_an_object_per_line(tmp_path: Path, processes: list[str]) -> None:
    (tmp_path / "shop.py").write_text(textwrap.dedent(APPLICATION), encoding="utf-8")
    shell = Shell(tmp_path)
    try:
        run_id = shell.json("dispatch", "talk", '{"word": "one\\ntwo"}')["id"]
        done = shell("worker", "--burst", "--log-format", "json", *processes)
    finally:
        shell.close()
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    [own] = [line for line in lines if line["logger"] == "shop"]
    assert (own["message"], own["run_id"], own["job"], own["attempt"]) == ("one\ntwo", run_id, "talk", 1)
    assert own["exception"].endswith("ZeroDivisionError: division by zero")
    assert (len(own["trace_id"]), len(own["span_id"])) == (32, 16)


def test_another_format_is_refused_in_a_line(tmp_path: Path) -> None:
    done = Shell(tmp_path)("worker", "--log-format", "xml")
    assert done.returncode == 2
    assert "text or json" in done.stderr


APPLICATION = """
    import logging
    import actorjobs as aj

    @aj.job("talk")
    def talk(word: str) -> None:
        try:
            1 / 0
        except ZeroDivisionError:
            logging.getLogger("shop").exception(word)

    runtime = aj.Runtime(jobs=[talk])
"""
