"""The abstract participant of the explorer keeps the rules of the inbox."""

from __future__ import annotations

import pytest

from orchestrator.transition import Dispatch
from outbox.replies import Outcome
from tests.support.participant import Participant


def command(id: str, *undoes: str) -> Dispatch:
    return Dispatch(id, "step", "hotels", "hotels.any.v1", "key", b"{}", undoes, False, None)


DO, UNDO, UNDO_AGAIN = command("do"), command("undo", "do"), command("undo again", "do")


def received(*commands: Dispatch, wish: Outcome = Outcome.DONE) -> tuple[str, list[str]]:
    """What took effect, and the answers."""
    participant, answers = Participant(), []
    for each in commands:
        participant, answer = participant.receive(each, wish)
        answers.append(answer.value)
    return participant.effect("step"), answers


@pytest.mark.parametrize(
    ("commands", "effect", "answers"),
    [
        ((DO, DO), "A", ["done", "done"]),
        ((DO, UNDO), "AC", ["done", "done"]),
        ((DO, UNDO, UNDO), "AC", ["done", "done", "done"]),
        ((DO, UNDO, UNDO_AGAIN), "AC", ["done", "done", "nothing-to-undo"]),
        ((DO, UNDO, DO), "AC", ["done", "done", "already-undone"]),
        ((UNDO, DO), "", ["nothing-to-undo", "already-undone"]),
        ((UNDO, UNDO_AGAIN), "", ["nothing-to-undo", "nothing-to-undo"]),
        ((UNDO, DO, UNDO_AGAIN), "", ["nothing-to-undo", "already-undone", "nothing-to-undo"]),
    ],
    ids=lambda value: " ".join(it.id for it in value) if isinstance(value, tuple) else "",
)
def test_an_action_takes_effect_once_and_never_after_its_undo(
    commands: tuple[Dispatch, ...], effect: str, answers: list[str]
) -> None:
    assert received(*commands) == (effect, answers)


def test_a_refusal_is_kept_and_leaves_nothing_to_undo() -> None:
    participant, answer = Participant().receive(DO, Outcome.REFUSED)
    assert answer is Outcome.REFUSED
    assert participant.receive(DO, Outcome.DONE) == (participant, Outcome.REFUSED)
    undone, answer = participant.receive(UNDO, Outcome.DONE)
    assert (undone.effect("step"), answer) == ("", Outcome.NOTHING_TO_UNDO)


def test_a_refused_undo_leaves_its_action_in_effect_for_the_next_one() -> None:
    participant, _ = Participant().receive(DO, Outcome.DONE)
    participant, answer = participant.receive(UNDO, Outcome.REFUSED)
    assert answer is Outcome.REFUSED
    participant, answer = participant.receive(UNDO_AGAIN, Outcome.DONE)
    assert (participant.effect("step"), answer) == ("AC", Outcome.DONE)


def test_a_locked_command_leaves_no_trace() -> None:
    participant = Participant()
    assert participant.receive(DO, Outcome.LOCKED) == (participant, Outcome.LOCKED)


def test_an_undo_that_finds_nothing_to_do_cannot_be_locked_or_refused() -> None:
    assert received(UNDO, wish=Outcome.REFUSED) == ("", ["nothing-to-undo"])


def test_without_the_barrier_only_duplicates_are_recognised() -> None:
    participant = Participant(barrier=False)
    for each in (UNDO, DO, DO):
        participant, answer = participant.receive(each, Outcome.DONE)
        assert answer is Outcome.DONE
    assert participant.effect("step") == "CA"
