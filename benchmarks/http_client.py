"""The load generator's HTTP/1.1: one connection that is kept, one request at a time.

A full HTTP library takes longer for a request than the services do, and would be what is measured.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

from outbox.transports.http.posting import Answer

_RESTS = 4.0
"""Seconds that a connection may rest and be used again; uvicorn closes its side after 5."""


class Connection:
    """Made by `open`. For one client, which waits for each answer."""

    def __init__(
        self, host: str, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._host = host
        self._port = port
        self._is_open = True
        self._used = time.monotonic()
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, url: str) -> Connection:
        """Connect to `http://host:port`."""
        host, _, port = url.removeprefix("http://").partition(":")
        return cls(host, int(port), *await asyncio.open_connection(host, int(port)))

    async def request(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes = b""
    ) -> Answer:
        """Send it, and read the whole answer; anew connected where the last answer was the
        connection's last, or it has rested so long that a server may close it. Raises OSError or
        EOFError where there is none, and ValueError where it does not say how long it is."""
        if not self._is_open or time.monotonic() - self._used > _RESTS:
            await self.close()
            self._reader, self._writer = await asyncio.open_connection(self._host, self._port)
        lines = [f"{method} {target} HTTP/1.1", f"host: {self._host}:{self._port}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        lines += [f"content-length: {len(body)}", "", ""]
        self._writer.write("\r\n".join(lines).encode("latin-1") + body)
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *rest = head.rstrip().split("\r\n")
        received = {}
        for line in rest:
            name, _, value = line.partition(":")
            received[name.lower()] = value.strip()
        self._is_open = received.get("connection", "").lower() != "close"
        if "content-length" not in received:
            raise ValueError(f"the answer to {method} {target} does not say how long it is: {head}")
        content = await self._reader.readexactly(int(received["content-length"]))
        self._used = time.monotonic()
        return Answer(int(first.split(" ", 2)[1]), received, content)

    async def close(self) -> None:
        """Close it."""
        self._writer.close()
        await self._writer.wait_closed()
