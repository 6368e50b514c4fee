"""`outbox.Service` that reads its queue at a broker: answers, readiness, figures, and its end."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Sequence
from typing import Any

import pytest
from fastapi import FastAPI
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session

import outbox
from outbox.chassis.endpoints.overview import overview
from outbox.clock import SystemClock
from outbox.contract import CommandAnswered
from outbox.ids import Ids
from outbox.replies import Locked, Outcome, Reply
from outbox.tables import DEFAULT_TABLES, outbox_lease
from outbox.tables import outbox as outbox_table
from outbox.transports.base import Answered, Delivery
from outbox.transports.brokers.address import is_broker
from outbox.transports.brokers.broker import BrokerRefused
from outbox.transports.brokers.held.operators import list_held
from outbox.transports.brokers.held.rows import State
from outbox.transports.brokers.transport import BrokerTransport
from outbox.transports.http.signing import Keyring
from outbox.wire.codec import decode
from outbox.wire.envelope import Envelope
from outbox.wire.settled import EndedSagas
from tests.support.databases.databases import Database, Schema
from tests.support.fixtures import MakeEngine, MakeSyncEngine
from tests.support.outbox.inboxes import Book, Booked, Noted, envelope, ledger, ledger_schema
from tests.support.outbox.memory_broker import MemoryBroker, MemoryServer
from tests.support.outbox.services import NOWHERE, SECRETS, client_of, make_service
from tests.support.processes.waiting import BUSY, until

_CLOCK = SystemClock()
is_hard = threading.Event()
new_id = Ids(_CLOCK, os.urandom)


@pytest.fixture
def database_schema() -> Schema:
    return ledger_schema


class Ear:
    """The way to the orchestrator, which hears the answers."""

    def __init__(self) -> None:
        self.answers: list[CommandAnswered] = []

    async def deliver(self, envelopes: Sequence[Envelope]) -> Delivery:
        self.answers += [decode(CommandAnswered, it.data) for it in envelopes]
        return Answered([Reply(Outcome.DONE)] * len(envelopes))

    async def aclose(self) -> None:
        """Nothing is open."""


class Bank:
    """A service `bank` that reads its queue, and is asked by an orchestrator."""

    def __init__(self, engine: Any) -> None:
        self.server, self.ear, self.app = MemoryServer(), Ear(), FastAPI()
        self.service = make_service(
            engine, "bank", peers={"orchestrator": NOWHERE}, transports={"orchestrator": self.ear}
        )
        self.service.entrance.listen_broker(lambda: MemoryBroker(self.server))
        self.service.attach(self.app)
        self.way = BrokerTransport(
            MemoryBroker(self.server),
            to="bank",
            keys=Keyring.from_text(SECRETS),
            clock=_CLOCK,
            settled=lambda: EndedSagas(new_id()),
        )
        self.run = new_id()

    async def send(self, *commands: Book, **rest: Any) -> list[str]:
        """Send these as a run does; their ids."""
        asked = {"source": "orchestrator", "reply_to": "orchestrator", "correlation": self.run}
        batch = [
            envelope(new_id(), it, **{"time": _CLOCK.now(), **asked, **rest}) for it in commands
        ]
        await self.way.deliver(batch)
        return [it.id for it in batch]

    async def answered(self, count: int) -> list[tuple[str, str]]:
        """The ids and outcomes of the answers, once there are so many."""
        await until(lambda: len(self.ear.answers) >= count, what=f"{count} answers are there")
        return [(it.command_id, it.outcome) for it in self.ear.answers]

    async def ask(self, path: str) -> Any:
        """What the service answers at that path."""
        async with client_of(self.app) as client:
            return await client.get(path)


@pytest.fixture(params=["on the loop", "in threads"])
def bank(
    request: pytest.FixtureRequest,
    database: Database,
    make_engine: MakeEngine,
    make_sync_engine: MakeSyncEngine,
) -> Bank:
    """On an asynchronous database and on a synchronous one. "locked" is locked, and "hard" fails as
    long as `is_hard` is set."""
    if request.param == "on the loop":
        made = Bank(make_engine(database))

        @made.service.on(Book)
        async def book(session: AsyncSession, command: Book, context: outbox.Context) -> Any:
            return await session.run_sync(_book, command, context)

    else:
        made = Bank(make_sync_engine(database))

        @made.service.on(Book)
        def book_in_thread(session: Session, command: Book, context: outbox.Context) -> Any:
            return _book(session, command, context)

    return made


def _book(session: Session, command: Book, context: outbox.Context) -> Any:
    _write(session, command, context)
    if command.entry == "hard" and is_hard.is_set():
        raise RuntimeError("it does not work yet")
    return Locked(by="another run") if command.entry == "locked" else Booked(1)


def _write(session: Session, command: Book, context: outbox.Context) -> None:
    session.execute(ledger.insert().values(entry=command.entry, by=context.id))


async def test_p1_a_command_that_came_through_a_broker_is_answered_by_a_message(bank: Bank) -> None:
    async with bank.service.running():
        ids = await bank.send(Book("a", "one"), Book("b", "locked"), Book("c", "three"))
        answers = await bank.answered(3)
        assert sorted(answers) == sorted(zip(ids, ("done", "locked", "done"), strict=True))
        await until(lambda: not any(bank.server.packets.values()), what="the packets are done")
        figures = (await bank.ask("/metrics")).text
    assert 'sagabox_queue_packets_total{broker="MemoryBroker",outcome="handled"} 3.0' in figures
    assert 'sagabox_queue_partitions{broker="MemoryBroker"} 4.0' in figures
    assert 'sagabox_queue_waiting_packets{broker="MemoryBroker"} 0.0' in figures
    assert 'sagabox_inbox_messages_total{outcome="done"} 2.0' in figures


async def test_what_fails_is_held_with_its_key_and_answered_later_in_its_order(bank: Bank) -> None:
    is_hard.set()
    async with bank.service.running():
        ids = await bank.send(Book("a", "hard"), Book("a", "behind"), Book("b", "beside"))
        assert await bank.answered(1) == [(ids[2], "done")]
        await until(lambda: not any(bank.server.packets.values()), what="the packets are done")
        figures = (await bank.ask("/metrics")).text
        is_hard.clear()
        assert await bank.answered(3) == [(ids[2], "done"), (ids[0], "done"), (ids[1], "done")]
    assert 'sagabox_queue_packets_total{broker="MemoryBroker",outcome="held"} 2.0' in figures


async def test_a_copy_through_the_door_is_answered_there_and_by_no_further_message(
    bank: Bank,
) -> None:
    async with bank.service.running():
        (id,) = await bank.send(Book("a"))
        await bank.answered(1)
        same = {"source": "orchestrator", "reply_to": "orchestrator", "correlation": bank.run}
        copy = envelope(id, Book("a"), time=_CLOCK.now(), **same)
        (reply,) = await bank.service.inbox.receive([copy])
        assert reply.outcome is Outcome.DONE
        await bank.send(Book("z"))
        assert len(await bank.answered(2)) == 2


async def test_a_process_that_only_reads_the_queue_is_not_told_as_a_sender(
    bank: Bank, database: Database, make_engine: MakeEngine
) -> None:
    engine = make_engine(database)
    leased = select(outbox_lease.c.destination).where(outbox_lease.c.owner.is_not(None))

    async def lent() -> set[str]:
        async with engine.connect() as connection:
            return set(await connection.scalars(leased))

    async with bank.service.running():
        await bank.send(Book("a"))
        await bank.answered(1)
        assert await lent() == {"consume bank", "orchestrator"}
        shown = await overview(engine, DEFAULT_TABLES, _CLOCK, "bank")
    (sender,) = shown.senders
    assert sender.owner.startswith("bank@")


async def test_what_a_packet_says_of_ended_sagas_reaches_the_purge(bank: Bank) -> None:
    async with bank.service.running():
        await bank.send(Book("a"))
        await bank.answered(1)
        assert bank.service.inbox._purge._said.keys() == {"orchestrator"}


async def test_a_broker_that_is_away_at_the_start_is_told_and_read_as_soon_as_it_is_there(
    bank: Bank,
) -> None:
    await bank.send(Book("a"))
    await bank.server.cut()
    async with bank.service.running():
        answer = await bank.ask("/readyz")
        assert answer.status_code == 503
        assert (
            "the queue bank at MemoryBroker has not been reached since" in answer.json()["detail"]
        )
        assert "the broker is gone" in answer.json()["detail"]
        await bank.server.restore()
        await bank.answered(1)
        answer = await bank.ask("/readyz")
        assert "queue" in answer.json()["checks"]
        await bank.server.cut()
        assert (await bank.ask("/readyz")).status_code == 200, "it goes on without its broker"
        assert 'sagabox_queue_up{broker="MemoryBroker"} 0.0' in (await bank.ask("/metrics")).text
        await bank.server.restore()


async def test_a_service_that_starts_again_reads_again(bank: Bank) -> None:
    for number in (1, 2):
        async with bank.service.running():
            await bank.send(Book("a"))
            await bank.answered(number)
        assert not bank.service.entrance.queues.are_read


async def test_all_partitions_of_two_brokers_are_read(bank: Bank) -> None:
    second = MemoryServer()
    bank.service.entrance.listen_broker(lambda: MemoryBroker(second))
    other = BrokerTransport(
        MemoryBroker(second), to="bank", keys=Keyring.from_text(SECRETS), clock=_CLOCK
    )
    async with bank.service.running():
        commands = [Book(str(number)) for number in range(16)]
        ids = await bank.send(*commands)
        first, bank.way = bank.way, other
        ids += await bank.send(*commands)
        bank.way = first
        assert sorted(await bank.answered(32)) == sorted((id, "done") for id in ids)
        figures = (await bank.ask("/metrics")).text
    for broker in ("MemoryBroker", "MemoryBroker (2)"):
        assert f'sagabox_queue_partitions{{broker="{broker}"}} 4.0' in figures


@pytest.mark.databases("sqlite")
async def test_a_broker_that_is_there_and_refuses_ends_the_start(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(_: MemoryBroker, queue: str) -> int:
        raise BrokerRefused(f"no right to read {queue}", next_step="grant it")

    monkeypatch.setattr(MemoryBroker, "waiting", refuse)
    bank = Bank(engine)
    with pytest.raises(BrokerRefused, match="no right to read bank"):
        async with bank.service.running():
            pass
    assert not bank.service.is_carrying


@pytest.mark.databases("sqlite")
async def test_what_is_in_hand_at_the_end_is_finished_and_answered(engine: AsyncEngine) -> None:
    bank = Bank(engine)
    began, goes_on = asyncio.Event(), asyncio.Event()

    @bank.service.on(Book)
    async def book(session: AsyncSession, command: Book, context: outbox.Context) -> Booked:
        began.set()
        await goes_on.wait()
        await session.run_sync(_write, command, context)
        return Booked(1)

    async with bank.service.running():
        await bank.send(Book("a"))
        await asyncio.wait_for(began.wait(), 10 * BUSY)
        assert any(bank.server.packets.values()), "it is not done before its effect is committed"
        asyncio.get_running_loop().call_later(0.1, goes_on.set)
    assert not any(bank.server.packets.values()), "it is done with the packet"
    async with bank.service.sessions() as session:
        (entry,) = (await session.execute(select(ledger.c.entry))).scalars()
        left = (await session.execute(select(outbox_table.c.type))).scalars().all()
    assert entry == "an entry"
    # It leaves with the relay's last batch, or waits for the next start.
    assert len(left) + len(bank.ear.answers) == 1


@pytest.mark.databases("sqlite")
@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("smtp://127.0.0.1", "is no address of a broker"),
        ("nats://127.0.0.1?partitions=0", "is not a number from 1 to"),
        ("nats://127.0.0.1?colour=red", "colour"),
    ],
)
async def test_an_address_that_cannot_be_is_told_at_once(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch, address: str, problem: str
) -> None:
    service = make_service(engine)
    with pytest.raises(outbox.InvalidService, match=problem):
        service.entrance.listen_broker(address)
    monkeypatch.setenv("SAGABOX_BROKER", address)
    with pytest.raises(outbox.InvalidService, match=problem) as told:
        async with service.running():
            pass
    # What the adapter refuses, such as an option, names the address instead.
    assert ("SAGABOX_BROKER" in str(told.value)) is (problem != "colour")
    if is_broker(address):
        with pytest.raises(outbox.InvalidService, match=problem):
            make_service(engine.execution_options(), peers={"bank": address})


@pytest.mark.databases("sqlite")
async def test_a_receiver_says_how_held_messages_are_tried_and_what_becomes_of_their_key(
    engine: AsyncEngine,
) -> None:
    server = MemoryServer()
    once = outbox.HeldPolicy(
        outbox.RetryPolicy(first=0.001, attempts=2), outbox.OnExhaustion.BLOCK_KEY
    )
    service = make_service(engine, "bank", held=once)
    service.entrance.listen_broker(lambda: MemoryBroker(server))
    tried: list[str] = []

    @service.on(Noted)
    async def note(session: AsyncSession, event: Noted, _: outbox.Context) -> None:
        tried.append(event.entry)
        raise ValueError(event.entry)

    way = BrokerTransport(
        MemoryBroker(server), to="bank", keys=Keyring.from_text(SECRETS), clock=_CLOCK
    )
    await way.deliver(
        [envelope(new_id(), Noted("ada", it), time=_CLOCK.now()) for it in ("first", "second")]
    )
    async with service.running():

        async def states() -> list[State]:
            async with engine.connect() as connection:
                page = await list_held(connection, tables=service.tables)
            return [it.state for it in page.items]

        async def is_blocked() -> bool:
            return await states() == [State.BLOCKED, State.WAITING]

        await until(is_blocked, what="the key is blocked")
    assert set(tried) == {"first"}, "the next one of its key waits"
