"""What the inbox forgets, and that forgetting never turns "it may have run" into "it never ran"."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import delete, func, select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session

from outbox.ids import first_at
from outbox.inbox.limits import InboxLimits
from outbox.inbox.purge import statements
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
LATER = RETENTION + DAY


def pass_time(bench: Bench, by: timedelta) -> None:
    bench.clock.advance(by.total_seconds())


async def known(bench: Bench) -> set[str]:
    return set(await bench.states())


async def say(bench: Bench, names: Names, settled: EndedSagas) -> None:
    """The orchestrator's next batch, with its statement; the message in it is a new event."""
    note = envelope(names(bench.clock.now()), Noted("a"), source="orchestrator")
    await bench.receive(note, settled=settled)


def command(names: Names, saga: str, **rest: Any) -> Envelope:
    return envelope(names(), Book("a"), source="orchestrator", correlation=saga, **rest)


# --- By age ------------------------------------------------------------------------------------


async def test_old_messages_are_purged_and_young_ones_stay(bench: Bench, names: Names) -> None:
    old = [envelope(names(), Noted("a")), envelope(names(), Book("a"))]
    await bench.receive(*old)
    assert await bench.inbox.purge() == 0
    pass_time(bench, LATER)
    young = envelope(names(bench.clock.now()), Noted("a"))
    await bench.receive(young)
    assert await bench.inbox.purge() == 2
    assert await known(bench) == {young.id}
    assert await bench.inbox.purge() == 0


async def test_a_copy_of_a_purged_message_is_too_old_and_does_not_run(
    bench: Bench, names: Names
) -> None:
    note = envelope(names(), Noted("a", "news"))
    await bench.receive(note)
    pass_time(bench, LATER)
    await bench.inbox.purge()
    for _ in range(2):
        assert (await bench.receive_one(note)).outcome is Outcome.TOO_OLD
    assert await bench.entries() == ["news"]
    assert await bench.states() == {}


async def test_the_undo_of_a_purged_action_is_unknown_each_time(bench: Bench, names: Names) -> None:
    action = envelope(names(), Book("a"))
    await bench.receive(action)
    pass_time(bench, LATER)
    await bench.inbox.purge()
    for _ in range(2):
        undo = envelope(names(bench.clock.now()), Unbook("a"), undoes=(action.id,))
        assert (await bench.receive_one(undo)).outcome is Outcome.UNKNOWN
    assert (await bench.receive_one(action)).outcome is Outcome.TOO_OLD


async def test_an_old_message_that_comes_for_the_first_time_runs_if_nothing_was_purged(
    bench: Bench, names: Names
) -> None:
    pass_time(bench, LATER)
    await bench.inbox.purge()
    assert (await bench.receive_one(envelope(names(), Noted("a")))).outcome is Outcome.DONE


async def test_a_message_that_came_late_is_kept_from_its_arrival_on(
    bench: Bench, names: Names
) -> None:
    note = envelope(names(), Noted("a"))
    pass_time(bench, LATER)
    await bench.receive(note)
    assert await bench.inbox.purge() == 0
    assert (await bench.receive_one(note)).outcome is Outcome.DONE


async def test_a_message_with_an_id_from_a_clock_ahead_is_kept_until_that_is_old(
    bench: Bench, names: Names
) -> None:
    note = envelope(names(START + 10 * DAY), Noted("a"))
    await bench.receive(note)
    pass_time(bench, LATER)
    assert await bench.inbox.purge() == 0
    pass_time(bench, 10 * DAY)
    assert await bench.inbox.purge() == 1
    assert (await bench.receive_one(note)).outcome is Outcome.TOO_OLD


async def test_a_purge_works_in_bounded_transactions(engine: AsyncEngine, names: Names) -> None:
    bench = Bench(engine, limits=InboxLimits(purge_rows=4, purge_transactions=2))
    await bench.receive(*(envelope(names(), Noted("a")) for _ in range(11)))
    pass_time(bench, LATER)
    assert [await bench.inbox.purge() for _ in range(3)] == [8, 3, 0]


async def test_a_purge_leaves_other_consumers_rows_alone(bench: Bench, names: Names) -> None:
    from outbox.inbox.handlers import Handlers

    await bench.receive(envelope(names(), Noted("a")))
    pass_time(bench, LATER)
    other = Bench(bench.engine, Handlers("archive"), clock=bench.clock)
    assert await other.inbox.purge() == 0
    assert len(await known(bench)) == 1


