"""A type's way into JSON and back, with pydantic's own serializer and validator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
from pydantic import TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError

from actorjobs.codec.faults import find_fault, is_sound, path_of
from actorjobs.codec.limits import LIMITS
from actorjobs.codec.refusals import explain
from actorjobs.codec.secrets import masked_places
from actorjobs.codec.text import Refusal, check, encode, refuse, refuse_fault
from actorjobs.errors import InvalidOption, PayloadInvalid


class Shape:
    """What values of one type look like as JSON: written, checked, and read back.

    JSON is written with field names, never aliases, and read by field names alone, so that every model finds its own
    fields again; `adopt` takes JSON from outside as the model's configuration says. Whatever is written has been read
    back once by the very validator that reads it before the work starts.
    """

    __slots__ = ("_adapter", "_dump", "_error", "_has_secrets", "_is_any", "_limit", "_load", "_what")

    def __init__(
        self, annotation: object, *, what: str, error: Refusal = PayloadInvalid, limit: int = LIMITS.payload
    ) -> None:
        """`InvalidOption` for a type that pydantic does not know, or one whose secrets would be stored as asterisks."""
        self._what, self._error, self._limit = what, error, limit
        self._is_any = annotation is Any or annotation is object
        self._adapter = _adapter_of(annotation, what)
        self._dump = self._adapter.serializer.to_python
        self._load = self._adapter.validator.validate_json
        self._has_secrets = _has_secrets(self._adapter, what)

    def encode(self, value: object) -> tuple[Any, str]:
        """`value`, an instance of the type, as a JSON value and as JSON text."""
        if self._is_any:
            text = encode(value, what=self._what, limit=self._limit, error=self._error)
            return orjson.loads(text), text
        try:
            written = self._dump(value, mode="json", by_alias=False, round_trip=True, warnings=False)
            raw = orjson.dumps(written)
        except Exception as failure:  # serializers are user code and may raise anything
            refuse(value, self._what, self._error, foreign=True, otherwise=_why_not_written(failure))
        check(raw, written, what=self._what, limit=self._limit, error=self._error)
        if b"null" in raw and not is_sound(value):  # in a field of type Any pydantic writes None for NaN
            self._refuse_nan(value)
        self.decode(raw)
        if self._has_secrets and b"**********" in raw:
            raise self._error(
                f"{self._what} would keep a secret as asterisks: have its serializer write the real value"
            )
        return written, raw.decode()

    def decode(self, text: str | bytes) -> Any:
        """The instance that `encode` wrote as this text."""
        try:
            return self._load(text, by_alias=False, by_name=True)
        except Exception as failure:  # validators are user code and may raise anything
            raise self._refused(failure) from None

    def conform(self, value: object) -> Any:
        """`value` as an instance of the type, converted where pydantic converts."""
        return self._checked(self._adapter.validator.validate_python, value)

    def adopt(self, value: object) -> Any:
        """An instance made of a JSON value from outside, with aliases and strictness as the model says."""
        text = encode(value, what=self._what, limit=self._limit, error=self._error)
        return self._checked(self._adapter.validator.validate_json, text)

    def _refuse_nan(self, value: object) -> None:
        fault = find_fault(value, foreign=True)
        if fault is not None:
            refuse_fault(fault, self._what, self._error)

    def _checked(self, validate: Callable[[Any], Any], value: object) -> Any:
        try:
            return validate(value)
        except Exception as failure:  # validators are user code and may raise anything
            raise self._refused(failure) from None

    def _refused(self, failure: Exception) -> Exception:
        if isinstance(failure, ValidationError):
            return self._error(explain(failure, self._what))
        return self._error(f"{self._what}: a validator raised {type(failure).__name__}")


def _adapter_of(annotation: Any, what: str) -> TypeAdapter[Any]:
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(annotation)
        if not adapter.pydantic_complete:
            adapter.rebuild(raise_errors=True)
    except Exception as failure:  # pydantic has several kinds, and a type may make its own schema
        reason = (str(failure) or type(failure).__name__).splitlines()[0]
        raise InvalidOption(f"{what}: this type cannot become JSON: {reason}") from None
    return adapter


def _has_secrets(adapter: TypeAdapter[Any], what: str) -> bool:
    """`InvalidOption` if a secret would be written as asterisks; else whether a serializer of the user's writes one."""
    for place in masked_places(adapter, exposed_only=True):
        raise InvalidOption(
            f"{path_of(what, place)} is a secret, which pydantic writes as asterisks: pass a reference to the secret, "
            "or give the field a serializer that writes the real value (it is then kept readably in the store)"
        )
    return bool(masked_places(adapter, exposed_only=False))


def _why_not_written(failure: Exception) -> str:
    if isinstance(failure, UnicodeDecodeError):
        return "holds bytes that are not UTF-8: use Base64Bytes"
    if isinstance(failure, PydanticSerializationError):
        return "cannot be written as JSON by its serializer"
    return f"cannot be written as JSON ({type(failure).__name__})"
