"""Connections that are refused, hang, break or talk nonsense, under the HTTP transport."""

from __future__ import annotations

import asyncio
import socket
import ssl

import pytest
import uvloop

from outbox.transports import Unacceptable, Unreachable
from outbox.transports.http import posting
from tests.support.checkout import CERTIFICATE
from tests.support.http.http_ends import (
    DONE,
    ONE,
    connected,
    delivery_to,
    do_all,
    replies,
    to,
    writing,
)
from tests.support.http.servers import Exchange, Script, scripted
from tests.support.processes.waiting import BUSY, RARELY, free_port


@pytest.fixture(autouse=True)
def idle_connections_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long a test is kept from its next request."""
    monkeypatch.setattr(posting, "IDLE_SECONDS", RARELY)


# --- No answer -------------------------------------------------------------------------------


async def test_a_refused_connection_means_that_nothing_was_sent() -> None:
    transport = to(f"http://127.0.0.1:{free_port()}")
    delivery = await transport.deliver(ONE)
    assert isinstance(delivery, Unreachable)
    assert not delivery.sent
    assert "cannot be reached" in delivery.reason


async def test_a_host_that_is_unknown_means_that_nothing_was_sent() -> None:
    delivery = await to("http://nowhere.invalid").deliver(ONE)
    assert isinstance(delivery, Unreachable)
    assert not delivery.sent


async def test_a_connection_that_does_not_come_about_in_time_means_that_nothing_was_sent() -> None:
    with socket.socket() as full, socket.socket() as first, socket.socket() as second:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for waiting in (first, second):
            # They fill the queue of those who wait to be accepted.
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        transport = to(f"http://127.0.0.1:{full.getsockname()[1]}", timeout=0.2)
        async with asyncio.timeout(10 * BUSY):
            delivery = await transport.deliver(ONE)
    assert isinstance(delivery, Unreachable)
    assert not delivery.sent
    assert "did not answer within 0.2 s" in delivery.reason


async def test_an_answer_that_drips_is_given_up_at_the_deadline_all_the_same() -> None:
    async def drip(exchange: Exchange) -> None:
        if len(server.requests) == 1:
            # The next one finds a connection: it has all of its short time to send.
            return await do_all(exchange)
        await exchange.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n")
        while True:
            await exchange.write(b"[")
            await asyncio.sleep(0)

    async with connected(drip, timeout=0.5) as (transport, server), asyncio.timeout(10 * BUSY):
        while await transport.deliver(ONE) != DONE:
            server.requests.clear()
        delivery = await transport.deliver(ONE)
    assert isinstance(delivery, Unreachable)
    assert delivery.sent


async def test_a_refusal_counts_although_its_body_was_cut_off() -> None:
    refusal = b"HTTP/1.1 413 Too Large\r\ncontent-length: 500\r\n\r\n{"
    delivery = await delivery_to(writing(refusal))
    assert isinstance(delivery, Unacceptable)
    assert delivery.reason.startswith("413 ")


async def test_a_reset_after_the_request_leaves_it_open_what_happened() -> None:
    async def reset(exchange: Exchange) -> None:
        exchange.reset()

    delivery = await delivery_to(reset)
    assert isinstance(delivery, Unreachable)
    assert delivery.sent


@pytest.mark.parametrize(
    "part",
    [
        b"",
        b"HTTP/1.1 200 OK\r\ncontent-le",
        b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\n[]",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n[]\r\n",
        b"HTTP/1.1 102 Processing\r\n\r\n",
    ],
    ids=["nothing", "half a head", "half a body", "no last chunk", "only an announcement"],
)
async def test_half_an_answer_is_none(part: bytes) -> None:
    delivery = await delivery_to(writing(part))
    assert isinstance(delivery, Unreachable)
    assert delivery.sent
    assert "gave no whole answer" in delivery.reason


@pytest.mark.parametrize(
    "parts",
    [
        [b"HTTP/1.1 200 OK\r\ncontent-length: 5000\r\n\r\n" + b"x" * 5000],
        [b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"]
        + [b"64\r\n" + b"x" * 100 + b"\r\n"] * 50,
    ],
    ids=["with a length", "in chunks"],
)
async def test_an_answer_that_is_too_large_is_not_read_to_its_end(parts: list[bytes]) -> None:
    delivery = await delivery_to(writing(*parts), max_answer=4000)
    assert isinstance(delivery, Unreachable)
    assert delivery.sent
    assert "more than 4000 bytes" in delivery.reason


@pytest.mark.parametrize(
    "data",
    [
        b"220 mail.example ready\r\n",
        b"HTTP/1.1 101 Go\r\nupgrade: x\r\nconnection: upgrade\r\n\r\nx",
    ],
)
async def test_an_answer_that_is_not_http_is_none(data: bytes) -> None:
    delivery = await delivery_to(writing(data))
    assert isinstance(delivery, Unreachable)
    assert delivery.sent
    assert "RemoteProtocolError" in delivery.reason


# --- Ways of answering -----------------------------------------------------------------------


async def chunked(exchange: Exchange) -> None:
    body = replies(exchange.request)
    await exchange.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    for part in (body[:7], body[7:]):
        await exchange.write(b"%x\r\n%s\r\n" % (len(part), part))
    await exchange.write(b"0\r\n\r\n")


async def announced(exchange: Exchange) -> None:
    await exchange.write(b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n")
    await exchange.answer(200, replies(exchange.request))


async def ended_by_closing(exchange: Exchange) -> None:
    await exchange.write(b"HTTP/1.0 200 OK\r\n\r\n" + replies(exchange.request))
    exchange.close()


@pytest.mark.parametrize("script", [do_all, chunked, announced, ended_by_closing])
async def test_every_form_of_an_answer_is_understood(script: Script) -> None:
    assert await delivery_to(script) == DONE


# --- Surroundings ----------------------------------------------------------------------------


async def test_tls_is_used_and_the_certificate_is_checked() -> None:
    server_side = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server_side.load_cert_chain(CERTIFICATE)
    async with scripted(do_all, tls=server_side) as server:
        trusting = to(server.address, tls=ssl.create_default_context(cafile=CERTIFICATE))
        assert await trusting.deliver(ONE) == DONE
        assert await trusting.deliver(ONE) == DONE
        await trusting.aclose()
        assert server.connections == 1

        delivery = await to(server.address).deliver(ONE)
        assert isinstance(delivery, Unreachable)
        assert not delivery.sent
        assert "certificate" in delivery.reason.lower()


def test_it_works_in_every_event_loop() -> None:
    async def main() -> None:
        async with connected(do_all) as (transport, server):
            assert await transport.deliver(ONE) == DONE
            assert await transport.deliver(ONE) == DONE
            assert server.connections == 1
        missed = await to(f"http://127.0.0.1:{free_port()}").deliver(ONE)
        assert isinstance(missed, Unreachable)
        assert not missed.sent

    uvloop.run(main())
