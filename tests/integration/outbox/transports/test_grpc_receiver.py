"""`sagabox.v1.Messages`: who is let in, what bad input gets, and what the server says of itself."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from outbox.errors import InvalidService
from outbox.replies import Outcome, Reply
from outbox.testing import FakeClock
from outbox.transports import Answered, Unreachable
from outbox.transports.grpc import server
from outbox.transports.grpc.envelopes import request_of
from outbox.transports.grpc.receiver import MessagesService
from outbox.transports.grpc.server import GrpcServer
from outbox.transports.grpc.statuses import CODE, RETRY_AFTER
from outbox.transports.grpc.v1 import messages_pb2 as v1
from outbox.transports.http.door import Door
from outbox.transports.http.signing import TO_HEADER, Keyring
from outbox.wire.envelope import Envelope
from outbox.wire.settled import SETTLED_HEADER, EndedSagas
from tests.support.http.http_ends import KEYS
from tests.support.outbox.calling import OWN_TLS, Caller, called, to
from tests.support.outbox.inboxes import Bench, Book, Names, Noted, envelope
from tests.support.processes.waiting import BUSY, until

DONE = Reply(Outcome.DONE)
Status = grpc.StatusCode


@pytest.fixture
async def caller(bench: Bench) -> AsyncIterator[Caller]:
    async with called(bench, max_body=20_000, max_messages=10) as caller:
        yield caller


async def refusal(call: Any) -> tuple[grpc.StatusCode, str, dict[str, str]]:
    """The status, the text and the trailers with which that call is refused."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    error = caught.value
    return error.code(), error.details() or "", dict(error.trailing_metadata())


# --- What is let in ----------------------------------------------------------------------------


async def test_a_batch_is_answered_with_a_reply_for_each_message(
    caller: Caller, bench: Bench, names: Names
) -> None:
    batch = [envelope(names(), Noted("a", "1")), envelope(names(), Book("b", "2"))]
    assert await caller.send(*batch) == [DONE, Reply(Outcome.DONE, value={"balance": 1})]
    assert await bench.entries() == ["1", "2"]


async def test_what_came_over_http_is_the_same_message_over_grpc(
    caller: Caller, bench: Bench, names: Names, client: Any
) -> None:
    batch = [envelope(names(), Book("b", "2"))]
    assert await client.send(*batch) == await caller.send(*batch)
    assert await bench.entries() == ["2"]


async def test_what_the_orchestrator_says_of_its_sagas_reaches_the_inbox(
    caller: Caller, bench: Bench, names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[EndedSagas | None] = []
    receive = bench.inbox.receive

    async def listen(envelopes: Sequence[Envelope], settled: EndedSagas | None = None) -> Any:
        heard.append(settled)
        return await receive(envelopes, settled)

    monkeypatch.setattr(bench.inbox, "receive", listen)
    settled = EndedSagas(names(), frozenset())
    note = envelope(names(), Noted("a"))
    await caller.send(note, metadata={SETTLED_HEADER.lower(): settled.to_header()})
    await caller.send(note)
    assert heard == [settled, None]


# --- Who is not --------------------------------------------------------------------------------


async def test_a_call_that_is_not_signed_or_was_altered_is_not_let_in(
    caller: Caller, bench: Bench, names: Names
) -> None:
    body = request_of([envelope(names(), Noted("a", "1"))])
    unsigned: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]
    unsigned = caller.channel.unary_unary("/sagabox.v1.Messages/Deliver")
    settled = (SETTLED_HEADER.lower(), EndedSagas(names()).to_header())
    for call in [
        unsigned(body),
        caller.call(body, sent=body + b"\xca\x3e\x01x"),
        caller.call(body, target="/sagabox.v1.Messages/Other"),
        caller.call(body, later=[settled]),
        caller.call(body, metadata={settled[0]: settled[1]}, later=[settled]),
        caller.call(body, keys=Keyring({"now": os.urandom(32)}, "now")),
        caller.call(body, keys=Keyring({"old": os.urandom(32)}, "old")),
        caller.call(body, metadata={TO_HEADER: "another"}),
    ]:
        status, _, trailers = await refusal(call)
        assert (status, trailers[CODE]) == (Status.UNAUTHENTICATED, "untrusted-request")
    assert await bench.states() == {}


