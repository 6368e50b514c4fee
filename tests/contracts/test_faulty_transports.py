"""The contract finds what it is there to find: each faulty transport fails at the test that names
what it broke."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from outbox.replies import Outcome, Reply
from outbox.testing.transport_contract import (
    BrokenPromise,
    Connect,
    ContractTest,
    Features,
    Line,
    Receive,
    Settled,
    contract_tests,
)
from outbox.transports import Accepted, Answered, Delivery, Transport, Unacceptable, Unreachable
from outbox.wire.envelope import Envelope
from tests.support.outbox import lines
from tests.support.outbox.accepting import AcceptingTransport


class Faulty:
    """A transport that stands before a right one, and passes everything on."""

    def __init__(self, right: Transport) -> None:
        self.right = right

    async def deliver(self, envelopes: Sequence[Envelope]) -> Delivery:
        return await self.right.deliver(envelopes)

    async def aclose(self) -> None:
        await self.right.aclose()


class LosesTheLast(Faulty):
    async def deliver(self, envelopes: Sequence[Envelope]) -> Delivery:
        delivery = await self.right.deliver(envelopes[:-1] or envelopes)
        if isinstance(delivery, Answered) and len(envelopes) > 1:
            replies = delivery.replies
            values = [each.id for each in envelopes]
            return Answered([replace(replies[0], value=value) for value in values])
        return delivery


class Reorders(Faulty):
    async def deliver(self, envelopes: Sequence[Envelope]) -> Delivery:
        delivery = await self.right.deliver(envelopes[::-1])
        return Answered(delivery.replies[::-1]) if isinstance(delivery, Answered) else delivery


class AnswersForAnother(Faulty):
    """Gives the replies of the last batch that was answered."""

    last: Answered | None = None

    async def deliver(self, envelopes: Sequence[Envelope]) -> Delivery:
        delivery = await self.right.deliver(envelopes)
        if isinstance(delivery, Answered):
            before, self.last = self.last, delivery
            return before or delivery
        return delivery


class IgnoresItsTimeout(Faulty):
    async def deliver(self, envelopes: Sequence[Envelope]) -> Delivery:
        delivery = await self.right.deliver(envelopes)
        if isinstance(delivery, Unreachable) and " s" in delivery.reason:
            await asyncio.sleep(3600)
        return delivery


class SwallowsCancellation(Faulty):
    async def deliver(self, envelopes: Sequence[Envelope]) -> Delivery:
        try:
            return await self.right.deliver(envelopes)
        except asyncio.CancelledError:
            return Unreachable("it was cancelled", sent=True)


class LeaksATask(Faulty):
    tasks: set[asyncio.Task[None]]

    async def deliver(self, envelopes: Sequence[Envelope]) -> Delivery:
        self.tasks = {asyncio.create_task(asyncio.sleep(3600))}
        return await self.right.deliver(envelopes)


class Raises(Faulty):
    async def deliver(self, envelopes: Sequence[Envelope]) -> Delivery:
        delivery = await self.right.deliver(envelopes)
        if isinstance(delivery, Unreachable):
            raise ConnectionError(delivery.reason)
        return delivery


class DropsTheLarge(Faulty):
    async def deliver(self, envelopes: Sequence[Envelope]) -> Delivery:
        delivery = await self.right.deliver(envelopes)
        return Accepted() if isinstance(delivery, Unacceptable) else delivery


class Blames(Faulty):
    """Calls its destination's trouble the messages' own, so that they are buried."""

    async def deliver(self, envelopes: Sequence[Envelope]) -> Delivery:
        delivery = await self.right.deliver(envelopes)
        return Unacceptable("no") if isinstance(delivery, Unreachable) else delivery


class SaysThatNothingLeft(Faulty):
    async def deliver(self, envelopes: Sequence[Envelope]) -> Delivery:
        delivery = await self.right.deliver(envelopes)
        return replace(delivery, sent=False) if isinstance(delivery, Unreachable) else delivery


class KnowsIds(Faulty):
    """Drops what it has delivered before, as a broker that remembers the ids of messages."""

    known: frozenset[str] = frozenset()

    async def deliver(self, envelopes: Sequence[Envelope]) -> Delivery:
        ids = frozenset(each.id for each in envelopes)
        if ids and ids <= self.known:
            return Accepted()
        delivery = await self.right.deliver(envelopes)
        if isinstance(delivery, Accepted):
            self.known |= ids
        return delivery


class SendsLater(Faulty):
    """Keeps what did not leave, and sends it with the next batch."""

    kept: tuple[Envelope, ...] = ()

    async def deliver(self, envelopes: Sequence[Envelope]) -> Delivery:
        delivery = await self.right.deliver([*self.kept, *envelopes])
        if isinstance(delivery, Unreachable) and not delivery.sent:
            self.kept = (*self.kept, *envelopes)
        return delivery


class AcceptsInMemory(Faulty):
    """Says Accepted of what it only holds, and loses it with its process."""

    async def deliver(self, envelopes: Sequence[Envelope]) -> Delivery:
        delivery = await self.right.deliver(envelopes)
        return Accepted() if isinstance(delivery, Unreachable) else delivery


class StaysOpen(Faulty):
    async def aclose(self) -> None:
        """It forgets to."""


class OneAtATime(Faulty):
    def __init__(self, right: Transport) -> None:
        super().__init__(right)
        self.turn = asyncio.Lock()

    async def deliver(self, envelopes: Sequence[Envelope]) -> Delivery:
        async with self.turn:
            return await self.right.deliver(envelopes)


def spoilt(connect: Connect, fault: type[Faulty]) -> Connect:
    """The same line, with this transport before its own."""

    @asynccontextmanager
    async def connected(
        receive: Receive, *, timeout: float, settled: Settled | None
    ) -> AsyncIterator[Line]:
        async with connect(receive, timeout=timeout, settled=settled) as line:
            yield replace(line, transport=fault(line.transport))

    return connected


@asynccontextmanager
async def without_redelivery(
    receive: Receive, *, timeout: float, settled: Settled | None
) -> AsyncIterator[Line]:
    """A way that takes each message away from its queue, also when the consumer says no."""

    async def once(envelopes: Sequence[Envelope], _: object) -> Sequence[Reply]:
        with contextlib.suppress(ConnectionError):
            await receive(envelopes, None)
        return [Reply(Outcome.DONE) for _ in envelopes]

    async with lines.by_accepting(once, timeout=timeout, settled=settled) as line:
        yield line


@asynccontextmanager
async def with_stubborn_redelivery(
    receive: Receive, *, timeout: float, settled: Settled | None
) -> AsyncIterator[Line]:
    """A way that takes every answer but done for one that comes again, once."""
    known: set[str] = set()

    async def twice(envelopes: Sequence[Envelope], _: object) -> Sequence[Reply]:
        replies = await receive(envelopes, None)
        if replies[0].outcome is Outcome.DONE or envelopes[0].id in known:
            return replies
        known.add(envelopes[0].id)
        return [Reply(Outcome.FAILED)]

    async with lines.by_accepting(twice, timeout=timeout, settled=settled) as line:
        yield line


@asynccontextmanager
async def without_a_disk(
    receive: Receive, *, timeout: float, settled: Settled | None
) -> AsyncIterator[Line]:
    """A way whose queue is gone with its process."""
    async with lines.by_accepting(receive, timeout=timeout, settled=settled) as line:
        transport = line.transport
        assert isinstance(transport, AcceptingTransport)

        async def cut() -> None:
            await line.cut()
            transport.queue.clear()

        yield replace(line, cut=cut)


def named(name: str, features: Features) -> ContractTest:
    """The test of the contract that has this name."""
    (found,) = [it for it in contract_tests(features) if it.name == name]
    return found


BY_MEMORY = (lines.by_memory, lines.MEMORY)
BY_HTTP = (lines.by_http, lines.HTTP)
BY_ACCEPTING = (lines.by_accepting, lines.ACCEPTING)
GONE = "a_destination_that_is_gone_is_unreachable"


@pytest.mark.parametrize(
    ("fault", "way", "name"),
    [
        (LosesTheLast, BY_MEMORY, "every_message_arrives_whole"),
        (LosesTheLast, BY_ACCEPTING, "every_message_arrives_whole"),
        (Reorders, BY_MEMORY, "the_order_is_kept"),
        (Reorders, BY_ACCEPTING, "the_order_is_kept"),
        (AnswersForAnother, BY_MEMORY, "each_message_gets_its_own_reply"),
        (IgnoresItsTimeout, BY_MEMORY, "silence_ends_with_the_timeout"),
        (IgnoresItsTimeout, BY_ACCEPTING, "silence_ends_with_the_timeout"),
        (
            SwallowsCancellation,
            BY_MEMORY,
            "a_cancelled_delivery_stops_and_does_not_disturb_the_next",
        ),
        (LeaksATask, BY_MEMORY, "every_message_arrives_whole"),
        (Raises, BY_MEMORY, GONE),
        (Raises, BY_ACCEPTING, GONE),
        (Blames, BY_HTTP, GONE),
        (AcceptsInMemory, BY_ACCEPTING, GONE),
        (DropsTheLarge, BY_HTTP, "what_is_too_large_is_unacceptable"),
        (DropsTheLarge, BY_ACCEPTING, "what_cannot_travel_is_unacceptable"),
        (SaysThatNothingLeft, BY_MEMORY, "silence_ends_with_the_timeout"),
        (
            SaysThatNothingLeft,
            BY_MEMORY,
            "a_handling_end_that_fails_leaves_it_open_what_happened",
        ),
        (KnowsIds, BY_ACCEPTING, "what_is_sent_again_arrives_again"),
        (SendsLater, BY_ACCEPTING, "what_did_not_leave_never_arrives"),
        (StaysOpen, BY_MEMORY, "a_closed_transport_delivers_nothing"),
        (OneAtATime, BY_MEMORY, "a_slow_handling_end_holds_only_its_own_batch"),
    ],
    ids=lambda it: getattr(it, "__name__", it if isinstance(it, str) else ""),
)
async def test_a_faulty_transport_is_found(
    monkeypatch: pytest.MonkeyPatch,
    fault: type[Faulty],
    way: tuple[Connect, Features],
    name: str,
) -> None:
    monkeypatch.setattr("outbox.testing.transport_contract.bench.IN_TIME", 1.0)
    connect, features = way
    with pytest.raises(BrokenPromise):
        await named(name, features).run(spoilt(connect, fault))


@pytest.mark.parametrize(
    ("forgetful", "name"),
    [
        (without_redelivery, "what_the_consumer_could_not_take_comes_again_in_its_order"),
        (without_a_disk, "what_was_accepted_survives_the_way_dying"),
        (with_stubborn_redelivery, "a_definite_answer_takes_the_message_away"),
    ],
    ids=lambda it: getattr(it, "__name__", it),
)
async def test_a_way_that_does_not_keep_what_it_accepted_is_found(
    monkeypatch: pytest.MonkeyPatch, forgetful: Connect, name: str
) -> None:
    monkeypatch.setattr("outbox.testing.transport_contract.bench.IN_TIME", 1.0)
    with pytest.raises(BrokenPromise):
        await named(name, lines.ACCEPTING).run(forgetful)


def test_each_promise_is_a_test_of_its_own_with_a_name_and_a_sentence() -> None:
    for features in (lines.MEMORY, lines.HTTP, lines.ACCEPTING):
        names = [test.name for test in contract_tests(features)]
        assert len(names) == len({*names}) > 10
