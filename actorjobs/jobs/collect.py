"""Finding the definitions in what an application hands to its runtime."""

from __future__ import annotations

from types import ModuleType
from typing import Any, cast

from actorjobs.errors import InvalidOption
from actorjobs.jobs.classes import Job, definition_of_class
from actorjobs.jobs.definition import Definition
from actorjobs.jobs.function import ArgsJob, PayloadJob
from actorjobs.jobs.ref import JobRef


def definition_of(job: Any) -> Definition:
    """The definition of a function job, a job class, or a definition itself; `InvalidOption` for anything else."""
    if isinstance(job, Definition):
        return job
    if isinstance(job, PayloadJob | ArgsJob):
        return cast("PayloadJob[Any, Any, ..., Any]", job).definition
    if _is_job_class(job):
        return definition_of_class(job)
    if isinstance(job, JobRef):
        raise InvalidOption("a JobRef has no handler here, it is for dispatching: register the job itself")
    hint = ": decorate it with @job(...)" if callable(job) else ""
    raise InvalidOption(f"not a job: a value of type {type(job).__name__}{hint}")


def definitions_in(module: ModuleType) -> list[Definition]:
    """The jobs among the names of a module, in the order of their definition; abstract classes are left out."""
    values = [value for value in vars(module).values() if _is_concrete(value)]
    return list({id(definition): definition for definition in map(definition_of, values)}.values())


def _is_concrete(value: Any) -> bool:
    return isinstance(value, PayloadJob | ArgsJob) or (_is_job_class(value) and "name" in vars(value))


def _is_job_class(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, Job)
