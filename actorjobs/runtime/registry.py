"""The registry: which jobs a runtime knows, by every name they go by."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import ModuleType
from typing import Any

from actorjobs.errors import DuplicateJob, InvalidOption, RegistrationClosed, UnknownJob, UnknownQueue
from actorjobs.jobs import Definition, JobDefaults, Queue, check_queue_name, definition_of, definitions_in


class Registry:
    """Jobs by name and alias, and the queues that serve them. Closed once pools run."""

    def __init__(self, queues: Mapping[str, int | Queue], defaults: JobDefaults | None = None) -> None:
        self._defaults = defaults or JobDefaults()
        self._by_name: dict[str, Definition] = {}
        self._implied: Mapping[str, None] = {}
        """The queues of registered jobs, which nobody has to declare, in the order of the jobs."""
        self._declared = {name: _queue(name, value) for name, value in queues.items()}
        self._is_closed = False

    def add(self, jobs: Iterable[Any]) -> None:
        """Take in jobs, or all jobs of modules and packages named by dotted path. `DuplicateJob`,
        `RegistrationClosed`, `InvalidOption`."""
        if self._is_closed:
            raise RegistrationClosed("jobs are registered before the pools start: pass them as jobs= to Runtime(...)")
        for job in jobs:
            for definition in _definitions(job):
                self._add(definition.with_defaults(self._defaults))

    def _add(self, definition: Definition) -> None:
        for name in (definition.name, *definition.aliases):
            known = self._by_name.get(name)
            if known is not None and known.script != definition.script:
                raise DuplicateJob(
                    f"two jobs are called {name!r}: {known.script} and {definition.script}; rename one of them"
                )
            self._by_name[name] = definition
        self._implied = dict.fromkeys(known.queue for known in self._by_name.values())

    def close(self) -> None:
        self._is_closed = True

    def reopen(self) -> None:
        self._is_closed = False

    def knows(self, job: str) -> bool:
        return job in self._by_name

    @property
    def names(self) -> tuple[str, ...]:
        """Every name and alias, sorted."""
        return tuple(sorted(self._by_name))

    @property
    def versions(self) -> dict[str, int]:
        """The newest version of each job's payloads that this code understands, by name and alias."""
        return {name: definition.version for name, definition in self._by_name.items()}

    @property
    def definitions(self) -> tuple[Definition, ...]:
        """Every job, once."""
        return tuple({id(known): known for known in self._by_name.values()}.values())

    def definition(self, job: str) -> Definition:
        """The job of that name; `UnknownJob` with the nearest one."""
        try:
            return self._by_name[job]
        except KeyError:
            raise UnknownJob(f"no job {job!r} is registered{nearest(job, self._by_name)}") from None

    def find(self, job: str) -> Definition | None:
        """The job of that name, if there is one."""
        return self._by_name.get(job)

    @property
    def queues(self) -> dict[str, Queue]:
        """The queues to serve: those declared, and those of registered jobs with concurrency 10."""
        return {name: Queue() for name in self._implied} | self._declared

    def served(self, only: Mapping[str, int | None] | None) -> dict[str, Queue]:
        """The queues to start pools for: all, or `only` these, with another concurrency where one is given."""
        known = self.queues
        if only is None:
            return known
        for name in only:
            self.check_queue(name)
        return {
            name: known[name] if concurrency is None else replace(known[name], concurrency=concurrency)
            for name, concurrency in only.items()
        }

    def check_queue(self, queue: str) -> None:
        """`UnknownQueue` unless somebody declared it."""
        if queue not in self._declared and queue not in self._implied:
            raise UnknownQueue(
                f"nobody declared a queue {queue!r}{nearest(queue, self.queues)}; "
                "declare it with queues={...} on the runtime"
            )


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the known one that was probably meant, or nothing."""
    close = difflib.get_close_matches(name, list(known), 1)
    return f": did you mean {close[0]!r}?" if close else ""


def _queue(name: str, value: int | Queue) -> Queue:
    check_queue_name(name)
    return value if isinstance(value, Queue) else Queue(concurrency=value)


def _definitions(job: Any) -> Iterable[Definition]:
    if isinstance(job, str):
        return _of_module(_imported(job))
    if isinstance(job, ModuleType):
        return _of_module(job)
    return [definition_of(job)]


def _imported(path: str) -> ModuleType:
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError as error:
        if error.name is not None and (path == error.name or path.startswith(error.name + ".")):
            raise InvalidOption(f"there is no module {path!r} to take jobs from") from None
        raise


def _of_module(module: ModuleType) -> Iterable[Definition]:
    """Every job that the module, or a module of the package, defines or re-exports at its top level."""
    modules = [module]
    if hasattr(module, "__path__"):
        found = pkgutil.walk_packages(module.__path__, module.__name__ + ".")
        modules += [importlib.import_module(info.name) for info in found]
    return {id(found): found for each in modules for found in definitions_in(each)}.values()
