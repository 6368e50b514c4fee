"""Notifications of PostgreSQL, which a process gives and hears on a connection of its own."""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from zlib import crc32

from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncEngine

from outbox.database.address.poolers import before
from outbox.database.opening import ConnectionSilent
from outbox.database.table_set import TableSet

_PATIENCE = 4.0
"""Seconds for an answer of the server, less than a process has for its end."""
_BEGINS_WITHIN = 10.0
"""Seconds until it hears, from the beginning of the connection: no driver bounds all of that."""
# A notification commits, and a flush of that would protect nothing: none outlives the server.
_UNFLUSHED = "SET synchronous_commit = off"


def channel_of(tables: TableSet) -> str:
    """The channel of the processes that share these tables. Two installations with the same one
    only wake each other for nothing."""
    place = f"{tables.schema or ''}.{tables.prefix}"
    return f"sagabox_{crc32(place.encode()):08x}"


class Notifications(ABC):
    """The notifications on one channel, over one connection of a driver.

    `heard` is called in this event loop for each notification of another connection, and once the
    connection is lost. One task at a time calls the methods, whose errors are the driver's.
    """

    is_lost = False

    def __init__(self, connection: Any, channel: str, heard: Callable[[], None]) -> None:
        self._connection = connection
        self._channel = channel
        self._heard = heard

    async def notify(self) -> None:
        """Notify all other connections that listen."""
        await self._ask(f'NOTIFY "{self._channel}"')

    async def check(self) -> None:
        """Find out whether the server is still there."""
        await self._ask("SELECT 1")

    @abstractmethod
    async def listen(self) -> None:
        """Begin to hear."""

    @abstractmethod
    async def close(self) -> None:
        """Hear nothing more, and close the connection."""

    @abstractmethod
    async def _execute(self, statement: str) -> None: ...

    async def _ask(self, statement: str) -> None:
        try:
            await self._execute(statement)
        except TimeoutError as error:
            raise ConnectionSilent(f"PostgreSQL has not answered for {_PATIENCE:g} s") from error

    def _lose(self, *_: object) -> None:
        self.is_lost = True
        self._heard()


class _OfAsyncpg(Notifications):
    async def listen(self) -> None:
        self._connection.add_termination_listener(self._lose)
        await self._execute(_UNFLUSHED)
        async with asyncio.timeout(_PATIENCE):
            await self._connection.add_listener(self._channel, self._told)

    async def close(self) -> None:
        self._connection.remove_termination_listener(self._lose)
        await self._connection.close(timeout=_PATIENCE)

    async def _execute(self, statement: str) -> None:
        await self._connection.execute(statement, timeout=_PATIENCE)

    def _told(self, connection: Any, pid: int, _channel: str, _payload: str) -> None:
        if pid != connection.get_server_pid():
            self._heard()


class _OfPsycopg(Notifications):
    def __init__(self, connection: Any, channel: str, heard: Callable[[], None]) -> None:
        super().__init__(connection, channel, heard)
        self._loop = asyncio.get_running_loop()
        self._socket: int = connection.fileno()
        self._is_reading = False

    async def listen(self) -> None:
        self._connection.add_notify_handler(lambda it: self._told(it.pid))
        await self._connection.set_autocommit(True)
        await self._execute(_UNFLUSHED)
        await self._execute(f'LISTEN "{self._channel}"')

    async def close(self) -> None:
        self._stop_reading()
        await self._connection.close()

    def _stop_reading(self) -> None:
        # Once only: a socket that was lost may have left its number to another one.
        if self._is_reading:
            self._is_reading = False
            self._loop.remove_reader(self._socket)

    async def _execute(self, statement: str) -> None:
        # The driver waits for the answer by a reader of its own.
        self._stop_reading()
        async with asyncio.timeout(_PATIENCE):
            await self._connection.execute(statement, prepare=False)
        self._loop.add_reader(self._socket, self._read)
        self._is_reading = True
        # What came right behind the answer is not on the socket any more.
        self._tell()

    def _read(self) -> None:
        try:
            self._connection.pgconn.consume_input()
        except Exception:
            self._stop_reading()
            self._lose()
        else:
            self._tell()

    def _tell(self) -> None:
        while found := self._connection.pgconn.notifies():
            self._told(found.be_pid)

    def _told(self, pid: int) -> None:
        if pid != self._connection.info.backend_pid:
            self._heard()


_DRIVERS: dict[str, type[Notifications]] = {"asyncpg": _OfAsyncpg, "psycopg": _OfPsycopg}


def can_notify(engine: AsyncEngine) -> bool:
    """Whether the engine has a driver that hears notifications."""
    return engine.dialect.driver in _DRIVERS


@asynccontextmanager
async def notifications(
    engine: AsyncEngine, channel: str, heard: Callable[[], None]
) -> AsyncIterator[Notifications | None]:
    """Notifications over a connection that is the engine's, and none of its pool; None where a
    pooler is before the server, through which none come. Errors of the database pass through."""
    async with AsyncExitStack() as ending:
        try:
            async with asyncio.timeout(_BEGINS_WITHIN):
                found = await _begun(engine, channel, heard, ending)
        except TimeoutError as error:
            raise ConnectionSilent(
                f"PostgreSQL has let no connection listen within {_BEGINS_WITHIN:g} s"
            ) from error
        yield found


async def _begun(
    engine: AsyncEngine, channel: str, heard: Callable[[], None], ending: AsyncExitStack
) -> Notifications | None:
    connection = await ending.enter_async_context(engine.connect())
    if await connection.run_sync(before):
        return None
    # It tells the driver's connection only as long as it is one of the pool.
    driver = (await connection.get_raw_connection()).driver_connection
    await connection.run_sync(Connection.detach)
    found = _DRIVERS[engine.dialect.driver](driver, channel, heard)

    async def end() -> None:
        with contextlib.suppress(Exception):  # it is given up in any case
            await found.close()
        # SQLAlchemy closes only what the pool has, with some drivers.
        await connection.invalidate()

    ending.push_async_callback(end)
    await found.listen()
    return found
