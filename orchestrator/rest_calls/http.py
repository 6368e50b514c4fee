"""Requests to plain HTTP services: no redirects, no cookies, no proxies, bounded answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import httpx

from orchestrator.rest_calls.meanings import MOST_BYTES, HttpAnswer, InDoubt
from outbox.safe_text import fit

_ALWAYS = {"accept": "application/json", "accept-encoding": "identity", "user-agent": "sagabox"}


class Http:
    """Sends requests; `transport` replaces what sends them over the network. It belongs to one
    event loop at a time."""

    def __init__(self, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._given = transport
        self._transport: httpx.AsyncBaseTransport | None = None

    async def send(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        body: bytes | None,
        seconds: float,
        hide: Callable[[str], str],
    ) -> HttpAnswer:
        """The answer, also one that refuses. Raises InDoubt where there is none within `seconds`,
        with a text from which `hide` took what is secret."""
        if self._transport is None:
            self._transport = self._given or httpx.AsyncHTTPTransport(trust_env=False)
        try:
            request = httpx.Request(method, url, headers={**_ALWAYS, **headers}, content=body)
            if not url.endswith(request.url.raw_path.decode("ascii")):
                # Written otherwise, it might be another address for the service.
                raise InDoubt("its address is not in its plain form")
            async with asyncio.timeout(seconds):
                answer = await self._transport.handle_async_request(request)
                try:
                    body = await _bounded(answer)
                finally:
                    await answer.aclose()
        except TimeoutError:
            raise InDoubt(f"it did not answer within {seconds:g} s") from None
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            why = fit(hide(f"{type(error).__name__}: {error}"))
            raise InDoubt(f"it gave no answer ({why})") from None
        found = {name.lower(): value for name, value in answer.headers.items()}
        return HttpAnswer(answer.status_code, found, body)

    async def aclose(self) -> None:
        """Close the connections. It may be used again."""
        transport, self._transport = self._transport, None
        if transport is not None and self._given is None:
            await transport.aclose()


async def _bounded(answer: httpx.Response) -> bytes | None:
    parts: list[bytes] = []
    size = 0
    assert isinstance(answer.stream, httpx.AsyncByteStream), "it comes from an async transport"
    async for part in answer.stream:
        size += len(part)
        if size > MOST_BYTES:
            return None
        parts.append(part)
    return b"".join(parts)