# --- By saga -----------------------------------------------------------------------------------


async def test_commands_of_a_saga_outlive_every_age(bench: Bench, names: Names) -> None:
    """An approval may wait for 60 days; the undo after it must still find its action."""
    saga = names()
    action = command(names, saga)
    await bench.receive(action)
    pass_time(bench, timedelta(days=60))
    await say(bench, names, EndedSagas(saga))
    assert await bench.inbox.purge() == 0
    undo = envelope(
        names(bench.clock.now()),
        Unbook("a"),
        source="orchestrator",
        correlation=saga,
        undoes=(action.id,),
    )
    assert (await bench.receive_one(undo)).outcome is Outcome.DONE
    assert await bench.entries() == ["a note"]


async def test_commands_of_a_settled_saga_are_purged_in_every_state(
    bench: Bench, names: Names
) -> None:
    saga = names()
    ran, undone, barred = (command(names, saga) for _ in range(3))
    undo = envelope(
        names(),
        Unbook("a"),
        source="orchestrator",
        correlation=saga,
        undoes=(undone.id, barred.id),
    )
    await bench.receive(ran, undone)
    await bench.receive(undo)
    pass_time(bench, LATER)
    await say(bench, names, EndedSagas(names()))
    assert await bench.inbox.purge() == 4
    assert (await bench.receive_one(ran)).outcome is Outcome.TOO_OLD
    assert (await bench.receive_one(undo)).outcome is Outcome.UNKNOWN
    assert await bench.entries() == ["an entry", "a note"]


async def test_an_undo_that_forgot_its_saga_does_not_take_a_purged_action_for_one_that_never_ran(
    bench: Bench, names: Names
) -> None:
    action = command(names, names())
    await bench.receive(action)
    pass_time(bench, LATER)
    await say(bench, names, EndedSagas(names()))
    assert await bench.inbox.purge() == 1
    undo = envelope(names(bench.clock.now()), Unbook("a"), undoes=(action.id,))
    assert (await bench.receive_one(undo)).outcome is Outcome.UNKNOWN


async def test_a_settled_saga_is_kept_through_the_time_of_redelivery(
    bench: Bench, names: Names
) -> None:
    saga = names()
    action = command(names, saga)
    await bench.receive(action)
    pass_time(bench, RETENTION - DAY)
    await say(bench, names, EndedSagas(names()))
    assert await bench.inbox.purge() == 0
    assert (await bench.receive_one(action)).outcome is Outcome.DONE


async def test_live_sagas_among_settled_ones_are_kept(bench: Bench, names: Names) -> None:
    stuck, ended, after = names(), names(), names()
    kept, gone = command(names, stuck), command(names, ended)
    await bench.receive(kept, gone)
    pass_time(bench, LATER)
    await say(bench, names, EndedSagas(after, frozenset({stuck})))
    assert await bench.inbox.purge() == 1
    assert (await bench.receive_one(kept)).outcome is Outcome.DONE
    assert (await bench.receive_one(gone)).outcome is Outcome.TOO_OLD
    fresh = command(names, stuck)
    assert (await bench.receive_one(fresh)).outcome is Outcome.DONE, "a live saga may go on"


@pytest.mark.parametrize("late", ["same", "older"])
async def test_a_delayed_old_statement_resurrects_nothing(
    engine: AsyncEngine, names: Names, late: str
) -> None:
    bench = Bench(engine)
    zeroth, first, second, after = names(), names(), names(), names()
    purged = [command(names, first), command(names, second)]
    await bench.receive(*purged)
    pass_time(bench, LATER)
    await say(bench, names, EndedSagas(after))
    assert await bench.inbox.purge() == 2
    restarted = Bench(engine, clock=bench.clock)
    id = names(bench.clock.now())
    await restarted.receive(envelope(id, Book("a"), source="orchestrator", correlation=zeroth))
    pass_time(bench, LATER)
    old = {"same": EndedSagas(after, frozenset({first, second})), "older": EndedSagas(first)}
    await say(restarted, names, old[late])
    assert await restarted.inbox.purge() > 0, "the late statement had something to purge"
    for each in purged:
        assert (await restarted.receive_one(each)).outcome is Outcome.TOO_OLD


