"""Pure ASGI middleware that every request passes: the boundary for errors, the limit on bodies, and
security headers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from outbox.chassis.http.database_problems import database_problem
from outbox.chassis.http.problems import HttpProblem, from_outbox_error, unexpected
from outbox.errors import OutboxError

log = logging.getLogger(__name__)

MAX_BODY_BYTES = 1024 * 1024
MAX_BODY_SECONDS = 30.0

# The rest of a body must not be taken for the next request.
_LAST = {"connection": "close"}

SECURITY_HEADERS: Mapping[str, str] = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


class Boundary:
    """The boundary that turns every error into a problem: a database's troubles into a 503 that
    says when to come back, an unexpected error into a logged 500 that shows nothing of it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except Exception as error:
            problem = problem_of(error)
            if problem.status >= 500:
                _note(scope, error, problem)
            if started:
                raise
            await problem.to_response()(scope, receive, send)


def problem_of(error: Exception) -> HttpProblem:
    """The problem that answers an error of any kind."""
    if isinstance(error, HttpProblem):
        return error
    problem = database_problem(error)
    if problem is not None:
        return problem
    if isinstance(error, OutboxError):
        return from_outbox_error(error)
    return unexpected()


def _note(scope: Scope, error: Exception, problem: HttpProblem) -> None:
    what = f"{scope['method']} {scope['path']!r}: {problem.code}"
    if problem.status == 503:
        # The driver's own words: SQLAlchemy's would quote the statement.
        cause = getattr(error, "orig", None) or error
        log.warning("%s (%s: %s)", what, type(cause).__name__, cause)
    else:
        log.error(what, exc_info=error)


class _BodyRefused(Exception):
    """The error that ends the application's reading of a body that is too long or too slow."""


class BodyLimit:
    """The limit on bodies: 413 as soon as a body is longer than `limit` bytes, whether its length
    was announced or not, and 408 where it takes longer than `seconds`. The body is not kept here:
    the application reads it as it comes."""

    def __init__(
        self, app: ASGIApp, limit: int = MAX_BODY_BYTES, seconds: float = MAX_BODY_SECONDS
    ) -> None:
        self._app = app
        self._limit = limit
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if _announced(scope) > self._limit:
            await self._too_long().to_response()(scope, receive, send)
            return
        problem: HttpProblem | None = None
        started = complete = False
        size = 0
        until = asyncio.get_running_loop().time() + self._seconds

        async def counted() -> Message:
            nonlocal size, complete, problem
            if complete:
                return await receive()
            try:
                async with asyncio.timeout_at(until):
                    message = await receive()
            except TimeoutError:
                problem = self._too_slow()
                raise _BodyRefused from None
            size += len(message.get("body", b""))
            complete = not message.get("more_body", False)
            if size > self._limit:
                problem = self._too_long()
                raise _BodyRefused
            return message

        async def unless_refused(message: Message) -> None:
            nonlocal started
            # The client must not get the application's answer to the loss of its body.
            if problem is None or started:
                started = True
                await send(message)

        try:
            await self._app(scope, counted, unless_refused)
        except Exception:
            if problem is None or started:
                raise
        if problem is not None and not started:
            await problem.to_response()(scope, receive, send)

    def _too_long(self) -> HttpProblem:
        return HttpProblem(
            413,
            "body-too-large",
            f"The body is longer than {self._limit} bytes; nothing of it was used.",
            next_step="Send less in one request.",
            headers=_LAST,
        )

    def _too_slow(self) -> HttpProblem:
        return HttpProblem(
            408,
            "body-too-slow",
            f"The body did not come within {self._seconds:g} s; nothing of it was used.",
            next_step="Send the request again.",
            headers=_LAST,
        )


def _announced(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value[:18])  # a number of any length costs the same
    return 0


class SecurityHeaders:
    """A middleware that adds `SECURITY_HEADERS` to every answer that does not set its own."""

    def __init__(self, app: ASGIApp, headers: Mapping[str, str] = SECURITY_HEADERS) -> None:
        self._app = app
        self._headers = headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                present = MutableHeaders(scope=message)
                for name, value in self._headers.items():
                    present.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, guarded)
