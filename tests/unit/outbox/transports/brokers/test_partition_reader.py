"""A reader of a partition: what one packet does must not hold up the others."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Collection, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pytest

from outbox.replies import Outcome, Reply
from outbox.transports.brokers.broker import BrokerAway, Packet, Taken
from outbox.transports.brokers.held.holding import LaneKey, ToHold
from outbox.transports.brokers.packets import packed
from outbox.transports.brokers.partition_reader import PartitionReader, Waits
from outbox.transports.http.signing import Keyring
from outbox.wire.envelope import Envelope
from tests.support.outbox.envelopes import an_envelope
from tests.support.outbox.letters import an_id
from tests.support.outbox.memory_broker import MemoryBroker, MemoryReading, MemoryServer, Place
from tests.support.processes.waiting import until

QUEUE = "comments"
KEYS = Keyring({"now": os.urandom(32)}, "now")
NOW = datetime(2030, 1, 1, tzinfo=UTC)
DONE = Reply(Outcome.DONE)


class Aside:
    """A held table in memory. As one that `is_strict` it holds up the keys of what is dead."""

    def __init__(self, *, is_strict: bool = False) -> None:
        self.items: list[ToHold] = []
        self.is_strict = is_strict

    async def held(self, keys: Collection[LaneKey]) -> set[LaneKey]:
        there = {
            (bool(it.envelope.undoes), it.envelope.key)
            for it in self.items
            if it.envelope is not None and (self.is_strict or not it.is_dead)
        }
        return there & {*keys}

    async def hold(self, items: Sequence[ToHold]) -> None:
        self.items += items

    @property
    def keys(self) -> list[str | None]:
        return [None if it.envelope is None else it.envelope.key for it in self.items]


class Till:
    """An inbox that is told what to say of a key."""

    def __init__(self, says: dict[str, Reply | Exception]) -> None:
        self.says = says
        self.done: list[str] = []

    async def receive(self, envelopes: Sequence[Envelope], _: Any) -> list[Reply]:
        for each in envelopes:
            if isinstance(error := self.says.get(each.key), Exception):
                raise error
        replies = [self.says.get(each.key, DONE) for each in envelopes]
        assert all(isinstance(it, Reply) for it in replies)
        self.done += [each.key for each, it in zip(envelopes, replies, strict=True) if it is DONE]
        return [it for it in replies if isinstance(it, Reply)]


def packet(number: int, key: str) -> Packet:
    envelope = an_envelope(id=an_id(number), key=key)
    return packed(envelope, QUEUE, 1, keys=KEYS, now=NOW)


async def read(
    keys: Sequence[str],
    says: dict[str, Reply | Exception],
    *,
    till: Till | None = None,
    is_strict: bool = False,
    **more: Any,
) -> Any:
    """Read packets of these keys until the broker has none; the inbox and what was set aside."""
    broker, aside = MemoryBroker(MemoryServer(), 1), Aside(is_strict=is_strict)
    till = till or Till(says)
    await broker.publish(QUEUE, [packet(number, key) for number, key in enumerate(keys)])
    stop = asyncio.Event()
    reader = PartitionReader(broker, QUEUE, 0, till.receive, KEYS, aside, **more)
    task = asyncio.create_task(reader.run(stop))

    async def is_empty() -> bool:
        return await broker.waiting(QUEUE) == 0

    await until(is_empty, deadline=20, what="all packets are done")
    stop.set()
    await task
    return till, aside


async def test_what_waits_for_something_else_holds_up_its_own_key_alone() -> None:
    locked = Reply(Outcome.LOCKED, code="locked")
    till, aside = await read(["ann", "bob", "ann", "cid"], {"ann": locked})
    assert aside.keys == ["ann", "ann"]
    assert [it.attempts for it in aside.items] == [0, 0]
    assert {*till.done} == {"bob", "cid"}


async def test_what_failed_is_set_aside_with_an_attempt_and_its_key_follows() -> None:
    failed = Reply(Outcome.FAILED, code="failed")
    till, aside = await read(["ann", "bob", "ann"], {"ann": failed})
    assert aside.keys == ["ann", "ann"]
    assert [it.attempts for it in aside.items] == [1, 0]
    assert till.done == ["bob"]


class Busy(Till):
    """One that has no time for a key when it is asked first, and notes what it is given."""

    def __init__(self, key: str) -> None:
        super().__init__({key: Reply(Outcome.TOO_BUSY)})
        self.given: list[list[tuple[str, str]]] = []

    async def receive(self, envelopes: Sequence[Envelope], _: Any) -> list[Reply]:
        self.given.append([(it.key, it.id) for it in envelopes])
        replies = await super().receive(envelopes, _)
        self.says.clear()
        return replies


async def test_where_keys_block_a_key_goes_on_once_its_last_message_is_known_to_be_over() -> None:
    busy = Busy("ann")
    till, aside = await read(["ann", "bob", "ann", "bob", "ann"], {}, till=busy, is_strict=True)
    of = {key: [it for batch in busy.given for it in batch if it[0] == key] for key in till.done}
    ann = [("ann", an_id(number)) for number in (0, 2, 4)]
    assert of["ann"] == [ann[0], *ann], "the later ones wait while the first is asked for again"
    assert of["bob"] == [("bob", an_id(number)) for number in (1, 3)]
    assert all(len({key for key, _ in batch}) == len(batch) for batch in busy.given)
    assert aside.items == []


@pytest.mark.parametrize("is_strict", [True, False])
async def test_what_is_rejected_holds_up_its_key_where_keys_block(is_strict: bool) -> None:
    wrong = Reply(Outcome.REJECTED, code="wrong-data")
    _, aside = await read(["ann", "bob", "ann"], {"ann": wrong}, is_strict=is_strict)
    assert [(it.envelope.id, it.is_dead) for it in aside.items] == [
        (an_id(0), True),
        (an_id(2), not is_strict),
    ]


async def test_one_for_which_the_inbox_itself_raises_is_found_and_set_aside() -> None:
    till, aside = await read(["ann", "bob", "ann", "cid"], {"bob": KeyError("a mistake")})
    assert aside.keys == ["bob"]
    assert aside.items[0].attempts == 1
    assert "KeyError" in aside.items[0].error
    assert {*till.done} == {"ann", "cid"}


async def test_nothing_that_is_in_a_packet_ends_the_reading() -> None:
    def unpack(taken: Taken) -> tuple[Envelope, None]:
        if taken.packet.key == "bob":
            raise RecursionError("nested too deeply")
        return an_envelope(id=an_id(9), key=taken.packet.key), None

    till, aside = await read(["ann", "bob", "cid"], {}, unpack=unpack)
    assert aside.keys == [None]
    assert aside.items[0].is_dead
    assert till.done == ["ann", "cid"]


class AwayBroker(MemoryBroker):
    """A broker that cannot be reached, and says why in another way from the eleventh time on."""

    asked = 0

    async def open(self, queue: str, partition: int) -> MemoryReading:
        self.asked += 1
        raise BrokerAway("no route" if self.asked <= 10 else "no name", sent=False)


async def test_a_broker_that_stays_away_is_logged_ever_less_often(
    caplog: pytest.LogCaptureFixture,
) -> None:
    broker, stop = AwayBroker(MemoryServer(), 1), asyncio.Event()

    async def rest(stop: asyncio.Event, _: float) -> None:
        if broker.asked == 20:
            stop.set()

    till = Till({})
    await PartitionReader(broker, QUEUE, 0, till.receive, KEYS, waits=Waits(rest=rest)).run(stop)
    reasons = [it.getMessage().rpartition(": ")[2] for it in caplog.records]
    assert reasons == ["no route"] * 4 + ["no name"] * 2  # after 1, 2, 4, 8; 11 and 16 attempts


async def test_one_that_stops_does_not_wait_for_a_silent_broker() -> None:
    server, stop, till = MemoryServer(), asyncio.Event(), Till({})
    await server.silence()
    reader = PartitionReader(MemoryBroker(server, 1), QUEUE, 0, till.receive, KEYS)
    task = asyncio.create_task(reader.run(stop))
    await asyncio.sleep(0)
    stop.set()
    async with asyncio.timeout(20):
        await task


class LateReading(MemoryReading):
    """A reading that came when it was no longer wanted."""

    closed = 0

    async def aclose(self) -> None:
        self.closed += 1


class LateBroker(MemoryBroker):
    """A broker whose client answers when it is told to leave off, and not before."""

    reading: LateReading | None = None

    async def open(self, queue: str, partition: int) -> MemoryReading:
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        self.reading = LateReading(self.server, (queue, partition))
        return self.reading


async def test_what_is_opened_in_spite_of_that_is_closed() -> None:
    broker, stop, till = LateBroker(MemoryServer(), 1), asyncio.Event(), Till({})
    task = asyncio.create_task(PartitionReader(broker, QUEUE, 0, till.receive, KEYS).run(stop))
    await asyncio.sleep(0)
    stop.set()
    async with asyncio.timeout(20):
        await task
    assert broker.reading is not None
    assert broker.reading.closed == 1


class CountedReading(MemoryReading):
    """A reading that stands in a set while it is open."""

    def __init__(self, server: MemoryServer, place: Place, there: set[MemoryReading]) -> None:
        super().__init__(server, place)
        self._there_are = there
        there.add(self)

    async def aclose(self) -> None:
        self._there_are.discard(self)


class CountingBroker(MemoryBroker):
    """A broker that knows its readings."""

    def __init__(self, server: MemoryServer) -> None:
        super().__init__(server, 1)
        self.open_ones: set[MemoryReading] = set()

    async def open(self, queue: str, partition: int) -> MemoryReading:
        await super().open(queue, partition)
        return CountedReading(self.server, (queue, partition), self.open_ones)


async def test_one_that_is_cancelled_at_any_moment_leaves_its_partition() -> None:
    for moments in range(20):
        broker = CountingBroker(MemoryServer())
        reader = PartitionReader(broker, QUEUE, 0, Till({}).receive, KEYS)
        task = asyncio.create_task(reader.run(asyncio.Event()))
        for _ in range(moments):
            await asyncio.sleep(0)  # the next moment
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert not broker.open_ones, moments
