"""What the gRPC transport sends, and what it makes of each answer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import grpc
import pytest

from outbox.errors import OutboxError
from outbox.replies import Outcome, Reply
from outbox.testing import FakeClock
from outbox.transports import Unacceptable, Unreachable
from outbox.transports.addresses import pool
from outbox.transports.addresses.address import Address
from outbox.transports.addresses.overview import HasAddresses
from outbox.transports.grpc import connection
from outbox.transports.grpc.envelopes import envelopes_in, request_of, response_of
from outbox.transports.grpc.receiver import MessagesService
from outbox.transports.grpc.server import GrpcServer
from outbox.transports.grpc.statuses import CODE, RETRY_AFTER
from outbox.transports.grpc.transport import DELIVER
from outbox.transports.grpc.v1 import messages_pb2 as v1
from outbox.transports.http.door import Door
from outbox.transports.http.signing import TO_HEADER, verify
from outbox.wire.envelope import Envelope
from outbox.wire.settled import EndedSagas
from tests.support.http.http_ends import DONE, KEYS, ONE
from tests.support.outbox.calling import answering, delivery_to, to
from tests.support.outbox.envelopes import AN_ID, ANOTHER_ID, an_envelope
from tests.support.processes.waiting import BUSY, free_port, until

Status = grpc.StatusCode


async def do_all(body: bytes, _: Any) -> bytes:
    asked = envelopes_in(body)
    return response_of(asked, [Reply(Outcome.DONE)] * len(asked))


def aborting(status: grpc.StatusCode, details: str = "", **trailers: str) -> Any:
    async def answer(_: bytes, context: Any) -> bytes:
        pairs = tuple((name.replace("_", "-"), value) for name, value in trailers.items())
        await context.abort(status, details, pairs)
        raise AssertionError

    return answer


# --- The request -----------------------------------------------------------------------------


async def test_the_request_is_signed_as_it_is_over_http() -> None:
    seen: list[tuple[bytes, dict[str, str]]] = []
    clock, settled = FakeClock(), EndedSagas(ANOTHER_ID, frozenset({AN_ID}))

    async def look(body: bytes, context: Any) -> bytes:
        seen.append((body, dict(context.invocation_metadata())))
        return await do_all(body, context)

    options: dict[str, Any] = {"clock": clock, "to": "comments", "settled": lambda: settled}
    assert await delivery_to(look, **options) == DONE
    ((body, metadata),) = seen
    assert envelopes_in(body) == list(ONE)
    assert metadata["sagabox-settled"] == settled.to_header()
    assert metadata[TO_HEADER] == "comments"
    assert metadata["user-agent"].startswith("sagabox (articles)")
    signed = {name: value for name, value in metadata.items() if name != "user-agent"}
    assert verify(KEYS, method="POST", target=DELIVER, headers=signed, body=body, now=clock.now())


async def test_data_travels_with_its_exact_bytes() -> None:
    data = b'{ "price" : 1.50, "text":"\\u00fc" }'
    (arrived,) = envelopes_in(request_of([an_envelope(data=data)]))
    assert arrived.data == data


async def test_what_a_newer_peer_adds_is_left_out() -> None:
    event = v1.DeliverRequest.FromString(request_of(ONE)).envelopes[0].SerializeToString()
    newer = event + b"\xca\x3e\x03new"  # field 1001
    body = b"\x0a" + bytes([len(newer) & 0x7F | 0x80, len(newer) >> 7]) + newer + b"\xca\x3e\x01x"
    assert envelopes_in(body) == list(ONE)


async def test_a_message_that_cannot_be_written_is_unacceptable_and_nothing_is_sent() -> None:
    naive = replace(ONE[0], time=datetime(2030, 1, 1))  # noqa: DTZ001 - the broken value under test
    delivery = await delivery_to(do_all, naive)
    assert isinstance(delivery, Unacceptable)
    assert "no time zone" in delivery.reason


@pytest.mark.parametrize(
    "address",
    [
        "http://127.0.0.1:1",
        "grpc://127.0.0.1",
        "grpc://127.0.0.1:1/path",
        "grpc://:1",
        "grpc://a@b:1",
    ],
)
def test_an_address_that_is_none_is_refused_with_how_to_write_it(address: str) -> None:
    with pytest.raises(OutboxError) as caught:
        to(address)
    assert "grpc://HOST:PORT" in caught.value.next_step


# --- What an answer says of the messages -------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "code", "sent"),
    [
        (Status.UNAVAILABLE, "too-busy", False),
        (Status.RESOURCE_EXHAUSTED, "too-busy", False),
        (Status.UNAUTHENTICATED, "untrusted-request", False),
        (Status.UNAUTHENTICATED, None, False),
        (Status.PERMISSION_DENIED, None, False),
        (Status.UNIMPLEMENTED, None, False),
        # All that may come after the messages were taken.
        (Status.UNAVAILABLE, "database-unavailable", True),
        (Status.UNAVAILABLE, None, True),
        (Status.RESOURCE_EXHAUSTED, None, True),
        (Status.INTERNAL, "unexpected-error", True),
        (Status.INTERNAL, None, True),
        (Status.UNKNOWN, None, True),
        (Status.ABORTED, None, True),
        (Status.CANCELLED, None, True),
        (Status.DEADLINE_EXCEEDED, None, True),
        (Status.DATA_LOSS, None, True),
        (Status.NOT_FOUND, None, True),
        (Status.ALREADY_EXISTS, None, True),
        (Status.OUT_OF_RANGE, None, True),
        (Status.FAILED_PRECONDITION, None, True),
    ],
)
async def test_a_status_says_whether_the_messages_may_have_been_taken(
    status: grpc.StatusCode, code: str | None, sent: bool
) -> None:
    trailers = {} if code is None else {CODE: code, RETRY_AFTER: "3"}
    delivery = await delivery_to(aborting(status, "why it is so", **trailers))
    assert isinstance(delivery, Unreachable)
    assert delivery.sent is sent
    assert delivery.retry_after == (None if code is None else 3.0)


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (Status.INVALID_ARGUMENT, None),
        (Status.INVALID_ARGUMENT, "malformed-envelope"),
        (Status.RESOURCE_EXHAUSTED, "body-too-large"),
        (Status.RESOURCE_EXHAUSTED, "too-many-messages"),
    ],
)
async def test_a_status_about_the_messages_themselves_makes_them_unacceptable(
    status: grpc.StatusCode, code: str | None
) -> None:
    trailers = {} if code is None else {CODE: code}
    delivery = await delivery_to(aborting(status, "why", **trailers))
    assert delivery == Unacceptable(f"{status.name}: why")


async def test_an_answer_that_is_too_large_leaves_open_what_happened() -> None:
    delivery = await delivery_to(do_all, max_answer=10)
    assert isinstance(delivery, Unreachable)
    assert delivery.sent
    assert "RESOURCE_EXHAUSTED" in delivery.reason


async def _rubbish(*_: Any) -> bytes:
    return b"\xff" * 9


async def _nothing(*_: Any) -> bytes:
    return b""


async def _unknown_outcome(*_: Any) -> bytes:
    return v1.DeliverResponse(
        replies=[v1.Reply(causationid=AN_ID, outcome="won")]
    ).SerializeToString()


@pytest.mark.parametrize("answer", [_rubbish, _nothing, _unknown_outcome])
async def test_an_answer_that_cannot_be_read_leaves_open_what_happened(answer: Any) -> None:
    delivery = await delivery_to(answer)
    assert isinstance(delivery, Unreachable)
    assert delivery.sent


async def test_a_connection_that_breaks_in_the_middle_leaves_open_what_happened() -> None:
    begun = asyncio.Event()

    async def hang(*_: Any) -> bytes:
        begun.set()
        await asyncio.Event().wait()
        raise AssertionError

    async with answering(hang) as (address, server):
        transport = to(address)
        delivering = asyncio.create_task(transport.deliver(ONE))
        await begun.wait()
        await server.stop(0)
        delivery = await delivering
        await transport.aclose()
    assert isinstance(delivery, Unreachable)
    assert delivery.sent


async def test_a_transport_that_is_closed_meanwhile_leaves_open_what_happened() -> None:
    begun = asyncio.Event()

    async def hang(*_: Any) -> bytes:
        begun.set()
        await asyncio.Event().wait()
        raise AssertionError

    async with answering(hang) as (address, _):
        transport = to(address)
        delivering = asyncio.create_task(transport.deliver(ONE))
        await begun.wait()
        await transport.aclose()
        delivery = await delivering
    assert isinstance(delivery, Unreachable)
    assert delivery.sent


async def test_a_port_that_no_server_listens_at_is_told_with_the_reason() -> None:
    transport = to(f"grpc://127.0.0.1:{free_port()}")
    delivery = await transport.deliver(ONE)
    await transport.aclose()
    assert isinstance(delivery, Unreachable)
    assert not delivery.sent
    assert "refused" in delivery.reason


async def test_a_listener_that_speaks_another_language_got_nothing() -> None:
    got: list[bytes] = []

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got.append(await reader.read(65536))
        writer.write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    listener = await asyncio.start_server(speak, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    transport = to(f"grpc://127.0.0.1:{port}")
    delivery = await transport.deliver(ONE)
    await transport.aclose()
    listener.close()
    assert isinstance(delivery, Unreachable)
    assert not delivery.sent
    assert got
    assert AN_ID.encode() not in b"".join(got)


async def test_after_a_silence_the_next_delivery_goes_over_a_new_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    peers: list[str] = []

    async def first_is_silent(body: bytes, context: Any) -> bytes:
        peers.append(context.peer())
        if len(peers) == 1:
            await asyncio.Event().wait()
        return await do_all(body, context)

    async with answering(first_is_silent) as (address, _):
        transport = to(address, timeout=1.0)
        silent = await transport.deliver(ONE)
        monkeypatch.setattr(transport, "_timeout", 10 * BUSY)  # the others are answered
        assert await transport.deliver(ONE) == DONE
        assert await transport.deliver(ONE) == DONE
        await transport.aclose()
    assert isinstance(silent, Unreachable)
    assert silent.sent
    assert len(set(peers)) == 2


async def test_a_server_that_never_speaks_is_given_up_and_the_next_one_is_found() -> None:
    given_up = asyncio.Event()
    async with answering(do_all) as (there, _):
        port = int(there.rpartition(":")[2])

        async def first_is_silent(
            reader: asyncio.StreamReader, writer: asyncio.StreamWriter
        ) -> None:
            task = asyncio.current_task()
            assert task is not None
            meetings.add(task)
            ends.append(writer)
            if not is_mute.is_set():
                is_mute.set()
                while await reader.read(1000):
                    pass
                given_up.set()
            else:
                upstream, towards = await asyncio.open_connection("127.0.0.1", port)
                ends.append(towards)
                await asyncio.gather(pump(reader, towards), pump(upstream, writer))
            writer.close()

        async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError):
                while told := await reader.read(1000):
                    writer.write(told)
            writer.close()

        is_mute, ends = asyncio.Event(), list[asyncio.StreamWriter]()
        meetings: set[asyncio.Task[None]] = set()
        listening = await asyncio.start_server(first_is_silent, "127.0.0.1", 0)
        transport = to(f"grpc://127.0.0.1:{listening.sockets[0].getsockname()[1]}", timeout=1.0)
        silent = await transport.deliver(ONE)
        assert isinstance(silent, Unreachable)
        assert not silent.sent
        async with asyncio.timeout(5 * BUSY):  # gRPC by itself takes 20 s
            await given_up.wait()

        async def is_taken() -> bool:
            return await transport.deliver(ONE) == DONE

        await until(is_taken)
        await transport.aclose()
        listening.close()
        for end in ends:
            end.transport.abort()
        await asyncio.gather(*meetings, return_exceptions=True)


# --- Several addresses ---------------------------------------------------------------------------


@pytest.fixture
def in_no_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """An address whose host is busy for some seconds is not left out for that."""
    monkeypatch.setattr(pool, "CONNECT_SECONDS", 10 * BUSY)


@pytest.mark.usefixtures("in_no_hurry")
@pytest.mark.parametrize("database", [None, AN_ID])
async def test_deliveries_go_round_robin_to_the_addresses_of_one_name(database: str | None) -> None:
    async with taking(database) as first, taking(database) as second:
        transport = to(f"{first.address},{second.address}")
        for _ in range(6):
            assert await transport.deliver(ONE) == DONE
        shown = transport.overview()
        await transport.aclose()
    assert (first.taken, second.taken) == (3, 3)
    assert shown.database == database


@pytest.mark.usefixtures("in_no_hurry")
async def test_an_address_that_is_away_costs_no_delivery(caplog: pytest.LogCaptureFixture) -> None:
    away = f"grpc://127.0.0.1:{free_port()}"
    async with taking(AN_ID) as there:
        transport = to(f"{away},{there.address}")
        for _ in range(4):
            assert await transport.deliver(ONE) == DONE
        await transport.aclose()
    assert there.taken == 4
    assert "is left out" in caplog.text


@pytest.mark.usefixtures("in_no_hurry")
async def test_an_address_on_another_database_gets_no_message(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with taking(AN_ID) as own, taking(AN_ID) as other, taking(ANOTHER_ID) as stranger:
        transport = to(f"{own.address},{other.address},{stranger.address}")
        for _ in range(4):
            assert await transport.deliver(ONE) == DONE
        shown = transport.overview()
        await transport.aclose()
    assert (own.taken + other.taken, stranger.taken) == (4, 0)
    assert (shown.database, shown.strangers) == (AN_ID, 1)
    assert "a stranger gets no message" in caplog.text


@dataclass
class Taking:
    """A service that takes all that comes, on one database."""

    consumer = "comments"
    address: str = ""
    taken: int = 0

    async def receive(self, envelopes: Sequence[Envelope], _: object) -> Sequence[Reply]:
        self.taken += len(envelopes)
        return [Reply(Outcome.DONE)] * len(envelopes)


@asynccontextmanager
async def taking(database: str | None) -> AsyncIterator[Taking]:
    service: Any = Taking()
    door = Door(service, keys=KEYS, clock=FakeClock(), database=lambda: database)
    async with GrpcServer([MessagesService(door)]).serving() as port:
        service.address = f"grpc://127.0.0.1:{port}"
        yield service


async def test_only_so_many_connections_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "MOST_CONNECTIONS", 2)
    one, two, three = (Address("grpc", "127.0.0.1", port, "") for port in (1, 2, 3))
    connections = connection.Connections(None, ())
    first, second = connections.to(one), connections.to(two)
    assert connections.to(one) is first
    connections.to(three)
    assert connections.to(one) is first
    assert connections.to(two) is not second, "it was used least recently"
    await connections.aclose()


async def test_a_transport_that_is_closed_while_it_connects_has_sent_nothing() -> None:
    accepted, over = asyncio.Event(), asyncio.Event()

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.set()
        with contextlib.suppress(ConnectionError):
            await reader.read()
            writer.close()
            await writer.wait_closed()
        over.set()

    listener = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    transport = to(f"grpc://127.0.0.1:{listener.sockets[0].getsockname()[1]}", timeout=2.0)
    delivering = asyncio.create_task(transport.deliver(ONE))
    await accepted.wait()
    await transport.aclose()
    delivery = await delivering
    await over.wait()
    listener.close()
    assert isinstance(delivery, Unreachable)
    assert not delivery.sent


class _Closed:
    """A channel that is closed while its state is awaited, or while it is asked why it failed."""

    def __init__(self, state: grpc.ChannelConnectivity, ends: BaseException) -> None:
        self._state = state
        self._ends = ends

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        return self._state

    async def wait_for_state_change(self, state: grpc.ChannelConnectivity) -> None:
        raise self._ends

    def unary_unary(self, method: str) -> Any:
        async def call(body: bytes, timeout: float) -> bytes:
            raise self._ends

        return call

    async def close(self, grace: float | None = None) -> None:
        """There is nothing to close."""


@pytest.mark.parametrize(
    "channel",
    [
        _Closed(grpc.ChannelConnectivity.CONNECTING, RuntimeError("closed")),
        _Closed(grpc.ChannelConnectivity.CONNECTING, AssertionError()),
        _Closed(grpc.ChannelConnectivity.TRANSIENT_FAILURE, asyncio.CancelledError()),
        _Closed(grpc.ChannelConnectivity.TRANSIENT_FAILURE, grpc.aio.UsageError("closed")),
    ],
)
async def test_however_grpc_says_that_a_connection_was_closed_meanwhile_nothing_was_sent(
    monkeypatch: pytest.MonkeyPatch, channel: _Closed
) -> None:
    monkeypatch.setattr(grpc.aio, "insecure_channel", lambda *args, **options: channel)
    transport = to("grpc://127.0.0.1:1")
    delivery = await transport.deliver(ONE)
    await transport.aclose()
    assert isinstance(delivery, Unreachable)
    assert not delivery.sent
    assert "given up meanwhile" in delivery.reason


async def test_a_call_that_finds_its_connection_closed_leaves_open_what_happened(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Ready(_Closed):
        def unary_unary(self, method: str) -> Any:
            raise self._ends

    channel = Ready(grpc.ChannelConnectivity.READY, RuntimeError("closed"))
    monkeypatch.setattr(grpc.aio, "insecure_channel", lambda *args, **options: channel)
    transport = to("grpc://127.0.0.1:1")
    delivery = await transport.deliver(ONE)
    await transport.aclose()
    assert isinstance(delivery, Unreachable)
    assert delivery.sent


def test_it_has_addresses_that_can_be_shown() -> None:
    assert isinstance(to("grpc://127.0.0.1:1"), HasAddresses)
