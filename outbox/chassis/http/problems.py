"""The one form of every error before and in a route: a `Problem`.

Raise `HttpProblem` in a route; `install(app)` turns it, and the framework's own refusals before a
route is reached, into that form.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from outbox.transports.http.problems import (
    MEDIA_TYPE,
    TYPE_PREFIX,
    HttpProblem,
    Problem,
    documented,
    from_outbox_error,
    unexpected,
)

__all__ = [
    "MEDIA_TYPE",
    "TYPE_PREFIX",
    "HttpProblem",
    "Problem",
    "documented",
    "from_http_exception",
    "from_outbox_error",
    "from_validation",
    "install",
    "invalid",
    "unexpected",
]

_MAX_NAMED = 5


def invalid(detail: str, *, next_step: str, code: str = "invalid-request") -> HttpProblem:
    """A 422: the request was read, and asks for something impossible."""
    return HttpProblem(422, code, detail, next_step=next_step)


def from_validation(errors: Iterable[Mapping[str, Any]]) -> HttpProblem:
    """A 422 that names the first wrong fields, and never quotes their values."""
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


def install(app: FastAPI) -> None:
    """Turn the errors of the framework and the routes into problems. All others are
    `Boundary`'s."""
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
