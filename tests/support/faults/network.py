"""A wire between two processes that can be slow, silent or cut: a TCP proxy on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import Enum, auto
from urllib.parse import urlsplit

_CHUNK = 16384
_DELAY = 0.15  # seconds for each chunk
_RATE = 20_000  # bytes a second
_FOUND_OUT = 20.0  # seconds; PostgreSQL's keepalives as `outbox.database.opening` sets them


class Weather(Enum):
    """What becomes of what is sent."""

    FAIR = auto()
    """It arrives."""
    SLOW = auto()
    """It arrives later."""
    NARROW = auto()
    """It arrives at 20 kB/s."""
    SILENT = auto()
    """It arrives when the weather has changed; until then nothing does, and no side is told."""
    PARTED = auto()
    """A client that connects is cut off, and so are those that were connected."""


@dataclass(eq=False)
class _Pair:
    """The two ends of one connection, and whether it still carries anything."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    is_lost: bool = False


@dataclass(eq=False)
class Wire:
    """Listens at `port` and connects to `target_port`. `carried` counts bytes, `connections` those
    that there have been."""

    target_host: str
    target_port: int
    port: int = 0
    carried: int = 0
    connections: int = 0
    weather: Weather = Weather.FAIR
    _pairs: set[_Pair] = field(default_factory=set)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def address(self) -> str:
        """As an HTTP address."""
        return f"http://127.0.0.1:{self.port}"

    def become(self, weather: Weather) -> None:
        """From now on it is like this."""
        self.weather = weather
        if weather is Weather.PARTED:
            self.cut()
        self._changed.set()
        self._changed = asyncio.Event()

    def cut(self) -> None:
        """End all connections in order."""
        for pair in self._pairs:
            pair.client.close()
            pair.server.close()

    def reset(self) -> None:
        """End all connections with a TCP reset."""
        for pair in self._pairs:
            for end in (pair.client, pair.server):
                raw = end.get_extra_info("socket")
                with contextlib.suppress(OSError):
                    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                end.transport.abort()

    def lose(self) -> None:
        """Both ends believe in the connections that there are now, and hear nothing any more. The
        server's system finds that out after a while, as keepalives do; the client's never does."""
        for pair in self._pairs:
            pair.is_lost = True
            loop = asyncio.get_running_loop()
            loop.call_later(_FOUND_OUT, pair.server.transport.abort)

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, from its beginning to its end."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._carry(reader, writer)
        except (OSError, asyncio.CancelledError):
            pass  # there is no server behind it, or the test is over
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def stop(self) -> None:
        """Cut off everybody."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.weather is Weather.PARTED:
            return
        self.connections += 1
        back, server = await asyncio.open_connection(self.target_host, self.target_port)
        pair = _Pair(writer, server)
        self._pairs.add(pair)
        ways = (
            asyncio.create_task(self._pump(pair, reader, server)),
            asyncio.create_task(self._pump(pair, back, writer)),
        )
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            # A peer that is lost hears of no end either.
            while pair.is_lost:
                await self._changed.wait()
                await asyncio.sleep(0)
        finally:
            self._pairs.discard(pair)
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            server.transport.abort()

    async def _pump(
        self, pair: _Pair, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(_CHUNK):
                await self._bear(len(data))
                if pair.is_lost:
                    continue
                self.carried += len(data)
                writer.write(data)
                await writer.drain()

    async def _bear(self, size: int) -> None:
        match self.weather:
            case Weather.SLOW:
                await asyncio.sleep(_DELAY)
            case Weather.NARROW:
                await asyncio.sleep(size / _RATE)
            case Weather.FAIR | Weather.SILENT | Weather.PARTED:
                pass
        while self.weather is Weather.SILENT:
            await self._changed.wait()


@asynccontextmanager
async def wire(address: str) -> AsyncIterator[Wire]:
    """A wire to the host and port of this address, of any scheme."""
    behind = urlsplit(address)
    made = Wire(behind.hostname or "127.0.0.1", behind.port or 5432)
    listening = await asyncio.start_server(made.handle, "127.0.0.1", 0)
    made.port = listening.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        listening.close()
        await made.stop()
        await listening.wait_closed()
