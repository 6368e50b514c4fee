"""Problem details (RFC 9457): the one form in which every error leaves a service over HTTP.

A problem says what happened (`detail`), what to do about it (`next_step`), and carries a short
stable word for programs (`code`). Raise `HttpProblem` in a route; `install(app)` turns that, and
whatever else can go wrong before a route is reached, into the same form.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.responses import Response

from outbox.errors import (
    BelongsToSaga,
    InvalidMessage,
    InvalidSelection,
    MalformedEnvelope,
    MessageTooLarge,
    NoSuchMessage,
    OutboxError,
    SchemaError,
    TransactionLost,
    UntrustedRequest,
)

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:sagabox:problem:"
_MAX_NAMED = 5
_SCHEMA = {"$ref": "#/components/schemas/Problem"}


class Problem(BaseModel):
    """What went wrong, why, and what to do next."""

    type: str = Field(description="A URI that names the kind of problem")
    title: str = Field(description="The kind of problem in words; the same for every occurrence")
    status: int = Field(description="The HTTP status code")
    detail: str = Field(description="What happened this time")
    next_step: str = Field(description="What to do about it")
    code: str = Field(description="A short stable word for programs")


class HttpProblem(Exception):
    """An answer that is a problem. `retry_after` is in seconds and becomes `Retry-After`.

    `members` stand in the answer beside those that every problem has.
    """

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        next_step: str,
        retry_after: float | None = None,
        headers: Mapping[str, str] | None = None,
        members: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.next_step = next_step
        self.members = dict(members or {})
        self.headers = {name.lower(): value for name, value in (headers or {}).items()}
        if retry_after is not None:
            self.headers["retry-after"] = str(max(1, math.ceil(retry_after)))

    def to_response(self) -> Response:
        body = {
            **self.members,
            "type": TYPE_PREFIX + self.code,
            "title": self.code.replace("-", " ").capitalize(),
            "status": self.status,
            "detail": self.detail,
            "next_step": self.next_step,
            "code": self.code,
        }
        # Plain ASCII, since a detail may quote what a client sent, which need not be encodable.
        content = json.dumps(body, ensure_ascii=True, separators=(",", ":")).encode("ascii")
        return Response(content, self.status, headers=self.headers, media_type=MEDIA_TYPE)


def unexpected() -> HttpProblem:
    """The answer to an error that nobody foresaw; it shows nothing of the inside."""
    return HttpProblem(
        500,
        "unexpected-error",
        "The service met an error that it does not know.",
        next_step="Read before you repeat: the request may have taken effect. The service's log "
        "has the cause.",
    )


def invalid(detail: str, *, next_step: str, code: str = "invalid-request") -> HttpProblem:
    """A 422: the request was understood, and says something that cannot be."""
    return HttpProblem(422, code, detail, next_step=next_step)


def from_outbox_error(error: OutboxError) -> HttpProblem:
    """How an error of the library looks from outside. One that is a mistake in the service's own
    code becomes the unexpected problem."""
    match error:
        case UntrustedRequest():
            status, code = 401, "untrusted-request"
        case MalformedEnvelope():
            status, code = 400, "malformed-envelope"
        case MessageTooLarge():
            status, code = 413, "message-too-large"
        case InvalidMessage():
            status, code = 422, "invalid-message"
        case InvalidSelection():
            status, code = 422, "invalid-selection"
        case NoSuchMessage():
            status, code = 404, "no-such-message"
        case BelongsToSaga():
            status, code = 409, "belongs-to-saga"
        case SchemaError():
            status, code = 503, "schema-not-right"
        case TransactionLost():
            status, code = 503, "transaction-lost"
        case _:
            return unexpected()
    return HttpProblem(
        status,
        code,
        error.problem,
        next_step=error.next_step,
        retry_after=1 if status == 503 else None,
    )


def from_validation(errors: Iterable[Mapping[str, Any]]) -> HttpProblem:
    """A 422 that names the first fields that are wrong, and never quotes their values."""
    found = list(errors)
    for error in found:
        if error["type"] != "json_invalid":
            continue
        return HttpProblem(
            400,
            "malformed-json",
            f"The body cannot be read: {error['ctx']['error']}.",
            next_step="Send one JSON object, encoded in UTF-8, as application/json.",
        )
    named = [f"{_place(error['loc'])}: {error['msg']}" for error in found[:_MAX_NAMED]]
    if len(found) > _MAX_NAMED:
        named.append(f"and {len(found) - _MAX_NAMED} more")
    return invalid(
        "; ".join(named) + ".",
        next_step="Mend what is named and send the request again; /docs shows what is expected.",
    )


def from_http_exception(error: HTTPException) -> HttpProblem:
    """The framework's own refusals: an unknown address, a wrong method, an unreadable body."""
    match error.status_code:
        case 400:
            code, detail = "unreadable-body", "The body cannot be read."
            next_step = "Send one JSON object, encoded in UTF-8, as application/json."
        case 404:
            code, detail = "unknown-address", "There is nothing at this address."
            next_step = "See /docs for the addresses that this service has."
        case 405:
            code, detail = "method-not-allowed", "This address does not know that method."
            next_step = "Use one of the methods in the Allow header; /docs shows what each does."
        case status:
            phrase = HTTPStatus(status).phrase
            code, detail = phrase.lower().replace(" ", "-"), f"{phrase}."
            next_step = "See /docs for what this address expects."
    return HttpProblem(error.status_code, code, detail, next_step=next_step, headers=error.headers)


def documented(statuses: Mapping[int, str]) -> dict[int | str, dict[str, Any]]:
    """The `responses=` of a route: which problems it answers with, and when."""
    return {
        status: {"description": when, "content": {MEDIA_TYPE: {"schema": dict(_SCHEMA)}}}
        for status, when in statuses.items()
    }


def install(app: FastAPI) -> None:
    """Make what the framework and the routes raise a problem. The rest is `boundary`'s."""
    app.add_exception_handler(HttpProblem, _answer)
    app.add_exception_handler(RequestValidationError, _answer)
    app.add_exception_handler(HTTPException, _answer)


async def _answer(request: Request, error: Exception) -> Response:
    match error:
        case HttpProblem():
            problem = error
        case RequestValidationError():
            problem = from_validation(error.errors())
        case HTTPException():
            problem = from_http_exception(error)
            if problem.status == 405:
                problem.headers |= _allow(request)
        case _:
            raise error
    return problem.to_response()


def _allow(request: Request) -> dict[str, str]:
    """All methods of the address; the framework names those of one route only."""
    route = getattr(request.scope.get("route"), "path", "")
    operations = request.app.openapi()["paths"].get(route, {})
    return {"allow": ", ".join(sorted(map(str.upper, operations)))} if operations else {}


def _place(location: Iterable[object]) -> str:
    return ".".join(str(part) for part in location)
