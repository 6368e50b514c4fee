"""Real HTTP servers on loopback, in the test's own event loop: uvicorn, and a scripted one."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn

from tests.support.processes.waiting import until


class _Server(uvicorn.Server):
    """Leaves the signals to pytest."""

    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        yield


@asynccontextmanager
async def serving(app: Any, *, at: int = 0, **options: Any) -> AsyncIterator[str]:
    """The address of a uvicorn that serves this ASGI application, at that port or at any free one;
    options are uvicorn.Config's."""
    config = uvicorn.Config(app, log_config=None, lifespan="off", access_log=False, **options)
    server = _Server(config)
    with socket.socket() as listener:
        # So that another one can come to the same port while old connections still fade out.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", at))
        running = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            await until(lambda: server.started or running.done(), what="uvicorn is ready")
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            await running
            # Without an access log uvicorn turns that logger off for the whole process.
            logging.getLogger("uvicorn.access").propagate = True


@dataclass(frozen=True)
class Request:
    """A request as it came over the wire; names of headers in lower case."""

    target: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Exchange:
    """One request at the scripted server, and what can be done about it."""

    request: Request
    connection: int
    """Which connection it came on, counted from 1."""
    writer: asyncio.StreamWriter

    async def write(self, data: bytes) -> None:
        """Send these bytes."""
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        """Send a whole answer; `retry_after="3"` is the header `retry-after`."""
        lines = [f"HTTP/1.1 {status} Told", f"content-length: {len(body)}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        await self.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)

    def close(self) -> None:
        """Close the connection in order."""
        self.writer.close()

    def reset(self) -> None:
        """Close the connection with a TCP reset."""
        raw = self.writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


Script = Callable[[Exchange], Awaitable[None]]


@dataclass
class Scripted:
    """A server that does with each request what `script` says."""

    script: Script
    address: str = ""
    connections: int = 0
    open_connections: int = 0
    requests: list[Request] = field(default_factory=list)
    _handlers: set[asyncio.Task[None]] = field(default_factory=set)
    _server: asyncio.Server | None = None

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._handlers.add(task)
        self.connections += 1
        self.open_connections += 1
        number = self.connections
        try:
            while True:
                request = await _read(reader)
                self.requests.append(request)
                await self.script(Exchange(request, number, writer))
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self.open_connections -= 1
            self._handlers.discard(task)
            writer.close()

    def refuse_newcomers(self) -> None:
        """Take no further connections; those that are there go on."""
        assert self._server is not None
        self._server.close()

    async def stop(self) -> None:
        """End what is still under way."""
        handlers = list(self._handlers)
        for each in handlers:
            each.cancel()
        await asyncio.gather(*handlers, return_exceptions=True)


@asynccontextmanager
async def scripted(
    script: Script, tls: ssl.SSLContext | None = None, *, host: str = "127.0.0.1", at: int = 0
) -> AsyncIterator[Scripted]:
    """A server on loopback that follows the script, request by request; at that port or at any free
    one."""
    told = Scripted(script)
    server = await asyncio.start_server(told.handle, host, at, ssl=tls)
    told._server = server
    port = server.sockets[0].getsockname()[1]
    told.address = f"{'https' if tls else 'http'}://{host}:{port}"
    try:
        yield told
    finally:
        server.close()
        await told.stop()
        await server.wait_closed()


async def _read(reader: asyncio.StreamReader) -> Request:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head[:-4].split("\r\n")
    _, target, _ = first.split(" ")
    pairs = (line.partition(":") for line in lines)
    headers = {name.lower(): value.strip() for name, _, value in pairs}
    length = int(headers.get("content-length", 0))
    return Request(target, headers, await reader.readexactly(length))
