"""How old a message is for an inbox that forgets: as old as its `due`, with any id."""

from __future__ import annotations

import dataclasses
from datetime import datetime, timedelta

from sqlalchemy import select

from outbox.ids import derive, first_at
from outbox.replies import Outcome
from outbox.tables import inbox, inbox_watermark
from outbox.wire.envelope import Envelope
from outbox.wire.settled import EndedSagas
from tests.support.outbox.inboxes import (
    START,
    Bench,
    Book,
    Names,
    Noted,
    Unbook,
    envelope,
)

DAY = timedelta(days=1)
RETENTION = timedelta(days=30)


def days(bench: Bench, count: float) -> None:
    bench.clock.advance((count * DAY).total_seconds())


def note(id: str, due: datetime | None) -> Envelope:
    return envelope(id, Noted("a"), due=due)


async def purge_up_to(bench: Bench, names: Names) -> None:
    """Let the inbox forget a message that is a day past the time of remembering."""
    await bench.receive(note(names(bench.clock.now()), bench.clock.now()))
    days(bench, RETENTION / DAY + 1)
    assert await bench.inbox.purge() > 0


async def watermark(bench: Bench, scope: str) -> str | None:
    async with bench.sessions() as session:
        statement = select(inbox_watermark.c.below).where(inbox_watermark.c.scope == scope)
        return (await session.execute(statement)).scalar_one_or_none()


async def test_a_message_with_an_old_id_that_was_due_lately_runs(
    bench: Bench, names: Names
) -> None:
    """Such are scheduled ones, and the news of a run that lasted for weeks."""
    scheduled = names()
    days(bench, 14)
    await purge_up_to(bench, names)
    arrived = await bench.receive_one(note(scheduled, bench.clock.now()))
    assert arrived.outcome is Outcome.DONE


async def test_without_its_due_the_same_message_is_judged_by_its_id(
    bench: Bench, names: Names
) -> None:
    of_an_old_sender = names()
    days(bench, 14)
    await purge_up_to(bench, names)
    arrived = await bench.receive_one(note(of_an_old_sender, None))
    assert arrived.outcome is Outcome.TOO_OLD


async def test_a_message_with_a_young_id_that_was_due_long_ago_is_too_old(
    bench: Bench, names: Names
) -> None:
    due = bench.clock.now() - DAY
    await purge_up_to(bench, names)
    arrived = await bench.receive_one(note(names(bench.clock.now()), due))
    assert arrived.outcome is Outcome.TOO_OLD


async def test_a_copy_of_a_purged_message_is_too_old_by_its_due(bench: Bench, names: Names) -> None:
    scheduled = names()
    days(bench, 45)
    once = note(scheduled, bench.clock.now())
    assert (await bench.receive_one(once)).outcome is Outcome.DONE
    days(bench, 31)
    assert await bench.inbox.purge() == 1
    assert (await bench.receive_one(once)).outcome is Outcome.TOO_OLD
    assert await bench.entries() == ["a note"]


async def test_a_row_stays_until_its_due_is_old(bench: Bench, names: Names) -> None:
    """It may come before its time, by a clock that is ahead."""
    early = note(names(), START + 10 * DAY)
    await bench.receive(early)
    days(bench, 31)
    assert await bench.inbox.purge() == 0
    days(bench, 10)
    assert await bench.inbox.purge() == 1
    assert (await bench.receive_one(early)).outcome is Outcome.TOO_OLD


async def test_an_inbox_that_was_away_has_forgotten_nothing_younger_than_what_it_purged(
    bench: Bench, names: Names
) -> None:
    """Down for 40 days, it purges what it had, and takes what has waited for it meanwhile."""
    await bench.receive(note(names(), START))
    waiting = note(names(START + DAY), START + DAY)
    days(bench, 40)
    assert await bench.inbox.purge() == 1
    assert (await bench.receive_one(waiting)).outcome is Outcome.DONE
    assert (await bench.receive_one(note(names(START - DAY), START))).outcome is Outcome.TOO_OLD
    assert await watermark(bench, "age") == first_at(START + timedelta(milliseconds=1))


async def test_rows_of_old_code_are_purged_and_covered_by_their_ids(
    bench: Bench, names: Names
) -> None:
    old = note(names(), None)
    await bench.receive(old)
    days(bench, 31)
    assert await bench.inbox.purge() == 1
    assert (await bench.receive_one(old)).outcome is Outcome.TOO_OLD
    again = dataclasses.replace(old, due=START)
    assert (await bench.receive_one(again)).outcome is Outcome.TOO_OLD


