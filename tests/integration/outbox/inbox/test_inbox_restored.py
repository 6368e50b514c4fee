"""What an inbox takes after a restore: nothing of runs that do not live."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import delete, select

from outbox.database.within import in_transaction
from outbox.ids import first_at
from outbox.inbox.inbox import Inbox
from outbox.inbox.transactions import restored, store
from outbox.replies import Outcome
from outbox.tables import inbox, inbox_watermark
from outbox.wire import settled
from outbox.wire.envelope import Envelope
from tests.support.outbox.inboxes import (
    START,
    Bench,
    Book,
    Names,
    Noted,
    Unbook,
    envelope,
)

OVER = Names(START - timedelta(minutes=20))()
LIVES = Names(START - timedelta(minutes=30))()
MARK = first_at(START - timedelta(minutes=1))


def command(names: Names, saga: str, entry: str = "an entry") -> Envelope:
    return envelope(names(), Book("a", entry), source="orchestrator", correlation=saga)


async def restore(bench: Bench, *live: str) -> None:
    """The database goes back to before all, and is told so; the service starts again."""
    await bench.clear()
    await in_transaction(
        bench.sessions,
        lambda session: restored.mark(session, "bank", "orchestrator", MARK, live),
    )
    bench.inbox = Inbox(bench.handlers, bench.sessions, clock=bench.clock)


async def test_a_copy_of_a_lost_command_of_a_run_that_is_over_takes_no_effect(
    bench: Bench, names: Names
) -> None:
    action = command(names, OVER)
    undo = envelope(
        names(), Unbook("a"), source="orchestrator", correlation=OVER, undoes=(action.id,)
    )
    await bench.receive(action)
    await bench.receive(undo)
    await restore(bench)
    for _ in range(2):
        assert (await bench.receive_one(action)).outcome is Outcome.TOO_OLD
    assert (await bench.receive_one(undo)).outcome is Outcome.UNKNOWN
    assert await bench.entries() == []
    assert await bench.states() == {}


async def test_a_lost_command_of_a_run_that_lives_takes_effect_again_and_once(
    bench: Bench, names: Names
) -> None:
    action = command(names, LIVES)
    await bench.receive(action)
    await restore(bench, LIVES)
    for _ in range(2):
        assert (await bench.receive_one(action)).outcome is Outcome.DONE
    assert await bench.entries() == ["an entry"]


async def test_the_mark_says_nothing_of_other_orchestrators_of_later_runs_and_of_events(
    bench: Bench, names: Names
) -> None:
    await restore(bench)
    begun_since = Names(START)()
    others = [
        envelope(names(), Book("b"), source="another", correlation=OVER),
        command(names, begun_since),
        envelope(names(), Noted("a"), source="orchestrator", correlation=OVER),
        envelope(names(), Noted("a"), source="sender"),
    ]
    for each in others:
        assert (await bench.receive_one(each)).outcome is Outcome.DONE


async def test_a_known_command_of_a_run_that_is_over_gets_its_stored_answer(
    bench: Bench, names: Names
) -> None:
    action = command(names, OVER)
    await restore(bench, OVER)
    first = await bench.receive_one(action)
    await in_transaction(
        bench.sessions, lambda it: restored.mark(it, "bank", "orchestrator", MARK, ())
    )
    assert await bench.receive_one(action) == first
    assert await bench.entries() == ["an entry"]


async def test_a_run_is_covered_by_its_number_and_not_by_its_id(bench: Bench, names: Names) -> None:
    await restore(bench)
    late = Names(START)()
    old_id = envelope(names(), Book("a"), source="orchestrator", correlation=OVER, run_number=late)
    assert (await bench.receive_one(old_id)).outcome is Outcome.DONE


async def test_without_a_mark_a_lost_command_would_run_once_more(
    bench: Bench, names: Names
) -> None:
    """That the tests above can fail."""
    action = command(names, OVER)
    await restore(bench)
    async with bench.sessions.begin() as session:
        await session.execute(delete(inbox_watermark))
    bench.inbox = Inbox(bench.handlers, bench.sessions, clock=bench.clock)
    assert (await bench.receive_one(action)).outcome is Outcome.DONE


async def test_the_purge_leaves_the_mark_and_marks_what_it_purged_itself(
    bench: Bench, names: Names
) -> None:
    await restore(bench)
    note = envelope(names(), Noted("a"))
    await bench.receive(note)
    bench.clock.advance(timedelta(days=40).total_seconds())
    assert await bench.inbox.purge() == 1
    async with bench.sessions() as session:
        query = select(inbox_watermark.c.scope, inbox_watermark.c.below)
        marks = {scope: below for scope, below in await session.execute(query)}
        left = (await session.scalars(select(inbox.c.id))).all()
    assert marks[store.RESTORED] == MARK
    assert store.SAGA not in marks
    assert left == []


async def test_more_live_runs_than_are_remembered_lower_the_mark(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restored, "MAX_REMEMBERED", 2)
    live = [Names(START - timedelta(minutes=it))() for it in (40, 30, 20)]
    reached = await in_transaction(
        bench.sessions,
        lambda it: restored.mark(it, "bank", "orchestrator", MARK, live),
    )
    assert reached == live[2]
    assert settled.MAX_REMEMBERED == 10_000
