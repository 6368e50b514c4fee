"""Connections to RabbitMQ: made when they are needed, found to be dead soon, never made again by
themselves."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any

import aiormq
import pamqp.frame
from aiormq.channel import Channel
from aiormq.connection import FrameReceiver
from aiormq.exceptions import AMQPError, ConnectionClosed, ProbableAuthenticationError
from pamqp.base import Frame
from pamqp.commands import Connection as Frames
from pamqp.frame import FrameTypes
from yarl import URL

from outbox.transports.brokers.address import BrokerAddress
from outbox.transports.brokers.amqp.client_log import our_connection
from outbox.transports.brokers.amqp.troubles import (
    require_confirms,
    require_entry,
    within,
    words,
)
from outbox.transports.brokers.broker import UNREADABLE, BrokerAway

HEARTBEAT = 4
"""Seconds. A side that is silent for two to three of them is gone for the other."""

CONNECT_WITHIN = 5.0
"""Seconds for each server that is tried."""

_CLOSE_WITHIN = 2.0
_CLOSE_CHANNEL_WITHIN = 3.0
_LOOKS = 60  # at most, whether the server has closed a channel
_ACCESS_REFUSED = 403
_CLOSED = (AMQPError, OSError, RuntimeError)
"""What the library raises where what is to be closed is closed by itself."""
_ending: set[asyncio.Task[None]] = set()
"""What is being closed: an event loop alone does not keep a task that is awaited no more."""


class Connection(aiormq.Connection):
    """A connection that knows whether it is read, and what was declared by it."""

    HEARTBEAT_GRACE_MULTIPLIER = 2
    READER_CLOSE_TIMEOUT = 1

    def __init__(self, url: URL, **options: Any) -> None:
        super().__init__(url, **options)
        self.declared: set[str] = set()
        self.declaring: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    @staticmethod
    async def _rpc(
        request: Frame,
        writer: asyncio.StreamWriter,
        frame_receiver: FrameReceiver,
        wait_response: bool = True,
    ) -> FrameTypes | None:
        """What the server answers, while the connection is being made. The library's own drops the
        reason where the server lets no client into a virtual host."""
        writer.write(pamqp.frame.marshal(request, 0))
        await writer.drain()
        if not wait_response:
            return None
        _, _, answer = await frame_receiver.get_frame()
        if isinstance(answer, Frames.Close):
            if answer.reply_code == _ACCESS_REFUSED:
                raise ProbableAuthenticationError(answer.reply_text)
            raise ConnectionClosed(answer.reply_code, answer.reply_text)
        return answer

    def require_read(self, *, sent: bool) -> None:
        """Raises BrokerAway where the server has told that it reads nothing that is published."""
        waiting = self.ready()
        try:
            waiting.send(None)
        except StopIteration:
            return
        finally:
            waiting.close()
        raise BrokerAway(
            "RabbitMQ takes no packets now: it is short of memory or disk, and says so", sent=sent
        )

    async def opened(self, *, confirms: bool = False) -> Channel:
        """A new channel. What has come for it waits for it alone, and not for its turn in a short
        queue: so a reader finds all that is there, and not three packets at a time."""
        channel = await self.channel(publisher_confirms=confirms, frame_buffer_size=0)
        assert isinstance(channel, Channel)
        return channel

    @asynccontextmanager
    async def for_a_while(self) -> AsyncIterator[Channel]:
        """A channel for declarations: one that is refused closes it. Where the server does not
        answer on it, the connection stays, since others use it, and there is no consumer."""
        channel = await self.opened()
        try:
            yield channel
        finally:
            await _to_its_end(_left(channel))


class Link:
    """One connection to one of the servers of an address: made when it is needed, and again after
    it broke. `purpose` is how the server's tools show it."""

    def __init__(self, address: BrokerAddress, purpose: str) -> None:
        self._address = address
        self._purpose = purpose
        self._connecting = asyncio.Lock()
        self._connection: Connection | None = None
        self._first = 0
        self._is_closed = False
        self._context = address.trusting() if address.tls else None

    async def connection(self) -> Connection:
        """Raises BrokerAway where no server answers, and BrokerRefused where it lets no client
        in."""
        async with self._connecting:
            if self._is_closed:
                raise BrokerAway("the broker is closed", sent=False)
            if self._connection is None or not self._connection.is_opened:
                connection = await self._connect()
                if self._is_closed:
                    await close(connection)
                    raise BrokerAway("the broker is closed", sent=False)
                self._connection = connection
            return self._connection

    async def aclose(self) -> None:
        """Close it for good."""
        self._is_closed = True
        if self._connection is not None:
            await close(self._connection)

    async def _connect(self) -> Connection:
        failures: list[str] = []
        servers = self._address.servers
        for _ in servers:
            number = self._first
            host, port = servers[number]
            # One that hangs until the caller's patience ends is not the first again.
            self._first = (number + 1) % len(servers)
            try:
                connection = await self._connect_to(host, port)
            except (AMQPError, OSError, *UNREADABLE) as error:
                require_entry(error, self._address)
                failures.append(f"{host}:{port}: {words(error)}")
                continue
            self._first = number
            return connection
        raise BrokerAway("; ".join(failures), sent=False)

    async def _connect_to(self, host: str, port: int) -> Connection:
        address = self._address
        url = URL.build(
            scheme="amqps" if address.tls else "amqp",
            host=host,
            port=port,
            user=address.user or "guest",
            password=address.password or "guest",
            path="/",
            query={"heartbeat": str(HEARTBEAT)},
        )
        name = f"{address.prefix} {self._purpose}"
        options: dict[str, Any] = {"client_properties": {"connection_name": name}}
        if address.tls:
            options |= {"context": self._context, "ssl_shutdown_timeout": _CLOSE_WITHIN}
        connection = Connection(url, **options)
        connection.vhost = address.path or "/"
        try:
            with our_connection():
                async with within(CONNECT_WITHIN):
                    await connection.connect()
            require_confirms((connection.server_properties or {}).get("capabilities"), address)
        except BaseException:
            # It may be there already when the caller is cancelled.
            await close(connection)
            raise
        return connection