async def test_an_old_call_is_not_let_in(bench: Bench, names: Names) -> None:
    async with called(bench) as caller:
        behind = Caller(caller.port, FakeClock(bench.clock.now()))
        bench.clock.advance(301)
        call = behind.call(request_of([envelope(names(), Noted("a"))]))
        status, details, _ = await refusal(call)
        await behind.channel.close()
    assert status is Status.UNAUTHENTICATED
    assert "301 s ago" in details
    assert await bench.states() == {}


@pytest.mark.parametrize(
    ("event", "named"),
    [
        (v1.Envelope(), "specversion"),
        (v1.Envelope(specversion="1.0", data=b"{}"), "'id'"),
        (v1.Envelope(specversion="1.0"), "'data'"),
        (v1.Envelope(specversion="1.0", data=b'{"a":1,"a":2}'), "two members 'a'"),
    ],
)
async def test_what_is_no_envelope_is_refused_by_position_and_attribute(
    caller: Caller, bench: Bench, names: Names, event: v1.Envelope, named: str
) -> None:
    good = v1.DeliverRequest.FromString(request_of([envelope(names(), Noted("a"))])).envelopes[0]
    if named == "specversion":
        event.data = b"{}"
    body = v1.DeliverRequest(envelopes=[good, event]).SerializeToString()
    status, details, trailers = await refusal(caller.call(body))
    assert (status, trailers[CODE]) == (Status.INVALID_ARGUMENT, "malformed-envelope")
    assert named in details
    assert "event 1 of the batch" in details
    assert await bench.states() == {}


async def test_bytes_that_are_no_request_are_refused(caller: Caller, bench: Bench) -> None:
    status, details, _ = await refusal(caller.call(b"\xff\xff\xff"))
    assert status is Status.INVALID_ARGUMENT
    assert "sagabox.v1.DeliverRequest" in details
    assert await bench.states() == {}


async def test_too_many_bytes_and_too_many_messages_are_refused_by_their_limits(
    caller: Caller, bench: Bench, names: Names
) -> None:
    large = request_of([envelope(names(), Noted("a", "x" * 20_000))])
    status, details, trailers = await refusal(caller.call(large))
    assert (status, trailers[CODE]) == (Status.RESOURCE_EXHAUSTED, "body-too-large")
    assert "20000 bytes" in details
    many = request_of([envelope(names(), Noted("a")) for _ in range(11)])
    status, details, trailers = await refusal(caller.call(many))
    assert (status, trailers[CODE]) == (Status.RESOURCE_EXHAUSTED, "too-many-messages")
    assert await bench.states() == {}


# --- Under load, and at the end ------------------------------------------------------------------


