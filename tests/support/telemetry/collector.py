"""A collector of spans that speaks OTLP over HTTP, as far as traces go."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.support.http.servers import serving


@dataclass(frozen=True)
class Collected:
    """One span, and the service that sent it."""

    service: str
    span: Span

    @property
    def name(self) -> str:
        """Its name."""
        return self.span.name

    @property
    def trace(self) -> str:
        """Its trace, in hexadecimal."""
        return self.span.trace_id.hex()

    @property
    def id(self) -> str:
        """Its own id, in hexadecimal."""
        return self.span.span_id.hex()

    @property
    def parent(self) -> str:
        """The id of its parent; "" at a root."""
        return self.span.parent_span_id.hex()

    @property
    def links(self) -> frozenset[str]:
        """The ids of the spans to which it has links."""
        return frozenset(it.span_id.hex() for it in self.span.links)

    @property
    def attributes(self) -> dict[str, str | int]:
        """What it says of itself."""
        return _read(self.span.attributes)


@dataclass
class Collector:
    """The collector; `status` is what it answers."""

    address: str = ""
    status: int = 200
    requests: int = 0
    spans: list[Collected] = field(default_factory=list)

    async def take(self, request: Request) -> Response:
        """POST /v1/traces"""
        assert request.headers["content-type"] == "application/x-protobuf"
        sent = ExportTraceServiceRequest.FromString(await request.body())
        self.requests += 1
        if self.status == 200:
            self.spans += _spans(sent)
        return Response(
            ExportTraceServiceResponse().SerializeToString(),
            self.status,
            media_type="application/x-protobuf",
        )

    def of_trace(self, trace: str) -> list[Collected]:
        """The spans of that trace."""
        return [it for it in self.spans if it.trace == trace]


def _spans(sent: ExportTraceServiceRequest) -> Iterator[Collected]:
    for of_resource in sent.resource_spans:
        service = str(_read(of_resource.resource.attributes)["service.name"])
        for of_scope in of_resource.scope_spans:
            for span in of_scope.spans:
                yield Collected(service, span)


def _read(attributes: object) -> dict[str, str | int]:
    found: dict[str, str | int] = {}
    for it in attributes:  # type: ignore[attr-defined]  # a repeated field has no public class
        assert isinstance(it, KeyValue)
        kind = it.value.WhichOneof("value")
        found[it.key] = it.value.int_value if kind == "int_value" else it.value.string_value
    return found


@asynccontextmanager
async def collecting(at: int = 0) -> AsyncIterator[Collector]:
    """A collector at that port of loopback, or at any free one."""
    collector = Collector()
    app = Starlette(routes=[Route("/v1/traces", collector.take, methods=["POST"])])
    async with serving(app, at=at) as collector.address:
        yield collector
