"""Requests to one subscriber, by httpcore: the answer is its status, and the connection leads only
to where the setting allows.

`outbox.transports.http.posting` is for services of ours, whose answers are their bodies.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

import httpcore
import httpx

from outbox.transports.base import Unreachable
from outbox.transports.webhooks.answers import Status
from outbox.transports.webhooks.networks import is_public
from outbox.transports.webhooks.webhook import MOST_AT_ONCE, shown

READ_UP_TO = 64 * 1024
"""Bytes of an answer that are read, so that its connection can be used again; a longer one is cut
off."""
READ_FOR = 1.0
"""Seconds for which the body of an answer is read; its status has come then."""

CONNECT_SECONDS = 1.0
"""For how long an address of a name is waited for to take a connection, where another is left."""

_IDLE_SECONDS = 4.0
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


@cache
def _usual_tls() -> ssl.SSLContext:
    """Made once: reading all certificates takes 13 ms."""
    return httpx.create_ssl_context(trust_env=False)


class SubscriberPost:
    """The POST requests to one URL. Its name is looked up for each connection, and what is found is
    what is connected to: a name that leads to a private address later is refused then."""

    def __init__(self, url: str, *, private: bool, tls: ssl.SSLContext | None = None) -> None:
        parsed = httpx.URL(url)
        self._shown = shown(url)
        self._host = parsed.netloc
        self._url = httpcore.URL(
            scheme=parsed.raw_scheme,
            host=parsed.raw_host,
            port=parsed.port,
            target=parsed.raw_path,
        )
        # No redirects, and no proxies of the environment.
        self._pool: httpcore.AsyncConnectionPool | None = httpcore.AsyncConnectionPool(
            ssl_context=tls or _usual_tls(),
            max_connections=2 * MOST_AT_ONCE,
            max_keepalive_connections=MOST_AT_ONCE,
            keepalive_expiry=_IDLE_SECONDS,
            network_backend=None if private else _PublicOnly(httpcore.AnyIOBackend()),
        )

    async def send(
        self, headers: Mapping[str, str], body: bytes, timeout: float
    ) -> Status | Unreachable:
        """The status, or within `timeout` seconds the reason why there is none; never raises for an
        error of the network or the other side."""
        pool = self._pool
        if pool is None:
            return Unreachable(f"{self._shown}: this transport was closed", sent=False)
        sent = _Sent()
        try:
            async with asyncio.timeout(timeout):
                return await self._exchange(pool, headers, body, sent)
        except TimeoutError:
            if sent.status is not None:
                return sent.status
            return Unreachable(f"{self._shown} did not answer within {timeout:.1f} s", sent.any)
        except _TROUBLE as error:
            began = sent.any and not isinstance(error, _NOT_SENT)
            what = "gave no whole answer" if began else "cannot be reached"
            return Unreachable(f"{self._shown} {what}: {type(error).__name__}: {error}", began)

    async def aclose(self) -> None:
        """Close all connections. Calling it twice is fine."""
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.aclose()

    async def _exchange(
        self,
        pool: httpcore.AsyncConnectionPool,
        headers: Mapping[str, str],
        body: bytes,
        sent: _Sent,
    ) -> Status:
        fields = [(b"host", self._host), (b"content-length", b"%d" % len(body))]
        fields += [(name.encode("ascii"), value.encode("ascii")) for name, value in headers.items()]
        async with pool.stream(
            "POST", self._url, headers=fields, content=body, extensions={"trace": sent.trace}
        ) as response:
            retry_after = None
            for name, value in response.headers:
                if name.lower() == b"retry-after":
                    retry_after = value.decode("latin-1")
            sent.status = Status(response.status, retry_after)
            return Status(response.status, retry_after, await _beginning(response))


async def _beginning(response: httpcore.Response) -> bytes:
    """The body up to READ_UP_TO bytes and READ_FOR seconds: what comes after its status changes
    nothing."""
    parts: list[bytes] = []
    room = READ_UP_TO
    try:
        async with asyncio.timeout(READ_FOR):
            async for part in response.aiter_stream():
                parts.append(part[:room])
                room -= len(part)
                if room <= 0:
                    break
    except (TimeoutError, *_TROUBLE):
        pass
    return b"".join(parts)


class _Sent:
    """A note whether the connection stood and the request began to leave, and of the status as soon
    as it is there."""

    any = False
    status: Status | None = None

    async def trace(self, event: str, _info: object) -> None:
        if event.endswith("send_request_headers.started"):
            self.any = True


class _PublicOnly(httpcore.AsyncNetworkBackend):
    """Connects to public addresses alone. The name is looked up once, here, and the connection goes
    to what was found, so that a second answer of the DNS cannot lead elsewhere."""

    def __init__(self, inner: httpcore.AsyncNetworkBackend) -> None:
        self._inner = inner

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        found = await _addresses(host, port)
        public = [each for each in found if is_public(ipaddress.ip_address(each.partition("%")[0]))]
        if len(public) < len(found):
            raise httpcore.ConnectError(
                f"{host} leads to a loopback or private address, where this webhook may not go; "
                "add private=yes to it, if the subscriber is really there"
            )
        trouble: Exception = httpcore.ConnectError(f"{host} has no address")
        for left, each in enumerate(public, 1 - len(public)):
            # One that says nothing must not have the time of all.
            most = timeout if left == 0 else min(CONNECT_SECONDS, timeout or CONNECT_SECONDS)
            try:
                return await self._inner.connect_tcp(
                    each, port, most, local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                trouble = error
        raise trouble

    async def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[Any] | None = None
    ) -> httpcore.AsyncNetworkStream:
        raise httpcore.ConnectError("a webhook has no socket in a file")

    async def sleep(self, seconds: float) -> None:
        await self._inner.sleep(seconds)


async def _addresses(host: str, port: int) -> list[str]:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise httpcore.ConnectError(f"the name {host} cannot be looked up: {error}") from None
    return list(dict.fromkeys(str(each[4][0]) for each in found))
