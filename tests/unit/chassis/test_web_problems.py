from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from pydantic import BaseModel, Field
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from outbox.chassis.endpoints import openapi
from outbox.chassis.http import problems
from outbox.chassis.http.database_problems import database_problem, problem_of_trouble
from outbox.chassis.http.middleware import BodyLimit, Boundary, SecurityHeaders
from outbox.chassis.http.problems import HttpProblem
from outbox.database.troubles import Trouble
from outbox.errors import (
    InvalidMessage,
    MalformedEnvelope,
    MessageTooLarge,
    NotInTransaction,
    OutboxError,
    SchemaOlder,
    TransactionLost,
    UntrustedRequest,
)


class Thing(BaseModel):
    name: str = Field(max_length=5)
    size: int


def _app(error: Exception | None = None, *, limit: int = 100, seconds: float = 5.0) -> FastAPI:
    app = FastAPI(docs_url=None, redoc_url=None)

    @app.get("/boom")
    async def boom() -> None:
        if error is not None:
            raise error

    @app.get("/things")
    async def things() -> list[str]:
        return []

    @app.post("/things")
    async def make(thing: Thing) -> Thing:
        return thing

    @app.post("/raw")
    async def raw(request: Request) -> int:
        return len(await request.body())

    problems.install(app)
    openapi.install(app)
    app.add_middleware(BodyLimit, limit=limit, seconds=seconds)
    app.add_middleware(Boundary)
    app.add_middleware(SecurityHeaders)
    return app


def _client(app: FastAPI) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1")


def _is_problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    assert set(problem) == {"type", "title", "status", "detail", "next_step", "code"}
    assert problem["status"] == status
    assert problem["code"] == code
    assert problem["type"] == f"urn:sagabox:problem:{code}"
    assert problem["detail"]
    assert problem["next_step"]
    return problem


async def test_a_raised_problem_is_the_answer_with_its_wait() -> None:
    error = HttpProblem(409, "in-use", "It is used.", next_step="Wait.", retry_after=1.2)
    async with _client(_app(error)) as client:
        answer = await client.get("/boom")
    problem = _is_problem(answer, 409, "in-use")
    assert (problem["title"], problem["detail"]) == ("In use", "It is used.")
    assert answer.headers["retry-after"] == "2"


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ('{"name": "ok"}', "body.size"),
        ('{"name": "much too long", "size": 1}', "body.name"),
        ('{"name": 5, "size": "many"}', "body.size"),
        ('{"name": "\\ud800", "size": 1}', "body.name"),
        ("[]", "body"),
        ("", "body"),
    ],
)
async def test_a_body_of_the_wrong_shape_is_a_422_that_names_the_field(
    body: str, named: str
) -> None:
    async with _client(_app()) as client:
        answer = await client.post(
            "/things", content=body, headers={"content-type": "application/json"}
        )
    assert named in _is_problem(answer, 422, "invalid-request")["detail"]


async def test_a_422_never_quotes_what_the_client_sent() -> None:
    async with _client(_app()) as client:
        answer = await client.post("/things", json={"name": "secret-token", "size": "hidden"})
    assert "secret" not in answer.text
    assert "hidden" not in answer.text


@pytest.mark.parametrize("body", [b"{", b"\xff\xfe", b"[" * 90, b'{"size": ' + b"9" * 80 + b"e"])
async def test_a_body_that_is_not_json_is_a_400(body: bytes) -> None:
    async with _client(_app()) as client:
        answer = await client.post(
            "/things", content=body, headers={"content-type": "application/json"}
        )
    assert answer.status_code == 400
    assert answer.json()["code"] in ("malformed-json", "unreadable-body")


async def test_an_unknown_address_is_a_404_and_a_wrong_method_a_405_with_all_allowed() -> None:
    async with _client(_app()) as client:
        _is_problem(await client.get("/nowhere"), 404, "unknown-address")
        answer = await client.delete("/things")
    _is_problem(answer, 405, "method-not-allowed")
    assert answer.headers["allow"] == "GET, POST"


