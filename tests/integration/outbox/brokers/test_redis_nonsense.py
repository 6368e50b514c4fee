"""A Redis that gives answers which no Redis gives: trouble of the broker, and it passes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial

import pytest

from outbox.transports.brokers.address import BrokerAddress
from outbox.transports.brokers.broker import BrokerAway, BrokerRefused, ReadingLost
from outbox.transports.brokers.redis import RedisBroker
from outbox.transports.brokers.redis_streams import link
from tests.support.brokers.redis_server import RedisServer, a_redis
from tests.support.brokers.traffic import QUEUE, insisting, opened, packets


@pytest.fixture
async def server() -> AsyncIterator[RedisServer]:
    async with a_redis() as it:
        yield it


class Liar:
    """A way to a server. In the place of the answer of that number, from 1, of those that begin
    with `place`, it gives another one."""

    def __init__(self, server: RedisServer, number: int, answer: bytes, place: bytes = b"") -> None:
        self._place = place
        self._server = server
        self._left = number
        self._answer = answer

    @property
    def has_lied(self) -> bool:
        return self._left <= 0

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[RedisBroker]:
        """A client on that way."""
        meetings: set[asyncio.Task[None]] = set()

        async def meet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            meetings.add(task)
            upstream, towards = await asyncio.open_connection("127.0.0.1", self._server.port)
            asking = asyncio.create_task(pump(reader, towards))
            try:
                while told := await upstream.read(65536):
                    is_counted = told.startswith(self._place)
                    self._left -= is_counted
                    writer.write(self._answer if is_counted and self._left == 0 else told)
            finally:
                asking.cancel()
                writer.transport.abort()
                towards.transport.abort()

        async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while asked := await reader.read(65536):
                writer.write(asked)

        listening = await asyncio.start_server(meet, "127.0.0.1", 0)
        port = listening.sockets[0].getsockname()[1]
        broker = RedisBroker(BrokerAddress.parse(f"redis://127.0.0.1:{port}/0?partitions=1"))
        try:
            yield broker
        finally:
            listening.close()
            await broker.aclose()
            for task in meetings:
                task.cancel()
            await asyncio.gather(*meetings, return_exceptions=True)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"+OK\r\n" * 20,
        b":7\r\n" * 20,
        b"*-1\r\n" * 20,
        b"$3\r\nabc\r\n" * 20,
        b"$-5\r\n",
        b"$x\r\n",
        b"-MOVED 1 x\r\n" * 20,
    ],
)
async def test_an_answer_that_cannot_be_read_is_trouble_of_the_broker_and_passes(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch, answer: bytes
) -> None:
    # Of a lie that is too short the rest is waited for.
    monkeypatch.setattr(link, "ANSWER_WITHIN", 0.5)

    async def all_of_it(broker: RedisBroker) -> None:
        await broker.publish(QUEUE, packets(1))
        async with opened(broker) as reading:
            await reading.done(len(await reading.next(1, 0.1)))
        await broker.waiting(QUEUE)

    number, is_whole = 0, False
    while not is_whole:
        number += 1
        liar = Liar(server, number, answer)
        async with liar.serving() as broker:
            with suppress(BrokerAway, BrokerRefused, ReadingLost):
                await all_of_it(broker)
                is_whole = not liar.has_lied
            await insisting(partial(all_of_it, broker))
    assert number > 5


@pytest.mark.parametrize("told", [b"*1\r\n$3\r\n1-1\r\n", b"$2\r\nok\r\n"])
async def test_packets_of_which_it_says_nothing_are_not_taken(
    server: RedisServer, told: bytes
) -> None:
    queued = b"+OK\r\n" + b"+QUEUED\r\n" * 2
    liar = Liar(server, 1, queued + told, place=queued)
    async with liar.serving() as broker:
        with pytest.raises(BrokerAway, match="does not say that it has all") as away:
            await broker.publish(QUEUE, packets(2))
    assert away.value.sent
