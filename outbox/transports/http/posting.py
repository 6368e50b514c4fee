"""One POST to one address by httpx, with a deadline and a bounded answer."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from http import HTTPStatus

import httpx

DEFAULT_MAX_ANSWER = 8 * 1024 * 1024
MAX_CONNECTIONS = 16
IDLE_SECONDS = 4.0
"""How long an unused connection is kept; uvicorn closes its side after 5 s."""

_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol)


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole HTTP answer. Names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """The reason why there is no answer. `sent` tells whether any of the request may have left this
    process."""

    reason: str
    sent: bool


@cache
def _usual_tls() -> ssl.SSLContext:
    """The TLS context that httpx would make for each client; reading all certificates takes 13
    ms."""
    return httpx.create_ssl_context(trust_env=False)


class Poster:
    """A client of one URL. At most MAX_CONNECTIONS requests are under way at once; the others wait
    their turn within their own timeout."""

    def __init__(self, url: str, *, max_answer: int, tls: ssl.SSLContext | None) -> None:
        self._url = url
        self._max_answer = max_answer
        self._client = httpx.AsyncClient(
            # No redirects, no proxies of the environment: a destination is only where its address
            # says.
            trust_env=False,
            verify=tls or _usual_tls(),
            timeout=None,
            limits=httpx.Limits(max_connections=MAX_CONNECTIONS, keepalive_expiry=IDLE_SECONDS),
        )

    async def post(
        self, headers: Mapping[str, str], body: bytes, timeout: float
    ) -> Answer | NoAnswer:
        """The answer, or within `timeout` seconds the reason why there is none; never raises for an
        error of the network or the other side."""
        sent = _Sent()
        try:
            async with asyncio.timeout(timeout):
                return await self._exchange(headers, body, sent)
        except TimeoutError:
            return NoAnswer(f"{self._url} did not answer within {timeout:g} s", sent.any)
        except (httpx.HTTPError, httpx.StreamError, RuntimeError) as error:
            # RuntimeError is httpx's word for a client that was closed.
            began = sent.any and not isinstance(error, _NOT_SENT)
            what = "cannot be reached" if not began else "gave no whole answer"
            return NoAnswer(f"{self._url} {what}: {type(error).__name__}: {error}", began)

    async def aclose(self) -> None:
        """Close all connections. Calling it twice is fine."""
        await self._client.aclose()

    async def _exchange(
        self, headers: Mapping[str, str], body: bytes, sent: _Sent
    ) -> Answer | NoAnswer:
        async with self._client.stream(
            "POST", self._url, headers=headers, content=body, extensions={"trace": sent.trace}
        ) as response:
            parts: list[bytes] = []
            room = self._max_answer
            try:
                async for part in response.aiter_raw():
                    room -= len(part)
                    if room < 0:
                        reason = f"{self._url} answered with more than {self._max_answer} bytes"
                        return NoAnswer(reason, sent=True)
                    parts.append(part)
            except httpx.TransportError:
                # A refusal is known by its status, but a 200 only by its replies.
                if response.status_code == HTTPStatus.OK:
                    raise
            return Answer(response.status_code, response.headers, b"".join(parts))


class _Sent:
    """A note whether the connection stood and the request began to leave."""

    any = False

    async def trace(self, event: str, _info: object) -> None:
        if event.endswith("send_request_headers.started"):
            self.any = True
