"""A load balancer for TCP on loopback, whose targets come and go while a test runs."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from tests.support.processes.waiting import until

_CHUNK = 65536
_PATIENCE = 5.0  # seconds for a reader to take what was written to it


@dataclass
class Balancer:
    """Listens at `port`, and gives each connection to the next one of the ports in `targets`."""

    port: int
    targets: list[int] = field(default_factory=list)
    _next: int = 0
    is_closed: bool = False
    _tasks: dict[asyncio.Task[None], int] = field(default_factory=dict)

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, from its beginning to its end."""
        task = asyncio.current_task()
        assert task is not None
        try:
            if self.targets and not self.is_closed:
                self._next += 1
                target = self._tasks[task] = self.targets[self._next % len(self.targets)]
                await _joined(reader, writer, target)
        except (asyncio.CancelledError, OSError):
            pass  # by `close`, and no task waits for it; or one of the two ends has left
        finally:
            self._tasks.pop(task, None)
            writer.transport.abort()

    @property
    def connections(self) -> Counter[int]:
        """How many there are now, by target."""
        return Counter(self._tasks.values())

    async def until_left(self, target: int) -> None:
        """Wait until no connection goes to a target that was taken out."""
        await until(lambda: not self.connections[target], 30, f"all have left port {target}")

    async def close(self) -> None:
        """Cut all connections, and each one that comes before `open`."""
        self.is_closed = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def open(self) -> None:
        """Let connections through again."""
        self.is_closed = False


async def _joined(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, target: int) -> None:
    its_reader, its_writer = await asyncio.open_connection("127.0.0.1", target)
    ways = [
        asyncio.create_task(_pump(reader, its_writer)),
        asyncio.create_task(_pump(its_reader, writer)),
    ]
    try:
        # When one side has ended, all that it wrote has gone to the other one.
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
        its_writer.close()
        with contextlib.suppress(OSError):
            async with asyncio.timeout(_PATIENCE):
                writer.close()
                await writer.wait_closed()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(_CHUNK):
        writer.write(data)
        await writer.drain()


@asynccontextmanager
async def balancing(*balancers: Balancer) -> AsyncIterator[None]:
    """They listen."""
    async with contextlib.AsyncExitStack() as stack:
        for it in balancers:
            server = await asyncio.start_server(it.handle, "127.0.0.1", it.port, backlog=512)
            stack.push_async_callback(server.wait_closed)
            stack.push_async_callback(it.close)
            stack.callback(server.close)
        yield
