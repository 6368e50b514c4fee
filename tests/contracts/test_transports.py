"""What every transport promises, whichever way the messages take."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from fastapi import FastAPI
from sqlalchemy.ext.asyncio import AsyncEngine

from outbox.clock import SystemClock
from outbox.ids import Ids
from outbox.inbox.inbox import Inbox
from outbox.replies import Outcome, Reply
from outbox.transports import (
    Answered,
    HttpTransport,
    MemoryTransport,
    Transport,
    Unacceptable,
    Unreachable,
)
from outbox.transports.http.receiver import receiver
from outbox.transports.http.signing import Keyring
from outbox.wire.envelope import Envelope
from outbox.wire.settled import EndedSagas
from tests.support.databases.databases import Schema
from tests.support.http.servers import serving
from tests.support.outbox.envelopes import AN_ID, a_full_envelope, an_envelope
from tests.support.outbox.inboxes import Bench, Book, envelope, ledger_schema

CLOCK = SystemClock()
KEYS = Keyring({"now": os.urandom(32)}, "now")
new_id = Ids(CLOCK, os.urandom)

Receive = Callable[[Sequence[Envelope], EndedSagas | None], Awaitable[Sequence[Reply]]]


@dataclass
class Participant:
    """Stands where an inbox stands: notes what arrives, and answers as it is told."""

    consumer: str = "comments"
    arrived: list[Envelope] = field(default_factory=list)
    statements: list[EndedSagas | None] = field(default_factory=list)
    answer: Receive | None = None

    async def receive(
        self, envelopes: Sequence[Envelope], settled: EndedSagas | None = None
    ) -> Sequence[Reply]:
        self.arrived.extend(envelopes)
        self.statements.append(settled)
        if self.answer is not None:
            return await self.answer(envelopes, settled)
        return [Reply(Outcome.DONE, value=each.key) for each in envelopes]


@dataclass
class Line:
    """A transport whose other end is there, until `cut`."""

    transport: Transport
    cut: Callable[[], Awaitable[None]]


@dataclass(frozen=True)
class Features:
    """How a transport connects, and in what it differs from the others."""

    connect: Callable[..., AbstractAsyncContextManager[Line]]
    """Called with an inbox, and optionally with `timeout` and `settled`."""
    tells_when_nothing_left: bool
    """Whether a destination that is gone gives `sent=False`: it can tell that nothing arrived."""


@asynccontextmanager
async def by_memory(inbox: Any, **options: Any) -> AsyncIterator[Line]:
    gone = False

    async def receive(envelopes: Sequence[Envelope], settled: EndedSagas | None) -> Sequence[Reply]:
        if gone:
            raise ConnectionError("nobody is there")
        replies: Sequence[Reply] = await inbox.receive(envelopes, settled)
        return replies

    async def cut() -> None:
        nonlocal gone
        gone = True

    transport = MemoryTransport(receive, **options)
    yield Line(transport, cut)
    await transport.aclose()


@asynccontextmanager
async def by_http(inbox: Any, **options: Any) -> AsyncIterator[Line]:
    app = FastAPI()
    app.include_router(receiver(cast(Inbox, inbox), keys=KEYS, clock=CLOCK))
    async with AsyncExitStack() as server:
        address = await server.enter_async_context(serving(app))
        transport = HttpTransport(address, source="articles", keys=KEYS, clock=CLOCK, **options)
        try:
            yield Line(transport, server.aclose)
        finally:
            await transport.aclose()


FEATURES = {
    "memory": Features(by_memory, tells_when_nothing_left=False),
    "http": Features(by_http, tells_when_nothing_left=True),
}


@pytest.fixture(params=FEATURES)
def features(request: pytest.FixtureRequest) -> Features:
    return FEATURES[request.param]


@pytest.fixture
def participant() -> Participant:
    return Participant()


def some(count: int, **changes: Any) -> list[Envelope]:
    """Envelopes with keys `0`, `1` and so on."""
    return [an_envelope(id=new_id(), key=str(number), **changes) for number in range(count)]


def is_answered(delivery: object, *values: Any) -> bool:
    return delivery == Answered([Reply(Outcome.DONE, value=value) for value in values])


async def test_messages_arrive_whole_and_in_their_order(
    features: Features, participant: Participant
) -> None:
    sent = [a_full_envelope(id=new_id(), data='{"a":["ü",1.5,null]}'.encode()), *some(20)]
    async with features.connect(participant) as line:
        delivery = await line.transport.deliver(sent)
    assert participant.arrived == sent
    assert isinstance(delivery, Answered)
    assert [reply.value for reply in delivery.replies] == [each.key for each in sent]


async def test_every_kind_of_reply_comes_back_whole(
    features: Features, participant: Participant
) -> None:
    replies = [
        Reply(outcome, code="a-code", reason="Gründe, 100 %", retry_after=2.5)
        for outcome in Outcome
    ]
    replies.append(Reply(Outcome.DONE, value={"list": [1, None, "ü"], "deep": {"x": False}}))

    async def answer(*_: object) -> Sequence[Reply]:
        return replies

    participant.answer = answer
    async with features.connect(participant) as line:
        assert await line.transport.deliver(some(len(replies))) == Answered(replies)


async def test_an_empty_batch_is_answered_without_asking(
    features: Features, participant: Participant
) -> None:
    async with features.connect(participant) as line:
        delivery = await line.transport.deliver([])
    assert isinstance(delivery, Answered)
    assert not delivery.replies
    assert not participant.statements


@pytest.mark.parametrize(
    "broken",
    [
        {"data": b'{"half":'},
        {"data": b'{"a":1,"a":2}'},
        {"data": b'"a \\u0000"'},
        {"key": ""},
        {"key": "two\nlines"},
        {"id": "no-uuid"},
        {"source": "s" * 101},
    ],
    ids=str,
)
async def test_a_message_that_cannot_travel_makes_its_batch_unacceptable(
    features: Features, participant: Participant, broken: dict[str, Any]
) -> None:
    good, other = some(2)
    async with features.connect(participant) as line:
        delivery = await line.transport.deliver([good, an_envelope(**broken), other])
        assert isinstance(delivery, Unacceptable)
        assert delivery.reason
        assert not participant.arrived
        assert is_answered(await line.transport.deliver([good, other]), "0", "1")


async def test_a_receiver_that_fails_as_a_whole_leaves_it_open_what_happened(
    features: Features, participant: Participant
) -> None:
    async def fail(*_: object) -> Sequence[Reply]:
        raise RuntimeError("out of order")

    async with features.connect(participant) as line:
        participant.answer = fail
        delivery = await line.transport.deliver(some(2))
        assert isinstance(delivery, Unreachable)
        assert delivery.sent
        participant.answer = None
        assert is_answered(await line.transport.deliver(some(1)), "0")


@pytest.mark.parametrize("count", [1, 3])
async def test_a_wrong_number_of_replies_leaves_it_open_what_happened(
    features: Features, participant: Participant, count: int
) -> None:
    async def answer(*_: object) -> Sequence[Reply]:
        return [Reply(Outcome.DONE)] * count

    participant.answer = answer
    async with features.connect(participant) as line:
        delivery = await line.transport.deliver(some(2))
    assert isinstance(delivery, Unreachable)
    assert delivery.sent


async def test_a_receiver_that_does_not_answer_is_given_up_in_time(
    features: Features, participant: Participant
) -> None:
    never = asyncio.Event()

    async def hang(*_: object) -> Sequence[Reply]:
        await never.wait()
        return []

    async with features.connect(participant, timeout=0.2) as line:
        participant.answer = hang
        async with asyncio.timeout(5):
            delivery = await line.transport.deliver(some(1))
        never.set()
        assert isinstance(delivery, Unreachable)
        assert delivery.sent
        assert "0.2 s" in delivery.reason
        participant.answer = None
        assert is_answered(await line.transport.deliver(some(1)), "0")


async def test_a_destination_that_is_gone_is_unreachable(
    features: Features, participant: Participant
) -> None:
    async with features.connect(participant) as line:
        assert is_answered(await line.transport.deliver(some(1)), "0")
        await line.cut()
        # What was sent on a connection that was still open may have arrived; the next time not.
        assert isinstance(await line.transport.deliver(some(1)), Unreachable)
        delivery = await line.transport.deliver(some(1))
        assert isinstance(delivery, Unreachable)
        assert delivery.reason
        assert delivery.sent is not features.tells_when_nothing_left


async def test_concurrent_deliveries_keep_their_own_replies(
    features: Features, participant: Participant
) -> None:
    all_arrived = asyncio.Event()

    async def answer(envelopes: Sequence[Envelope], _: object) -> Sequence[Reply]:
        if len(participant.statements) == 5:
            all_arrived.set()
        await all_arrived.wait()
        return [Reply(Outcome.DONE, value=each.key) for each in envelopes]

    participant.answer = answer
    batches = [
        [an_envelope(id=new_id(), key=f"{batch}-{number}") for number in range(batch + 1)]
        for batch in range(5)
    ]
    async with features.connect(participant) as line:
        deliveries = await asyncio.gather(*map(line.transport.deliver, batches))
    for batch, delivery in zip(batches, deliveries, strict=True):
        assert is_answered(delivery, *(each.key for each in batch))


async def test_a_delivery_that_is_cancelled_does_not_disturb_the_next(
    features: Features, participant: Participant
) -> None:
    begun, never = asyncio.Event(), asyncio.Event()

    async def hang(*_: object) -> Sequence[Reply]:
        begun.set()
        await never.wait()
        return [Reply(Outcome.DONE, value="late")]

    async with features.connect(participant) as line:
        participant.answer = hang
        delivering = asyncio.ensure_future(line.transport.deliver(some(1)))
        await begun.wait()
        delivering.cancel()
        with pytest.raises(asyncio.CancelledError):
            await delivering
        participant.answer = None
        never.set()
        assert is_answered(await line.transport.deliver(some(2)), "0", "1")


async def test_what_the_orchestrator_says_of_its_sagas_arrives_with_each_delivery(
    features: Features, participant: Participant
) -> None:
    live, before = new_id(), new_id()
    statements = [None, EndedSagas(before, frozenset({live})), EndedSagas(before)]
    coming = iter(statements)
    async with features.connect(participant, settled=lambda: next(coming)) as line:
        for _ in statements:
            assert is_answered(await line.transport.deliver(some(1)), "0")
    assert participant.statements == statements


async def test_a_closed_transport_delivers_nothing(
    features: Features, participant: Participant
) -> None:
    async with features.connect(participant) as line:
        assert is_answered(await line.transport.deliver(some(1)), "0")
        await line.transport.aclose()
        await line.transport.aclose()
        delivery = await line.transport.deliver(some(1))
    assert isinstance(delivery, Unreachable)
    assert not delivery.sent
    assert len(participant.arrived) == 1


class TestWithAnInbox:
    """The same with a real inbox behind it."""

    @pytest.fixture
    def database_schema(self) -> Schema | str:
        return ledger_schema

    async def test_what_is_delivered_twice_takes_effect_once(
        self, features: Features, engine: AsyncEngine
    ) -> None:
        bench = Bench(engine)
        batch = [
            envelope(new_id(), Book("ada", "first")),
            envelope(AN_ID, Book("ada", "second")),
            envelope(new_id(), Book("bob", "third")),
        ]
        async with features.connect(bench.inbox) as line:
            first = await line.transport.deliver(batch)
            again = await line.transport.deliver(batch[1:])
        assert is_answered(first, *[{"balance": 1}] * 3)
        assert is_answered(again, *[{"balance": 1}] * 2)
        assert await bench.entries() == ["first", "second", "third"]

    async def test_an_id_that_comes_with_another_payload_is_rejected(
        self, features: Features, engine: AsyncEngine
    ) -> None:
        bench = Bench(engine)
        async with features.connect(bench.inbox) as line:
            await line.transport.deliver([envelope(AN_ID, Book("ada", "first"))])
            delivery = await line.transport.deliver([envelope(AN_ID, Book("ada", "other"))])
        assert isinstance(delivery, Answered)
        (reply,) = delivery.replies
        assert reply.outcome is Outcome.REJECTED
        assert await bench.entries() == ["first"]
