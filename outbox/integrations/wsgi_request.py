"""One request of a WSGI server, as an ASGI application in another thread takes it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from concurrent.futures import CancelledError
from http import HTTPStatus
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any
from urllib.parse import quote
from wsgiref.util import is_hop_by_hop

from starlette.types import ASGIApp, Message, Scope

from outbox.integrations.background import Background, HasEnded
from outbox.transports.http.problems import HttpProblem, unexpected

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

log = logging.getLogger("outbox.service")

_PIECE = 64 * 1024
_PLAIN = "/~!$&'()*+,;=:@"
"""What stands in a path as it is, beside letters, digits and "-._"."""


def answer(
    app: ASGIApp, background: Background, environ: WSGIEnvironment, start_response: StartResponse
) -> Iterable[bytes]:
    """The application's answer. The body of the request is read piece by piece, as the application
    asks for it, and in this thread."""
    exchange = _Exchange(background, environ)
    try:
        future = background.begin(_call(app, environ, exchange))
        future.add_done_callback(lambda _: exchange.wishes.put(None))
        exchange.read_as_wished()
        future.result()
    except (HasEnded, CancelledError):
        return tell(_ENDING, start_response)
    except Exception as error:
        log.error("a request was not answered", exc_info=error)
        return tell(unexpected(), start_response)
    return _begun(exchange.status, exchange.headers, exchange.body, start_response)


async def _call(app: ASGIApp, environ: WSGIEnvironment, exchange: _Exchange) -> None:
    await app(scope_of(environ), exchange.receive, exchange.send)


def tell(problem: HttpProblem, start_response: StartResponse) -> Iterable[bytes]:
    """Answer with this problem."""
    response = problem.to_response()
    return _begun(response.status_code, response.raw_headers, bytes(response.body), start_response)


def scope_of(environ: WSGIEnvironment) -> Scope:
    """The request as ASGI has it. A path that was not encoded as usual becomes another one, whose
    signature does not fit."""
    mount, path = _bytes(environ, "SCRIPT_NAME"), _bytes(environ, "PATH_INFO")
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": environ.get("SERVER_PROTOCOL", "HTTP/1.1").removeprefix("HTTP/"),
        "method": environ["REQUEST_METHOD"],
        "scheme": environ["wsgi.url_scheme"],
        "root_path": mount.decode(errors="replace"),
        "path": (mount + path).decode(errors="replace"),
        "raw_path": quote(mount + path, safe=_PLAIN).encode(),
        "query_string": _bytes(environ, "QUERY_STRING"),
        "headers": list(_headers(environ)),
        "client": (environ["REMOTE_ADDR"], 0) if environ.get("REMOTE_ADDR") else None,
        "server": None,  # the header Host says it, where there is one
    }


class _Exchange:
    """The two ends of one request: the server's thread reads for the application's loop."""

    def __init__(self, background: Background, environ: WSGIEnvironment) -> None:
        self.wishes: SimpleQueue[asyncio.Future[bytes | None] | None] = SimpleQueue()
        """Each is one for the next piece of the body; None says that there is an answer."""
        self.status = 500
        self.headers: list[tuple[bytes, bytes]] = []
        self.body = b""
        self._background = background
        self._input = environ["wsgi.input"]
        self._is_terminated = bool(environ.get("wsgi.input_terminated"))
        length = str(environ.get("CONTENT_LENGTH") or "")
        self._rest = int(length[:18]) if length.isascii() and length.isdigit() else None
        self._is_read = False

    # In the event loop

    async def receive(self) -> Message:
        """The next piece of the body; b"" is the last."""
        if self._is_read:
            # What is left to hear is that the client has gone, which a WSGI server does not tell.
            await asyncio.get_running_loop().create_future()
        wish: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
        self.wishes.put(wish)
        piece = await wish
        if piece is None:
            return {"type": "http.disconnect"}
        self._is_read = not piece
        return {"type": "http.request", "body": piece, "more_body": bool(piece)}

    async def send(self, message: Message) -> None:
        """Note a part of the answer."""
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], list(message["headers"])
        else:
            self.body += message.get("body", b"")

    # In the thread of the server

    def read_as_wished(self) -> None:
        """Read on, each time that the application asks, until it has answered."""
        while (wish := self.wishes.get()) is not None:
            try:
                piece: bytes | None = self._read()
            except Exception as error:  # each server has its own for a client that has gone
                log.debug("a body ended early", exc_info=error)
                piece = None
            self._background.call(_fulfil, wish, piece)

    def _read(self) -> bytes:
        if self._rest is None:
            # Without a length the end is only known where the server marks it.
            return bytes(self._input.read(_PIECE)) if self._is_terminated else b""
        if self._rest == 0:
            return b""
        piece = bytes(self._input.read(min(_PIECE, self._rest)))
        if not piece:
            raise EOFError(f"{self._rest} bytes are missing")
        self._rest -= len(piece)
        return piece


def _fulfil(wish: asyncio.Future[bytes | None], piece: bytes | None) -> None:
    if not wish.done():
        wish.set_result(piece)


def _bytes(environ: WSGIEnvironment, name: str) -> bytes:
    return str(environ.get(name, "")).encode("latin-1")


def _headers(environ: Mapping[str, Any]) -> Iterable[tuple[bytes, bytes]]:
    for variable, value in environ.items():
        if variable in ("CONTENT_TYPE", "CONTENT_LENGTH"):
            name = variable
        elif variable.startswith("HTTP_"):
            name = variable.removeprefix("HTTP_")
        else:
            continue
        if value:
            yield name.replace("_", "-").lower().encode("latin-1"), str(value).encode("latin-1")


def _begun(
    status: int,
    headers: Iterable[tuple[bytes, bytes]],
    body: bytes,
    start_response: StartResponse,
) -> Iterable[bytes]:
    # Whether the connection ends is the server's business here.
    named = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers]
    start_response(
        f"{status} {HTTPStatus(status).phrase}",
        [(name, value) for name, value in named if not is_hop_by_hop(name)],
    )
    return [body]


_ENDING = HttpProblem.telling(HasEnded(), 503, "ending", retry_after=1)
