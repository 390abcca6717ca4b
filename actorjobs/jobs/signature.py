"""Reading off a function how it wants to be called: with one model, or with plain parameters."""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Mapping
from dataclasses import dataclass
from inspect import Parameter
from typing import Annotated, Any, Final, Never, NoReturn, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel

from actorjobs.errors import InvalidOption
from actorjobs.jobs.context import JobContext

_CONTEXT_IN_TEXT: Final = re.compile(r"""["']?(\w+\.)*JobContext(\[.*)?["']?""")
_RULE: Final = (
    "a handler takes one pydantic model, (payload) or (payload, ctx), or plain parameters with ctx: JobContext first"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What a signature says. `payload` is the model, or None where the handler takes `parameters`."""

    payload: Any | None
    parameters: tuple[Parameter, ...]
    takes_context: bool
    result: Any


def read_signature(function: Any, names: Mapping[str, Any]) -> Reading:
    """The reading of a plain function; `names` are those visible where it is defined. `InvalidOption` for any other."""
    _refuse_strangers(function)
    signature = inspect.signature(function)
    parameters = [_resolved(parameter, function, names) for parameter in signature.parameters.values()]
    models = [parameter for parameter in parameters if is_payload(parameter.annotation)]
    if models:
        return _read_payload(parameters, models[0], _result_of(signature, function, names))
    return _read_parameters(parameters, _result_of(signature, function, names))


def is_payload(annotation: Any) -> bool:
    """Whether this is a pydantic model, or a union of nothing but models."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return is_payload(get_args(annotation)[0])
    if origin is Union or origin is types.UnionType:
        return all(is_payload(member) for member in get_args(annotation))
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def is_context(annotation: Any) -> bool:
    """Whether this is `JobContext` or `JobContext[...]`."""
    return annotation is JobContext or get_origin(annotation) is JobContext


def resolve(annotation: Any, module: Mapping[str, Any], names: Mapping[str, Any]) -> Any:
    """The type behind an annotation that may be text; NameError when it names something unknown."""
    holder = types.SimpleNamespace(__annotations__={"it": annotation})
    return get_type_hints(holder, dict(module), dict(names), include_extras=True)["it"]


def _refuse_strangers(function: Any) -> None:
    if isinstance(function, type):
        raise InvalidOption("@job decorates functions; for a class derive from Job and set its name")
    if not inspect.isfunction(function):
        raise InvalidOption(
            f"@job decorates a function written with def or async def, not a value of type {type(function).__name__}"
        )
    if function.__name__ == "<lambda>":
        raise InvalidOption("a lambda has no name to find it by: write a function")
    if inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function):
        raise InvalidOption("a handler returns one result: it cannot be a generator (no yield)")


def _resolved(parameter: Parameter, function: Any, names: Mapping[str, Any]) -> Parameter:
    if parameter.kind in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD):
        raise InvalidOption(f"*{parameter.name}: *args and **kwargs cannot be validated; name every parameter")
    if parameter.annotation is Parameter.empty:
        advice = "a method cannot be a job" if parameter.name in ("self", "cls") else "what is it?"
        raise InvalidOption(f"parameter {parameter.name!r} has no annotation: {advice}")
    try:
        return parameter.replace(annotation=resolve(parameter.annotation, function.__globals__, names))
    except NameError as unknown:
        # The type of the application's context is often imported for type checkers only. It is not needed here.
        if isinstance(parameter.annotation, str) and _CONTEXT_IN_TEXT.fullmatch(parameter.annotation):
            return parameter.replace(annotation=JobContext)
        raise InvalidOption(
            f"parameter {parameter.name!r} is annotated with {unknown.name!r}, which is not known at run time: "
            "import it outside of `if TYPE_CHECKING:`, above the job"
        ) from None


def _result_of(signature: inspect.Signature, function: Any, names: Mapping[str, Any]) -> Any:
    if signature.return_annotation is inspect.Signature.empty:
        return Any
    try:
        result = resolve(signature.return_annotation, function.__globals__, names)
    except NameError as unknown:
        raise InvalidOption(
            f"the result is annotated with {unknown.name!r}, which is not known at run time: "
            "import it outside of `if TYPE_CHECKING:`, above the job"
        ) from None
    return types.NoneType if result in (None, NoReturn, Never) else result


def _read_payload(parameters: list[Parameter], payload: Parameter, result: Any) -> Reading:
    rest = [parameter for parameter in parameters if parameter is not payload]
    if any(not is_context(parameter.annotation) for parameter in rest) or len(rest) > 1:
        raise InvalidOption(f"a model stands beside other parameters: {_RULE}")
    if parameters[0] is not payload:
        raise InvalidOption("ctx stands before the payload: write (payload, ctx)")
    if any(parameter.kind is Parameter.KEYWORD_ONLY for parameter in parameters):
        raise InvalidOption("payload and ctx are passed by position: they cannot be keyword-only")
    return Reading(payload=payload.annotation, parameters=(), takes_context=bool(rest), result=result)


def _read_parameters(parameters: list[Parameter], result: Any) -> Reading:
    takes_context = bool(parameters) and is_context(parameters[0].annotation)
    plain = parameters[1:] if takes_context else parameters
    if any(is_context(parameter.annotation) for parameter in plain):
        raise InvalidOption(f"ctx must be the first parameter, and the only context: {_RULE}")
    if takes_context and parameters[0].kind is Parameter.KEYWORD_ONLY:
        raise InvalidOption("ctx is passed by position: it cannot be keyword-only")
    for parameter in plain:
        if parameter.kind is Parameter.POSITIONAL_ONLY:
            raise InvalidOption(f"parameter {parameter.name!r} is positional-only, but is kept by name: drop the slash")
    return Reading(payload=None, parameters=tuple(plain), takes_context=takes_context, result=result)
