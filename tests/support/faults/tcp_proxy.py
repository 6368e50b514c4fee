"""A proxy between a client and PostgreSQL that makes a COMMIT go wrong where it is told to, or a
statement that writes and is its own transaction.

It reads what the client sends as far as it must: which statement a message runs, and where a
transaction is committed. What the server sends passes unread.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import Enum, auto

from sqlalchemy.engine import make_url

_SSL_REQUEST = 80877103
_LATER = 0.5
_CHUNK = 65536


class Loss(Enum):
    """What becomes of a COMMIT, and of the connection that it came on."""

    ANSWER = auto()
    """The server commits; the client is cut off before it hears of that."""
    COMMIT = auto()
    """Both sides are cut off before the server sees it."""
    DELAYED = auto()
    """The client is cut off at once; the server sees it later, and commits then."""


@dataclass
class CommitProxy:
    """Listens at `port`. `armed` has what is to happen to the next commits of transactions that run
    a statement which holds the text `marker`, one entry each; `lost` has what has happened. `late`
    counts those that the server was sent late, and has answered.

    What is late comes half a second later. A statement that is its own transaction comes only after
    the client has `looked` for it, where the test sets that: the look waits for no such statement,
    so that nothing but time would say which of the two is the first."""

    host: str
    server_port: int
    marker: str
    port: int = 0
    armed: list[Loss] = field(default_factory=list)
    lost: list[Loss] = field(default_factory=list)
    late: int = 0
    looked: asyncio.Event | None = None
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def in_front_of(self, url: str) -> str:
        """The same database by way of this proxy."""
        through = make_url(url).set(host="127.0.0.1", port=self.port)
        return through.render_as_string(hide_password=False)

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, from its beginning to its end."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await _Connection(self, reader, writer).run()
        except (asyncio.CancelledError, OSError):
            pass  # by `stop`, and no task waits for it; or the server is away
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def keep_back(self, is_alone: bool) -> None:
        """Return when what is late may come; `is_alone` is a statement that is its own
        transaction."""
        if self.looked is None or not is_alone:
            await asyncio.sleep(_LATER)
        else:
            await self.looked.wait()

    async def stop(self) -> None:
        """Cut all connections."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _Connection:
    """One client, and the connection to the server that is its own."""

    def __init__(
        self, proxy: CommitProxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._proxy = proxy
        self._reader = reader
        self._writer = writer
        self._statements: dict[bytes, bytes] = {}
        self._is_in_transaction = False
        self._is_marked = False

    async def run(self) -> None:
        proxy = self._proxy
        server_reader, server = await asyncio.open_connection(proxy.host, proxy.server_port)
        back = asyncio.create_task(_pump(server_reader, self._writer))
        try:
            await self._forward(server_reader, server, back)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client has left
        finally:
            back.cancel()
            await asyncio.gather(back, return_exceptions=True)
            self._writer.transport.abort()
            server.close()

    async def _forward(
        self,
        server_reader: asyncio.StreamReader,
        server: asyncio.StreamWriter,
        back: asyncio.Task[None],
    ) -> None:
        await self._greet(server)
        while True:
            head = await self._reader.readexactly(5)
            body = await self._reader.readexactly(struct.unpack("!I", head[1:])[0] - 4)
            if not self._is_to_be_lost(head[:1], body):
                server.write(head + body)
                await server.drain()
                continue
            loss = self._proxy.armed.pop(0)
            request = head + body
            is_alone = head[:1] == b"B"
            while request[:1] == b"B" and head[:1] != b"S":  # Bind, up to its Sync
                head = await self._reader.readexactly(5)
                request += head
                request += await self._reader.readexactly(struct.unpack("!I", head[1:])[0] - 4)
            back.cancel()
            await asyncio.gather(back, return_exceptions=True)
            if loss is Loss.DELAYED:
                if self._proxy.looked is not None:
                    self._proxy.looked.clear()
                self._writer.transport.abort()
                self._proxy.lost.append(loss)
                await self._proxy.keep_back(is_alone)
            if loss is not Loss.COMMIT:
                server.write(request)
                await server.drain()
                # It may have no answer, an error or a notice, where the server itself was stopped
                # just then. What Bind is answered comes with all the rest.
                first = await server_reader.read(1)
                assert first in {b"C", b"2", b"E", b"N", b""}, "the server did not commit"
                self._proxy.late += loss is Loss.DELAYED
            if loss is not Loss.DELAYED:
                self._proxy.lost.append(loss)
            return

    async def _greet(self, server: asyncio.StreamWriter) -> None:
        """The messages at the beginning have no type."""
        while True:
            size = await self._reader.readexactly(4)
            body = await self._reader.readexactly(struct.unpack("!I", size)[0] - 4)
            server.write(size + body)
            await server.drain()
            if struct.unpack("!I", body[:4])[0] != _SSL_REQUEST:
                return

    def _is_to_be_lost(self, kind: bytes, body: bytes) -> bool:
        match kind:
            case b"P":  # Parse: the name of a statement, and its text
                name, text, _ = body.split(b"\0", 2)
                self._statements[name] = text
            case b"B":  # Bind: the name of a portal, and that of the statement to run
                _, name, _ = body.split(b"\0", 2)
                text = self._statements.get(name, b"")
                is_marked = self._proxy.marker.encode() in text
                if not self._is_in_transaction:
                    return is_marked and b"INSERT INTO" in text and bool(self._proxy.armed)
                self._is_marked = self._is_marked or is_marked
            case b"Q" if body.upper().startswith(b"BEGIN"):
                self._is_in_transaction, self._is_marked = True, False
            case b"Q" if body.upper().startswith((b"COMMIT", b"ROLLBACK")):
                is_marked = self._is_marked and body.upper().startswith(b"COMMIT")
                self._is_in_transaction = self._is_marked = False
                return is_marked and bool(self._proxy.armed)
        return False


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(_CHUNK):
            writer.write(data)
            await writer.drain()
    writer.close()


@asynccontextmanager
async def commit_proxy(url: str, marker: str) -> AsyncIterator[CommitProxy]:
    """A proxy in front of the server of this database URL, on loopback."""
    behind = make_url(url)
    proxy = CommitProxy(behind.host or "127.0.0.1", behind.port or 5432, marker)
    listening = await asyncio.start_server(proxy.handle, "127.0.0.1", 0)
    proxy.port = listening.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        listening.close()
        await proxy.stop()
        await listening.wait_closed()
