"""Things by the place where an import finds them again, the main script's included."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from types import CodeType, ModuleType
from typing import Any, cast

from actorjobs.errors import InvalidOption


def find(name: str) -> Any:
    """What `module:qualname` names. `ImportError`, `AttributeError`."""
    module, _, path = name.partition(":")
    value: Any = importlib.import_module(module)
    for part in path.split("."):
        value = getattr(value, part)
    return value


def name_of(thing: Any) -> str | None:
    """`module:qualname`; None unless that is where an import finds this very thing."""
    name = f"{getattr(thing, '__module__', None)}:{getattr(thing, '__qualname__', None)}"
    try:
        return name if find(name) == thing else None
    except (ImportError, AttributeError, ValueError):
        return None


def main_script() -> dict[str, str]:
    """How this process's main module is found again: by module (`python -m`) or by path. `InvalidOption` if by none."""
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    if spec is not None:
        return {"module": str(spec.name)}
    path = getattr(main, "__file__", None)
    if path is None or not os.path.exists(path):
        raise InvalidOption(
            "a child process has to import the main module, and this one has no file: put the jobs into a module"
        )
    return {"path": os.path.abspath(path)}


def load_main(script: dict[str, str]) -> None:
    """Import the worker's main script under the name `__mp_main__`, so that what its guard protects does not run."""
    module = ModuleType("__mp_main__")
    code = _code_of_module(script["module"], module) if "module" in script else _code_of_file(script["path"], module)
    # Under both names: what is looked up at run time (annotations, "__main__:handler") finds the script.
    sys.modules["__main__"] = sys.modules["__mp_main__"] = module
    exec(code, vars(module))


def _code_of_module(name: str, module: ModuleType) -> CodeType:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.loader is None:
        raise ImportError(f"no module named {name!r}", name=name)
    module.__package__, module.__file__ = spec.parent, spec.origin
    return cast("CodeType", cast("Any", spec.loader).get_code(name))


def _code_of_file(path: str, module: ModuleType) -> CodeType:
    module.__file__ = path
    with open(path, "rb") as file:
        return compile(file.read(), path, "exec", dont_inherit=True)
