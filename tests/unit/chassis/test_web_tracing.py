from __future__ import annotations

import logging

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from opentelemetry.trace import SpanKind
from starlette.types import Receive, Scope, Send

from outbox import tracing
from outbox.chassis.http.request_traces import Traced
from outbox.wire.traceparent import minted, trace_id
from tests.support.blog.blog import new_id
from tests.support.outbox.spans import Spans

ONE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class _Service:
    def __init__(self) -> None:
        self.ids: list[str] = []
        self.seen: list[str | None] = []
        app = FastAPI()

        @app.get("/things/{id}")
        async def thing(id: str) -> None:
            self.seen.append(tracing.current())
            if id == "logged":
                logging.getLogger("outbox.test").warning("here")
            if id == "boom":
                raise RuntimeError("boom")

        @app.get("/in-a-thread")
        def in_a_thread() -> None:
            self.seen.append(tracing.current())

        app.add_middleware(Traced, new_id=self._new_id)
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        self.http = httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1")

    def _new_id(self) -> str:
        self.ids.append(new_id())
        return self.ids[-1]


@pytest.fixture
def service() -> _Service:
    return _Service()


@pytest.mark.parametrize("path", ["/things/1", "/things/boom", "/in-a-thread"])
async def test_a_request_belongs_to_the_trace_that_it_names(service: _Service, path: str) -> None:
    await service.http.get(path, headers={"traceparent": ONE})
    assert service.seen == [ONE]
    assert service.ids == []
    assert tracing.current() is None


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("traceparent", "nonsense")],
        [("traceparent", "ff" + ONE[2:])],
        [("traceparent", f"00-{0:032x}-{1:016x}-01")],
        [("traceparent", ONE), ("traceparent", ONE.replace("0af", "1af"))],
    ],
    ids=["none", "nonsense", "version-ff", "zeros", "two"],
)
async def test_a_request_that_names_none_gets_a_trace_of_its_own(
    service: _Service, headers: list[tuple[str, str]]
) -> None:
    for _ in range(2):
        await service.http.get("/things/1", headers=headers)
    assert service.seen == [minted(it) for it in service.ids]
    assert len(set(service.seen)) == 2


async def test_a_later_version_of_the_header_is_understood(service: _Service) -> None:
    await service.http.get("/things/1", headers={"traceparent": f"01{ONE[2:]}-more"})
    assert service.seen == [ONE]


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Spans:
    made = Spans()
    made.install(monkeypatch)
    return made


async def test_with_an_sdk_a_request_is_a_span_named_by_its_route(spans: Spans) -> None:
    seen: list[str | None] = []

    async def app(scope: Scope, _: Receive, send: Send) -> None:
        seen.append(tracing.current())
        scope["route"] = APIRoute("/things/{id}", lambda: None)
        if scope["path"].endswith("boom"):
            raise RuntimeError("boom")
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body"})

    transport = httpx.ASGITransport(Traced(app, new_id), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http:
        await http.get("/things/1", headers={"traceparent": ONE})
        await http.get("/things/boom")
    good, bad = spans.of_kind(SpanKind.SERVER)
    # Of none that is named, the SDK decides whether it is recorded: nothing is made up.
    assert seen == [good.traceparent, bad.traceparent]
    assert f"{good.trace:032x}" == trace_id(ONE)
    assert (good.name, good.maker) == ("GET /things/{id}", "sagabox")
    assert good.attributes == {
        "http.request.method": "GET",
        "http.route": "/things/{id}",
        "http.response.status_code": 200,
    }
    assert (bad.parent, [str(it) for it in bad.errors]) == (0, ["boom"])


async def test_a_span_that_the_framework_made_is_not_made_again(
    service: _Service, spans: Spans
) -> None:
    await service.http.get("/things/1", headers={"traceparent": ONE})
    (span,) = spans.of_kind(SpanKind.SERVER)
    assert span.maker == "fastapi"
    (seen,) = service.seen
    assert seen is not None
    assert trace_id(seen) == trace_id(ONE) == f"{span.trace:032x}"


async def test_the_log_of_a_request_has_its_trace(
    service: _Service, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.handler.addFilter(tracing.TraceIds())
    await service.http.get("/things/logged", headers={"traceparent": ONE})
    (line,) = [it for it in caplog.records if it.name == "outbox.test"]
    assert line.__dict__["trace_id"] == trace_id(ONE)
