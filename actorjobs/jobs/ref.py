"""A job that another service implements."""

from __future__ import annotations

from types import NoneType
from typing import Any, Generic, overload

from pydantic import BaseModel
from typing_extensions import TypeVar

from actorjobs.errors import InvalidOption
from actorjobs.jobs.definition import Contract, Result, naming
from actorjobs.jobs.dispatch import Dispatchable
from actorjobs.jobs.options import DEFAULT_QUEUE, check_job_name, check_options
from actorjobs.jobs.payloads import ModelPayload
from actorjobs.jobs.signature import is_payload

P = TypeVar("P", bound=BaseModel)
R = TypeVar("R")
P2 = TypeVar("P2", bound=BaseModel)


class JobRef(Dispatchable[P, R], Generic[P, R]):
    """Enough of a job to dispatch it and to read its result: its name, its payload's model and its result's class.

    The service that implements it decides on attempts and time-outs, unless `options(retry=..., timeout=...)` does.
    """

    @overload
    def __init__(self: JobRef[P2, None], name: str, payload: type[P2], result: None, *, queue: str = ...) -> None: ...

    @overload
    def __init__(self, name: str, payload: type[P], result: type[R], *, queue: str = ...) -> None: ...

    def __init__(self, name: str, payload: Any, result: Any, *, queue: str = DEFAULT_QUEUE) -> None:
        """`result` is a class, or None for a job that returns nothing; anything else goes into a `RootModel`."""
        with naming(check_job_name(name)):
            if not is_payload(payload):
                raise InvalidOption("the payload of a JobRef is a pydantic model; use a RootModel for other types")
            contract = Contract(
                name=name,
                payload=ModelPayload(payload),
                result=Result(NoneType if result is None else result),
                declared=check_options({"queue": queue}),
            )
        super().__init__(contract)

    def __repr__(self) -> str:
        return f"<reference to job {self.name!r}>"
