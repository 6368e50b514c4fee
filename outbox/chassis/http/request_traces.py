"""The middleware that puts the trace of a request into the context in which it is answered."""

from __future__ import annotations

from collections.abc import Callable

from opentelemetry import context as telemetry_context
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer, get_current_span
from opentelemetry.trace import set_span_in_context as within
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from outbox import tracing
from outbox.wire.traceparent import minted

_PROPAGATOR = TraceContextTextMapPropagator()
_FIELDS = frozenset(name.encode() for name in _PROPAGATOR.fields)


class Traced:
    """A middleware that gives each request the trace that its headers name (W3C trace context), or
    a new one. With an SDK it makes a SERVER span, unless the framework or an instrumentation has
    made one already.

    The messages of `POST /messages` have their own traces: the inbox handles each one in the trace
    of its envelope.
    """

    def __init__(self, app: ASGIApp, new_id: Callable[[], str]) -> None:
        self._app = app
        self._new_id = new_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or _has_span_of_its_own():
            await self._app(scope, receive, send)
            return
        context = _context_in(scope)
        tracer = tracing.tracer_in_use()
        if tracer is not None:
            await self._with_span(tracer, context, scope, receive, send)
            return
        if not get_current_span(context).get_span_context().is_valid:
            context = tracing.context_of(minted(self._new_id()))
        token = telemetry_context.attach(context)
        try:
            await self._app(scope, receive, send)
        finally:
            telemetry_context.detach(token)

    async def _with_span(
        self, tracer: Tracer, context: Context, scope: Scope, receive: Receive, send: Send
    ) -> None:
        method = scope["method"]
        span = tracer.start_span(method, context, SpanKind.SERVER, {"http.request.method": method})

        async def noting(message: Message) -> None:
            if message["type"] == "http.response.start":
                _note_status(span, message["status"])
            await send(message)

        token = telemetry_context.attach(within(span, context))
        try:
            await self._app(scope, receive, noting)
        except Exception as error:
            span.record_exception(error)
            span.set_status(StatusCode.ERROR, type(error).__name__)
            raise
        finally:
            telemetry_context.detach(token)
            route = getattr(scope.get("route"), "path", None)
            if route is not None:
                span.update_name(f"{method} {route}")
                span.set_attribute("http.route", route)
            span.end()


def _has_span_of_its_own() -> bool:
    span = get_current_span().get_span_context()
    return span.is_valid and not span.is_remote


def _note_status(span: Span, status: int) -> None:
    span.set_attribute("http.response.status_code", status)
    if status >= 500:
        span.set_status(StatusCode.ERROR)


def _context_in(scope: Scope) -> Context:
    """The trace that the request names. Two `traceparent` headers are as good as none."""
    carrier: dict[str, list[str]] = {}
    for name, value in scope["headers"]:
        if name in _FIELDS:
            carrier.setdefault(name.decode(), []).append(value.decode("latin-1"))
    if len(carrier.get("traceparent", ())) > 1:
        carrier = {}
    return _PROPAGATOR.extract(carrier, Context())
