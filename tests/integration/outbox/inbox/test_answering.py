"""Answers as messages: which of them leave, under which ids, and with whose transaction."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from sqlalchemy import Table, select
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker

import outbox
from outbox.crashpoints import Crash
from outbox.ids import compose
from outbox.inbox.answering import AnsweringInbox, add_answer
from outbox.inbox.handlers import Context, Handlers
from outbox.inbox.inbox import Inbox
from outbox.replies import Locked, Ongoing
from outbox.tables import inbox as inbox_table
from outbox.tables import outbox as outbox_table
from outbox.testing import FakeClock, crash_at
from outbox.wire.envelope import Envelope
from tests.support.outbox.inboxes import (
    START,
    Book,
    Booked,
    Names,
    bank,
    envelope,
    handling,
    ledger,
    outcomes,
)

SAGA = compose(1_893_000_000_000, 7)


class Answering:
    """An answering inbox on a database, and looks at what it left there."""

    def __init__(self, engine: AsyncEngine, handlers: Handlers) -> None:
        self.sessions = async_sessionmaker(engine)
        self.names = Names()
        outbox.install(self.sessions, source="bank", routes={}, clock=FakeClock(START))
        inbox = Inbox(handlers, self.sessions, clock=FakeClock(START), told=add_answer)
        self.inbox = AnsweringInbox(inbox, self.sessions)

    def command(self, **rest: Any) -> Envelope:
        """A saga's command that awaits its answer."""
        awaited = {"source": "orchestrator", "reply_to": "orchestrator", "correlation": SAGA}
        return envelope(self.names(), Book("ada"), **(awaited | rest))

    async def receive(self, *envelopes: Envelope) -> list[str]:
        """The outcomes."""
        return outcomes(await self.inbox.receive(envelopes))

    async def answers(self) -> list[tuple[str, str, str]]:
        """The id of each answer in the outbox, with the command's id and the outcome."""
        async with self.sessions() as session:
            rows = await session.execute(
                select(outbox_table.c.id, outbox_table.c.payload).order_by(outbox_table.c.seq)
            )
        told = [(id, orjson.loads(payload)) for id, payload in rows]
        return [(id, it["command_id"], it["outcome"]) for id, it in told]

    async def count(self, table: Table) -> int:
        """How many rows it has."""
        async with self.sessions() as session:
            return len((await session.execute(select(table))).all())


async def test_a_definite_answer_is_one_message_however_often_the_command_comes(
    engine: AsyncEngine,
) -> None:
    at = Answering(engine, bank())
    command = at.command()
    assert await at.receive(command) == ["done"]
    ((first, asked, outcome),) = await at.answers()
    assert (asked, outcome) == (command.id, "done")
    assert await at.receive(command) == ["done"]
    assert {id for id, _, _ in await at.answers()} == {first}
    assert await at.count(ledger) == 1


@pytest.mark.parametrize(
    ("result", "outcome"), [(Locked(by="a run"), "locked"), (Ongoing(retry_after=7), "ongoing")]
)
async def test_what_may_be_asked_again_has_a_message_of_its_own_each_time_and_no_trace(
    engine: AsyncEngine, result: object, outcome: str
) -> None:
    at = Answering(engine, handling(lambda *_: result))
    command = at.command()
    assert await at.receive(command) == await at.receive(command) == [outcome]
    answers = await at.answers()
    assert [it[1:] for it in answers] == [(command.id, outcome)] * 2
    assert len({id for id, _, _ in answers}) == 2
    assert await at.count(ledger) == await at.count(inbox_table) == 0


async def test_what_the_consumer_tries_again_is_not_told(engine: AsyncEngine) -> None:
    def fail(*_: object) -> object:
        raise RuntimeError("a fault in the handler")

    at = Answering(engine, handling(fail))
    assert await at.receive(at.command(), at.command()) == ["failed", "not-attempted"]
    unknown = at.command(type="bank.unheard-of.v1")
    assert await at.receive(unknown) == ["rejected"]
    assert await at.answers() == []


async def test_a_rejection_is_told(engine: AsyncEngine) -> None:
    at = Answering(engine, bank())
    command = at.command(data=b'{"account":7}')
    assert await at.receive(command) == ["rejected"]
    assert [it[1:] for it in await at.answers()] == [(command.id, "rejected")]


async def test_a_command_with_another_ones_address_does_not_run_and_is_told_to_neither(
    engine: AsyncEngine,
) -> None:
    at = Answering(engine, bank())
    foreign, own = at.command(reply_to="articles"), at.command()
    replies = await at.inbox.receive([foreign, own])
    assert outcomes(replies) == ["rejected", "done"]
    assert "wants the answer to go to articles" in (replies[0].reason or "")
    assert [it[1:] for it in await at.answers()] == [(own.id, "done")]
    assert await at.count(ledger) == 1


async def test_a_command_that_awaits_nothing_is_told_nothing(engine: AsyncEngine) -> None:
    at = Answering(engine, bank())
    assert await at.receive(at.command(reply_to=None)) == ["done"]
    assert await at.receive(at.command(correlation=None)) == ["done"]
    assert await at.answers() == []


async def test_a_rollback_takes_the_answer_with_the_handlers_writes(engine: AsyncEngine) -> None:
    """The second of a batch fails after the first one's answer was added to their transaction;
    and a commit that fails leaves no answer to what did not happen."""

    def second_fails(command: Book, context: Context) -> Booked:
        if context.id == bad.id:
            raise RuntimeError("a fault in the handler")
        return Booked(balance=1)

    at = Answering(engine, handling(second_fails))
    good, bad = at.command(), at.command(key="bob", data=b'{"account":"bob","entry":"x"}')
    assert await at.receive(good, bad) == ["done", "failed"]
    assert [it[1:] for it in await at.answers()] == [(good.id, "done")]
    assert await at.count(ledger) == 1


async def test_no_answer_is_left_of_a_transaction_that_is_not_committed(
    engine: AsyncEngine,
) -> None:
    at = Answering(engine, bank())
    command = at.command()
    with crash_at("inbox: before commit"), pytest.raises(Crash):
        await at.inbox.receive([command])
    assert await at.answers() == []
    assert await at.count(ledger) == 0
    assert await at.receive(command) == ["done"]
    assert [it[1:] for it in await at.answers()] == [(command.id, "done")]
    assert await at.count(ledger) == 1
