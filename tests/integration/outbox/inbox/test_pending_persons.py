"""What a person does about commands whose answers come later: looks, completes, refuses, drops."""

from __future__ import annotations

import logging
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from sqlalchemy import update
from sqlalchemy.orm import Session
from starlette.applications import Starlette

import outbox
from outbox.chassis.endpoints.backlog import Waiting
from outbox.chassis.endpoints.served import standing_of
from outbox.inbox.rows import State
from outbox.replies import Outcome
from outbox.tables import inbox as inbox_table
from outbox.tables import inbox_pending
from tests.support.databases.databases import Database
from tests.support.fixtures import MakeEngine, MakeSyncEngine
from tests.support.outbox.inboxes import Book, Booked, Names, Unbook
from tests.support.outbox.pending_banks import SAGA, asked
from tests.support.outbox.services import client_of
from tests.support.outbox.waiting_banks import NOTE, WaitingBank, make_waiting_bank

PERSON = {"actor": "ada", "reason": "the airline is bankrupt"}


@pytest.fixture(params=["on a loop", "in threads"])
def bank(
    request: pytest.FixtureRequest,
    database: Database,
    make_engine: MakeEngine,
    make_sync_engine: MakeSyncEngine,
) -> WaitingBank:
    return make_waiting_bank(request.param, database, make_engine, make_sync_engine)


@pytest.fixture
def names() -> Names:
    return Names()


async def dropped(bank: WaitingBank, id: str) -> None:
    await bank.within(lambda session: bank.service.pending.drop(session, id, **PERSON))


async def listed(bank: WaitingBank, **wanted: Any) -> Any:
    return await bank.within(lambda session: bank.service.pending.list(session, **wanted))


# --- The list -------------------------------------------------------------------------------------


async def test_the_list_says_of_each_what_is_waited_for_and_for_how_long(
    bank: WaitingBank, names: Names
) -> None:
    action = asked(names(), Book("a"))
    await bank.receive(action)
    await bank.change(action.id, since=bank.service.clock.now() - timedelta(hours=3))
    (it,) = (await listed(bank)).items
    assert (it.id, it.type, it.source, it.saga) == (action.id, "bank.book.v1", "sender", SAGA)
    assert (it.note, it.key, it.undoes, it.attempt, it.until) == (NOTE, "a", (), 0, None)
    assert timedelta(hours=3) <= it.age < timedelta(hours=3, minutes=5)
    assert it.expected_at - it.since > timedelta(hours=3)
    assert not it.is_overdue
    await bank.change(action.id, expected_at=bank.service.clock.now() - timedelta(minutes=1))
    (late,) = (await listed(bank)).items
    assert late.is_overdue


async def test_the_list_comes_in_pages_the_oldest_first(bank: WaitingBank, names: Names) -> None:
    ids = [names() for _ in range(3)]
    await bank.receive(*(asked(id, Book(id)) for id in ids))
    for id, hours in zip(ids, (1, 3, 2), strict=True):
        await bank.change(id, since=bank.service.clock.now() - timedelta(hours=hours))
    first = await listed(bank, limit=2)
    assert [it.id for it in first.items] == [ids[1], ids[2]]
    rest = await listed(bank, limit=2, cursor=first.next_cursor)
    assert ([it.id for it in rest.items], rest.next_cursor) == ([ids[0]], None)
    for wrong in ({"limit": 0}, {"cursor": "x"}):
        with pytest.raises(outbox.InvalidSelection):
            await listed(bank, **wrong)


async def test_a_call_is_listed_with_its_attempt_and_holder_until_it_is_waited_for_no_longer(
    bank: WaitingBank, names: Names
) -> None:
    action = asked(names(), Book("a"))
    await bank.receive(action)
    await bank.calling(action.id, until=-timedelta(1), is_in_doubt=True, last_error="no answer")
    (it,) = (await listed(bank)).items
    assert (it.attempt, it.holder, it.is_in_doubt) == (1, "a process", True)
    assert it.last_error == "no answer"
    await bank.receive(asked(names(), Unbook("a"), undoes=(action.id,)))
    assert await bank.kept() == [action.id], "its success may still come"
    assert (await listed(bank)).items == []


async def test_a_pending_compensation_is_listed_with_what_it_undoes_and_not_its_action(
    bank: WaitingBank, names: Names
) -> None:
    action = asked(names(), Book("a"))
    undo = asked(names(), Unbook("a"), undoes=(action.id,))
    bank.unbook = outbox.Pending()
    await bank.receive(action)
    await bank.receive(undo)
    (it,) = (await listed(bank)).items
    assert (it.id, it.undoes) == (undo.id, (action.id,))


# --- The metric -----------------------------------------------------------------------------------


