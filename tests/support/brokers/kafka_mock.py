"""A Kafka for tests: the mock cluster of librdkafka, in a process of its own, with a way to it that
can be cut and silenced.

The cluster keeps what it is given in memory, so that it cannot be killed and started again with its
data: a cut takes away the connections, as the death of a machine's network does.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import socket
import ssl
import struct
import subprocess
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass, field

import pytest

from tests.support.processes.guardian import guardian
from tests.support.processes.waiting import free_port

_HOST = b"127.0.0.1"


def _serve() -> None:
    """The process: a line with the cluster's port; then for each topic that it reads the same
    line, once the topic is there."""
    from confluent_kafka.admin import AdminClient

    client = AdminClient({"test.mock.num.brokers": 1, "log_level": 0})
    (server,) = client.list_topics(timeout=30).brokers.values()
    sys.stdout.write(f"{server.port}\n")
    sys.stdout.flush()
    for line in sys.stdin:
        client.list_topics(line.strip(), timeout=30)
        sys.stdout.write(line)
        sys.stdout.flush()


@dataclass
class Way:
    """The way to the cluster: it passes on what comes, and puts its own port into the answers."""

    target: int
    port: int = field(default_factory=free_port)
    tls: ssl.SSLContext | None = None
    _lie: tuple[int, int, Callable[[bytes], bytes]] | None = None
    _breaks_at: int | None = None
    _breaks_now: bool = False
    _listener: socket.socket | None = None
    _meetings: set[asyncio.Task[None]] = field(default_factory=set)
    _door: asyncio.Lock = field(default_factory=asyncio.Lock)
    _speaks: asyncio.Event = field(default_factory=asyncio.Event)

    async def open(self) -> None:
        """Let clients in, and pass on answers."""
        self._speaks.set()
        if self._listener is None:
            # A server of asyncio that is closed forgets a connection that it has just let in.
            self._listener = socket.create_server(("127.0.0.1", self.port), backlog=100)
            self._listener.setblocking(False)
            asyncio.get_running_loop().add_reader(self._listener, self._let_in, self._listener)

    async def cut(self) -> None:
        """Connections break, and new ones are refused."""
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None
        for meeting in [*self._meetings]:
            meeting.cancel()
        while self._meetings:
            await asyncio.wait(self._meetings)

    def break_at_next(self, kind: int) -> None:
        """Break one connection, when the cluster answers the next request of that kind on it: it
        did what it was told, and no caller hears of it."""
        self._breaks_at = kind

    def lie_at(self, kind: int, number: int, lie: Callable[[bytes], bytes]) -> None:
        """Once, change the answer to the request of that kind and number from now on, from 1."""
        self._lie = kind, number, lie

    def has_lied(self) -> bool:
        """Whether it has. From now on it does not."""
        lie, self._lie = self._lie, None
        return lie is None

    async def silence(self) -> None:
        """What comes is passed on, and no answer comes back."""
        self._speaks.clear()

    def _let_in(self, listener: socket.socket) -> None:
        with suppress(BlockingIOError):
            connection, _ = listener.accept()
            meeting = asyncio.ensure_future(self._meet(connection))
            self._meetings.add(meeting)
            meeting.add_done_callback(self._meetings.discard)
            # It may be cancelled before it has begun.
            meeting.add_done_callback(lambda _: connection.close())

    async def _meet(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        with suppress(OSError, asyncio.IncompleteReadError):
            transport, _ = await loop.connect_accepted_socket(
                lambda: protocol, connection, ssl=self.tls
            )
            writer = asyncio.StreamWriter(transport, protocol, reader, loop)
            try:
                upstream, towards = await self._reach()
                asked: deque[int] = deque()
                with closing(towards.transport):
                    await asyncio.gather(
                        self._ask(reader, towards, asked), self._answer(upstream, writer, asked)
                    )
            finally:
                transport.abort()
                await asyncio.sleep(0)  # the transport lets go of the connection by then

    async def _reach(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """The cluster lets few wait at its door: one that has not come in at once tries again."""
        async with self._door:
            while True:
                with suppress(TimeoutError):
                    async with asyncio.timeout(0.5):
                        return await asyncio.open_connection("127.0.0.1", self.target)

    async def _ask(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, asked: deque[int]
    ) -> None:
        while True:
            frame = await _frame(reader)
            (kind,) = struct.unpack_from(">h", frame)
            asked.append(kind)
            writer.write(struct.pack(">i", len(frame)) + frame)
            await writer.drain()
            if kind == self._breaks_at:
                self._breaks_at, self._breaks_now = None, True

    async def _answer(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, asked: deque[int]
    ) -> None:
        theirs, ours = (_HOST + struct.pack(">i", it) for it in (self.target, self.port))
        while True:
            frame = (await _frame(reader)).replace(theirs, ours)
            if self._breaks_now:
                self._breaks_now = False
                raise ConnectionAbortedError
            frame = self._told(asked.popleft(), frame)
            await self._speaks.wait()
            writer.write(struct.pack(">i", len(frame)) + frame)
            await writer.drain()

    def _told(self, kind: int, frame: bytes) -> bytes:
        """The answer, or the lie that it is time for."""
        if self._lie is None or self._lie[0] != kind:
            return frame
        _, number, lie = self._lie
        self._lie = None if number == 1 else (kind, number - 1, lie)
        return lie(frame) if number == 1 else frame


async def _frame(reader: asyncio.StreamReader) -> bytes:
    (size,) = struct.unpack(">i", await reader.readexactly(4))
    return await reader.readexactly(size)


@dataclass
class MockKafka:
    """The cluster with a way of one test, whose topics have a prefix of their own."""

    cluster: Cluster
    way: Way
    prefix: str

    def url(self, query: str = "partitions=4", access: str = "") -> str:
        """The address of the way to it."""
        scheme = "kafka+tls" if self.way.tls else "kafka"
        at = f"{access}@" if access else ""
        return f"{scheme}://{at}127.0.0.1:{self.way.port}?prefix={self.prefix}&{query}"

    async def create(self, *queues: str) -> None:
        """Create the topics of these queues, which have four partitions each."""
        for queue in queues:
            await asyncio.to_thread(self.cluster.create, f"{self.prefix}.{queue}")


class Cluster:
    """The process of a cluster of one node; it ends with this one."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        guardian().entrust_process(self._process.pid)
        self.port = int(self._line())
        self.numbers = itertools.count()

    def create(self, topic: str) -> None:
        """Create a topic of four partitions."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{topic}\n")
        self._process.stdin.flush()
        assert self._line() == topic

    def close(self) -> None:
        """End it, with all that it had."""
        self._process.kill()
        self._process.wait(10)
        guardian().release_process(self._process.pid)

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


@functools.cache
def cluster() -> Cluster:
    """The one of this test process. Skips the test where there is none."""
    pytest.importorskip("confluent_kafka", reason="its mock cluster is the Kafka of the tests")
    return Cluster()


@asynccontextmanager
async def a_kafka(
    queues: Sequence[str] = (), tls: ssl.SSLContext | None = None
) -> AsyncIterator[MockKafka]:
    """A way to the cluster for the block, with the topics of these queues."""
    found = await asyncio.to_thread(cluster)
    kafka = MockKafka(found, Way(found.port, tls=tls), f"test-{next(found.numbers)}")
    await kafka.way.open()
    try:
        await kafka.create(*queues)
        yield kafka
    finally:
        await kafka.way.cut()


if __name__ == "__main__":
    _serve()
