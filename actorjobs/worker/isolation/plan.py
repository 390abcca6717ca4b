"""What every child of a runtime is told when it starts, checked before anything runs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from actorjobs import codec
from actorjobs.errors import InvalidOption
from actorjobs.jobs import Definition, definition_of
from actorjobs.telemetry.setup import service_name_here
from actorjobs.worker.isolation.logs import LONGEST_TEXT, levels
from actorjobs.worker.isolation.messages import Message
from actorjobs.worker.isolation.places import find, main_script, name_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Where a child finds the application: the places of its handlers and of the context's factory, and how to import
    the main script, None when nothing of it is needed. `jobs` are the names that the runtime knows."""

    jobs: tuple[str, ...]
    handlers: tuple[str, ...]
    context: str | None
    main: dict[str, str] | None

    def message(self) -> Message:
        return {
            "say": "setup",
            "argv": [codec.clip(argument, LONGEST_TEXT) for argument in sys.argv],
            "jobs": self.jobs,
            "handlers": self.handlers,
            "context": self.context,
            "main": self.main,
            "levels": levels(),
            "telemetry": service_name_here(),
        }


def plan_for(
    definitions: Iterable[Definition], context: Callable[..., Any] | None, names: tuple[str, ...]
) -> Plan | None:
    """The plan; None when no job is isolated. `InvalidOption` for what a child could not find by importing."""
    isolated = [definition for definition in definitions if definition.isolation is not None]
    if not isolated:
        return None
    handlers = [_place_of_job(definition) for definition in isolated]
    factory = None if context is None else _place_of_context(context)
    kinds = [place for definition in isolated for kind in error_places(definition).values() for place in kind or ()]
    needs_main = any(place.startswith("__main__:") for place in (*handlers, *kinds, factory or ""))
    main = main_script() if needs_main else None
    return Plan(jobs=names, handlers=tuple(handlers), context=factory, main=main)


def error_places(definition: Definition) -> dict[str, list[str] | None]:
    """The exception classes of a retry policy that comes from the runtime's defaults; a child knows the job's own."""
    if "retry" in definition.declared:
        return {}
    retry = definition.retry
    return {
        "on": None if retry.on is None else [_place_of_error(kind) for kind in _classes(retry.on)],
        "never": [_place_of_error(kind) for kind in _classes(retry.never)],
    }


def _place_of_job(definition: Definition) -> str:
    place = definition.script or ""
    try:
        if definition_of(find(place)).name == definition.name:
            return place
    except (ImportError, AttributeError, ValueError):
        pass
    raise InvalidOption(
        f"job {definition.name!r}: a child process has to import it as {place}, and it is not found there: "
        "define it at the top of its module, under its function's own name"
    )


def _place_of_context(factory: Callable[..., Any]) -> str:
    place = name_of(factory)
    if place is None:
        raise InvalidOption(
            "context= is entered in child processes too, which have to import it: make it a function or class at the "
            "top of a module, no lambda, local function, partial or method of an object"
        )
    return place


def _place_of_error(kind: type[BaseException]) -> str:
    place = name_of(kind)
    if place is None:
        raise InvalidOption(
            f"defaults: retry= names {kind.__qualname__}, which a child process cannot import: define it at the top "
            "of a module"
        )
    return place


def _classes(kinds: type[BaseException] | tuple[type[BaseException], ...]) -> tuple[type[BaseException], ...]:
    return kinds if isinstance(kinds, tuple) else (kinds,)
