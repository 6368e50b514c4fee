"""Traces by the OpenTelemetry API: the current one, and the spans that are made.

Without an SDK no span is made, and traces are carried on all the same: messages added, log lines
written and calls made while a message is handled or a request answered belong to its trace.

    handler.addFilter(TraceIds())
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from contextvars import Token
from functools import lru_cache
from types import TracebackType
from typing import Any, Final, Self

from opentelemetry import context as telemetry_context
from opentelemetry import trace as telemetry
from opentelemetry.context import Context
from opentelemetry.trace import (
    INVALID_SPAN,
    Link,
    NonRecordingSpan,
    NoOpTracerProvider,
    ProxyTracerProvider,
    Span,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
    Tracer,
    TracerProvider,
    set_span_in_context,
)

from outbox.wire import traceparent
from outbox.wire.envelope import Envelope

TRACER: Final = "sagabox"

_NOT_INSTALLED: Final = (ProxyTracerProvider, NoOpTracerProvider)
_MESSAGE: Final = telemetry_context.create_key("sagabox-message")


# --- Traces that are carried on ----------------------------------------------------------------


def current() -> str | None:
    """The current trace as a W3C traceparent."""
    span = telemetry.get_current_span()
    return span.trace if isinstance(span, _Carried) else _written(span.get_span_context())


def headers() -> Mapping[str, str]:
    """The headers that carry the current trace in an HTTP request; none where there is none."""
    trace = current()
    return {} if trace is None else {"traceparent": trace}


def context_of(trace: str | None) -> Context:
    """The present context, but in that trace, or in none for None."""
    return set_span_in_context(_remote(trace))


def of_new_message(
    id: str,
    type: str,
    inherited: str | None,
    *,
    saga: str | None = None,
    step: str | None = None,
    waited_for: Iterable[str] = (),
) -> str | None:
    """The traceparent that a new message carries: the inherited one, or that of the PRODUCER span
    that is made for it. The span has links to the traces of what the message `waited_for`."""
    tracer = tracer_in_use()
    if tracer is None:
        return inherited
    span = tracer.start_span(
        f"create {type}",
        context_of(inherited),
        SpanKind.PRODUCER,
        _attributes("create", type, id=id, saga=saga, step=step),
        _links(waited_for),
    )
    span.end()
    return _written(span.get_span_context()) or inherited


class Handling:
    """The handling of messages of one type by one handler; while it is entered, they are the
    current ones.

    The trace of a single message becomes the current one; that of several only where they share it.
    With a `tracer` a CONSUMER span is made, with links to the traces of several.
    """

    __slots__ = ("_context", "_span", "_token")

    def __init__(self, envelopes: Sequence[Envelope], tracer: Tracer | None) -> None:
        first, is_alone = envelopes[0], len(envelopes) == 1
        shared = is_alone or all(it.trace == first.trace for it in envelopes)
        context = telemetry_context.set_value(_MESSAGE, first if is_alone else None)
        context = set_span_in_context(_remote(first.trace if shared else None), context)
        self._span: Span | None = None
        if tracer is not None:
            self._span = _consumer_span(tracer, envelopes, context, are_linked=not shared)
            context = set_span_in_context(self._span, context)
        self._context = context

    def __enter__(self) -> Self:
        self._token: Token[Context] = telemetry_context.attach(self._context)
        return self

    def __exit__(
        self, _type: object, error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        telemetry_context.detach(self._token)
        if self._span is not None:
            if error is not None:
                self._span.record_exception(error)
                self._span.set_status(StatusCode.ERROR, type(error).__name__)
            self._span.end()


def _consumer_span(
    tracer: Tracer, envelopes: Sequence[Envelope], context: Context, *, are_linked: bool
) -> Span:
    first, is_alone = envelopes[0], len(envelopes) == 1
    attributes = _attributes(
        "process",
        first.type,
        id=first.id if is_alone else None,
        saga=first.correlation if is_alone else None,
    )
    if not is_alone:
        attributes["messaging.batch.message_count"] = len(envelopes)
    links = _links(_traces_of(envelopes)) if are_linked else ()
    name = f"process {first.type}"
    return tracer.start_span(name, context, SpanKind.CONSUMER, attributes, links)


class Sending:
    """The delivery of messages to a destination. With an SDK it is a CLIENT span while it is
    entered, with links to the spans of the messages, and their trace where they share one; unless
    none of their traces is recorded."""

    __slots__ = ("_span", "_token")

    def __init__(self, destination: str, envelopes: Sequence[Envelope]) -> None:
        self._span: Span | None = None
        tracer = tracer_in_use()
        if tracer is None:
            return
        traces = _traces_of(envelopes)
        if not any(map(is_recorded, traces)):
            return
        is_shared = len({traceparent.trace_id(it) for it in traces}) == 1
        self._span = tracer.start_span(
            f"send {destination}",
            set_span_in_context(_remote(traces[0] if is_shared else None)),
            SpanKind.CLIENT,
            {
                "messaging.system": TRACER,
                "messaging.operation.name": "send",
                "messaging.operation.type": "send",
                "messaging.destination.name": destination,
                "messaging.batch.message_count": len(envelopes),
            },
            _links(traces),
        )

    def __enter__(self) -> Self:
        if self._span is not None:
            self._token = telemetry_context.attach(set_span_in_context(self._span))
        return self

    def failed(self, reason: str) -> None:
        """Note that the messages had no answer."""
        if self._span is not None:
            self._span.set_status(StatusCode.ERROR, reason)

    def __exit__(self, *_: object) -> None:
        if self._span is not None:
            telemetry_context.detach(self._token)
            self._span.end()


def _traces_of(envelopes: Sequence[Envelope]) -> list[str]:
    return list(dict.fromkeys(it.trace for it in envelopes if it.trace is not None))


def _links(traces: Iterable[str]) -> Sequence[Link]:
    return [Link(_remote(trace).get_span_context()) for trace in traces]


# --- Spans --------------------------------------------------------------------------------------


def tracer_in_use() -> Tracer | None:
    """The tracer that makes spans; None where no SDK is installed."""
    provider = telemetry.get_tracer_provider()
    if isinstance(provider, _NOT_INSTALLED):
        return None
    return _tracer_of(provider)


@lru_cache(maxsize=1)
def _tracer_of(provider: TracerProvider) -> Tracer:
    return provider.get_tracer(TRACER)


def _attributes(
    operation: str, type: str, *, id: str | None, saga: str | None, step: str | None = None
) -> dict[str, str | int]:
    given = {
        "messaging.system": TRACER,
        "messaging.operation": operation,
        "messaging.operation.name": operation,
        "messaging.message.id": id,
        "sagabox.message.type": type,
        "sagabox.saga.id": saga,
        "sagabox.saga.step": step,
    }
    return {name: value for name, value in given.items() if value is not None}


def is_recorded(trace: str) -> bool:
    """Whether the trace is sampled: a collector has it, if any has."""
    return bool(int(trace[53:55], 16) & 1)


def exemplar(trace: str | None) -> dict[str, str] | None:
    """The labels of an exemplar that leads to the trace; None where no collector has it."""
    if trace is None or not is_recorded(trace):
        return None
    return {"trace_id": traceparent.trace_id(trace)}


# --- Log lines ----------------------------------------------------------------------------------


class TraceIds(logging.Filter):
    """A filter that adds to each log record the ids of its subject, as far as there are any:
    `trace_id`, `span_id`, and while a message is handled `saga`, `message_id` and `type`.

    Add it to a handler. What a record brings itself (`extra`) stays. A format that names one of
    them needs `logging.Formatter(..., defaults={"trace_id": "-"})`.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        has = record.__dict__
        if "trace_id" not in has:
            span = telemetry.get_current_span().get_span_context()
            if span.is_valid:
                has["trace_id"] = f"{span.trace_id:032x}"
                has["span_id"] = f"{span.span_id:016x}"
        envelope = telemetry_context.get_value(_MESSAGE)
        if isinstance(envelope, Envelope):
            for name, value in _of_message(envelope).items():
                has.setdefault(name, value)
        return True


