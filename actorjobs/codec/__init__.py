"""Payload, result and error to JSON text and back. Limits and refusals of content live here and nowhere else."""

from __future__ import annotations

from actorjobs.codec.failures import clip, decode_error, encode_error, truncate_error
from actorjobs.codec.limits import LIMITS, MAX_DEPTH, Limits
from actorjobs.codec.shapes import Shape
from actorjobs.codec.text import Refusal, decode, encode, encode_result, parse

__all__ = [
    "LIMITS",
    "MAX_DEPTH",
    "Limits",
    "Refusal",
    "Shape",
    "clip",
    "decode",
    "decode_error",
    "encode",
    "encode_error",
    "encode_result",
    "parse",
    "truncate_error",
]
