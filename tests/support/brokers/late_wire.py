"""A wire to a broker that breaks in the middle of what a client writes. The client is cut off at
once, and the rest of what it wrote reaches the broker later, as bytes that wait in buffers do."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

_CHUNK = 4096


@dataclass
class LateWire:
    """Listens at `port`. It breaks `breaks` times, each time after some thousands of bytes, and
    then no more. `late` counts the bytes that came late."""

    to: int
    breaks: int
    chances: random.Random
    port: int = 0
    late: int = 0

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        from_server, to_server = await asyncio.open_connection("127.0.0.1", self.to)
        back = asyncio.create_task(_pump(from_server, writer))
        try:
            await self._forward(reader, writer, to_server)
        finally:
            back.cancel()
            for each in (writer, to_server):
                each.close()

    async def _forward(
        self,
        reader: asyncio.StreamReader,
        client: asyncio.StreamWriter,
        server: asyncio.StreamWriter,
    ) -> None:
        left = self.chances.randrange(2_000, 60_000)
        while data := await reader.read(_CHUNK):
            left -= len(data)
            if left < 0 and self.breaks > 0:
                self.breaks -= 1
                client.transport.abort()
                # So long that the client sends it again meanwhile, on a connection of its own.
                await asyncio.sleep(self.chances.choice([0.0, 0.05, 0.4]))
                self.late += len(data)
                server.write(data)
                with contextlib.suppress(OSError):
                    await server.drain()
                await asyncio.sleep(0.2)  # the server is another process, and reads it meanwhile
                return
            server.write(data)
            await server.drain()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(_CHUNK):
            writer.write(data)
            await writer.drain()


@asynccontextmanager
async def late_wire(to: int, breaks: int, seed: int) -> AsyncIterator[LateWire]:
    """A wire to that port of 127.0.0.1."""
    wire = LateWire(to, breaks, random.Random(seed))
    tasks: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        with contextlib.suppress(OSError, asyncio.CancelledError):
            await wire.handle(reader, writer)

    listening = await asyncio.start_server(handle, "127.0.0.1", 0)
    wire.port = listening.sockets[0].getsockname()[1]
    try:
        yield wire
    finally:
        listening.close()
        for task in [*tasks]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
