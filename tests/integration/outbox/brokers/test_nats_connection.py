"""A connection to NATS that breaks, in front of a server that a test writes: every question gets an
answer or an error, and nothing of the library's is left behind."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from nats.aio.msg import Msg

from outbox.transports.brokers.address import BrokerAddress
from outbox.transports.brokers.broker import BrokerAway
from outbox.transports.brokers.jetstream import connection as connections
from outbox.transports.brokers.jetstream.connection import Connection
from tests.support.brokers.traffic import PATIENT

_INFO = b'INFO {"server_id":"x","version":"2.15.1","max_payload":1048576}\r\n'


@asynccontextmanager
async def silent_server(
    dies_at: bytes = b"never",
) -> AsyncIterator[tuple[BrokerAddress, list[asyncio.StreamWriter]]]:
    """It lets clients in, and answers nothing else. With it come its ends of the connections, which
    break where a client writes a line that begins with `dies_at`."""
    ends: list[asyncio.StreamWriter] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends.append(writer)
        writer.write(_INFO)
        while line := await reader.readline():
            if line.startswith(dies_at):
                writer.transport.abort()
            elif line.startswith(b"PING"):
                writer.write(b"PONG\r\n")

    listening = await asyncio.start_server(handle, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    try:
        yield BrokerAddress.parse(f"nats://127.0.0.1:{port}"), ends
    finally:
        listening.close()
        for end in ends:
            end.close()


async def test_what_is_asked_while_it_breaks_is_answered_with_an_error(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(connections, "_LOOK", 0.05)
    before = asyncio.all_tasks()
    async with silent_server() as (address, ends):
        connection = await Connection.to(address)
        ends[0].transport.abort()
        asked: list[asyncio.Future[Msg]] = []
        # The library writes while it learns that it cannot: then it does not tell that it closes.
        with pytest.raises(BrokerAway):
            while len(asked) < 1000:
                asked.append(await connection.ask("a", b"x" * 100))
                await asyncio.sleep(0)
        done, left = await asyncio.wait(asked, timeout=PATIENT)
        assert not left
        assert {type(it.exception()) for it in done} == {BrokerAway}
        assert not connection.is_open
        await connection.close()
        await connection.close()
    # Errors that no task asked for are told when what had them is forgotten.
    del connection, asked, done, left
    await asyncio.sleep(0)
    with caplog.at_level(logging.ERROR, "asyncio"):
        gc.collect()
        await asyncio.sleep(0)
    assert not caplog.records
    assert {it for it in asyncio.all_tasks() - before if "nats" in repr(it)} == set()


async def test_closing_it_ends_what_is_asked() -> None:
    async with silent_server() as (address, _):
        connection = await Connection.to(address)
        asked = await connection.ask("a")
        told: list[Exception] = []
        connection.when_ended("a", told.append)
        await connection.close()
        with pytest.raises(BrokerAway) as away:
            await asked
        assert away.value.sent
        assert [type(it) for it in told] == [BrokerAway]
        with pytest.raises(BrokerAway) as unsent:
            await connection.ask("a")
        assert not unsent.value.sent


@pytest.mark.parametrize("line", [b"CONNECT", b"PING", b"SUB"])
async def test_a_server_that_dies_while_it_lets_the_client_in_is_away_at_once(
    monkeypatch: pytest.MonkeyPatch, line: bytes
) -> None:
    monkeypatch.setattr(connections, "CONNECTING", 3600.0)
    async with silent_server(dies_at=line) as (address, ends), asyncio.timeout(PATIENT):
        with pytest.raises(BrokerAway, match="cannot be reached") as away:
            await Connection.to(address)
        assert len(ends) == 1
        assert not away.value.sent
