"""A name server on loopback that answers as a test tells it: wrongly, late, too much or not."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import dns.flags
import dns.message
import dns.rcode
import dns.rrset

from tests.support.processes.waiting import free_port

Wire = Callable[[dns.message.Message, bool], Awaitable[bytes | None]]
"""The bytes that answer a question, None for no answer; the flag tells whether it came by TCP."""


def zone(
    records: dict[tuple[str, str], list[str]], ttl: int = 1, *, truncates: bool = False
) -> Wire:
    """Answers rightly: `records` has the values by name and kind. One that truncates tells callers
    over UDP to come again over TCP. The records may be changed later."""

    async def answer(question: dns.message.Message, by_tcp: bool) -> bytes | None:
        reply = dns.message.make_response(question)
        name, kind = str(question.question[0].name).rstrip("."), question.question[0].rdtype.name
        known = {it for it, _ in records}
        if truncates and not by_tcp:
            reply.flags |= dns.flags.TC
        elif values := records.get((name, kind)) or records.get((name, "CNAME")):
            of = kind if (name, kind) in records else "CNAME"
            reply.answer.append(dns.rrset.from_text(f"{name}.", ttl, "IN", of, *values))
        elif name not in known:
            reply.set_rcode(dns.rcode.NXDOMAIN)
        return reply.to_wire(max_size=65535)

    return answer


def failing(code: dns.rcode.Rcode) -> Wire:
    """Answers with that code."""

    async def answer(question: dns.message.Message, by_tcp: bool) -> bytes | None:
        reply = dns.message.make_response(question)
        reply.set_rcode(code)
        return reply.to_wire()

    return answer


async def silence(question: dns.message.Message, by_tcp: bool) -> bytes | None:
    """Answers nothing."""
    return None


async def garbage(question: dns.message.Message, by_tcp: bool) -> bytes | None:
    """Answers what is no message of DNS."""
    return b"HTTP/1.1 400 Bad Request\r\n\r\n"


@dataclass
class NameServer:
    """The server; `wire` may be replaced while it runs. `asked` has the names, with kinds."""

    wire: Wire
    port: int = field(default_factory=free_port)
    asked: list[tuple[str, str]] = field(default_factory=list)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def address(self) -> str:
        """As an option of a destination has it."""
        return f"127.0.0.1:{self.port}"

    async def answer(self, data: bytes, by_tcp: bool) -> bytes | None:
        """What is sent for these bytes."""
        question = dns.message.from_wire(data)
        first = question.question[0]
        self.asked.append((str(first.name).rstrip("."), first.rdtype.name))
        return await self.wire(question, by_tcp)

    async def by_tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One question over TCP."""
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            (length,) = struct.unpack("!H", await reader.readexactly(2))
            reply = await self.answer(await reader.readexactly(length), True)
            if reply is not None:
                writer.write(struct.pack("!H", len(reply)) + reply)
                await writer.drain()
        writer.close()

    def by_udp(self, data: bytes, send: Callable[[bytes], None]) -> None:
        """One question over UDP."""

        async def answer() -> None:
            reply = await self.answer(data, False)
            if reply is not None:
                send(reply)

        task = asyncio.create_task(answer())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def end(self) -> None:
        """End what is under way."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class _Udp(asyncio.DatagramProtocol):
    def __init__(self, server: NameServer) -> None:
        self._server = server
        self._transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, address: tuple[str | int, ...]) -> None:
        def send(reply: bytes) -> None:
            self._transport.sendto(reply, address)

        self._server.by_udp(data, send)


@asynccontextmanager
async def name_server(wire: Wire, port: int | None = None) -> AsyncIterator[NameServer]:
    """A name server that answers so, at that port or at any free one."""
    server = NameServer(wire) if port is None else NameServer(wire, port)
    at = ("127.0.0.1", server.port)
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: _Udp(server), local_addr=at
    )
    listener = await asyncio.start_server(server.by_tcp, *at)
    try:
        yield server
    finally:
        transport.close()
        listener.close()
        await listener.wait_closed()
        await server.end()
