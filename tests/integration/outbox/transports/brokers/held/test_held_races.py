"""What may come between two steps of the consumer, the worker and the inbox of held messages."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from random import Random
from typing import Any

import pytest
from sqlalchemy import delete, update
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

import outbox
from outbox.crashpoints import Crash
from outbox.errors import ForgottenByReceiver, NoSuchMessage
from outbox.inbox.batches import order_key
from outbox.inbox.handlers import Context, Handlers
from outbox.inbox.limits import InboxLimits
from outbox.replies import Outcome, Reply
from outbox.retry import RetryPolicy
from outbox.tables import inbox_held
from outbox.testing import crash_at
from outbox.transports.brokers.broker import Packet
from outbox.transports.brokers.held import operators
from outbox.transports.brokers.held.holding import ToHold
from outbox.transports.brokers.held.operators import Selection
from outbox.transports.brokers.held.rows import State
from outbox.transports.brokers.held.table import store_of
from outbox.transports.brokers.held.worker import HeldSettings, HeldWorker
from outbox.wire.envelope import Envelope, to_structured
from tests.support.databases.databases import Database
from tests.support.databases.locks import until_it_waits
from tests.support.fixtures import MakeEngine
from tests.support.outbox.holding import RIGHT, HoldingBench, read_packet, to_hold, unread
from tests.support.outbox.inboxes import START, Noted, bank, outcomes, write_entry
from tests.support.processes.waiting import BUSY

ADA = (False, "ada")


async def test_a_packet_that_comes_again_after_it_was_handled_here_changes_nothing(
    engine: AsyncEngine,
) -> None:
    bench = HoldingBench(engine)
    note = bench.note("first")
    await bench.hold(note)
    await bench.work()
    # The consumer died before it acknowledged: its key is held no more, or by another message.
    assert outcomes(await bench.receive(note)) == ["done"]
    await bench.hold(bench.note("second"), note)
    await bench.work()
    assert await bench.entries() == ["first", "second"]
    assert await bench.rows() == []


async def test_a_message_that_is_held_behind_the_last_one_while_that_goes_has_its_turn(
    engine: AsyncEngine,
) -> None:
    bench = HoldingBench(engine)
    first, second = bench.note("first"), bench.note("second")
    await bench.hold(first)
    assert await bench.held_keys(second) == {ADA}
    await bench.work()
    await bench.hold(second)
    await bench.work()
    assert await bench.entries() == ["first", "second"]


@pytest.mark.databases("postgresql")  # SQLite has one writer at a time
async def test_a_process_that_holds_behind_a_message_waits_until_its_settlement_is_committed(
    database: Database, make_engine: MakeEngine
) -> None:
    engine = make_engine(database)
    bench, consumer = HoldingBench(engine), HoldingBench(make_engine(database))
    store = store_of(bench.sessions, "bank", bench.clock)
    await bench.hold(bench.note("first"))
    async with bench.sessions.begin() as session:
        await store.lock(session, [ADA])
        await session.execute(delete(inbox_held))
        await store.appoint(session, [ADA])
        holding = asyncio.create_task(consumer.hold(bench.note("second")))
        await until_it_waits(engine, holding)
        assert not holding.done()
    await holding
    assert await bench.pause() is not None
    await bench.work()
    assert await bench.entries() == ["second"]


async def test_what_was_handled_before_a_crash_and_is_forgotten_then_is_not_run_again(
    engine: AsyncEngine,
) -> None:
    retention = timedelta(days=30)
    bench = HoldingBench(engine, limits=InboxLimits(retention=retention))
    note = bench.new(Noted("ada", "first"), due=START)
    await bench.hold(note, bench.new(Noted("ada", "second"), due=START + retention * 2))
    with crash_at("held: after handling, before settle"), pytest.raises(Crash):
        await bench.work()
    bench.clock.advance(2 * retention.total_seconds())
    assert await bench.inbox.purge() == 1
    await bench.work()
    assert await bench.entries() == ["first", "second"]
    (row,) = await bench.rows()
    assert (row["state"], row["last_error"][:7]) == ("dead", "too-old")

    async with bench.sessions.begin() as session:
        now = bench.clock.now()
        assert await operators.redrive(session, Selection(), now=now) == 0
        with pytest.raises(ForgottenByReceiver, match="redrive_as_new"):
            await operators.redrive(session, Selection(seqs=[row["seq"]]), now=now)
        bench.names.moment = bench.clock.now()
        named = await operators.redrive_as_new(session, [row["seq"]], new_id=bench.names, now=now)
    assert list(named) == [note.id]
    await bench.worker.run_once()
    assert await bench.entries() == ["first", "second", "first"]
    assert bench.watched.ids[-1] == named[note.id]


@pytest.mark.databases("postgresql")  # SQLite has one writer at a time
@pytest.mark.parametrize("change", [operators.drop, operators.redrive])
async def test_of_messages_that_are_named_all_are_changed_or_none(
    database: Database, make_engine: MakeEngine, change: Callable[..., Awaitable[int]]
) -> None:
    engine = make_engine(database)
    bench, operator = HoldingBench(engine), HoldingBench(make_engine(database))
    await bench.hold(bench.note("first"), bench.note("other", "bob"))
    first, other = [row["seq"] for row in await bench.rows()]
    store = store_of(bench.sessions, "bank", bench.clock)

    async def changed() -> int:
        async with operator.sessions.begin() as session:
            return await change(session, Selection(seqs=[first, other]), now=bench.clock.now())

    async with bench.sessions.begin() as session:
        await store.lock(session, [ADA])
        await session.execute(delete(inbox_held).where(inbox_held.c.seq == first))
        changing = asyncio.create_task(changed())
        await until_it_waits(engine, changing)
    with pytest.raises(NoSuchMessage, match=f": the message {first};"):
        await changing
    (row,) = await bench.rows()
    assert (row["seq"], row["attempts"]) == (other, 1)


@pytest.mark.databases("postgresql")  # SQLite has one writer at a time
async def test_what_comes_to_life_while_the_dead_ones_are_dropped_is_not_dropped(
    database: Database, make_engine: MakeEngine
) -> None:
    """Its sender has sent it again, and has been told that it was taken."""
    engine = make_engine(database)
    bench, operator = HoldingBench(engine), HoldingBench(make_engine(database))
    store, note = store_of(bench.sessions, "bank", bench.clock), bench.note("first")
    await bench.hold(note, attempts=3)
    await bench.work()
    assert await bench.standing() == {"first": ("dead", 3)}

    async def dropped() -> int:
        async with operator.sessions.begin() as session:
            selection = Selection(state=State.DEAD)
            return await operators.drop(session, selection, now=bench.clock.now())

    async with bench.sessions.begin() as session:
        await store.hold(session, [to_hold(note)], [0.0])
        dropping = asyncio.create_task(dropped())
        await until_it_waits(engine, dropping)
    assert await dropping == 0
    assert await bench.standing() == {"first": ("waiting", 1)}
    await bench.work()
    assert await bench.entries() == ["first"]


async def test_an_answer_that_comes_late_takes_no_message_that_was_made_a_new_one(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker outlasts its claim; another one gives the message up, and an operator decides."""
    bench = HoldingBench(engine)
    await bench.hold(bench.note("first"))
    (row,) = await bench.rows()
    receive = bench.watched.receive

    async def slowly(*given: Any) -> list[Reply]:
        monkeypatch.setattr(bench.watched, "receive", receive)
        async with bench.sessions.begin() as session:
            dead = {"state": State.DEAD.value, "next_at": None}
            await session.execute(update(inbox_held).values(**dead))
            await operators.redrive_as_new(
                session, [row["seq"]], new_id=bench.names, now=bench.clock.now()
            )
        return [Reply(Outcome.EXPIRED)]

    monkeypatch.setattr(bench.watched, "receive", slowly)
    await bench.work()
    await bench.work()
    assert await bench.entries() == ["first"]
    assert await bench.rows() == []