async def test_a_delayed_old_statement_takes_nothing_back(bench: Bench, names: Names) -> None:
    """A saga that was said to have ended has ended, even if an older batch says otherwise."""
    saga = names()
    action = command(names, saga)
    await bench.receive(action)
    pass_time(bench, LATER)
    await say(bench, names, EndedSagas(names()))
    await say(bench, names, EndedSagas(saga))
    assert await bench.inbox.purge() == 1
    assert (await bench.receive_one(action)).outcome is Outcome.TOO_OLD


async def test_an_exception_ends_with_its_saga(bench: Bench, names: Names) -> None:
    stuck, other, after = names(), names(), names()
    held, gone = command(names, stuck), command(names, other)
    await bench.receive(held, gone)
    pass_time(bench, LATER)
    await say(bench, names, EndedSagas(after, frozenset({stuck})))
    assert await bench.inbox.purge() == 1
    await say(bench, names, EndedSagas(after))
    assert await bench.inbox.purge() == 1
    assert (await bench.receive_one(held)).outcome is Outcome.TOO_OLD


async def test_one_orchestrator_does_not_settle_the_sagas_of_another(
    bench: Bench, names: Names
) -> None:
    action = envelope(names(), Book("a"), source="another", correlation=names())
    await bench.receive(action)
    pass_time(bench, LATER)
    await say(bench, names, EndedSagas(first_at(bench.clock.now())))
    assert await bench.inbox.purge() == 0
    assert (await bench.receive_one(action)).outcome is Outcome.DONE


async def test_a_statement_with_a_batch_of_mixed_sources_counts_for_no_sender(
    bench: Bench, names: Names
) -> None:
    saga = names()
    action = command(names, saga)
    await bench.receive(action)
    pass_time(bench, LATER)
    mixed = [envelope(names(), Noted("a"), source=each) for each in ("orchestrator", "another")]
    await bench.receive(*mixed, settled=EndedSagas(first_at(bench.clock.now())))
    await bench.inbox.purge()
    assert action.id in await known(bench)


async def test_a_statement_about_the_future_is_believed_up_to_the_horizon_only(
    bench: Bench, names: Names
) -> None:
    old = command(names, names())
    await bench.receive(old)
    pass_time(bench, LATER)
    await say(bench, names, EndedSagas(first_at(START + 1000 * DAY)))
    assert await bench.inbox.purge() == 1
    pass_time(bench, 10 * DAY)
    saga = names(bench.clock.now() - 2 * DAY)
    id = names(bench.clock.now() - 2 * DAY)
    late = envelope(id, Book("a"), source="orchestrator", correlation=saga)
    assert (await bench.receive_one(late)).outcome is Outcome.DONE


async def test_watermarks_never_go_back(bench: Bench, names: Names) -> None:
    await bench.receive(envelope(names(), Noted("a")))
    pass_time(bench, LATER)
    assert await bench.inbox.purge() == 1
    before = await _age_watermark(bench)
    bench.clock.jump(-(2 * DAY).total_seconds())
    older = envelope(names(START - 2 * DAY), Noted("a"))
    async with bench.sessions.begin() as session:
        await session.run_sync(_remember, older.id)
    assert await bench.inbox.purge() == 1
    assert await _age_watermark(bench) == before


def _remember(session: Session, id: str) -> None:
    session.execute(
        inbox.insert().values(
            consumer="bank", id=id, state="ran", source="sender", received_at=START - 2 * DAY
        )
    )


async def _age_watermark(bench: Bench) -> str:
    async with bench.sessions() as session:
        statement = select(inbox_watermark.c.below).where(inbox_watermark.c.scope == "age")
        below: str = (await session.execute(statement)).scalar_one()
        return below


# --- A purge that fails ------------------------------------------------------------------------


async def test_a_purge_that_fails_keeps_rows_and_watermark(
    bench: Bench, names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bench.receive(envelope(names(), Noted("a")))
    pass_time(bench, LATER)

    def fail(session: Session, consumer: str, ids: list[str]) -> None:
        session.execute(delete(inbox).where(inbox.c.id.in_(ids)))
        raise OSError("the disk is gone")

    monkeypatch.setattr(statements, "forget", fail)
    with pytest.raises(OSError, match="the disk is gone"):
        await bench.inbox.purge()
    assert len(await known(bench)) == 1
    async with bench.sessions() as session:
        assert await _count(session) == 0


async def _count(session: AsyncSession) -> int:
    statement = select(func.count()).select_from(inbox_watermark)
    count: int = (await session.execute(statement)).scalar_one()
    return count