async def test_a_redelivery_with_due_of_a_message_that_came_without_is_a_duplicate(
    bench: Bench, names: Names
) -> None:
    """Relays of both ages send the same row during an upgrade."""
    old = note(names(), None)
    for each in (old, dataclasses.replace(old, due=START), old):
        assert (await bench.receive_one(each)).outcome is Outcome.DONE
    assert await bench.entries() == ["a note"]


async def test_an_action_that_was_undone_before_it_came_stays_barred_however_late_it_is_due(
    bench: Bench, names: Names
) -> None:
    """Its undo knows its id, and not when it is due."""
    action = names()
    await bench.receive(envelope(names(), Unbook("a"), undoes=(action,), due=START))
    days(bench, 31)
    assert await bench.inbox.purge() == 2
    days(bench, 14)
    late = envelope(action, Book("a"), due=bench.clock.now())
    assert (await bench.receive_one(late)).outcome is Outcome.TOO_OLD
    assert await bench.entries() == []


async def test_an_undo_of_a_purged_action_whose_id_is_ahead_of_its_due_does_not_say_never_ran(
    bench: Bench, names: Names
) -> None:
    action = names(START + DAY / 2)
    await bench.receive(envelope(action, Book("a"), due=START))
    days(bench, 32)
    assert await bench.inbox.purge() == 1
    undo = envelope(names(bench.clock.now()), Unbook("a"), undoes=(action,), due=bench.clock.now())
    assert (await bench.receive_one(undo)).outcome is Outcome.UNKNOWN


# --- Numbers of runs ---------------------------------------------------------------------------


def of_run(id: str, saga: str, number: str | None, due: datetime | None) -> Envelope:
    return envelope(
        id,
        Book("a"),
        source="orchestrator",
        correlation=saga,
        run_number=number,
        due=due,
    )


async def say(bench: Bench, names: Names, settled: EndedSagas) -> None:
    now = bench.clock.now()
    news = envelope(names(now), Noted("a"), source="orchestrator", due=now)
    await bench.receive(news, settled=settled)


async def test_a_run_is_as_old_as_its_number_with_any_id(bench: Bench, names: Names) -> None:
    """It was asked for long ago, and began when others of that age had been forgotten."""
    asked, other = names(), names()
    await bench.receive(of_run(derive(other, "do"), other, other, START))
    days(bench, 40)
    await say(bench, names, EndedSagas(names(bench.clock.now() - 7 * DAY)))
    assert await bench.inbox.purge() == 1
    number, now = names(bench.clock.now()), bench.clock.now()
    action = of_run(derive(asked, "do"), asked, number, now)
    assert (await bench.receive_one(action)).outcome is Outcome.DONE
    by_id = of_run(derive(asked, "else"), asked, None, None)
    assert (await bench.receive_one(by_id)).outcome is Outcome.TOO_OLD


async def test_rows_of_a_run_are_kept_by_its_number(bench: Bench, names: Names) -> None:
    """Its id is below what has settled, and its number is not."""
    saga, between = names(), names(START + DAY)
    number = names(START + 2 * DAY)
    action = of_run(derive(saga, "do"), saga, number, START + 2 * DAY)
    await bench.receive(action)
    days(bench, 60)
    await say(bench, names, EndedSagas(between))
    assert await bench.inbox.purge() == 0
    await say(bench, names, EndedSagas(names(START + 3 * DAY), frozenset({number})))
    assert await bench.inbox.purge() == 0
    await say(bench, names, EndedSagas(names(START + 3 * DAY)))
    assert await bench.inbox.purge() == 1
    assert (await bench.receive_one(action)).outcome is Outcome.TOO_OLD


async def test_what_is_barred_keeps_the_number_of_its_undo(bench: Bench, names: Names) -> None:
    saga, number = names(), names(START + 2 * DAY)
    action = derive(saga, "do")
    undo = envelope(
        derive(saga, "undo"),
        Unbook("a"),
        source="orchestrator",
        correlation=saga,
        run_number=number,
        undoes=(action,),
        due=START,
    )
    await bench.receive(undo)
    async with bench.sessions() as session:
        kept = (await session.execute(select(inbox.c.id, inbox.c.saga_number, inbox.c.due))).all()
    assert {tuple(row) for row in kept} == {(undo.id, number, START), (action, number, None)}
