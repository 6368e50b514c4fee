"""Addresses from Consul: the instances of a service that an agent calls healthy."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import orjson

from outbox.errors import OutboxError
from outbox.transports.addresses.address import HTTP_PORTS, Address, Found
from outbox.transports.addresses.destination import Destination
from outbox.transports.addresses.watching import FLOOR, Look, Unresolved, Watching

WAIT_SECONDS = 30.0
"""For how long the agent keeps a question open in which nothing changes."""
MAX_ANSWER = 4 * 1024 * 1024
_SECONDS = 5.0
"""For how long an answer may take beyond that."""

log = logging.getLogger("outbox.relay")


def by_consul(destination: Destination) -> Watching:
    """The resolver of a destination of Consul."""
    health = ConsulHealth(destination)
    return Watching(str(destination), health.look, at_end=health.aclose)


class ConsulHealth:
    """The health of one service, as an agent tells it."""

    def __init__(self, destination: Destination) -> None:
        assert destination.place is not None
        self._source = str(destination)
        self._place = destination.place
        options = destination.options
        self._service = destination.service
        self._name = options.get("certificate")
        self._token = options.get("token")
        self._index = 0
        self._wrong: Sequence[str] = ()
        self._client: httpx.AsyncClient | None = None
        self._agent = agent_of(destination)
        self._asked = {"passing": "1"}
        self._asked |= {name: options[name] for name in ("dc", "tag") if name in options}

    async def look(self) -> Look:
        """Ask the agent once: at first at once, later until something changes. Raises
        Unresolved."""
        try:
            return await self._look()
        except Unresolved:
            self._index = 0  # the next question is answered at once
            raise

    async def aclose(self) -> None:
        """Release the connection. Calling it twice is fine."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def _look(self) -> Look:
        url = f"{self._agent}/v1/health/service/{self._service}"
        asked = dict(self._asked)
        if self._index:
            asked |= {"index": str(self._index), "wait": f"{WAIT_SECONDS:.0f}s"}
        # An agent adds up to a sixteenth to the wait.
        patience = _SECONDS + (WAIT_SECONDS * 17 / 16 if self._index else 0)
        headers = {}
        if self._token is not None:
            headers["x-consul-token"] = secret_at(self._token, self._source)
        if self._client is None:
            # No proxies of the environment, no redirects: an agent is where its address says.
            self._client = httpx.AsyncClient(trust_env=False, follow_redirects=False)
        try:
            # The client's own limit is for each part of an answer, and one may come in many.
            async with (
                asyncio.timeout(patience),
                self._client.stream(
                    "GET", url, params=asked, headers=headers, timeout=patience
                ) as response,
            ):
                body = b""
                async for part in response.aiter_bytes():
                    body += part
                    if len(body) > MAX_ANSWER:
                        raise self._unresolved(
                            f"answered with more than {MAX_ANSWER} bytes",
                            "see what answers there: it may be no agent of Consul",
                        )
        except (httpx.HTTPError, TimeoutError) as error:
            raise self._unresolved(
                f"gives no answer: {silence(error, patience)}",
                "see whether it runs, and whether this machine reaches it",
            ) from None
        if response.status_code != httpx.codes.OK:
            raise self._refused(response.status_code, body)
        found = self._read(body)
        self._note_index(response.headers.get("x-consul-index", ""))
        return Look(found, FLOOR)

    def _note_index(self, text: str) -> None:
        """A smaller index than the last is of an agent that began anew: then ask at once."""
        index = int(text) if text.isascii() and text[:18].isdigit() and len(text) <= 18 else 0
        self._index = index if index >= self._index else 0

    def _read(self, body: bytes) -> list[Found]:
        found: list[Found] = []
        wrong: list[str] = []
        try:
            entries = list(orjson.loads(body))
        except (ValueError, TypeError) as error:
            raise self._unreadable(_shortly(error)) from None
        for entry in entries:
            try:
                found.append(self._found(entry))
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                wrong.append(_shortly(error))
        if wrong and not found:
            raise self._unreadable(wrong[0])
        self._note_wrong(wrong)
        if not found:
            raise self._unresolved(
                f"knows no passing instance of the service {self._service}",
                f"see what it says of them: curl {self._agent}/v1/health/service/{self._service}",
            )
        return found

    def _note_wrong(self, wrong: Sequence[str]) -> None:
        """One that is registered wrongly keeps no other from being used."""
        if wrong and wrong != self._wrong:
            log.warning(
                "%s: the agent at %s names %d instances that cannot be used, and are left out "
                "(%s); correct their registrations",
                self._source,
                self._agent,
                len(wrong),
                wrong[0],
            )
        self._wrong = wrong

    def _found(self, entry: Any) -> Found:
        service = entry["Service"]
        host, port = service["Address"] or entry["Node"]["Address"], service["Port"]
        if not isinstance(host, str) or not isinstance(port, int) or not 0 < port < 65536:
            raise ValueError(f"{host!r} and {port!r} are no address and port")
        weight = (service.get("Weights") or {}).get("Passing", 1)
        if not isinstance(weight, int) or not 0 <= weight < 65536:
            raise ValueError(f"{weight!r} is no weight")
        place = self._place
        bracketed = f"[{host}]" if ":" in host else host
        try:
            plain = Address.parse(f"{place.scheme}://{bracketed}:{port}{place.path}", _any(place))
        except OutboxError as error:
            raise ValueError(error.problem) from None
        return Found(
            Address(plain.scheme, plain.host, plain.port, plain.path, name=self._name),
            weight=weight,
        )

    def _refused(self, status: int, body: bytes) -> Unresolved:
        said = body[:100].decode(errors="replace").strip()
        if status in (401, 403):
            return self._unresolved(
                f"refuses the token ({status}: {said})",
                "give it one that may read this service: token=env:VARIABLE or token=file:/PATH",
            )
        return self._unresolved(
            f"answers {status}: {said}", "see the agent's log, and whether it has a leader"
        )

    def _unreadable(self, why: str) -> Unresolved:
        return self._unresolved(
            f"gives an answer that cannot be read: {why}",
            "see what answers there: it may be no agent of Consul",
        )

    def _unresolved(self, problem: str, next_step: str) -> Unresolved:
        return Unresolved(
            f"{self._source}: the agent at {self._agent} {problem}", next_step=next_step
        )


