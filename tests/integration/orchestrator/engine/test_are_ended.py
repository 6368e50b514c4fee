"""What the orchestrator answers to the question which runs have ended: participants forget what
they did for those, so it must never count one among them that lives, or may still begin."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator.handlers import add_handlers
from orchestrator.machine.instance import Status
from outbox import tables
from outbox.adding.installation import install
from outbox.contract import AreEnded, RunsEnded
from outbox.database.opening import Database
from outbox.ids import Ids, compose, first_at
from outbox.inbox.handlers import Handlers
from outbox.inbox.inbox import Inbox
from outbox.replies import Outcome, Reply
from outbox.testing import FakeClock
from outbox.wire.codec import decode, encode
from outbox.wire.envelope import Envelope
from outbox.wire.settled import MAX_TOLD
from tests.support.orchestrator.engines import opened
from tests.support.orchestrator.orchestrating import begun, put

DAY = timedelta(days=1)
UNSETTLED = timedelta(days=7)
CLOCK = FakeClock()
NOW = CLOCK.now()
LONG_AGO, HORIZON = first_at(NOW - 60 * DAY), first_at(NOW - 30 * DAY)
new_id = Ids(CLOCK, os.urandom)


def id_of(moment: datetime, number: int = 0) -> str:
    """An id that was made then."""
    return compose(int(moment.timestamp() * 1000), number)


class Desk:
    """The orchestrator's inbox, and what it sends."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.database: Database = opened(engine)
        install(self.database.sessions, source="orchestrator", routes={}, clock=CLOCK, ids=new_id)
        handlers = Handlers("orchestrator")
        add_handlers(handlers, CLOCK, unsettled=UNSETTLED)
        self.inbox = Inbox(handlers, self.database.sessions, clock=CLOCK)

    async def ask(self, question: AreEnded, id: str | None = None) -> Reply:
        envelope = Envelope(
            id=id or new_id(),
            source="articles",
            type=str(AreEnded.message_type),
            key=question.consumer,
            time=NOW,
            data=encode(question),
        )
        (reply,) = await self.inbox.receive([envelope])
        return reply

    async def answers(self) -> list[RunsEnded]:
        async with self.database.engine.connect() as connection:
            statement = select(tables.outbox.c.destination, tables.outbox.c.payload)
            found = (await connection.execute(statement.order_by(tables.outbox.c.seq))).all()
        assert {row.destination for row in found} <= {"articles"}
        return [decode(RunsEnded, row.payload.encode()) for row in found]

    async def answer(self, since: str = LONG_AGO, before: str = HORIZON) -> RunsEnded:
        assert (await self.ask(AreEnded("articles", since, before))).outcome is Outcome.DONE
        return (await self.answers())[-1]

    async def put(self, id: str, **columns: Any) -> None:
        await put(self.database, begun(id=id), **columns)


@pytest.fixture
def desk(engine: AsyncEngine) -> Desk:
    return Desk(engine)


async def test_all_but_those_that_live_have_ended(desk: Desk) -> None:
    """A run that is stuck lives; one that is not known has ended, or never was."""
    live, ended, stuck, outside = (id_of(NOW - days * DAY) for days in (50, 49, 48, 70))
    for id in (live, outside):
        await desk.put(id)
    await desk.put(ended, status=Status.COMPENSATED.value, ended_at=NOW - 40 * DAY)
    await desk.put(stuck, status=Status.STUCK.value)
    answer = await desk.answer()
    assert answer == RunsEnded("articles", LONG_AGO, HORIZON, [live, stuck], is_more=False)


async def test_a_run_lives_under_its_number_and_under_its_id(desk: Desk) -> None:
    """The number is in the range, and the id of the start that was long on its way is not."""
    number, id = id_of(NOW - 40 * DAY), id_of(NOW - 90 * DAY)
    await desk.put(id, number=number)
    assert (await desk.answer()).live == [number]
    assert (await desk.answer(first_at(NOW - 100 * DAY))).live == [id, number]


@pytest.mark.parametrize("more", [0, 1, 20])
async def test_no_run_that_lives_is_said_to_have_ended_however_many_there_are(
    desk: Desk, more: int
) -> None:
    ids = [id_of(NOW - 50 * DAY, number) for number in range(MAX_TOLD + more)]
    for id in ids:
        await desk.put(id)
    first = await desk.answer()
    assert (first.live, first.is_more) == (ids[:MAX_TOLD], more > 0)
    assert first.before == (ids[MAX_TOLD] if more else HORIZON)
    if more:
        rest = await desk.answer(first.before)
        assert (rest.live, rest.is_more) == (ids[MAX_TOLD:], False)


async def test_nothing_is_said_of_runs_that_may_still_begin(desk: Desk) -> None:
    soon = first_at(NOW + DAY)
    answer = await desk.answer(before=soon)
    assert answer.before == first_at(NOW - UNSETTLED)
    young = first_at(NOW - DAY)
    assert (await desk.answer(young, soon)).before == young, "an empty range"


async def test_a_question_that_comes_twice_has_one_answer(desk: Desk) -> None:
    id, question = new_id(), AreEnded("articles", LONG_AGO, HORIZON)
    for _ in range(2):
        assert (await desk.ask(question, id)).outcome is Outcome.DONE
    assert len(await desk.answers()) == 1


@pytest.mark.parametrize(
    "spoiled",
    [lambda: AreEnded("articles", "soon", HORIZON), lambda: AreEnded("articles", LONG_AGO, "")],
    ids=["since", "before"],
)
async def test_a_question_without_numbers_is_rejected(
    desk: Desk, spoiled: Callable[[], AreEnded]
) -> None:
    reply = await desk.ask(spoiled())
    assert reply.outcome is Outcome.REJECTED
    assert "is not a UUIDv7" in (reply.reason or "")
    assert await desk.answers() == []
