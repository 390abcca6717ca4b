"""The two kinds of payload: one model, or the parameters of a function by name."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from inspect import Parameter
from typing import Any, NotRequired, Required, cast, get_args

from pydantic import BaseModel, ConfigDict, RootModel
from typing_extensions import TypedDict

from actorjobs.codec import LIMITS, Shape
from actorjobs.errors import InvalidOption, PayloadInvalid
from actorjobs.jobs.options import Options
from actorjobs.jobs.traced import Traced


class ModelPayload:
    """One pydantic model."""

    def __init__(self, annotation: Any) -> None:
        self._shape = Shape(annotation, what="payload")
        self._models = _models_in(annotation)

    @property
    def fields(self) -> Sequence[str] | None:
        """The names that its JSON object has; None for a RootModel or several models."""
        if len(self._models) != 1 or issubclass(self._models[0], RootModel):
            return None
        return tuple(self._models[0].model_fields)

    @property
    def traced(self) -> Sequence[str]:
        """The names of its fields that are marked with `Traced`: of several models, in each that has such a field."""
        marked: dict[str, bool] = {}
        for model in self._models:
            for name, field in model.model_fields.items():
                is_marked = any(isinstance(mark, Traced) for mark in field.metadata)
                marked[name] = marked.get(name, True) and is_marked
        return tuple(name for name, is_marked in marked.items() if is_marked)

    def encode(self, value: object) -> Any:
        """The JSON value of an instance of the model, or of JSON from outside that fits it."""
        if not isinstance(value, self._models):
            if isinstance(value, BaseModel):
                raise PayloadInvalid(f"payload must be {self._expected}, not {type(value).__name__}")
            value = self._shape.adopt(value)
        return self._shape.encode(value)[0]

    def decode(self, text: str) -> Any:
        """The model's instance."""
        return self._shape.decode(text)

    @property
    def _expected(self) -> str:
        return " or ".join(model.__name__ for model in self._models)


class ParametersPayload:
    """Parameters by name, as a JSON object."""

    def __init__(self, parameters: Sequence[Parameter], *, what: str = "payload", limit: int = LIMITS.payload) -> None:
        self._what = what
        self._signature = inspect.Signature(parameters)
        self._shape = Shape(_record_of(parameters), what=what, limit=limit)
        self._defaults = {p.name: p.default for p in parameters if p.default is not Parameter.empty}
        self._check_defaults(parameters)

    @property
    def fields(self) -> Sequence[str]:
        """The names of the parameters."""
        return tuple(self._signature.parameters)

    @property
    def traced(self) -> Sequence[str]:
        """The names of those that are marked with `Traced`."""
        marks = {name: getattr(p.annotation, "__metadata__", ()) for name, p in self._signature.parameters.items()}
        return tuple(name for name, given in marks.items() if any(isinstance(mark, Traced) for mark in given))

    def bind(self, /, *args: Any, **kwargs: Any) -> Any:
        """The JSON value of a call with these arguments, defaults filled in. `PayloadInvalid` if they do not fit."""
        try:
            bound = self._signature.bind(*args, **kwargs)
        except TypeError as failure:
            raise PayloadInvalid(f"{self._what}: {failure}{_hint(kwargs, self._signature)}") from None
        return self._shape.encode(self._shape.conform({**self._defaults, **bound.arguments}))[0]

    def encode(self, value: object) -> Any:
        """The JSON value of a JSON object from outside."""
        return self._shape.encode({**self._defaults, **self._shape.adopt(value)})[0]

    def decode(self, text: str) -> Any:
        """The arguments by name. A parameter that came with a default after the run was accepted may be missing."""
        return self._shape.decode(text)

    def _check_defaults(self, parameters: Sequence[Parameter]) -> None:
        for parameter in parameters:
            if parameter.name in self._defaults:
                shape = Shape(parameter.annotation, what=f"the default of {parameter.name!r}", error=InvalidOption)
                shape.encode(shape.conform(parameter.default))


def _models_in(annotation: Any) -> tuple[type[BaseModel], ...]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return (annotation,)
    inner = (_models_in(part) for part in get_args(annotation))
    return tuple(model for models in inner for model in models)


def _record_of(parameters: Sequence[Parameter]) -> Any:
    """A TypedDict of the parameters: unlike a model's fields, its keys may have any name a parameter may have."""
    fields: Mapping[str, Any] = {
        p.name: (Required if p.default is Parameter.empty else NotRequired)[p.annotation] for p in parameters
    }
    record = cast("Any", TypedDict)("Parameters", fields)
    record.__pydantic_config__ = ConfigDict(extra="forbid")
    return record


def _hint(given: Mapping[str, Any], signature: inspect.Signature) -> str:
    options = sorted(Options.__annotations__.keys() & given.keys() - signature.parameters.keys())
    return f" (options are set before: .options({options[0]}=...).dispatch(...))" if options else ""
