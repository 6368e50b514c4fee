"""How the inbox divides a batch, so that no message waits for its own effect."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from outbox.inbox.barrier import claims
from outbox.inbox.batches import MAX_ROWS, holds_key, order_key, runs, split
from outbox.inbox.rows import State
from outbox.messages import Message
from outbox.replies import Outcome, Reply
from tests.support.outbox.dictionary_inbox import arriving
from tests.support.outbox.inboxes import Book, Listed, Names, Noted, Unbook, envelope


def test_ids_are_claimed_in_one_order_from_every_batch(names: Names) -> None:
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


def test_without_list_handlers_the_calls_come_in_the_order_of_what_they_are_about(
    names: Names,
) -> None:
    batch = [arriving(names(), Noted(key)) for key in "bcabca"]
    assert runs(batch, lambda cls: False) == [[2], [5], [0], [3], [1], [4]]


def test_that_order_does_not_depend_on_the_keys_of_the_envelopes(names: Names) -> None:
    batch = [
        arriving(names(), Book("c"), key="saga 1"),
        arriving(names(), Book("a"), key="saga 3"),
        arriving(names(), Noted("b")),
        arriving(names(), Unbook("b"), key="saga 2"),
    ]
    assert runs(batch, lambda cls: False) == [[1], [2], [3], [0]]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xyz")), max_size=20))
def test_the_messages_of_one_envelopes_key_stay_in_their_order(
    order: list[tuple[str, str]],
) -> None:
    names = Names()
    batch = [arriving(names(), Noted(account), key=key) for account, key in order]
    called = [position for (position,) in runs(batch, lambda cls: False)]
    assert sorted(called) == list(range(len(batch)))
    for key in "xyz":
        of_key = [position for position in called if order[position][1] == key]
        assert of_key == sorted(of_key)


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
