"""What a new job is called, and what its function and module are called after that."""

from __future__ import annotations

import re
from dataclasses import dataclass

from actorjobs.errors import InvalidOption
from actorjobs.jobs.options import check_job_name

HOW = "name a job category:action, as in reports:generate, or in words, as in SendWelcomeEmail"

_CAMEL_CASE = re.compile(r"[A-Z][A-Za-z0-9]*")
_WORD = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z0-9]+|[A-Z]+[0-9]*")


@dataclass(frozen=True, slots=True)
class JobNames:
    """A job's stable name, and the identifier that its function and its module share."""

    job: str
    function: str


def read_names(given: str) -> JobNames:
    """The names of a job given as category:action or in CamelCase, verb first; `InvalidOption` for anything else.

    Both ways lead to the same identifier, verb first: `reports:generate` is `generate_reports`, and `SendWelcomeEmail`
    is `send_welcome_email` and called `welcome-email:send`. Nothing is guessed, no word changes its number.
    """
    name = _from_words(given) if _CAMEL_CASE.fullmatch(given) else check_job_name(given)
    category, _, action = name.rpartition(":")
    if not (_words(category) and _words(action)):
        raise InvalidOption(f"{given!r} has no category or no action: {HOW}")
    function = "_".join((*_words(action), *_words(category)))
    if not function.isidentifier():
        raise InvalidOption(f"{function!r} cannot be the name of a function: let the action begin with a letter")
    if function.startswith("test"):
        raise InvalidOption(f"pytest would take {function!r} for a test: choose another action")
    return JobNames(job=check_job_name(name), function=function)


def _from_words(given: str) -> str:
    action, *category = (word.lower() for word in _WORD.findall(given))
    return f"{'-'.join(category)}:{action}"


def _words(part: str) -> list[str]:
    return [word for word in re.split(r"[._:-]+", part) if word]