class _Meanwhile(async_sessionmaker[AsyncSession]):
    """Sessions before whose transactions `first` is done, once it is set."""

    first: Callable[[], Awaitable[object]] | None = None

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[AsyncSession]:  # type: ignore[override]  # it waits first
        if (first := self.first) is not None:
            self.first = None
            await first()
        async with super().begin() as session:
            yield session


async def test_an_unread_packet_that_is_dropped_while_it_is_read_again_stays_away(
    engine: AsyncEngine,
) -> None:
    bench = HoldingBench(engine)
    note = bench.note("first")
    await bench.table.hold([unread(to_structured(note), RIGHT)])
    (row,) = await bench.rows()
    numbers = Selection(seqs=[row["seq"]])

    async def drop() -> None:
        async with bench.sessions.begin() as session:
            assert await operators.drop(session, numbers, now=bench.clock.now()) == 1

    async with bench.sessions.begin() as session:
        await operators.redrive(session, numbers, now=bench.clock.now())
    sessions = _Meanwhile(bench.sessions.kw["bind"])
    outbox.install(sessions, source="bank", routes={}, clock=bench.clock)

    def read(packet: Packet, queue: str) -> Envelope:
        sessions.first = drop
        return read_packet(packet, queue)

    worker = HeldWorker(
        bench.watched, sessions, "bank", clock=bench.clock, chance=lambda: 0.0, read=read
    )
    assert await worker.run_once() == 1
    assert await bench.rows() == []
    await bench.work()
    assert await bench.entries() == []


