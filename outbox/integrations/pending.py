"""/pending: what waits for its answer, for persons with the operator's token.

An attached service has no access keys: /metrics is open to all who reach it, and messages are
signed. To answer a command is more, so these addresses are there only where a token is set, and ask
for it. They do not take the services' signatures: a person has none, and no service needs these.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Annotated, Any, Protocol, TypeVar

from fastapi import APIRouter, FastAPI
from pydantic import BaseModel, StringConstraints
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session
from starlette.types import ASGIApp, Receive, Scope, Send

from outbox.chassis.access.caller import Shown
from outbox.chassis.access.failed_keys import Failures
from outbox.chassis.access.keys import Key, StaticKeys
from outbox.chassis.access.middleware import caller_in, require_patience
from outbox.chassis.access.routes import Role
from outbox.chassis.http import pages, problems
from outbox.chassis.http.input_types import NO_NUL, id_in_path
from outbox.chassis.http.middleware import BodyLimit, Boundary, SecurityHeaders
from outbox.chassis.http.problems import HttpProblem
from outbox.chassis.http.strict_bodies import StrictRoute
from outbox.clock import Clock
from outbox.database.engines import reading
from outbox.database.pages import DEFAULT_LIMIT
from outbox.database.within import in_transaction
from outbox.errors import InvalidService, NotPendingYet, Unrouted
from outbox.inbox.pending.persons import PendingCommands
from outbox.inbox.runners import Sessions
from outbox.safe_text import MAX_REASON_LENGTH

PATHS = ("/pending", "/pending/{id}/complete", "/pending/{id}/refuse", "/pending/{id}/drop")
VARIABLE = "SAGABOX_OPERATOR_TOKEN"

_TOKEN = re.compile(r"[!-~]{16,}")  # what a header can carry
_NAME = "operator"
_LONGEST = 200

T = TypeVar("T")


class HasPending(Protocol):
    """The parts of an `outbox.Service` that these addresses need."""

    @property
    def clock(self) -> Clock: ...
    @property
    def engine(self) -> AsyncEngine: ...
    @property
    def sessions(self) -> Sessions: ...
    @property
    def pending(self) -> PendingCommands: ...


class _Act(BaseModel):
    reason: Annotated[
        str, StringConstraints(min_length=1, max_length=MAX_REASON_LENGTH, pattern=NO_NUL)
    ]
    actor: Annotated[
        str | None, StringConstraints(min_length=1, max_length=_LONGEST, pattern=NO_NUL)
    ] = None

    @property
    def by(self) -> str:
        """Who asks: the token, and the name that its holder gives."""
        return f"token {_NAME}" if self.actor is None else f"token {_NAME} ({self.actor})"


class _Completion(_Act):
    value: Any


class _Refusal(_Act):
    code: Annotated[str, StringConstraints(min_length=1, max_length=_LONGEST, pattern=NO_NUL)]


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


def application(service: HasPending, token: str) -> ASGIApp:
    """The application with these addresses alone."""
    inner = FastAPI(openapi_url=None, redirect_slashes=False)
    problems.install(inner)
    inner.router.routes.extend(_router(service).routes)
    # The middleware added last is the outermost.
    inner.add_middleware(BodyLimit)
    inner.add_middleware(_ForHolders, token=token, clock=service.clock)
    inner.add_middleware(Boundary)
    inner.add_middleware(SecurityHeaders)
    return inner


class _ForHolders:
    """A middleware that lets holders of the token in, before anything else is read."""

    def __init__(self, app: ASGIApp, token: str, clock: Clock) -> None:
        self._app = app
        self._keys = StaticKeys({token: Key(_NAME, Role.OPERATOR.opens)})
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


def _router(service: HasPending) -> APIRouter:
    routes = APIRouter(route_class=StrictRoute)
    pending = service.pending

    @routes.get(PATHS[0])
    async def list_pending(
        limit: pages.Limit = DEFAULT_LIMIT, cursor: pages.Cursor = None
    ) -> dict[str, Any]:
        async with AsyncSession(reading(service.engine)) as session:
            page = await pending.list(session, limit=limit, cursor=cursor)
        return {"items": [it.as_json() for it in page.items], "next_cursor": page.next_cursor}

    @routes.post("/pending/{id}/complete")
    async def complete(id: str, asked: _Completion) -> dict[str, str]:
        return await act(
            id,
            "done",
            lambda session, id: pending.complete(
                session, id, asked.value, actor=asked.by, reason=asked.reason
            ),
        )

    @routes.post("/pending/{id}/refuse")
    async def refuse(id: str, asked: _Refusal) -> dict[str, str]:
        return await act(
            id,
            "refused",
            lambda session, id: pending.refuse(
                session, id, asked.code, actor=asked.by, reason=asked.reason
            ),
        )

    @routes.post("/pending/{id}/drop")
    async def drop(id: str, asked: _Act) -> dict[str, str]:
        return await act(
            id,
            "unknown",
            lambda session, id: pending.drop(session, id, actor=asked.by, reason=asked.reason),
        )

    async def act(id: str, outcome: str, does: Callable[[Session, str], None]) -> dict[str, str]:
        found = id_in_path(id)
        if found is None:
            raise HttpProblem.telling(NotPendingYet(id), 404, "not-pending")
        try:
            await in_transaction(service.sessions, lambda session: does(session, found))
        except Unrouted as error:
            raise HttpProblem.telling(error, 409, "no-way-to-the-sender") from error
        return {"id": found, "outcome": outcome}

    return routes