async def test_an_unforeseen_error_is_a_500_that_shows_nothing_and_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with _client(_app(RuntimeError("password=hunter2"))) as client:
        answer = await client.get("/boom")
    _is_problem(answer, 500, "unexpected-error")
    assert "hunter2" not in answer.text
    assert "hunter2" in caplog.text


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (UntrustedRequest("no", next_step="sign"), 401, "untrusted-request"),
        (MalformedEnvelope("no", next_step="mend"), 400, "malformed-envelope"),
        (MessageTooLarge("a.b.v1", 5, 4), 413, "message-too-large"),
        (InvalidMessage("no", next_step="mend"), 422, "invalid-message"),
        (SchemaOlder("no", next_step="migrate"), 503, "schema-not-right"),
        (TransactionLost("no", next_step="again"), 503, "transaction-lost"),
        (NotInTransaction("with it:"), 500, "unexpected-error"),
        (OutboxError("no", next_step="no"), 500, "unexpected-error"),
    ],
)
async def test_each_error_of_the_library_has_its_answer(
    error: OutboxError, status: int, code: str
) -> None:
    async with _client(_app(error)) as client:
        answer = await client.get("/boom")
    _is_problem(answer, status, code)
    assert ("retry-after" in answer.headers) == (status == 503)


class _DriverError(Exception):
    def __init__(self, sqlstate: str) -> None:
        super().__init__(sqlstate)
        self.sqlstate = sqlstate


def _sqlite_error(code: int) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("of SQLite")
    error.sqlite_errorcode = code
    return error


def _wrapped(error: Exception, invalidated: bool = False) -> DBAPIError:
    return OperationalError("SELECT 1", None, error, connection_invalidated=invalidated)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConnectionRefusedError(), "database-away"),
        (TimeoutError(), "database-away"),
        (OSError("Multiple exceptions: refused, refused"), "database-away"),
        (FileNotFoundError(2, "the socket of a stopped server"), "database-away"),
        (_DriverError("57P03"), "database-away"),
        (_DriverError("3D000"), "database-away"),
        (_wrapped(_DriverError("08004")), "database-away"),
        (_wrapped(_DriverError("XX000"), invalidated=True), "database-connection-lost"),
        (_wrapped(_DriverError("40003")), "database-connection-lost"),
        (_wrapped(_DriverError("57P01")), "database-connection-lost"),
        (_wrapped(_DriverError("57P04")), "database-connection-lost"),
        (_wrapped(_DriverError("08006")), "database-connection-lost"),
        (ConnectionResetError(), "database-connection-lost"),
        (_wrapped(_DriverError("40P01")), "database-busy"),
        (_wrapped(_DriverError("55P03")), "database-busy"),
        (_wrapped(_DriverError("53300")), "database-busy"),
        (_wrapped(_DriverError("57014")), "database-busy"),
        (PoolTimeout(), "database-busy"),
        (_wrapped(_sqlite_error(sqlite3.SQLITE_BUSY)), "database-busy"),
        (_wrapped(_sqlite_error(sqlite3.SQLITE_BUSY_SNAPSHOT)), "database-busy"),
        (_wrapped(_DriverError("53100")), "database-full"),
        (_wrapped(_DriverError("53200")), "database-full"),
        (_wrapped(_DriverError("53400")), "database-full"),
        (_wrapped(_DriverError("25006")), "database-full"),
        (_wrapped(_sqlite_error(sqlite3.SQLITE_FULL)), "database-full"),
        (_wrapped(_sqlite_error(sqlite3.SQLITE_FULL), invalidated=True), "database-full"),
        (_wrapped(_sqlite_error(sqlite3.SQLITE_READONLY)), "database-full"),
        (_wrapped(_DriverError("58030")), "database-broken"),
        (_wrapped(_sqlite_error(sqlite3.SQLITE_IOERR)), "database-broken"),
        (_wrapped(_DriverError("23505")), None),
        (_wrapped(_DriverError("40002")), None),
        (_wrapped(_sqlite_error(sqlite3.SQLITE_CONSTRAINT)), None),
        (FileNotFoundError(2, "no such file", "page.html"), None),
        (ValueError(), None),
    ],
    ids=repr,
)
def test_each_trouble_of_a_database_has_its_words(error: Exception, code: str | None) -> None:
    problem = database_problem(error)
    assert (problem and problem.code) == code