async def test_only_what_was_given_up_is_redriven_as_new(engine: AsyncEngine) -> None:
    bench = HoldingBench(engine)
    await bench.hold(bench.note("first"))
    (row,) = await bench.rows()
    async with bench.sessions.begin() as session:
        with pytest.raises(NoSuchMessage, match="not given up"):
            await operators.redrive_as_new(
                session, [row["seq"]], new_id=bench.names, now=bench.clock.now()
            )


@dataclass
class Moody:
    """A handler of `Noted` that fails now and then."""

    random: Random
    attempts: Counter[str] = field(default_factory=Counter)

    def handlers(self) -> Handlers:
        handlers = bank(without=Noted)

        @handlers.on(Noted)
        async def noted(session: AsyncSession, event: Noted, context: Context) -> None:
            await write_entry(session, event.entry, context.id)
            if self.random.random() < 0.3:
                raise ValueError("in a bad mood")

        return handlers


async def _consume(bench: HoldingBench, queue: Sequence[Envelope], random: Random) -> None:
    """Take the queue in batches, as a consumer does; now and then it dies before it acknowledges,
    and another one takes the same batch."""
    done = 0
    while done < len(queue):
        batch = list(queue[done : done + random.randint(1, 6)])
        held = await bench.table.held({order_key(it) for it in batch})
        free = [it for it in batch if order_key(it) not in held]
        replies = dict(zip([it.id for it in free], await bench.receive(*free), strict=True))
        items: list[ToHold] = []
        for message in batch:
            reply = replies.get(message.id)
            if order_key(message) in held:
                items.append(to_hold(message, attempts=0))
            elif reply is not None and reply.outcome is Outcome.FAILED:
                held.add(order_key(message))
                items.append(to_hold(message))
            elif reply is not None and reply.outcome is not Outcome.DONE:
                break
        else:
            await bench.table.hold(items)
            if random.random() < 0.8:
                done += len(batch)
            continue
        # What comes again at once is tried again in place, behind what was done.
        await bench.table.hold(items)
        done += batch.index(message)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
async def test_each_key_keeps_its_order_and_each_message_takes_effect_once(
    database: Database, make_engine: MakeEngine, seed: int
) -> None:
    random = Random(seed)
    moody = Moody(Random(seed))
    benches = [
        HoldingBench(
            make_engine(database),
            moody.handlers(),
            retry=RetryPolicy(attempts=1000),
            settings=HeldSettings(keys=2, batch=3, claim=0.0 if seed % 2 else 30.0),
        )
        for _ in range(3)
    ]
    consumer = benches[0]
    accounts = ["ada", "bob", "eve"]
    queue = [consumer.note(f"{it}: {n}", it) for n in range(10) for it in accounts]
    is_over = False

    async def work(bench: HoldingBench) -> None:
        while not is_over or await bench.rows():
            await bench.make_due()
            await bench.worker.run_once()

    async def consume() -> None:
        nonlocal is_over
        await _consume(consumer, queue, random)
        is_over = True

    async with asyncio.timeout(60 * BUSY):
        await asyncio.gather(consume(), *(work(bench) for bench in benches[1:]))
    entries = await consumer.entries()
    assert sorted(entries) == sorted(f"{it}: {n}" for it in accounts for n in range(10))
    for account in accounts:
        own = [it for it in entries if it.startswith(f"{account}:")]
        assert own == [f"{account}: {n}" for n in range(10)]
    assert await consumer.rows() == []