async def test_beyond_its_bound_the_receiver_says_when_to_come_back(
    bench: Bench, names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    go, inside = asyncio.Event(), 0
    receive = bench.inbox.receive

    async def stall(*arguments: Any) -> Any:
        nonlocal inside
        inside += 1
        await go.wait()
        return await receive(*arguments)

    monkeypatch.setattr(bench.inbox, "receive", stall)
    async with called(bench, concurrency=1) as caller:
        first = asyncio.create_task(caller.send(envelope(names(), Noted("a", "in"))))
        await until(lambda: inside == 1, what="the first is at work")
        status, _, trailers = await refusal(caller.send(envelope(names(), Noted("a", "late"))))
        assert (status, trailers[CODE]) == (Status.UNAVAILABLE, "too-busy")
        assert trailers[RETRY_AFTER] == "1"
        go.set()
        assert await first == [DONE]
    assert await bench.entries() == ["in"]


async def test_what_a_sender_gave_up_is_finished_all_the_same(
    bench: Bench, names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    go, begun = asyncio.Event(), asyncio.Event()
    receive = bench.inbox.receive

    async def stall(*arguments: Any) -> Any:
        begun.set()
        await go.wait()
        return await receive(*arguments)

    monkeypatch.setattr(bench.inbox, "receive", stall)
    async with called(bench) as caller:
        call = asyncio.create_task(caller.send(envelope(names(), Noted("a", "1"))))
        await begun.wait()
        call.cancel()
        await asyncio.wait([call])
        await caller.channel.close()
        go.set()
    # The server waited for what had begun.
    assert await bench.entries() == ["1"]


async def test_the_database_in_trouble_is_no_refusal(
    bench: Bench, names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: Any) -> Any:
        raise ConnectionError("the database is away")

    monkeypatch.setattr(bench.inbox, "receive", fail)
    service = MessagesService(Door(bench.inbox, keys=KEYS, clock=bench.clock))
    async with GrpcServer([service]).serving() as port:
        transport = to(f"grpc://127.0.0.1:{port}", clock=bench.clock)
        delivery = await transport.deliver([envelope(names(), Noted("a"))])
        await transport.aclose()
    assert isinstance(delivery, Unreachable)
    assert delivery.sent


# --- The server --------------------------------------------------------------------------------


async def test_it_says_that_it_serves_and_what_there_is(caller: Caller) -> None:
    check: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]
    check = caller.channel.unary_unary("/grpc.health.v1.Health/Check")
    asked = health_pb2.HealthCheckRequest(service="sagabox.v1.Messages")
    checked = await check(asked.SerializeToString())
    health = health_pb2.HealthCheckResponse.FromString(checked)
    assert health.status == health_pb2.HealthCheckResponse.SERVING

    reflect: grpc.aio.StreamStreamMultiCallable[bytes, bytes]
    reflect = caller.channel.stream_stream(
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
    )
    ask = reflection_pb2.ServerReflectionRequest(list_services="").SerializeToString()
    (told,) = [each async for each in reflect(iter([ask]))]
    answer = reflection_pb2.ServerReflectionResponse.FromString(told)
    listed = {each.name for each in answer.list_services_response.service}
    assert {"sagabox.v1.Messages", "grpc.health.v1.Health"} <= listed


async def test_no_call_that_needs_no_key_stays_open(
    caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch: grpc.aio.UnaryStreamMultiCallable[bytes, bytes]
    watch = caller.channel.unary_stream("/grpc.health.v1.Health/Watch")
    status, text, _ = await refusal(anext(aiter(watch(b"", timeout=10 * BUSY))))
    assert (status, "call Check" in text) == (Status.UNIMPLEMENTED, True)

    monkeypatch.setattr(server, "REFLECTS_WITHIN", 0.2)
    reflect: grpc.aio.StreamStreamMultiCallable[bytes, bytes]
    reflect = caller.channel.stream_stream(
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
    )
    call = reflect(timeout=10 * BUSY)
    ask = reflection_pb2.ServerReflectionRequest(list_services="").SerializeToString()
    await call.write(ask)

    async def hear_out() -> None:
        while await call.read() is not grpc.aio.EOF:
            pass

    status, text, _ = await refusal(hear_out())
    assert (status, "make another one" in text) == (Status.DEADLINE_EXCEEDED, True)


async def test_a_port_that_is_taken_is_told_with_both_ways_out(bench: Bench) -> None:
    service = MessagesService(Door(bench.inbox, keys=KEYS, clock=bench.clock))
    async with GrpcServer([service]).serving() as port:
        with pytest.raises(InvalidService) as caught:
            async with GrpcServer([service], port=port).serving():
                pass
    assert "--grpc-port" in caught.value.next_step


async def test_with_tls_only_who_trusts_the_certificate_is_answered(
    bench: Bench, names: Names
) -> None:
    service = MessagesService(Door(bench.inbox, keys=KEYS, clock=bench.clock))
    async with GrpcServer([service], tls=OWN_TLS).serving() as port:
        found = []
        for scheme, roots in [
            ("grpcs", OWN_TLS.certificate),
            ("grpcs", None),
            ("grpc", None),
        ]:
            address = f"{scheme}://127.0.0.1:{port}"
            transport = to(address, clock=bench.clock, roots=roots)
            found.append(await transport.deliver([envelope(names(), Noted("a"))]))
            await transport.aclose()
    trusted, untrusted, plain = found
    assert trusted == Answered([DONE])
    for each in (untrusted, plain):
        assert isinstance(each, Unreachable)
        assert not each.sent
    assert len(await bench.entries()) == 1
