"""Spans as trees of text, so that a test shows what a trace looks like."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import StatusCode


def tree(spans: Iterable[ReadableSpan]) -> list[str]:
    """A line for each span, in the order in which they began, indented below its parent; traces one after another.

    A line tells the kind, the name, the outcome, the error and the links: `-> send mail` names the linked span.
    """
    ordered = sorted(spans, key=lambda span: span.start_time or 0)
    names = {id_of(span): _label(span) for span in ordered}
    roots = [span for span in ordered if span.parent is None or span.parent.span_id not in {i for _, i in names}]
    return [line for root in roots for line in _lines(root, ordered, names, 0)]


def id_of(span: ReadableSpan) -> tuple[int, int]:
    return span.context.trace_id, span.context.span_id


def process_spans(spans: Iterable[ReadableSpan]) -> list[ReadableSpan]:
    """The spans of attempts, by their number."""
    found = [span for span in spans if span.name.startswith("process ")]
    return sorted(found, key=lambda span: int(str((span.attributes or {})["actorjobs.attempt.number"])))


def _lines(
    span: ReadableSpan, spans: Sequence[ReadableSpan], names: dict[tuple[int, int], str], depth: int
) -> list[str]:
    links = [f"{(link.attributes or {})['actorjobs.link.type']}: {_name(link.context, names)}" for link in span.links]
    told = [_label(span), *_facts(span), *([f"[{', '.join(links)}]"] if links else [])]
    children = [one for one in spans if one.parent is not None and one.parent.span_id == span.context.span_id]
    below = [line for child in children for line in _lines(child, spans, names, depth + 1)]
    return ["  " * depth + " ".join(told), *below]


def _name(context: object, names: dict[tuple[int, int], str]) -> str:
    found = (getattr(context, "trace_id", 0), getattr(context, "span_id", 0))
    return names.get(found, "?")


def _label(span: ReadableSpan) -> str:
    number = (span.attributes or {}).get("actorjobs.attempt.number")
    return span.name if number is None else f"{span.name} #{number}"


def _facts(span: ReadableSpan) -> list[str]:
    attributes = span.attributes or {}
    facts = [str(attributes[key]) for key in ("actorjobs.attempt.outcome", "actorjobs.run.state") if key in attributes]
    error = attributes.get("error.type")
    is_error = span.status.status_code is StatusCode.ERROR
    assert is_error == (error is not None)
    return ["/".join(facts)] * bool(facts) + [f"ERROR({error})"] * is_error
