"""A provider of spans that keeps them, in place of an SDK."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from opentelemetry import trace as telemetry
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    TraceFlags,
    Tracer,
    TracerProvider,
    get_current_span,
    use_span,
)


@dataclass
class Kept:
    """What was said of one span. `parent` is a traceparent's span id, 0 at a root."""

    name: str
    maker: str
    kind: SpanKind
    trace: int
    id: int
    parent: int
    attributes: dict[str, Any]
    links: Sequence[Link]
    start_time: int | None
    ended: bool = False
    end_time: int | None = None
    errors: list[BaseException] = field(default_factory=list)
    status: str = ""
    """Why it failed, if it did."""

    @property
    def traceparent(self) -> str:
        """What follows from it carries."""
        return f"00-{self.trace:032x}-{self.id:016x}-01"


class _Span(NonRecordingSpan):
    def __init__(self, kept: Kept) -> None:
        super().__init__(SpanContext(kept.trace, kept.id, False, TraceFlags(1)))
        self._kept = kept

    def set_attribute(self, key: str, value: Any) -> None:
        self._kept.attributes[key] = value

    def update_name(self, name: str) -> None:
        self._kept.name = name

    def record_exception(self, exception: BaseException, *_: Any, **__: Any) -> None:
        self._kept.errors.append(exception)

    def set_status(self, _status: Any, description: str | None = None) -> None:
        self._kept.status = description or ""

    def end(self, end_time: int | None = None) -> None:
        self._kept.ended, self._kept.end_time = True, end_time


class Spans(TracerProvider):
    """All spans in the order in which they were begun."""

    def __init__(self) -> None:
        self.all: list[Kept] = []

    def get_tracer(self, instrumenting_module_name: str, *_: Any, **__: Any) -> Tracer:
        """What makes spans in that name."""
        return _Tracer(self, instrumenting_module_name)

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """As `opentelemetry.trace.set_tracer_provider`, which works only once a process."""
        monkeypatch.setattr(telemetry, "get_tracer_provider", lambda: self)

    def of_kind(self, kind: SpanKind) -> list[Kept]:
        """Those of one kind; each must have ended."""
        found = [it for it in self.all if it.kind is kind]
        assert all(it.ended for it in found)
        return found


class _Tracer(Tracer):
    def __init__(self, spans: Spans, name: str) -> None:
        self._spans = spans
        self._name = name

    def start_span(
        self,
        name: str,
        context: Any = None,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Mapping[str, Any] | None = None,
        links: Sequence[Link] | None = None,
        start_time: int | None = None,
        *_: Any,
        **__: Any,
    ) -> Span:
        parent = get_current_span(context).get_span_context()
        number = len(self._spans.all) + 1
        kept = Kept(
            name=name,
            maker=self._name,
            kind=kind,
            trace=parent.trace_id if parent.is_valid else number << 64,
            id=number,
            parent=parent.span_id if parent.is_valid else 0,
            attributes=dict(attributes or {}),
            links=links or (),
            start_time=start_time,
        )
        self._spans.all.append(kept)
        return _Span(kept)

    @contextmanager
    def start_as_current_span(  # type: ignore[override]  # theirs is a decorator, too
        self, name: str, *given: Any, **more: Any
    ) -> Iterator[Span]:
        """The same, and the current one for so long."""
        more = {it: more[it] for it in ("context", "kind", "attributes", "links") if it in more}
        with use_span(self.start_span(name, *given, **more), end_on_exit=True) as span:
            yield span
