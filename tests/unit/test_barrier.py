"""The inbox's decisions, without a database: a dictionary stands in for the table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outbox.barrier import (
    DONE,
    MAX_ROWS,
    Answer,
    Arrival,
    Row,
    Run,
    State,
    claims,
    conclude,
    decide,
    holds_key,
    order_key,
    runs,
    split,
)
from outbox.envelope import fingerprint
from outbox.messages import Command, Message
from outbox.replies import Outcome, Reply
from outbox.retention import NOTHING_FORGOTTEN, Forgotten, Settled
from tests.support.inboxes import START, Book, Listed, Names, Noted, Unbook, envelope

SAGA = Names(START - timedelta(days=2))()
REFUSED = Reply(Outcome.REFUSED, code="no", reason="it may not be")


def arriving(id: str, message: Message, **rest: Any) -> Arrival:
    asked = envelope(id, message, **rest)
    saga = asked.correlation if isinstance(message, Command) else None
    return Arrival(asked, message, fingerprint(asked), saga)


class Table:
    """What the inbox does with the decisions, on a dictionary. `effects` are the actions that are
    in effect; a handler answers `answer`."""

    def __init__(self, forgotten: Forgotten = NOTHING_FORGOTTEN) -> None:
        self.rows: dict[str, Row] = {}
        self.effects: list[str] = []
        self.forgotten = forgotten
        self.now = START

    def deliver(self, arrival: Arrival, answer: Reply = DONE) -> Reply:
        wanted = claims([arrival])
        found = {row.id: self.rows[row.id] for row in wanted if row.id in self.rows}
        made = {
            row.id: Row(row.id, row.state, row.fingerprint, None, row.barred_by)
            for row in wanted
            if row.id not in found
        }
        verdict = decide(arrival, found, self.forgotten, self.now)
        match verdict:
            case Answer(reply, changes, forget):
                pass
            case Run(undone):
                if not answer.outcome.is_final:
                    return answer
                reply, forget = answer, ()
                changes = conclude(arrival, verdict, answer)
                if answer.outcome is Outcome.DONE:
                    self._act(arrival, undone)
        self.rows |= made
        for change in changes:
            self.rows[change.id] = replace(
                self.rows[change.id],
                state=change.state,
                reply=change.reply,
                barred_by=change.barred_by,
            )
        for id in forget:
            assert id in made, "only what this transaction inserted is taken back"
            del self.rows[id]
        return reply

    def _act(self, arrival: Arrival, undone: Sequence[Row]) -> None:
        if arrival.envelope.undoes:
            for row in undone:
                self.effects.remove(row.id)
        else:
            self.effects.append(arrival.envelope.id)

    def states(self) -> dict[str, State]:
        return {id: row.state for id, row in self.rows.items()}


@pytest.fixture
def names() -> Names:
    return Names()


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


# --- What was forgotten ------------------------------------------------------------------------

OLD = Names(START - timedelta(days=40))
AGED = Forgotten(age=Names(START - timedelta(days=30))())


def settled(names: Names, *live: str) -> Forgotten:
    return Forgotten(sagas={"sender": Settled(names(START), frozenset(live))})


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


# --- Batches -----------------------------------------------------------------------------------


def test_ids_are_claimed_in_one_order_whatever_the_batch(names: Names) -> None:
    first, second, third = names(), names(), names()
    batch = [
        arriving(third, Unbook("a"), undoes=(first,)),
        arriving(second, Book("b")),
    ]
    rows = claims(batch)
    assert [row.id for row in rows] == [first, second, third]
    assert [row.state for row in rows] == [State.BARRED, State.RAN, State.RAN]
    assert claims(reversed(batch)) == rows


def positions(parts: Sequence[Sequence[Any]]) -> list[list[list[int]]]:
    return [[slot.positions for slot in part] for part in parts]


def test_copies_within_a_batch_share_a_slot(names: Names) -> None:
    one, two = arriving(names(), Book("a")), arriving(names(), Book("b"))
    assert positions(split(enumerate([one, two, one, one]))) == [[[0, 2, 3], [1]]]


def test_a_batch_is_split_between_a_command_and_its_undo(names: Names) -> None:
    action, other = arriving(names(), Book("a")), arriving(names(), Book("b"))
    undo = arriving(names(), Unbook("a"), undoes=(action.envelope.id,))
    assert positions(split(enumerate([action, other, undo]))) == [[[0], [1]], [[2]]]
    assert positions(split(enumerate([undo, other, action]))) == [[[0], [1]], [[2]]]


def test_a_batch_is_split_between_two_undos_of_one_command(names: Names) -> None:
    action = names()
    undos = [arriving(names(), Unbook("a"), undoes=(action,)) for _ in range(2)]
    assert positions(split(enumerate(undos))) == [[[0]], [[1]]]


def test_a_batch_is_split_between_two_messages_under_one_id(names: Names) -> None:
    id = names()
    batch = [arriving(id, Book("a", entry)) for entry in ("one", "two")]
    assert positions(split(enumerate(batch))) == [[[0]], [[1]]]


def test_a_copy_after_the_undo_is_looked_at_anew(names: Names) -> None:
    action = arriving(names(), Book("a"))
    undo = arriving(names(), Unbook("a"), undoes=(action.envelope.id,))
    assert positions(split(enumerate([action, undo, action]))) == [[[0]], [[1]], [[2]]]


def test_one_part_inserts_a_bounded_number_of_ids(names: Names) -> None:
    undoes = tuple(names() for _ in range(MAX_ROWS // 2))
    others = tuple(names() for _ in range(MAX_ROWS // 2))
    batch = [
        arriving(names(), Unbook("a"), undoes=undoes),
        arriving(names(), Unbook("b"), undoes=others),
    ]
    assert positions(split(enumerate(batch))) == [[[0]], [[1]]]


def test_lists_are_as_long_as_the_order_of_the_keys_allows(names: Names) -> None:
    order: list[Message] = [
        Listed("a"),
        Noted("b"),
        Listed("c"),  # joins the first list: nothing of its key came in between
        Noted("a"),
        Listed("a"),  # must come after the note on its account
        Listed("c"),
    ]
    batch = [arriving(names(), message) for message in order]
    assert runs(batch, lambda cls: cls is Listed) == [[0, 2], [1], [3], [4, 5]]


def test_without_list_handlers_each_message_is_called_in_its_turn(names: Names) -> None:
    batch = [arriving(names(), Noted(key)) for key in "abab"]
    assert runs(batch, lambda cls: False) == [[0], [1], [2], [3]]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=20))
def test_every_message_is_called_once_and_each_key_in_its_order(
    order: list[tuple[str, bool]],
) -> None:
    names = Names()
    batch = [arriving(names(), Listed(key) if listed else Noted(key)) for key, listed in order]
    calls = runs(batch, lambda cls: cls is Listed)
    called = [position for call in calls for position in call]
    assert sorted(called) == list(range(len(batch)))
    for key in "abc":
        of_key = [position for position in called if order[position][0] == key]
        assert of_key == sorted(of_key)


def test_an_undo_is_not_held_up_by_its_poisonous_action(names: Names) -> None:
    action, undo = envelope(names(), Book("a")), envelope(names(), Unbook("a"), undoes=(names(),))
    assert order_key(action) != order_key(undo)


def test_what_comes_again_holds_its_key_and_what_is_settled_does_not() -> None:
    holding = {outcome for outcome in Outcome if holds_key(Reply(outcome))}
    assert holding == {
        Outcome.FAILED,
        Outcome.LOCKED,
        Outcome.ONGOING,
        Outcome.TOO_BUSY,
        Outcome.NOT_ATTEMPTED,
    }
    assert holds_key(Reply(Outcome.REJECTED, code="unknown-type"))
    assert not holds_key(Reply(Outcome.REJECTED, code="conflict"))


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
