"""The text of a new job and of its test."""

from __future__ import annotations

from string import Template

LINE_LENGTH = 88
"""What formatters keep to by default. Longer lines are exploded with a trailing comma: no other length joins those."""

MODULE = Template('''\
"""The job `$job`."""

import actorjobs as aj
from pydantic import BaseModel

NAME = "$job"
"""Kept with every run: to rename the job, keep the old name in `aliases`."""


class Payload(BaseModel):
    """What a run is about: ids and references, not documents."""

    reference: str


@aj.job(NAME, queue="$queue")
$handler
    """Do the work of one attempt; an error that is raised is recorded and retried."""
    ctx.log.info("attempt %d for %s", ctx.attempt, payload.reference)
    # Call the service that does the work here, and return what the run is to keep.
    return f"done: {payload.reference}"


$dispatch
    """Ask for a run. Callers use this: how a payload is built is known here alone."""
$send
''')

TEST = Template('''\
"""The job `$job`: what its callers ask for, and what it does."""

import actorjobs as aj
import pytest
from actorjobs.testing import RecordingDispatcher

$imports


@pytest.mark.asyncio
async def test_a_run_is_asked_for() -> None:
    with RecordingDispatcher() as recorded:
$ask
    wanted = Payload(reference="r-1")
    recorded.assert_dispatched(NAME, wanted, times=1, queue="$queue")


@pytest.mark.asyncio
async def test_the_work_is_done() -> None:
    payload = Payload(reference="r-1")
$perform
    assert result == "done: r-1"
''')


def module_text(job: str, function: str, queue: str) -> str:
    """The job's module."""
    parameters = ("payload: Payload", "ctx: aj.JobContext")
    return MODULE.substitute(
        job=job,
        queue=queue,
        handler=_fitted(f"async def {function}(", parameters, ") -> str:"),
        dispatch=_fitted(f"async def dispatch_{function}(", ("reference: str",), ") -> aj.RunHandle[str]:"),
        send=_fitted(f"    return await {function}.dispatch(", ("Payload(reference=reference)",), ")"),
    )


def test_text(job: str, function: str, queue: str, import_name: str) -> str:
    """The test of the job in the module `import_name`."""
    names = ("NAME", "Payload", *sorted((f"dispatch_{function}", function)))
    plain = f"from {import_name} import {', '.join(names)}"
    return TEST.substitute(
        job=job,
        queue=queue,
        imports=plain if len(plain) <= LINE_LENGTH else _exploded(f"from {import_name} import (", names, ")"),
        ask=_fitted(f"        await dispatch_{function}(", ('"r-1"',), ")"),
        perform=_fitted(f"    result = await {function}(", ("payload", "aj.JobContext.fake()"), ")"),
    )


def _fitted(head: str, items: tuple[str, ...], tail: str) -> str:
    line = f"{head}{', '.join(items)}{tail}"
    return line if len(line) <= LINE_LENGTH else _exploded(head, items, tail)


def _exploded(head: str, items: tuple[str, ...], tail: str) -> str:
    """One item a line, as deep as the line that opens the bracket."""
    indent = " " * (len(head) - len(head.lstrip()))
    return "\n".join((head, *(f"{indent}    {item}," for item in items), f"{indent}{tail}"))
