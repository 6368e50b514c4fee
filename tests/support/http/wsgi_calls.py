"""Requests to a WSGI application as a server makes them, within the test's own process."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from wsgiref.validate import validator

from outbox.clock import SystemClock
from outbox.transports.http.signing import Keyring, sign
from outbox.wire.envelope import BATCH, Envelope, to_batch
from tests.support.outbox.services import SECRETS


@dataclass(frozen=True)
class Answered:
    """The answer of the application; names of headers in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def code(self) -> str:
        """The word of the problem."""
        code: str = json.loads(self.body)["code"]
        return code


def environ_of(method: str, path: str, body: bytes = b"", /, **variables: Any) -> dict[str, Any]:
    """The request, with these variables beside the usual ones, or in their place."""
    return {
        "REQUEST_METHOD": method,
        "SCRIPT_NAME": "",
        "PATH_INFO": path,
        "QUERY_STRING": "",
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(body),
        "wsgi.errors": io.StringIO(),
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        **variables,
    }


def signed(*envelopes: Envelope, mount: str = "") -> dict[str, Any]:
    """A delivery of these, to an application that is mounted there."""
    body = to_batch(envelopes)
    headers = sign(
        Keyring.from_text(SECRETS),
        method="POST",
        target=f"{mount}/messages",
        headers={"content-type": BATCH},
        body=body,
        now=SystemClock().now(),
    )
    variables = {f"HTTP_{name.upper().replace('-', '_')}": it for name, it in headers.items()}
    return environ_of("POST", "/messages", body, SCRIPT_NAME=mount, CONTENT_TYPE=BATCH, **variables)


def ask(app: Any, environ: Mapping[str, Any]) -> Answered:
    """The answer to that request."""
    begun: list[tuple[str, list[tuple[str, str]]]] = []

    def start_response(status: str, headers: list[tuple[str, str]], _: Any = None) -> Any:
        begun.append((status, headers))

    pieces = app(dict(environ), start_response)
    body = b"".join(pieces)
    if hasattr(pieces, "close"):
        pieces.close()
    [(status, headers)] = begun
    return Answered(int(status[:3]), {name.lower(): it for name, it in headers}, body)


def get(app: Any, path: str) -> Answered:
    """The answer to a GET, of an application that keeps to the rules of WSGI."""
    environ = environ_of("GET", path)
    del environ["CONTENT_LENGTH"]
    return ask(validator(app), environ)