def secret_at(place: str, source: str) -> str:
    """The secret that stands at env:VARIABLE or file:/PATH, read anew each time, so that it can be
    changed. Raises Unresolved that names the place."""
    kind, _, where = place.partition(":")
    try:
        value = os.environ[where] if kind == "env" else Path(where).read_text("utf-8")
    except (KeyError, OSError, UnicodeDecodeError) as error:
        raise Unresolved(
            f"{source}: its token is to stand at {place}, and cannot be read there "
            f"({type(error).__name__})",
            next_step="set the variable, or let the service read the file",
        ) from None
    value = value.strip()
    if not value or not value.isascii() or not value.isprintable():
        raise Unresolved(
            f"{source}: what stands at {place} is no token",
            next_step="put the token there, and nothing else",
        )
    return value


def agent_of(destination: Destination) -> str:
    """The URL of the agent of a destination of Consul."""
    assert destination.place is not None
    scheme = destination.options.get("agent", "http")
    return f"{scheme}://{destination.place.authority}"


def silence(error: Exception, seconds: float) -> str:
    """Why an agent gave no answer, or no whole one within that time."""
    if isinstance(error, TimeoutError):
        return f"none that was whole within {seconds:g} s"
    return f"{type(error).__name__}: {error}"


def _shortly(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error)[:100]}"


def _any(place: Address) -> dict[str, int]:
    return {place.scheme: HTTP_PORTS.get(place.scheme, 80)}
