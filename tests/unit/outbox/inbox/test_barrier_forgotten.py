"""What the inbox answers to messages that it has, or may have, forgotten."""

from __future__ import annotations

from datetime import timedelta

from outbox.inbox.retention import Forgotten
from outbox.inbox.rows import DONE, State
from outbox.replies import Outcome
from outbox.wire.settled import EndedSagas
from tests.support.outbox.dictionary_inbox import Table, arriving
from tests.support.outbox.inboxes import START, Book, Names, Noted, Unbook

SAGA = Names(START - timedelta(days=2))()


OLD = Names(START - timedelta(days=40))
AGED = Forgotten(age=Names(START - timedelta(days=30))())


def settled(names: Names, *live: str) -> Forgotten:
    return Forgotten(sagas={"sender": EndedSagas(names(START), frozenset(live))})


def test_an_absent_message_under_the_watermark_is_too_old_and_not_stored() -> None:
    table, action = Table(AGED), arriving(OLD(), Noted("a"))
    assert table.deliver(action).outcome is Outcome.TOO_OLD
    assert table.rows == {}
    assert table.effects == []


def test_a_known_message_under_the_watermark_gets_its_stored_reply() -> None:
    table, action = Table(), arriving(OLD(), Book("a"))
    table.deliver(action)
    table.forgotten = AGED
    assert table.deliver(action) == DONE


def test_too_old_comes_before_expired_which_would_claim_that_it_never_ran() -> None:
    table = Table(AGED)
    assert table.deliver(arriving(OLD(), Book("a"), expires=START)).outcome is Outcome.TOO_OLD


def test_an_absent_command_of_a_settled_saga_is_too_old(names: Names) -> None:
    table = Table(settled(names))
    assert table.deliver(arriving(names(), Book("a"), correlation=SAGA)).outcome is Outcome.TOO_OLD


def test_an_old_command_of_a_live_saga_runs(names: Names) -> None:
    table = Table(settled(names, SAGA))
    assert table.deliver(arriving(OLD(), Book("a"), correlation=SAGA)) == DONE


def test_the_sagas_of_another_source_are_not_settled_by_this_one(names: Names) -> None:
    table = Table(settled(names))
    assert table.deliver(arriving(names(), Book("a"), correlation=SAGA, source="else")) == DONE


def test_an_event_of_a_settled_saga_is_judged_by_its_age(names: Names) -> None:
    table = Table(settled(names))
    assert table.deliver(arriving(names(), Noted("a"), correlation=SAGA)) == DONE


def test_the_undo_of_a_forgotten_action_is_unknown_and_bars_nothing(names: Names) -> None:
    table, action = Table(AGED), OLD()
    undos = [arriving(names(), Unbook("a"), undoes=(action,)) for _ in range(2)]
    assert [table.deliver(undo).outcome for undo in undos] == [Outcome.UNKNOWN] * 2
    assert action not in table.rows
    assert table.deliver(undos[0]).outcome is Outcome.UNKNOWN, "nor does its copy"
    assert action not in table.rows


def test_an_undo_runs_nothing_as_long_as_one_of_its_actions_is_forgotten(names: Names) -> None:
    table, ran = Table(), arriving(OLD(), Book("a"))
    table.deliver(ran)
    table.forgotten = AGED
    gone, new = OLD(), names()
    undo = arriving(names(), Unbook("a"), undoes=(ran.envelope.id, gone, new))
    assert table.deliver(undo).outcome is Outcome.UNKNOWN
    assert table.effects == [ran.envelope.id]
    assert table.states()[new] is State.BARRED, "what surely never ran stays barred"
    assert gone not in table.rows


def test_an_undo_that_is_forgotten_itself_is_unknown(names: Names) -> None:
    table, action = Table(), arriving(names(), Book("a"), correlation=SAGA)
    table.deliver(action)
    table.forgotten = settled(names)
    undo = arriving(names(), Unbook("a"), undoes=(action.envelope.id,), correlation=SAGA)
    assert table.deliver(undo).outcome is Outcome.UNKNOWN
    assert undo.envelope.id not in table.rows
    assert table.effects == [action.envelope.id]