def test_a_trouble_is_found_behind_the_error_that_it_led_to() -> None:
    lost = TransactionLost("gone", next_step="again")
    lost.__cause__ = _wrapped(_sqlite_error(sqlite3.SQLITE_FULL))
    problem = database_problem(lost)
    assert problem is not None
    assert problem.code == "database-full"


@pytest.mark.parametrize("trouble", [each for each in Trouble if each is not Trouble.OWN])
def test_a_problem_promises_no_more_than_is_known(trouble: Trouble) -> None:
    """A request may have committed one transaction before the one that failed."""
    problem = problem_of_trouble(trouble)
    assert problem is not None
    assert "nothing was changed" not in problem.detail
    assert ("is not known" in problem.detail) == trouble.leaves_outcome_unknown
    assert "read" in problem.next_step.lower()


async def test_a_database_that_is_away_is_a_503_that_says_when_to_come_back() -> None:
    async with _client(_app(ConnectionRefusedError())) as client:
        answer = await client.get("/boom")
    _is_problem(answer, 503, "database-away")
    assert int(answer.headers["retry-after"]) >= 1


async def test_every_answer_has_the_security_headers_also_an_error() -> None:
    async with _client(_app(RuntimeError())) as client:
        for path in ("/things", "/nowhere", "/boom"):
            headers = (await client.get(path)).headers
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["x-frame-options"] == "DENY"
            assert "default-src 'none'" in headers["content-security-policy"]


async def _chunks(size: int) -> AsyncIterator[bytes]:
    for _ in range(size // 10):
        yield b"x" * 10


@pytest.mark.parametrize("path", ["/things", "/raw"])
async def test_a_body_above_the_limit_is_a_413_announced_or_not(path: str) -> None:
    async with _client(_app(limit=100)) as client:
        announced = await client.post(path, content=b"x" * 101)
        chunked = await client.post(
            path, content=_chunks(110), headers={"content-type": "application/json"}
        )
        fits = await client.post("/raw", content=_chunks(100))
    _is_problem(announced, 413, "body-too-large")
    _is_problem(chunked, 413, "body-too-large")
    assert "transfer-encoding" in chunked.request.headers
    assert fits.json() == 100


async def test_a_body_above_the_limit_is_not_read_to_its_end() -> None:
    read = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal read
        while read < 10_000:
            read += 10
            yield b"x" * 10

    async with _client(_app(limit=100)) as client:
        answer = await client.post("/raw", content=endless())
    assert answer.status_code == 413
    assert read <= 120


async def test_of_a_body_that_is_announced_as_too_long_nothing_is_read() -> None:
    sent: list[dict[str, Any]] = []

    async def unreachable(*_: Any) -> Any:
        raise AssertionError("the application or the body was looked at")

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "headers": [(b"content-length", b"101")]}
    await BodyLimit(unreachable, limit=100)(scope, unreachable, send)
    assert sent[0]["status"] == 413
    assert (b"connection", b"close") in sent[0]["headers"]


async def test_a_body_that_does_not_come_is_a_408() -> None:
    async def stuck() -> AsyncIterator[bytes]:
        yield b"x"
        await asyncio.Event().wait()

    async with _client(_app(seconds=0.01)) as client:
        answer = await client.post("/raw", content=stuck())
    _is_problem(answer, 408, "body-too-slow")


@pytest.fixture
def document() -> dict[str, Any]:
    return _app().openapi()


def test_the_document_describes_errors_as_problems(document: dict[str, Any]) -> None:
    make = document["paths"]["/things"]["post"]["responses"]
    assert {"400", "413", "422", "500", "503"} <= set(make)
    for status, response in make.items():
        if status != "200":
            schema = response["content"]["application/problem+json"]["schema"]
            assert schema == {"$ref": "#/components/schemas/Problem"}
    assert "HTTPValidationError" not in document["components"]["schemas"]
    assert "next_step" in document["components"]["schemas"]["Problem"]["required"]