async def test_the_metric_counts_what_waits_and_what_calls_and_nothing_that_is_over(
    bank: WaitingBank, names: Names
) -> None:
    app = Starlette()
    bank.service.attach(app)
    waits, older, calls, undone = (asked(names(), Book(f"{n}")) for n in range(4))
    nothing = [Waiting("calling", 0, None), Waiting("waiting", 0, None)]
    assert (await standing_of(bank.service)).waiting == nothing
    await bank.receive(waits, older, calls, undone)
    since = (bank.service.clock.now() - timedelta(days=1)).replace(microsecond=0)
    await bank.change(older.id, since=since)
    await bank.calling(calls.id, until=timedelta(hours=1), since=since)
    await bank.calling(undone.id, until=-timedelta(hours=1))
    await bank.receive(asked(names(), Unbook("3"), undoes=(undone.id,)))
    assert (await standing_of(bank.service)).waiting == [
        Waiting("calling", 1, since),
        Waiting("waiting", 2, since),
    ]
    async with client_of(app) as http:
        shown = (await http.get("/metrics")).text
    assert 'sagabox_inbox_pending_commands{kind="waiting"} 2.0' in shown
    assert 'sagabox_inbox_pending_oldest_seconds{kind="calling"} 864' in shown


async def test_what_another_service_on_the_database_waits_for_is_neither_listed_nor_counted(
    bank: WaitingBank, names: Names
) -> None:
    action = asked(names(), Book("a"))
    await bank.receive(action)

    def give_away(session: Session) -> None:
        for table in (inbox_table, inbox_pending):
            session.execute(update(table).values(consumer="another"))

    await bank.looked(give_away)
    assert (await listed(bank)).items == []
    assert [it.count for it in (await standing_of(bank.service)).waiting] == [0, 0]
    with pytest.raises(outbox.NotPendingYet):
        await dropped(bank, action.id)


# --- Completing and refusing ----------------------------------------------------------------------


async def test_a_person_completes_with_a_value_that_the_command_promises(
    bank: WaitingBank, names: Names, caplog: pytest.LogCaptureFixture
) -> None:
    action, pending = asked(names(), Book("a")), bank.service.pending
    await bank.receive(action)
    wrong: Any
    for wrong in ({"balance": "seven"}, {}, None, [7]):
        complete = partial(pending.complete, command_id=action.id, value=wrong, **PERSON)
        with pytest.raises(outbox.InvalidMessage, match="Booked"):
            await bank.within(complete)
    assert await bank.states() == {action.id: State.PENDING}
    with caplog.at_level(logging.WARNING, "outbox.inbox"):
        for _ in range(2):
            await bank.within(lambda it: pending.complete(it, action.id, {"balance": 7}, **PERSON))
    line: Any = caplog.records[0]
    assert line.getMessage() == (
        f"a person completes a pending command: {action.id}, 'ada': {PERSON['reason']!r}"
    )
    assert (line.message_id, line.actor, line.reason) == (action.id, "ada", PERSON["reason"])
    (message,) = await bank.told()
    assert (message["outcome"], message["value"]) == ("done", {"balance": 7})
    assert (await bank.receive_one(action)).value == {"balance": 7}
    with pytest.raises(outbox.AlreadyAnswered):
        await bank.within(lambda it: pending.complete(it, action.id, {"balance": 8}, **PERSON))


async def test_a_command_that_promises_nothing_is_completed_with_null_alone(
    bank: WaitingBank, names: Names
) -> None:
    action, undo = asked(names(), Book("a")), asked(names(), Unbook("a"))
    undo = asked(undo.id, Unbook("a"), undoes=(action.id,))
    bank.unbook, pending = outbox.Pending(), bank.service.pending
    await bank.receive(action)
    await bank.receive(undo)
    with pytest.raises(outbox.InvalidMessage):
        await bank.within(lambda it: pending.complete(it, undo.id, 7, **PERSON))
    await bank.within(lambda it: pending.complete(it, undo.id, None, **PERSON))
    assert await bank.states() == {action.id: State.UNDONE, undo.id: State.RAN}


async def test_without_the_handler_a_value_is_not_taken_unread(
    bank: WaitingBank, names: Names
) -> None:
    action = asked(names(), Book("a"))
    await bank.receive(action)
    await bank.change(action.id, type="bank.former.v1")
    pending = bank.service.pending
    with pytest.raises(outbox.InvalidMessage, match=r"no handler for bank\.former\.v1"):
        await bank.within(lambda it: pending.complete(it, action.id, {"balance": 7}, **PERSON))


async def test_a_person_refuses_with_a_code_and_the_reason(bank: WaitingBank, names: Names) -> None:
    action = asked(names(), Book("a"))
    await bank.receive(action)
    await bank.within(lambda it: bank.service.pending.refuse(it, action.id, "full", **PERSON))
    reply = await bank.receive_one(action)
    assert (reply.outcome, reply.code, reply.reason) == (
        *(Outcome.REFUSED, "full", PERSON["reason"]),
    )
    assert reply.after_pending
    assert (await bank.told())[0]["reason"] == PERSON["reason"]


