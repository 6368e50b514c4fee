"""Connections of the HTTP transport that are kept, used again, and given up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from outbox.ids import compose
from outbox.transports import Unacceptable, Unreachable, http11
from outbox.transports.address import Address
from tests.support.envelopes import an_envelope
from tests.support.http_ends import (
    DONE,
    ONE,
    connected,
    do_all,
    replies,
    to,
)
from tests.support.servers import Exchange, scripted
from tests.support.waiting import until


async def test_a_connection_is_used_again() -> None:
    async with connected(do_all) as (transport, server):
        for _ in range(5):
            assert await transport.deliver(ONE) == DONE
        assert server.connections == 1
        await transport.aclose()
        await until(lambda: server.open_connections == 0)
        delivery = await transport.deliver(ONE)
        assert isinstance(delivery, Unreachable)
        assert not delivery.sent
        assert server.connections == 1


async def test_a_connection_that_the_other_side_ends_is_not_used_again() -> None:
    async def once(exchange: Exchange) -> None:
        await exchange.answer(200, replies(exchange.request), connection="close")

    async with connected(once) as (transport, server):
        for _ in range(3):
            assert await transport.deliver(ONE) == DONE
        assert server.connections == 3


async def test_a_kept_connection_that_ends_just_when_it_is_used_is_replaced() -> None:
    async def once(exchange: Exchange) -> None:
        if len(server.requests) == 2:
            exchange.reset()
        else:
            await do_all(exchange)

    async with connected(once) as (transport, server):
        for _ in range(2):
            assert await transport.deliver(ONE) == DONE
        assert [request.body for request in server.requests] == [server.requests[0].body] * 3
        assert server.connections == 2


async def test_a_kept_connection_that_ends_within_an_answer_is_not_replaced() -> None:
    async def half(exchange: Exchange) -> None:
        if len(server.requests) == 1:
            await do_all(exchange)
        else:
            await exchange.write(b"HTTP/1.1 200 OK\r\n")
            exchange.close()

    async with connected(half) as (transport, server):
        assert await transport.deliver(ONE) == DONE
        delivery = await transport.deliver(ONE)
        assert isinstance(delivery, Unreachable)
        assert delivery.sent
        assert len(server.requests) == 2


async def test_each_answer_has_the_whole_room() -> None:
    async with connected(do_all, max_answer=1000) as (transport, server):
        for _ in range(10):
            assert await transport.deliver(ONE) == DONE
        assert server.connections == 1


async def test_a_cancelled_delivery_takes_its_connection_along() -> None:
    begun = asyncio.Event()

    async def hang(exchange: Exchange) -> None:
        begun.set()

    async with connected(hang) as (transport, server):
        delivering = asyncio.create_task(transport.deliver(ONE))
        await begun.wait()
        delivering.cancel()
        with pytest.raises(asyncio.CancelledError):
            await delivering
        await until(lambda: server.open_connections == 0)


async def test_a_request_that_ends_every_connection_is_not_repeated_for_ever() -> None:
    async def deadly(exchange: Exchange) -> None:
        if len(server.requests) == 1:
            await do_all(exchange)
        else:
            exchange.reset()

    async with connected(deadly) as (transport, server):
        assert await transport.deliver(ONE) == DONE
        delivery = await transport.deliver(ONE)
        assert isinstance(delivery, Unreachable)
        assert delivery.sent
        assert len(server.requests) == 3


async def test_a_receiver_that_dies_of_a_request_has_had_it() -> None:
    async def die(exchange: Exchange) -> None:
        if len(server.requests) == 1:
            await do_all(exchange)
        else:
            server.refuse_newcomers()
            exchange.reset()

    async with connected(die) as (transport, server):
        assert await transport.deliver(ONE) == DONE
        delivery = await transport.deliver(ONE)
    # The second try found nobody, yet the first one had left.
    assert len(server.requests) == 2
    assert isinstance(delivery, Unreachable)
    assert "cannot be reached" in delivery.reason
    assert delivery.sent


async def test_an_old_connection_is_closed_and_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http11, "IDLE_SECONDS", -1.0)
    async with connected(do_all) as (transport, server):
        for _ in range(3):
            assert await transport.deliver(ONE) == DONE
        assert server.connections == 3
        await until(lambda: server.open_connections == 1)


async def test_a_connection_that_speaks_unasked_is_not_used_again() -> None:
    answered = asyncio.Event()

    async def twice(exchange: Exchange) -> None:
        await do_all(exchange)
        await answered.wait()
        await exchange.answer(200, b"[]")

    async with connected(twice) as (transport, server):
        for _ in range(3):
            assert await transport.deliver(ONE) == DONE
            answered.set()
            await until(lambda: server.open_connections == 0)
            answered.clear()
        assert server.connections == 3


async def test_a_second_answer_in_the_same_breath_is_not_taken_for_the_next() -> None:
    async def twice(exchange: Exchange) -> None:
        body = replies(exchange.request)
        answer = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)
        await exchange.write(answer * 2)

    async with connected(twice) as (transport, server):
        for number in range(3):
            envelope = an_envelope(id=compose(1, number))
            assert await transport.deliver([envelope]) == DONE
        assert server.connections == 3


async def test_an_answer_before_the_request_was_read_counts_and_ends_the_connection() -> None:
    large = [an_envelope(id=compose(1, n), data=b'"%s"' % (b"x" * 200_000)) for n in range(60)]

    async with _answering_early() as address:
        transport = to(address)
        for batch in (large, ONE):
            delivery = await transport.deliver(batch)
            assert isinstance(delivery, Unacceptable)
            assert delivery.reason.startswith("413 ")
        await transport.aclose()


async def test_so_many_requests_are_under_way_and_no_more() -> None:
    under_way, most, all_here = 0, 0, asyncio.Event()

    async def count(exchange: Exchange) -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        if under_way == http11.DEFAULT_MAX_CONNECTIONS:
            all_here.set()
        await all_here.wait()
        under_way -= 1
        await do_all(exchange)

    async with connected(count) as (transport, server):
        deliveries = await asyncio.gather(*[transport.deliver(ONE) for _ in range(40)])
    assert deliveries == [DONE] * 40
    assert most == server.connections == http11.DEFAULT_MAX_CONNECTIONS


async def test_waiting_for_a_turn_counts_as_time_and_nothing_is_sent() -> None:
    free = asyncio.Event()

    async def hang(exchange: Exchange) -> None:
        await free.wait()
        await exchange.answer(202)

    async with scripted(hang) as server:
        way = http11.Http11(Address.parse(server.address), max_connections=1)
        first = asyncio.create_task(way.post("/", {}, b"", timeout=10))
        await until(lambda: server.requests)
        late = await way.post("/", {}, b"", timeout=0.1)
        assert isinstance(late, http11.NoAnswer)
        assert not late.sent
        free.set()
        assert isinstance(await first, http11.Answer)
        assert isinstance(await way.post("/", {}, b"", timeout=10), http11.Answer)
        await way.aclose()
    assert server.connections == 1


async def test_closing_ends_what_is_under_way() -> None:
    begun = asyncio.Event()

    async def hang(exchange: Exchange) -> None:
        begun.set()
        await asyncio.Event().wait()

    async with connected(hang) as (transport, _):
        delivering = asyncio.create_task(transport.deliver(ONE))
        await begun.wait()
        await transport.aclose()
        delivery = await delivering
    assert isinstance(delivery, Unreachable)
    assert delivery.sent
    assert "the transport was closed" in delivery.reason


@asynccontextmanager
async def _answering_early() -> AsyncIterator[str]:
    """A server that answers as soon as it has a head, and does not read on."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 0\r\n\r\n")
        await writer.drain()
        await gone.wait()
        writer.close()

    gone = asyncio.Event()
    server = await asyncio.start_server(refuse, "127.0.0.1", 0, limit=1000)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        gone.set()
        server.close()
        await server.wait_closed()
