"""Finding the application's runtime: `module:attribute`."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from actorjobs.config import load_settings
from actorjobs.errors import InvalidOption
from actorjobs.runtime import Runtime

HOW = "write it as module:attribute, like myapp.jobs:runtime"


def load_app(app: str | None) -> Runtime:
    """The runtime that `app`, `ACTORJOBS_APP` or `[tool.actorjobs] app` names; `InvalidOption` saying what is wrong."""
    name = app or load_settings().app
    if not name:
        raise InvalidOption(f"which runtime? give APP ({HOW}), or set ACTORJOBS_APP or [tool.actorjobs] app")
    module_name, colon, attribute = name.partition(":")
    if not (module_name and colon and attribute):
        raise InvalidOption(f"{name!r} names no runtime: {HOW}")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    value: object = _import(module_name)
    for part in attribute.split("."):
        if not hasattr(value, part):
            raise InvalidOption(f"module {module_name!r} has no {attribute!r}: {HOW}")
        value = getattr(value, part)
    if not isinstance(value, Runtime):
        raise InvalidOption(f"{name} is a {type(value).__name__}, not a Runtime: {HOW}")
    return value


def service_name_of(app: str | None) -> str:
    """What telemetry calls the application where the environment does not say: the top package of its module."""
    return (app or load_settings().app or "actorjobs").partition(":")[0].partition(".")[0]


def load_app_if_any(app: str | None) -> Runtime:
    """The same, or a runtime without jobs on the configured store where no application is named."""
    return load_app(app) if app or load_settings().app else Runtime()


def _import(name: str) -> object:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(error.name + ".")):
            raise InvalidOption(f"there is no module {name!r} here: {HOW}") from None
        raise InvalidOption(f"importing {name!r} failed: {error}") from error
    except Exception as error:
        raise InvalidOption(f"importing {name!r} failed: {type(error).__name__}: {error}") from error