def fields_of(envelope: Envelope) -> dict[str, Any]:
    """The ids of a message and its trace, for the `extra` of a log line about it."""
    fields = _of_message(envelope)
    return fields if envelope.trace is None else fields | fields_of_trace(envelope.trace)


def fields_of_trace(trace: str) -> dict[str, str]:
    """The ids in a traceparent, for the `extra` of a log line."""
    return {"trace_id": traceparent.trace_id(trace), "span_id": traceparent.span_id(trace)}


def _of_message(envelope: Envelope) -> dict[str, Any]:
    # Not `message`: the standard library keeps the line's text under that name.
    fields = {"message_id": envelope.id, "type": envelope.type}
    return fields if envelope.correlation is None else fields | {"saga": envelope.correlation}


# --- Values -------------------------------------------------------------------------------------


class _Carried(NonRecordingSpan):
    """The span of another process that a traceparent names. It is only parsed when a handler asks
    for it: most do not, and parsing takes longer than all the rest."""

    def __init__(self, trace: str) -> None:
        self.trace = trace

    def get_span_context(self) -> SpanContext:
        return SpanContext(
            int(self.trace[3:35], 16),
            int(self.trace[36:52], 16),
            is_remote=True,
            trace_flags=TraceFlags(int(self.trace[53:55], 16)),
        )

    def __repr__(self) -> str:
        return f"_Carried({self.trace!r})"


def _remote(trace: str | None) -> Span:
    return INVALID_SPAN if trace is None else _Carried(trace)


def _written(span: SpanContext) -> str | None:
    if not span.is_valid:
        return None
    return f"00-{span.trace_id:032x}-{span.span_id:016x}-{span.trace_flags:02x}"
