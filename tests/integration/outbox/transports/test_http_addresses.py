"""One name with several addresses over HTTP: real receivers on one database, and strangers."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import pytest
from fastapi import FastAPI

from outbox.ids import compose
from outbox.replies import Outcome
from outbox.transports import Answered, HttpTransport, Unreachable
from outbox.transports.addresses import pool
from outbox.transports.addresses.standing import State
from outbox.transports.http.receiver import receiver
from outbox.transports.http.signing import DATABASE_HEADER, MEANT_HEADER
from outbox.wire.envelope import to_batch
from tests.support.http.http_ends import answering, replies
from tests.support.http.servers import Exchange, scripted, serving
from tests.support.outbox.inboxes import Bench, Book, Names, envelope
from tests.support.outbox.receiving import KEYS, Client
from tests.support.processes.waiting import BUSY

OURS, THEIRS = (compose(1_900_000_000_000, it) for it in (7, 8))
pytestmark = pytest.mark.databases("sqlite")


@pytest.fixture(autouse=True)
def in_no_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """An address whose host is busy for some seconds is not left out for that."""
    monkeypatch.setattr(pool, "CONNECT_SECONDS", 10 * BUSY)


def app_of(bench: Bench, database: str | None = OURS, prefix: str = "") -> FastAPI:
    app = FastAPI()
    router = receiver(bench.inbox, keys=KEYS, clock=bench.clock, database=lambda: database)
    app.include_router(router, prefix=prefix)
    return app


@asynccontextmanager
async def reaching(
    bench: Bench, *addresses: str, timeout: float = 10 * BUSY
) -> AsyncIterator[HttpTransport]:
    transport = HttpTransport(
        ",".join(addresses),
        source="sender",
        to="bank",
        keys=KEYS,
        clock=bench.clock,
        timeout=timeout,
    )
    try:
        yield transport
    finally:
        await transport.aclose()


def states(transport: HttpTransport) -> list[State]:
    return [it.state for it in transport.overview().addresses]


def requests(transport: HttpTransport) -> list[int]:
    return [it.requests for it in transport.overview().addresses]


async def test_messages_go_round_robin_each_signed_for_the_path_of_its_address(
    bench: Bench, names: Names
) -> None:
    async with (
        serving(app_of(bench)) as one,
        serving(app_of(bench, prefix="/deep")) as other,
        reaching(bench, one, f"{other}/deep") as transport,
    ):
        for _ in range(6):
            delivery = await transport.deliver([envelope(names(), Book("a"))])
            assert isinstance(delivery, Answered)
            assert delivery.replies[0].outcome is Outcome.DONE
        assert requests(transport) == [4, 4]  # one of them asked for the database
        assert transport.overview().database == OURS


async def test_an_instance_that_goes_costs_no_delivery_and_is_used_again_when_it_is_back(
    bench: Bench, names: Names
) -> None:
    async def deliver() -> None:
        delivery = await transport.deliver([envelope(names(), Book("a"))])
        assert isinstance(delivery, Answered), delivery

    async with contextlib.AsyncExitStack() as stack:
        one = await stack.enter_async_context(serving(app_of(bench)))
        going = contextlib.AsyncExitStack()
        other = await going.enter_async_context(serving(app_of(bench)))
        transport = await stack.enter_async_context(reaching(bench, one, other))
        for _ in range(4):
            await deliver()
        await going.aclose()
        for _ in range(4):
            await deliver()
        assert states(transport) == [State.USABLE, State.EJECTED]
        async with serving(app_of(bench), at=int(other.rpartition(":")[2])):
            bench.clock.advance(1)
            before = requests(transport)[1]
            for _ in range(20):
                await deliver()
            assert states(transport) == [State.USABLE, State.USABLE]
            assert requests(transport)[1] > before + 1


async def test_a_stranger_refuses_what_is_meant_for_another_database_and_uses_nothing(
    bench: Bench, names: Names, client: Client
) -> None:
    at = OURS
    app = FastAPI()
    app.include_router(receiver(bench.inbox, keys=KEYS, clock=bench.clock, database=lambda: at))
    async with (
        serving(app_of(bench)) as one,
        serving(app) as stranger,
        reaching(bench, one, stranger) as transport,
    ):
        for each in (OURS, THEIRS, THEIRS, THEIRS):
            at = each
            assert isinstance(await transport.deliver([envelope(names(), Book("a"))]), Answered)
        assert states(transport) == [State.USABLE, State.STRANGER]
        reason = transport.overview().addresses[1].reason
        assert OURS in reason
        assert THEIRS in reason


async def test_a_421_of_a_proxy_makes_no_stranger(bench: Bench, names: Names) -> None:
    async def misdirected(exchange: Exchange) -> None:
        await exchange.answer(421, b"Misdirected Request")

    async with (
        serving(app_of(bench)) as one,
        scripted(misdirected) as proxy,
        reaching(bench, one, proxy.address) as transport,
    ):
        for _ in range(3):
            assert isinstance(await transport.deliver([envelope(names(), Book("a"))]), Answered)
        assert states(transport) == [State.USABLE, State.EJECTED]


async def test_a_request_for_another_database_is_a_problem_that_says_both(
    bench: Bench, names: Names
) -> None:
    client = Client(bench, database=lambda: OURS)
    body = to_batch([envelope(names(), Book("a"))])
    answer = await client.post(body, headers={MEANT_HEADER: THEIRS})
    assert answer.status_code == 421
    assert answer.headers[DATABASE_HEADER] == OURS
    problem = answer.json()
    assert problem["code"] == "another-database"
    assert OURS in problem["detail"]
    assert THEIRS in problem["detail"]
    assert "restart the services" in problem["next_step"]
    assert (await client.post(body, headers={MEANT_HEADER: OURS})).status_code == 200
    assert (await Client(bench).post(body, headers={MEANT_HEADER: THEIRS})).status_code == 200


async def test_the_meant_database_cannot_be_changed_on_the_way(bench: Bench, names: Names) -> None:
    client = Client(bench, database=lambda: OURS)
    body = to_batch([envelope(names(), Book("a"))])
    answer = await client.post(body, headers={MEANT_HEADER: THEIRS}, later={MEANT_HEADER: OURS})
    assert answer.status_code == 401


async def test_a_host_that_swallows_connections_leaves_time_for_another(
    bench: Bench, names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "CONNECT_SECONDS", 1.0)
    with full_listener() as silent:
        async with (
            serving(app_of(bench)) as one,
            reaching(bench, one, silent, timeout=4.0) as transport,
        ):
            for _ in range(2):
                delivery = await transport.deliver([envelope(names(), Book("a"))])
                assert isinstance(delivery, Answered)
            assert states(transport) == [State.USABLE, State.EJECTED]


async def test_an_instance_that_breaks_off_is_left_to_the_relay_and_then_left_out(
    bench: Bench, names: Names
) -> None:
    async def break_off(exchange: Exchange) -> None:
        if exchange.request.body != b"[]":
            exchange.reset()
        else:
            await exchange.answer(200, b"[]")

    async with (
        serving(app_of(bench)) as one,
        scripted(break_off) as other,
        reaching(bench, one, other.address) as transport,
    ):
        first = await transport.deliver([envelope(names(), Book("a"))])
        assert isinstance(first, Answered)
        delivery = await transport.deliver([envelope(names(), Book("a"))])
        assert isinstance(delivery, Unreachable)
        assert delivery.sent
        assert len(other.requests) == 2  # one of them asked for the database
        assert isinstance(await transport.deliver([envelope(names(), Book("a"))]), Answered)


@pytest.mark.parametrize(
    "answer", [answering(404), answering(401), answering(302, location="http://127.0.0.1:1/")]
)
async def test_an_address_where_something_else_answers_is_left_out_within_the_delivery(
    bench: Bench, names: Names, answer: Callable[..., object]
) -> None:
    async with (
        serving(app_of(bench)) as one,
        scripted(answer) as other,  # type: ignore[arg-type]  # it is a script
        reaching(bench, one, other.address) as transport,
    ):
        for _ in range(4):
            assert isinstance(await transport.deliver([envelope(names(), Book("a"))]), Answered)
        assert states(transport) == [State.USABLE, State.EJECTED]


async def test_instances_of_an_older_version_tell_no_database_and_take_messages(
    bench: Bench, names: Names
) -> None:
    async def older(exchange: Exchange) -> None:
        await exchange.answer(
            200, replies(exchange.request) if exchange.request.body != b"[]" else b"[]"
        )

    async with (
        scripted(older) as one,
        scripted(older) as other,
        reaching(bench, one.address, other.address) as transport,
    ):
        for _ in range(4):
            assert isinstance(await transport.deliver([envelope(names(), Book("a"))]), Answered)
        assert transport.overview().database is None
        assert all(MEANT_HEADER not in it.headers for it in [*one.requests, *other.requests])


@contextlib.contextmanager
def full_listener() -> Iterator[str]:
    """The address of a socket that answers no connection any more: its queue is full."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        yield f"http://127.0.0.1:{port}"
