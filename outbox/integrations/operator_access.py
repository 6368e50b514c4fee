"""Who may use the addresses for persons: holders of the operator's token.

An attached service has no access keys: /metrics is open to all who reach it, and messages are
signed. To act for the service is more, so these addresses ask for a token of their own. They do not
take the services' signatures: a person has none, and no service needs these.
"""

from __future__ import annotations

import os
import re

from fastapi import APIRouter, FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from outbox.chassis.access.caller import Shown
from outbox.chassis.access.failed_keys import Failures
from outbox.chassis.access.keys import Key, StaticKeys
from outbox.chassis.access.middleware import caller_in, require_patience
from outbox.chassis.access.routes import Role
from outbox.chassis.http import problems
from outbox.chassis.http.middleware import BodyLimit, Boundary, SecurityHeaders
from outbox.chassis.http.problems import HttpProblem
from outbox.clock import Clock
from outbox.errors import InvalidService

VARIABLE = "SAGABOX_OPERATOR_TOKEN"
NAME = "operator"
"""The name of the token, for those who see what its holders did."""

_TOKEN = re.compile(r"[!-~]{16,}")  # what a header can carry


def operator_token() -> str | None:
    """The token that opens these addresses; None where they are not to be there. Raises
    InvalidService where it can be guessed or not be sent."""
    token = os.environ.get(VARIABLE)
    if token and not _TOKEN.fullmatch(token):
        raise InvalidService(
            f"{VARIABLE} is no token: it needs 16 characters or more, all of them printable ASCII",
            next_step="python -c 'import secrets; print(secrets.token_urlsafe(32))' makes one",
        )
    return token or None


def for_holders(routes: APIRouter, token: str, clock: Clock) -> ASGIApp:
    """The application with these routes alone, for holders of the token."""
    inner = FastAPI(openapi_url=None, redirect_slashes=False)
    problems.install(inner)
    inner.router.routes.extend(routes.routes)
    # The middleware added last is the outermost.
    inner.add_middleware(BodyLimit)
    inner.add_middleware(_ForHolders, token=token, clock=clock)
    inner.add_middleware(Boundary)
    inner.add_middleware(SecurityHeaders)
    return inner


class _ForHolders:
    """A middleware that lets holders of the token in, before anything else is read."""

    def __init__(self, app: ASGIApp, token: str, clock: Clock) -> None:
        self._app = app
        self._keys = StaticKeys({token: Key(NAME, Role.OPERATOR.opens)})
        self._failures = Failures(clock.monotonic)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        caller = caller_in(scope)
        if not self._keys.was_right(caller.credential):
            require_patience(self._failures, caller.peer)
            is_shown = caller.credential.shown is not Shown.NOT
            if is_shown:
                self._failures.note(caller.peer)
            raise _refused(is_shown)
        await self._app(scope, receive, send)


def _refused(is_shown: bool) -> HttpProblem:
    happened = "The request shows no key, and this address asks for one."
    if is_shown:
        happened = "The key of this request opens nothing."
    return HttpProblem(
        401,
        "credentials-wrong" if is_shown else "credentials-missing",
        happened,
        next_step=f"Send Authorization: Bearer TOKEN, with the token in {VARIABLE} of the service.",
        headers={"connection": "close", "www-authenticate": 'Bearer realm="sagabox"'},
    )
