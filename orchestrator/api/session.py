"""The console's session: a token is traded for a cookie that scripts cannot read."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field, StringConstraints

from orchestrator.access.token_keys import TokenKeys
from outbox.chassis.access.caller import Credential, Shown
from outbox.chassis.access.failed_keys import Failures
from outbox.chassis.access.middleware import (
    caller_in,
    expired_cookie,
    require_patience,
    session_cookie,
)
from outbox.chassis.access.routes import Role
from outbox.chassis.http.input_types import NO_NUL
from outbox.chassis.http.problems import HttpProblem, documented
from outbox.chassis.http.strict_bodies import StrictRoute
from outbox.clock import Clock


class NewSession(BaseModel):
    """The token that begins a session."""

    token: Annotated[str, StringConstraints(min_length=1, max_length=4096, pattern=NO_NUL)] = Field(
        repr=False
    )


class SessionOut(BaseModel):
    """A session; its secret is in the cookie alone."""

    token: str = Field(description="The name of the token")
    role: Role
    ends_at: datetime


def router(keys: TokenKeys, failures: Failures, clock: Clock) -> APIRouter:
    """The router of these addresses."""
    routes = APIRouter(prefix="/session", tags=["session"], route_class=StrictRoute)

    @routes.post(
        "",
        status_code=201,
        summary="Trade a token for a cookie",
        description="For browsers: the cookie is HttpOnly and SameSite=Strict, and counts for "
        "requests of this service's own pages alone. It ends after 12 hours, or with the token.",
        responses=documented(
            {
                401: "The token opens nothing",
                403: "Another site asked",
                429: "Too many wrong ones came from that address",
            }
        ),
    )
    async def begin(new: NewSession, request: Request, response: Response) -> SessionOut:
        caller = caller_in(request.scope)
        shown = Credential(Shown.BEARER, new.token.strip())
        if not keys.was_right(shown):
            require_patience(failures, caller.peer)
        token = await keys.token(shown)
        if token is None:
            failures.note(caller.peer)
            raise HttpProblem(
                401,
                "credentials-wrong",
                "That token opens nothing: it is wrong, has expired or was revoked.",
                next_step="On the machine of the service: sagabox token create NAME --role ROLE",
                headers={"www-authenticate": 'Bearer realm="sagabox", error="invalid_token"'},
            )
        if caller.credential.shown is Shown.COOKIE:
            await keys.end_session(caller.credential.secret)
        secret, ends = await keys.begin_session(token)
        seconds = max(0, int((ends - clock.now()).total_seconds()))
        response.set_cookie(
            session_cookie(request.scope),
            secret,
            max_age=seconds,
            path="/",
            secure=_is_by_https(request),
            httponly=True,
            samesite="strict",
        )
        return SessionOut(token=token.name, role=token.role, ends_at=ends)

    @routes.delete(
        "",
        status_code=204,
        summary="End the session of the cookie",
        responses=documented({403: "Another site asked"}),
    )
    async def end(request: Request) -> Response:
        credential = caller_in(request.scope).credential
        if credential.shown is Shown.COOKIE:
            await keys.end_session(credential.secret)
        cookie = expired_cookie(session_cookie(request.scope))
        return Response(status_code=204, headers={"set-cookie": cookie})

    return routes


def _is_by_https(request: Request) -> bool:
    """Whether the browser uses https. Behind a proxy that ends it only the browser's own Origin
    says so; a client that forges it harms only its own cookie."""
    origin = request.headers.get("origin", "").lower()
    return request.url.scheme == "https" or origin.startswith("https://")
