"""Connections of the HTTP transport that are kept, used again, and given up."""

from __future__ import annotations

import asyncio

import pytest

from outbox.transports import Unreachable
from outbox.transports.http import posting
from tests.support.http.http_ends import DONE, ONE, connected, do_all, replies
from tests.support.http.servers import Exchange
from tests.support.processes.waiting import RARELY, until


@pytest.fixture(autouse=True)
def idle_connections_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long a test is kept from its next request."""
    monkeypatch.setattr(posting, "IDLE_SECONDS", RARELY)


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


async def test_each_answer_has_the_whole_room() -> None:
    async with connected(do_all, max_answer=1000) as (transport, server):
        for _ in range(10):
            assert await transport.deliver(ONE) == DONE
        assert server.connections == 1


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
    assert len(server.requests) == 2
    assert isinstance(delivery, Unreachable)
    assert delivery.sent


async def test_so_many_requests_are_under_way_and_no_more() -> None:
    under_way, most, all_here = 0, 0, asyncio.Event()

    async def count(exchange: Exchange) -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        if under_way == posting.MAX_CONNECTIONS:
            all_here.set()
        await all_here.wait()
        under_way -= 1
        await do_all(exchange)

    async with connected(count) as (transport, server):
        deliveries = await asyncio.gather(*[transport.deliver(ONE) for _ in range(40)])
    assert deliveries == [DONE] * 40
    assert most == server.connections == posting.MAX_CONNECTIONS
