"""A POST to an address by httpcore, the layer below httpx, with a deadline and a bounded answer.
A request of httpx costs half as much again."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from http import HTTPStatus

import httpcore
import httpx

from outbox.transports.addresses.address import Address

DEFAULT_MAX_ANSWER = 8 * 1024 * 1024
MAX_CONNECTIONS = 16
IDLE_SECONDS = 4.0
"""How long an unused connection is kept; uvicorn closes its side after 5 s."""

_NOT_SENT = (
    httpcore.ConnectError,
    httpcore.ConnectTimeout,
    httpcore.PoolTimeout,
    httpcore.UnsupportedProtocol,
)
_TROUBLE = (
    httpcore.NetworkError,
    httpcore.ProtocolError,
    httpcore.ProxyError,
    httpcore.TimeoutException,
    httpcore.UnsupportedProtocol,
)


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
    """A client of one destination's addresses. At most MAX_CONNECTIONS requests are under way at
    once; the others wait their turn within their own timeout."""

    def __init__(self, *, max_answer: int, tls: ssl.SSLContext | None) -> None:
        self._max_answer = max_answer
        # No redirects, no proxies of the environment: a destination is only where its address says.
        self._pool: httpcore.AsyncConnectionPool | None = httpcore.AsyncConnectionPool(
            ssl_context=tls or _usual_tls(),
            max_connections=MAX_CONNECTIONS,
            max_keepalive_connections=MAX_CONNECTIONS,
            keepalive_expiry=IDLE_SECONDS,
        )

    async def post(
        self,
        address: Address,
        target: str,
        headers: Mapping[str, str],
        body: bytes,
        *,
        timeout: float,
        connect: float | None = None,
    ) -> Answer | NoAnswer:
        """The answer, or within `timeout` seconds the reason why there is none; never raises for an
        error of the network or the other side. At most `connect` of these seconds are for the
        connection. `target` is the path and query to post to."""
        sent, url = _Sent(), _Url(address, target)
        if self._pool is None:
            return NoAnswer(f"{url} cannot be reached: this transport was closed", sent=False)
        try:
            async with asyncio.timeout(timeout):
                return await self._exchange(self._pool, url, headers, body, sent, connect)
        except TimeoutError:
            return NoAnswer(f"{url} did not answer within {timeout:.3g} s", sent.any)
        except _TROUBLE as error:
            began = sent.any and not isinstance(error, _NOT_SENT)
            what = "cannot be reached" if not began else "gave no whole answer"
            return NoAnswer(f"{url} {what}: {type(error).__name__}: {error}", began)

    async def aclose(self) -> None:
        """Close all connections. Calling it twice is fine."""
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.aclose()

    async def _exchange(
        self,
        pool: httpcore.AsyncConnectionPool,
        url: _Url,
        headers: Mapping[str, str],
        body: bytes,
        sent: _Sent,
        connect: float | None,
    ) -> Answer | NoAnswer:
        fields = [(b"host", url.host), (b"content-length", b"%d" % len(body))]
        fields += [(name.encode("ascii"), value.encode("ascii")) for name, value in headers.items()]
        async with pool.stream(
            "POST",
            url.parsed,
            headers=fields,
            content=body,
            extensions={"trace": sent.trace, **url.extensions, "timeout": {"connect": connect}},
        ) as response:
            parts: list[bytes] = []
            room = self._max_answer
            try:
                async for part in response.aiter_stream():
                    room -= len(part)
                    if room < 0:
                        reason = f"{url} answered with more than {self._max_answer} bytes"
                        return NoAnswer(reason, sent=True)
                    parts.append(part)
            except _TROUBLE:
                # A refusal is known by its status, but a 200 only by its replies.
                if response.status == HTTPStatus.OK:
                    raise
            found = {
                name.decode("latin-1").lower(): value.decode("latin-1")
                for name, value in response.headers
            }
            return Answer(response.status, found, b"".join(parts))


class _Url:
    """The URL of one request, as httpcore takes it."""

    def __init__(self, address: Address, target: str) -> None:
        self.parsed = httpcore.URL(
            scheme=address.scheme.encode("ascii"),
            host=address.host.encode("ascii"),
            port=address.port,
            target=target.encode("ascii"),
        )
        self.host = address.authority.encode("ascii")
        # The certificate is to be for the name by which the host was found.
        self.extensions = {} if address.name is None else {"sni_hostname": address.name}
        self._text = f"{address}{target.removeprefix(address.path)}"

    def __str__(self) -> str:
        return self._text


class _Sent:
    """A note whether the connection stood and the request began to leave."""

    any = False

    async def trace(self, event: str, _info: object) -> None:
        if event.endswith("send_request_headers.started"):
            self.any = True
