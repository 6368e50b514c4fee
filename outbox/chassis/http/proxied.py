"""Pure ASGI middleware for those who stand before a service: probes that ask by HEAD, and proxies
that serve it below a prefix."""

from __future__ import annotations

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_ADDRESSES = ("location", "content-location")


class Heads:
    """Answers HEAD as GET is answered, without the body."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def without_body(message: Message) -> None:
            if message["type"] == "http.response.start":
                await send(message)
                # At once: a stream of events has no end, and hears by this that no one listens.
                await send({"type": "http.response.body", "body": b"", "more_body": False})

        await self._app({**scope, "method": "GET"}, receive, without_body)


class Prefixed:
    """Takes requests below `prefix`, such as "/shop", whether a proxy has taken it off the path or
    not, and names addresses with it. Without one, with the prefix that the server was told."""

    def __init__(self, app: ASGIApp, prefix: str) -> None:
        self._app = app
        self._prefix = prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        if self._prefix:
            scope = _below(self._prefix, scope)
        root: str = scope.get("root_path", "").rstrip("/")

        async def named(message: Message) -> None:
            if root and message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name in _ADDRESSES:
                    address = headers.get(name, "")
                    if address.startswith("/") and not address.startswith("//"):
                        headers[name] = root + address
            await send(message)

        await self._app(scope, receive, named)


def _below(prefix: str, scope: Scope) -> Scope:
    path: str = scope["path"]
    if path == prefix or path.startswith(f"{prefix}/"):
        return {**scope, "root_path": prefix}
    raw: bytes | None = scope.get("raw_path")
    return {
        **scope,
        "root_path": prefix,
        "path": prefix + path,
        "raw_path": None if raw is None else prefix.encode() + raw,
    }
