"""What a class gives for the type parameters of a generic base, however many classes lie between."""

from __future__ import annotations

from typing import Any, get_args, get_origin


def arguments_of(cls: type, base: type) -> tuple[Any, ...]:
    """The arguments of `base` as `cls` sees them; type variables that nobody filled in stay what they are.

    Empty when `cls` does not subscript `base` at all.
    """
    for parent in _bases(cls):
        origin = get_origin(parent) or parent
        if origin is base:
            return get_args(parent)
        if isinstance(origin, type) and issubclass(origin, base):
            own = dict(zip(getattr(origin, "__parameters__", ()), get_args(parent), strict=False))
            return tuple(_filled(argument, own) for argument in arguments_of(origin, base))
    return ()


def _bases(cls: type) -> tuple[Any, ...]:
    """`types.get_original_bases` as Python 3.12 has it."""
    bases: tuple[Any, ...] = cls.__dict__.get("__orig_bases__", cls.__bases__)
    return bases


def _filled(argument: Any, own: dict[Any, Any]) -> Any:
    """`argument` with type variables replaced, also inside of it, as in `Page[T]`."""
    if argument in own:
        return own[argument]
    inner = getattr(argument, "__parameters__", ())
    return argument[tuple(own.get(variable, variable) for variable in inner)] if inner else argument
