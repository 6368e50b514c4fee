"""The middleware that every request passes before anything reads it: closed by default.

The decisions are in `policy`; this module finds the values that they need, and answers refusals.
"""

from __future__ import annotations

import logging

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from outbox.chassis.access.caller import Caller, Shown, caller_of, cookie_name, port_in
from outbox.chassis.access.failed_keys import Failures
from outbox.chassis.access.keys import Key, Keys
from outbox.chassis.access.peers import network_of
from outbox.chassis.access.policy import (
    AccessPolicy,
    Refusal,
    asks_for_a_key,
    before_the_key,
    is_ignorable,
    is_uncounted,
    with_the_key,
)
from outbox.chassis.access.rate_limit import Rates
from outbox.chassis.access.routes import Access, RouteAccess
from outbox.chassis.http.problems import HttpProblem

log = logging.getLogger(__name__)

_CHALLENGE = 'Bearer realm="sagabox"'
_KEY = "sagabox.key"
_GET_ONE = "On the machine of the service, sagabox token create NAME --role ROLE makes one"


class AccessMiddleware:
    """The middleware that lets permitted callers in, and raises HttpProblem for all others before
    the body is read."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        routes: RouteAccess,
        policy: AccessPolicy,
        keys: Keys,
        failures: Failures,
        rates: Rates,
        key_advice: str = _GET_ONE,
    ) -> None:
        self._app = app
        self._routes = routes
        self._policy = policy
        self._keys = keys
        self._failures = failures
        self._rates = rates
        self._advice = key_advice

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        match scope["type"]:
            case "http":
                await self._answer(scope, receive, send)
            case "lifespan":
                await self._app(scope, receive, send)
            case _:
                # No caller may open anything else, such as a WebSocket.
                await send({"type": "websocket.close", "code": 1008})

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        match self._routes.needed(scope["method"], _path(scope)):
            case Access.HEALTH:
                await self._app(scope, receive, send)
            case Access.SIGNED:
                await self._take_message(scope, receive, send)
            case needs:
                caller = caller_in(scope)
                key = await self._enter(scope, caller, needs)
                scope[_KEY] = key
                if (
                    key is None
                    and caller.credential.shown is Shown.COOKIE
                    and needs is not Access.OPEN
                ):
                    # The cookie was invalid but not needed; tell the browser to drop it.
                    send = _forgetting(session_cookie(scope), send)
                await self._app(scope, receive, send)

    async def _enter(self, scope: Scope, caller: Caller, needs: Access) -> Key | None:
        """The key that let the caller in; None where it needed none. Raises HttpProblem where it
        may not come in."""
        key = None
        refusal = before_the_key(caller, needs, self._policy)
        if refusal is None and asks_for_a_key(needs):
            if caller.credential.shown is not Shown.NOT:
                key = await self._find(caller, needs)
            opened = None if key is None else key.opens
            refusal = with_the_key(caller, needs, self._policy, opened)
        if refusal is Refusal.WRONG_CREDENTIALS:
            self._failures.note(caller.peer)
        wait = self._wait(caller, key)
        if wait > 0:
            raise _too_many(wait, caller)
        if refusal is not None:
            log.info("refused %s from %s: %s", scope["method"], caller.peer, refusal.value)
            raise _problem(refusal, caller, scope, needs, self._advice)
        return key

    async def _find(self, caller: Caller, needs: Access) -> Key | None:
        if not self._keys.was_right(caller.credential) and not is_ignorable(
            caller, needs, self._policy
        ):
            require_patience(self._failures, caller.peer)
        return await self._keys.key(caller.credential)

    def _wait(self, caller: Caller, key: Key | None) -> float:
        """Count the request. Returns the seconds that its caller has to wait, 0 for none."""
        if is_uncounted(caller, self._policy) or (key is not None and not key.is_limited):
            return 0.0
        # Only a valid key has a bucket of its own, since a caller can make up any number of wrong
        # ones.
        counted_as = f"from {network_of(caller.peer)}" if key is None else f"with {key.name}"
        return self._rates.take(counted_as)

    async def _take_message(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a service's request on. Signed requests are not counted, and only the route can
        tell: so a request with a wrong signature is counted when it is answered."""
        problem: HttpProblem | None = None

        async def counted(message: Message) -> None:
            nonlocal problem
            if message["type"] == "http.response.start" and message["status"] == 401:
                caller = caller_in(scope)
                wait = self._wait(caller, None)
                problem = _too_many(wait, caller) if wait > 0 else None
            if problem is None:
                await send(message)

        await self._app(scope, receive, counted)
        if problem is not None:
            raise problem


def key_in(scope: Scope) -> Key | None:
    """The key that let the request's caller in; None where it showed none and needed none."""
    found: Key | None = scope.get(_KEY)
    return found


def caller_in(scope: Scope) -> Caller:
    """The caller of the request that a server hands on."""
    client, server = scope.get("client"), scope.get("server")
    return caller_of(
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


def _too_many(wait: float, caller: Caller) -> HttpProblem:
    log.info("too many requests from %s", caller.peer)
    return HttpProblem(
        429,
        "too-many-requests",
        "More requests came from you than one caller may send; nothing was done.",
        next_step="Wait for as many seconds as Retry-After says, and send it again; "
        "SAGABOX_RATE_LIMIT of the service says how many a second may come.",
        retry_after=wait,
        headers={"connection": "close"} if caller.changes else None,
    )


def _forgetting(cookie: str, send: Send) -> Send:
    """A `send` that also makes the browser forget that cookie."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).append("set-cookie", expired_cookie(cookie))
        await send(message)

    return sending


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
    refusal: Refusal, caller: Caller, scope: Scope, needs: Access, advice: str
) -> HttpProblem:
    # The rest of a refused body must not be taken for the next request.
    headers = {"connection": "close"} if caller.changes else {}
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
                "The request shows no key, and this address asks for one.",
                next_step=f"Send Authorization: Bearer TOKEN. {advice}.",
                headers=headers | {"www-authenticate": _CHALLENGE},
            )
        case Refusal.WRONG_CREDENTIALS:
            if caller.credential.shown is Shown.COOKIE:
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
