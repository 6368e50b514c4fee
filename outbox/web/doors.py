"""The middleware that every request passes before anything reads it: closed by default.

The decisions are `decisions`; this is what finds out what they need, and how a refusal looks.
"""

from __future__ import annotations

import logging

from starlette.types import ASGIApp, Receive, Scope, Send

from outbox.web import decisions
from outbox.web.access import Access, RouteAccess
from outbox.web.decisions import House, Refusal
from outbox.web.failures import Failures
from outbox.web.keys import Keys
from outbox.web.problems import HttpProblem
from outbox.web.visits import Shown, Visit, cookie_name, port_in, visit_of

log = logging.getLogger(__name__)

_CHALLENGE = 'Bearer realm="sagabox"'
_GET_ONE = "On the machine of the service, sagabox token create NAME --role ROLE makes one"


class Doors:
    """Lets in who may come in; raises HttpProblem for everybody else, before the body is read."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        routes: RouteAccess,
        house: House,
        keys: Keys,
        failures: Failures,
        key_advice: str = _GET_ONE,
    ) -> None:
        self._app = app
        self._routes = routes
        self._house = house
        self._keys = keys
        self._failures = failures
        self._advice = key_advice

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        match scope["type"]:
            case "http":
                await self._enter(scope)
                await self._app(scope, receive, send)
            case "lifespan":
                await self._app(scope, receive, send)
            case _:
                # There is nothing else here that anybody may open.
                await send({"type": "websocket.close", "code": 1008})

    async def _enter(self, scope: Scope) -> None:
        needs = self._routes.needed(scope["method"], _path(scope))
        if needs in (Access.HEALTH, Access.SIGNED):
            return
        visit = visit_in(scope)
        refusal = decisions.before_the_key(visit, needs, self._house)
        if refusal is None and decisions.asks_for_a_key(needs):
            opened = None
            if visit.credential.shown is not Shown.NOT:
                if not self._keys.was_right(visit.credential):
                    require_patience(self._failures, visit.peer)
                opened = await self._keys.opened_by(visit.credential)
            refusal = decisions.with_the_key(visit, needs, self._house, opened)
        if refusal is None:
            return
        if refusal is Refusal.WRONG_CREDENTIALS:
            self._failures.note(visit.peer)
        log.info("refused %s from %s: %s", scope["method"], visit.peer, refusal.value)
        raise _problem(refusal, visit, scope, needs, self._advice)


def visit_in(scope: Scope) -> Visit:
    """The request that a server hands on."""
    client, server = scope.get("client"), scope.get("server")
    return visit_of(
        scope["method"],
        scope["headers"],
        scheme=scope.get("scheme", "http"),
        peer=client[0] if client else None,
        # With a socket in the file system it is a path, which is no loopback address.
        local=server[0] if server else None,
    )


def require_patience(failures: Failures, peer: str | None) -> None:
    """Raises HttpProblem (429) where that peer showed too many wrong keys."""
    wait = failures.wait(peer)
    if wait > 0:
        raise HttpProblem(
            429,
            "too-many-failures",
            "Too many wrong keys came from your address; this one was not looked at.",
            next_step="Wait for as many seconds as Retry-After says, and send a key that is right.",
            retry_after=wait,
            headers={"connection": "close"},
        )


def session_cookie(scope: Scope) -> str:
    """The name of the session's cookie for the address that the browser knows."""
    hosts = [value for name, value in scope["headers"] if name == b"host"]
    return cookie_name(port_in(hosts[0].decode("latin-1")) if hosts else None)


def expired_cookie(name: str) -> str:
    """The header that makes a browser forget that cookie."""
    return f"{name}=; Max-Age=0; Path=/; HttpOnly; SameSite=Strict"


def _path(scope: Scope) -> str:
    """The path as the routes see it."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    if root and (path == root or path.startswith(f"{root}/")):
        return path[len(root) :]
    return path


def _problem(
    refusal: Refusal, visit: Visit, scope: Scope, needs: Access, advice: str
) -> HttpProblem:
    # What is left of a refused body must not be taken for the next request.
    headers = {"connection": "close"} if visit.changes else {}
    match refusal:
        case Refusal.UNKNOWN_HOST:
            return HttpProblem(
                421,
                "unknown-host",
                "The request is addressed to a host by whose name this service is not known.",
                next_step="Use the service's own address, or add the name to "
                "SAGABOX_ALLOWED_HOSTS.",
                headers=headers,
            )
        case Refusal.CROSS_SITE:
            return HttpProblem(
                403,
                "cross-site",
                "The page of another site asked for this, and nothing was done.",
                next_step="Use the service's own pages, or a program that sends a token.",
                headers=headers,
            )
        case Refusal.NO_CREDENTIALS:
            return HttpProblem(
                401,
                "credentials-missing",
                "The request shows no key, and does not come straight from this machine, or this "
                "address asks for a key in any case.",
                next_step=f"Send Authorization: Bearer TOKEN. {advice}.",
                headers=headers | {"www-authenticate": _CHALLENGE},
            )
        case Refusal.WRONG_CREDENTIALS:
            if visit.credential.shown is Shown.COOKIE:
                headers["set-cookie"] = expired_cookie(session_cookie(scope))
            return HttpProblem(
                401,
                "credentials-wrong",
                "The key of this request opens nothing: it is wrong, has expired or was revoked.",
                next_step=f"Send another one, or begin a new session. {advice}.",
                headers=headers | {"www-authenticate": f'{_CHALLENGE}, error="invalid_token"'},
            )
        case Refusal.FORBIDDEN:
            return HttpProblem(
                403,
                "not-allowed",
                f"The key of this request is right, and does not open what asks for {needs}.",
                next_step=f"Use a key that opens {needs}. {advice}.",
                headers=headers,
            )