# --- Dropping -------------------------------------------------------------------------------------


async def test_a_dropped_command_is_unknown_and_its_undo_runs_the_compensation(
    bank: WaitingBank, names: Names
) -> None:
    action = asked(names(), Book("a"))
    await bank.receive(action)
    for _ in range(2):
        await dropped(bank, action.id)
    reply = await bank.receive_one(action)
    assert (reply.outcome, reply.code, reply.reason) == (
        *(Outcome.UNKNOWN, "dropped", PERSON["reason"]),
    )
    (message,) = await bank.told()
    assert (message["command_id"], message["instance_id"]) == (action.id, SAGA)
    assert (message["outcome"], message["code"]) == ("unknown", "dropped")
    assert (await bank.kept(), (await listed(bank)).items) == ([], [])
    undo = asked(names(), Unbook("a"), undoes=(action.id,))
    assert (await bank.receive_one(undo)).outcome is Outcome.DONE
    assert bank.undone == [{action.id: "in-doubt"}]
    with pytest.raises(outbox.TooLate):
        await dropped(bank, action.id)


async def test_an_answer_after_the_drop_is_another_answer(bank: WaitingBank, names: Names) -> None:
    action = asked(names(), Book("a"))
    await bank.receive(action)
    await dropped(bank, action.id)
    with pytest.raises(outbox.AlreadyAnswered, match="unknown"):
        await bank.within(lambda it: bank.service.complete(it, action.id, Booked(1)))
    other = asked(names(), Book("a"))
    await bank.receive(other)
    await bank.within(lambda it: bank.service.complete(it, other.id, Booked(1)))
    with pytest.raises(outbox.AlreadyAnswered, match="done"):
        await dropped(bank, other.id)


async def test_a_live_call_cannot_be_dropped_and_one_that_is_over_stays_known(
    bank: WaitingBank, names: Names
) -> None:
    action = asked(names(), Book("a"))
    await bank.receive(action)
    await bank.calling(action.id, until=timedelta(hours=1))
    with pytest.raises(outbox.CallUnderWay):
        await dropped(bank, action.id)
    await bank.calling(action.id, until=-timedelta(hours=1))
    await dropped(bank, action.id)
    assert (await bank.states(), await bank.kept()) == ({action.id: State.RAN}, [action.id])


@pytest.mark.parametrize("first", [State.RAN, State.PENDING])
async def test_a_dropped_compensation_gives_its_action_back_and_a_new_one_undoes_it(
    bank: WaitingBank, names: Names, first: State
) -> None:
    if first is State.RAN:
        bank.book = Booked(1)
    action = asked(names(), Book("a"))
    undo, again = (asked(names(), Unbook("a"), undoes=(action.id,)) for _ in range(2))
    bank.unbook = outbox.Pending()
    await bank.receive(action)
    await bank.receive(undo)
    await dropped(bank, undo.id)
    assert await bank.states() == {action.id: first, undo.id: State.RAN}
    assert (await bank.receive_one(undo)).outcome is Outcome.UNKNOWN
    bank.unbook = None
    assert (await bank.receive_one(again)).outcome is Outcome.DONE
    assert (await bank.states())[action.id] is State.UNDONE


async def test_a_refused_undo_gives_a_dropped_call_back_as_dropped(
    bank: WaitingBank, names: Names
) -> None:
    action = asked(names(), Book("a"))
    await bank.receive(action)
    await bank.calling(action.id, until=-timedelta(hours=1))
    await dropped(bank, action.id)
    undo = asked(names(), Unbook("a"), undoes=(action.id,))
    bank.unbook = outbox.Pending()
    await bank.receive(undo)
    await bank.within(
        lambda it: bank.service.complete(it, undo.id, outbox.Refused("no", "not refundable"))
    )
    assert (await bank.states())[action.id] is State.RAN
    assert (await bank.receive_one(action)).code == "dropped"


async def test_what_no_one_can_be_told_of_is_dropped_all_the_same(
    bank: WaitingBank, names: Names
) -> None:
    action = asked(names(), Book("a"))
    await bank.receive(action)
    bank.lose_its_ways()
    with pytest.raises(outbox.Unrouted):
        await bank.within(lambda it: bank.service.complete(it, action.id, Booked(1)))
    await dropped(bank, action.id)
    assert (await bank.states(), await bank.told()) == ({action.id: State.RAN}, [])


async def test_what_is_not_there_or_no_id_cannot_be_dropped(
    bank: WaitingBank, names: Names
) -> None:
    with pytest.raises(outbox.NotPendingYet):
        await dropped(bank, names())
    with pytest.raises(outbox.InvalidMessage):
        await dropped(bank, "x")
