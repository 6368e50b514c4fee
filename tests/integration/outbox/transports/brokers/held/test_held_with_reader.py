"""The reader of a partition, the held table and its worker together, on a broker in memory."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from outbox.retry import OnExhaustion, RetryPolicy
from outbox.transports.brokers.broker import Packet
from outbox.transports.brokers.held import operators
from outbox.transports.brokers.held.operators import Selection
from outbox.transports.brokers.packets import packed
from outbox.transports.brokers.partition_reader import PartitionReader
from outbox.transports.http.signing import Keyring
from outbox.wire.envelope import Envelope
from tests.support.outbox.holding import QUEUE, SAGA, HoldingBench, Trouble, entry_of
from tests.support.outbox.inboxes import Book, Noted, Unbook, handling
from tests.support.outbox.memory_broker import MemoryBroker, MemoryServer
from tests.support.processes.waiting import BUSY, until

KEYS = Keyring({"now": os.urandom(32)}, "now")
AWAITED: dict[str, Any] = {
    "source": "orchestrator",
    "reply_to": "orchestrator",
    "correlation": SAGA,
}


class ReadBench:
    """A receiver whose messages come from a broker with one partition."""

    def __init__(self, bench: HoldingBench) -> None:
        self.bench = bench
        self.server = MemoryServer()
        self.broker = MemoryBroker(self.server, partitions=1)

    async def send(self, *envelopes: Envelope) -> None:
        """Let the broker have these, rightly signed."""
        now = self.bench.clock.now()
        await self.broker.publish(
            QUEUE, [packed(it, QUEUE, 1, keys=KEYS, now=now) for it in envelopes]
        )

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[None]:
        """Read within the block."""
        stop = asyncio.Event()
        receive = self.bench.watched.receive
        reader = PartitionReader(self.broker, QUEUE, 0, receive, KEYS, self.bench.table, batch=10)
        task = asyncio.create_task(reader.run(stop))
        try:
            yield
        finally:
            stop.set()
            await asyncio.wait_for(task, 10 * BUSY)

    async def read(self, *envelopes: Envelope) -> None:
        """Send these, and read until the broker has nothing any more."""

        async def is_read() -> bool:
            return not await self.broker.waiting(QUEUE)

        await self.send(*envelopes)
        async with self.reading():
            await until(is_read, what="the reader is done with all")

    async def held(self) -> list[str]:
        """What is held, in its order."""
        return [entry_of(row["body"]) for row in await self.bench.rows()]


@pytest.fixture
def trouble() -> Trouble:
    return Trouble("poison")


@pytest.fixture
def receiver(engine: AsyncEngine, trouble: Trouble) -> ReadBench:
    return ReadBench(HoldingBench(engine, trouble.handlers(), retry=RetryPolicy(attempts=9)))


async def test_a_poisonous_message_holds_up_its_key_alone(
    receiver: ReadBench, trouble: Trouble
) -> None:
    bench = receiver.bench
    await receiver.read(
        *(bench.note(entry) for entry in ("first", "poison", "third")),
        bench.note("other", "bob"),
    )
    assert sorted(await bench.entries()) == ["first", "other"]
    assert await receiver.held() == ["poison", "third"]
    # What comes later follows its key there, and others pass.
    await receiver.read(bench.note("fourth"), bench.note("another", "bob"))
    assert await receiver.held() == ["poison", "third", "fourth"]
    await bench.work()
    assert await receiver.held() == ["poison", "third", "fourth"]
    trouble.poison.clear()
    await bench.work()
    await receiver.read(bench.note("fifth"))
    assert [it for it in await bench.entries() if it not in ("other", "another")] == [
        *("first", "poison", "third", "fourth", "fifth")
    ]
    assert await receiver.held() == []


def _refuse_wrong(event: Noted) -> None:
    if event.entry == "wrong":
        raise ValueError("a wrong entry")


async def test_what_is_rejected_as_it_comes_blocks_its_key_where_keys_block(
    engine: AsyncEngine,
) -> None:
    """The later messages of its key wait, also those that came in the same batch."""
    receiver = ReadBench(HoldingBench(engine, on_exhaustion=OnExhaustion.BLOCK_KEY))
    bench = receiver.bench
    bench.handlers.check(Noted, _refuse_wrong)
    await receiver.read(
        *(bench.note(entry) for entry in ("first", "wrong", "third")), bench.note("other", "bob")
    )
    assert sorted(await bench.entries()) == ["first", "other"]
    assert await bench.standing() == {"wrong": ("blocked", 0), "third": ("waiting", 0)}
    assert await bench.pause() is None, "no attempt is to come by itself"
    await receiver.read(bench.note("fourth"))
    await bench.work()
    assert sorted(await bench.entries()) == ["first", "other"]
    seqs = [row["seq"] for row in await bench.rows()][:1]
    async with bench.sessions.begin() as session:
        await operators.drop(session, Selection(seqs=seqs), now=bench.clock.now())
    await bench.work()
    assert [it for it in await bench.entries() if it != "other"] == ["first", "third", "fourth"]
    assert await receiver.held() == []


async def test_what_is_rejected_as_it_comes_goes_aside_alone_where_keys_go_on(
    engine: AsyncEngine,
) -> None:
    receiver = ReadBench(HoldingBench(engine))
    bench = receiver.bench
    bench.handlers.check(Noted, _refuse_wrong)
    await receiver.read(*(bench.note(entry) for entry in ("first", "wrong", "third")))
    assert await bench.entries() == ["first", "third"]
    assert await bench.standing() == {"wrong": ("dead", 0)}
    assert bench.watched.batches == [["first", "wrong", "third"]]


async def test_a_rejected_command_of_a_saga_blocks_nothing(engine: AsyncEngine) -> None:
    receiver = ReadBench(HoldingBench(engine, on_exhaustion=OnExhaustion.BLOCK_KEY))
    bench = receiver.bench
    bench.handlers.check(Book, _refuse_all)
    await receiver.read(bench.new(Book("ada"), **AWAITED), bench.note("next"))
    assert await bench.entries() == ["next"]
    assert [it["outcome"] for it in await bench.sent()] == ["rejected"]
    assert await bench.rows() == []


def _refuse_all(_: Book) -> None:
    raise ValueError("a wrong account")


async def test_an_undo_passes_its_action_that_is_held(engine: AsyncEngine) -> None:
    def fail(command: Book, _: Any) -> Any:
        raise ValueError("poison")

    receiver = ReadBench(HoldingBench(engine, handling(fail)))
    bench = receiver.bench
    action = bench.new(Book("ada"), **AWAITED)
    await receiver.read(action)
    assert await receiver.held() == ["an entry"]
    await receiver.read(bench.new(Unbook("ada"), undoes=(action.id,), **AWAITED))
    assert [it["outcome"] for it in await bench.sent()] == ["nothing-to-undo"]
    await bench.work()
    assert await receiver.held() == []
    assert [it["outcome"] for it in await bench.sent()] == ["nothing-to-undo", "already-undone"]


async def test_what_is_not_signed_is_held_unread_and_never_handled(receiver: ReadBench) -> None:
    bench = receiver.bench
    (forged,) = [packed(bench.note("forged"), QUEUE, 1, keys=KEYS, now=bench.clock.now())]
    await receiver.broker.publish(
        QUEUE, [Packet(0, {}, forged.body), Packet(0, forged.headers, b"\xff\0")]
    )
    await receiver.read(bench.note("first"))
    assert await bench.entries() == ["first"]
    assert [row["state"] for row in await bench.rows()] == ["dead", "dead"]
    assert (await bench.rows())[0]["message_id"] is None


async def test_reader_and_worker_at_once_keep_the_order_of_each_key(
    receiver: ReadBench, trouble: Trouble
) -> None:
    bench = receiver.bench
    entries = [f"{account}: {n}" for n in range(12) for account in ("ada", "bob")]
    trouble.poison |= {"ada: 3", "bob: 5", "ada: 7"}
    await receiver.send(*(bench.note(entry, entry[:3]) for entry in entries))
    rounds = 0

    async def is_handled() -> bool:
        nonlocal rounds
        rounds += 1
        if rounds == 3:
            trouble.poison.clear()
        await bench.work()
        return not await receiver.broker.waiting(QUEUE) and not await bench.rows()

    async with receiver.reading():
        await until(is_handled, what="all is handled")
    for account in ("ada", "bob"):
        own = [it for it in await bench.entries() if it.startswith(account)]
        assert own == [it for it in entries if it.startswith(account)]