async def close(it: Channel | aiormq.Connection) -> None:
    """Close it within a few seconds, even with a silent server: with a channel that it does not
    close goes the connection, since there may be a consumer that would get packets for ever."""
    await _to_its_end(_closed(it))


async def _to_its_end(closing: Coroutine[Any, Any, None]) -> None:
    """Wait for that, which goes on where the caller is cancelled: what is not closed would stay,
    with its consumer."""
    task = asyncio.create_task(closing)
    _ending.add(task)
    task.add_done_callback(_ending.discard)
    await asyncio.shield(task)


async def _left(channel: Channel) -> None:
    with suppress(*_CLOSED):
        await channel.close(ConnectionError("closed"), timeout=_CLOSE_CHANNEL_WITHIN)


async def _closed(it: Channel | aiormq.Connection) -> None:
    seconds = _CLOSE_CHANNEL_WITHIN if isinstance(it, Channel) else _CLOSE_WITHIN
    try:
        await it.close(ConnectionError("closed"), timeout=seconds)
        if isinstance(it, Channel):
            await _closed_by_server(it)
    except TimeoutError:
        if isinstance(it, Channel) and isinstance(it.connection, aiormq.Connection):
            await _closed(it.connection)
    except _CLOSED:
        pass


async def _closed_by_server(channel: Channel) -> None:
    """Return when the server has closed it too. The library does not wait for that where a request
    was cancelled, and that one may be to consume."""

    def is_open() -> bool:
        connection = channel.connection
        return not connection.is_closed and connection.channels.get(channel.number) is channel

    for _ in range(_LOOKS):
        if not is_open():
            return
        await asyncio.sleep(_CLOSE_CHANNEL_WITHIN / _LOOKS)
    raise TimeoutError
