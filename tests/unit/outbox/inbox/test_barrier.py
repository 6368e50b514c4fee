"""The inbox's decisions, without a database: a dictionary stands in for the table."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outbox.inbox.barrier import conclude, decide
from outbox.inbox.retention import NOTHING_FORGOTTEN
from outbox.inbox.rows import DONE, Answer, Run, State
from outbox.replies import Outcome, Reply
from tests.support.outbox.dictionary_inbox import Table, arriving
from tests.support.outbox.inboxes import START, Book, Names, Noted, Unbook

REFUSED = Reply(Outcome.REFUSED, code="no", reason="it may not be")


# --- Actions -----------------------------------------------------------------------------------


def test_a_message_runs_once_and_its_copy_gets_the_stored_reply(names: Names) -> None:
    table, action = Table(), arriving(names(), Book("a"))
    first = Reply(Outcome.DONE, value={"balance": 7})
    assert table.deliver(action, first) == first
    assert table.deliver(action, DONE) == first
    assert table.effects == [action.envelope.id]


def test_a_reply_without_a_value_needs_no_change_of_the_row(names: Names) -> None:
    assert conclude(arriving(names(), Noted("a")), Run(), DONE) == ()


def test_a_refusal_is_stored_and_the_copy_is_refused_too(names: Names) -> None:
    table, action = Table(), arriving(names(), Book("a"))
    assert table.deliver(action, REFUSED) == REFUSED
    assert table.deliver(action, DONE) == REFUSED
    assert table.effects == []


@pytest.mark.parametrize("answer", [DONE, REFUSED])
def test_the_same_id_with_another_content_is_a_conflict(names: Names, answer: Reply) -> None:
    table, id = Table(), names()
    table.deliver(arriving(id, Book("a", "one")), answer)
    reply = table.deliver(arriving(id, Book("a", "two")))
    assert (reply.outcome, reply.code) == (Outcome.REJECTED, "conflict")


@pytest.mark.parametrize("answer", [DONE, REFUSED])
@pytest.mark.parametrize("sagas", [("a", "b"), ("a", None), (None, "b")])
def test_the_same_id_in_another_saga_is_a_conflict(
    names: Names, answer: Reply, sagas: tuple[str | None, str | None]
) -> None:
    table, id = Table(), names()
    known = {"a": names(), "b": names(), None: None}
    first, second = (arriving(id, Book("a"), correlation=known[it]) for it in sagas)
    table.deliver(first, answer)
    reply = table.deliver(second)
    assert (reply.outcome, reply.code) == (Outcome.REJECTED, "conflict")
    assert all(str(known[it]) in str(reply.reason) for it in sagas if it is not None)
    assert table.deliver(first) == answer, "the saga that it belongs to is answered as before"


def test_a_command_that_was_undone_says_so_to_every_saga(names: Names) -> None:
    table, id = Table(), names()
    table.deliver(arriving(names(), Unbook("a"), undoes=(id,), correlation=names()))
    reply = table.deliver(arriving(id, Book("a"), correlation=names()))
    assert reply.outcome is Outcome.ALREADY_UNDONE


def test_a_saga_cannot_undo_what_another_one_did(names: Names) -> None:
    table, saga = Table(), names()
    action = arriving(names(), Book("a"), correlation=saga)
    table.deliver(action)
    ids = (action.envelope.id, names())
    reply = table.deliver(arriving(names(), Unbook("a"), undoes=ids, correlation=names()))
    assert (reply.outcome, reply.code) == (Outcome.REJECTED, "conflict")
    assert saga in str(reply.reason)
    assert table.effects == [action.envelope.id]
    assert table.states() == {action.envelope.id: State.RAN}, "nothing was barred"
    undo = arriving(names(), Unbook("a"), undoes=ids, correlation=saga)
    assert table.deliver(undo) == DONE
    assert table.effects == []


def test_an_undo_outside_of_any_saga_may_undo_what_a_saga_did(names: Names) -> None:
    table, action = Table(), arriving(names(), Book("a"), correlation=names())
    table.deliver(action)
    assert table.deliver(arriving(names(), Unbook("a"), undoes=(action.envelope.id,))) == DONE
    assert table.effects == []


def test_the_state_is_looked_at_before_the_content(names: Names) -> None:
    table, id = Table(), names()
    table.deliver(arriving(id, Book("a", "one")))
    table.deliver(arriving(names(), Unbook("a"), undoes=(id,)))
    assert table.deliver(arriving(id, Book("a", "two"))).outcome is Outcome.ALREADY_UNDONE


@pytest.mark.parametrize("outcome", [Outcome.LOCKED, Outcome.ONGOING, Outcome.FAILED])
def test_an_answer_that_is_not_final_is_never_stored(names: Names, outcome: Outcome) -> None:
    with pytest.raises(ValueError, match="never stored"):
        conclude(arriving(names(), Book("a")), Run(), Reply(outcome))


# --- Expiry ------------------------------------------------------------------------------------


def test_an_expired_action_is_barred_before_it_is_answered(names: Names) -> None:
    table, action = Table(), arriving(names(), Book("a"), expires=START)
    reply = table.deliver(action)
    assert reply.outcome is Outcome.EXPIRED
    assert table.states() == {action.envelope.id: State.BARRED}
    assert table.deliver(action) == reply, "the copy is answered as the first one"


def test_an_action_is_not_expired_before_its_time(names: Names) -> None:
    action = arriving(names(), Book("a"), expires=START + timedelta(microseconds=1))
    assert isinstance(decide(action, {}, NOTHING_FORGOTTEN, START), Run)


def test_what_the_sender_says_is_left_counts_and_not_the_clock_of_the_receiver(
    names: Names,
) -> None:
    """A receiver whose clock is minutes off would turn sagas back, or run what is expired."""
    for clock in (START - timedelta(hours=1), START, START + timedelta(hours=1)):
        in_time = arriving(names(), Book("a"), expires=START, expires_in=1)
        assert isinstance(decide(in_time, {}, NOTHING_FORGOTTEN, clock), Run)
        late = arriving(names(), Book("a"), expires=START, expires_in=0)
        verdict = decide(late, {}, NOTHING_FORGOTTEN, clock)
        assert isinstance(verdict, Answer)
        assert verdict.reply.outcome is Outcome.EXPIRED
        assert (verdict.reply.reason or "").startswith("it was sent after its expiry at 2030-")


def test_the_expiry_of_an_older_sender_is_judged_by_the_clock_here_and_the_reason_says_so(
    names: Names,
) -> None:
    verdict = decide(
        arriving(names(), Book("a"), expires=START), {}, NOTHING_FORGOTTEN, START + timedelta(90)
    )
    assert isinstance(verdict, Answer)
    assert "by the clock of its receiver, after its expiry at" in (verdict.reply.reason or "")


def test_an_action_that_ran_is_not_expired_by_its_late_copy(names: Names) -> None:
    table, action = Table(), arriving(names(), Book("a"), expires=START + timedelta(hours=1))
    table.deliver(action)
    table.now += timedelta(hours=2)
    assert table.deliver(action) == DONE


def test_an_undo_never_expires(names: Names) -> None:
    table, action = Table(), arriving(names(), Book("a"))
    table.deliver(action)
    undo = arriving(names(), Unbook("a"), undoes=(action.envelope.id,), expires=START)
    assert table.deliver(undo) == DONE
    assert table.effects == []


def test_the_undo_of_an_expired_action_has_nothing_to_do(names: Names) -> None:
    table, action = Table(), arriving(names(), Book("a"), expires=START)
    table.deliver(action)
    undo = arriving(names(), Unbook("a"), undoes=(action.envelope.id,))
    assert table.deliver(undo).outcome is Outcome.NOTHING_TO_UNDO


# --- Undo --------------------------------------------------------------------------------------


def test_an_undo_runs_when_its_action_ran(names: Names) -> None:
    table, action = Table(), arriving(names(), Book("a"))
    table.deliver(action)
    undo = arriving(names(), Unbook("a"), undoes=(action.envelope.id,))
    assert table.deliver(undo) == DONE
    assert table.effects == []
    assert table.rows[action.envelope.id].state is State.UNDONE
    assert table.rows[action.envelope.id].barred_by == undo.envelope.id


def test_an_undo_that_comes_first_bars_its_action(names: Names) -> None:
    table, action = Table(), arriving(names(), Book("a"))
    undo = arriving(names(), Unbook("a"), undoes=(action.envelope.id,))
    assert table.deliver(undo).outcome is Outcome.NOTHING_TO_UNDO
    reply = table.deliver(action)
    assert reply.outcome is Outcome.ALREADY_UNDONE
    assert undo.envelope.id in (reply.reason or "")
    assert table.effects == []


def test_a_second_undo_under_another_id_undoes_nothing(names: Names) -> None:
    table, action = Table(), arriving(names(), Book("a"))
    table.deliver(action)
    undos = [arriving(names(), Unbook("a"), undoes=(action.envelope.id,)) for _ in range(2)]
    assert [table.deliver(undo).outcome for undo in undos] == [
        Outcome.DONE,
        Outcome.NOTHING_TO_UNDO,
    ]


def test_a_second_undo_of_a_barred_action_does_not_conclude_that_it_ran(names: Names) -> None:
    table, action = Table(), names()
    undos = [arriving(names(), Unbook("a"), undoes=(action,)) for _ in range(2)]
    assert {table.deliver(undo).outcome for undo in undos} == {Outcome.NOTHING_TO_UNDO}


def test_the_undo_of_a_refused_action_undoes_nothing(names: Names) -> None:
    table, action = Table(), arriving(names(), Book("a"))
    table.deliver(action, REFUSED)
    undo = arriving(names(), Unbook("a"), undoes=(action.envelope.id,))
    assert table.deliver(undo).outcome is Outcome.NOTHING_TO_UNDO
    assert table.states()[action.envelope.id] is State.REFUSED


def test_a_refused_undo_leaves_its_action_as_one_that_ran(names: Names) -> None:
    table, action = Table(), arriving(names(), Book("a"))
    table.deliver(action)
    undo = arriving(names(), Unbook("a"), undoes=(action.envelope.id,))
    assert table.deliver(undo, REFUSED) == REFUSED
    assert table.deliver(undo, DONE) == REFUSED, "its copy is refused too"
    assert table.states()[action.envelope.id] is State.RAN
    again = arriving(names(), Unbook("a"), undoes=(action.envelope.id,))
    assert table.deliver(again) == DONE
    assert table.effects == []


def test_an_undo_bars_every_id_that_was_ever_sent_for_its_step(names: Names) -> None:
    table = Table()
    attempts = [arriving(names(), Book("a")) for _ in range(3)]
    table.deliver(attempts[0], REFUSED)
    table.deliver(attempts[1])
    undo = arriving(names(), Unbook("a"), undoes=tuple(each.envelope.id for each in attempts))
    verdict = decide(undo, table.rows, NOTHING_FORGOTTEN, START)
    assert verdict == Run((table.rows[attempts[1].envelope.id],)), "it runs for the one that ran"
    assert table.deliver(undo) == DONE
    assert [table.states()[each.envelope.id] for each in attempts] == [
        State.REFUSED,
        State.UNDONE,
        State.BARRED,
    ]
    assert table.deliver(attempts[2]).outcome is Outcome.ALREADY_UNDONE


def test_the_copy_of_an_undo_gets_the_stored_reply(names: Names) -> None:
    table, action = Table(), arriving(names(), Book("a"))
    table.deliver(action)
    undo = arriving(names(), Unbook("a"), undoes=(action.envelope.id,))
    assert [table.deliver(undo) for _ in range(2)] == [DONE, DONE]


# --- The promises, over every order ------------------------------------------------------------

_ACTIONS, _UNDOS = 3, 2


@given(
    st.lists(
        st.tuples(
            st.integers(0, _ACTIONS + _UNDOS - 1),
            st.sampled_from([DONE, REFUSED, Reply(Outcome.LOCKED), Reply(Outcome.FAILED)]),
        ),
        max_size=14,
    ),
    st.lists(st.sets(st.integers(0, _ACTIONS - 1), min_size=1), min_size=_UNDOS, max_size=_UNDOS),
)
def test_no_order_of_deliveries_breaks_the_barrier(
    deliveries: list[tuple[int, Reply]], targets: list[set[int]]
) -> None:
    """P2 and P3: in effect at most once, never after an undo that was answered DONE or
    NOTHING_TO_UNDO, and a final answer never changes but to ALREADY_UNDONE."""
    names, table = Names(), Table()
    actions = [arriving(names(), Book("a")) for _ in range(_ACTIONS)]
    undos = [
        arriving(
            names(), Unbook("a"), undoes=tuple(actions[each].envelope.id for each in sorted(which))
        )
        for which in targets
    ]
    answered: dict[str, Reply] = {}
    closed: set[str] = set()
    for number, answer in deliveries:
        message = [*actions, *undos][number]
        id = message.envelope.id
        reply = table.deliver(message, answer)
        before = answered.get(id)
        if before is not None and reply.outcome is not Outcome.ALREADY_UNDONE:
            assert reply == before
        if reply.outcome.is_final:
            answered[id] = reply
        if message.envelope.undoes and reply.outcome in (Outcome.DONE, Outcome.NOTHING_TO_UNDO):
            closed.update(message.envelope.undoes)
        assert len(set(table.effects)) == len(table.effects), "at most once"
        assert not closed & set(table.effects), "never beside its undo"
