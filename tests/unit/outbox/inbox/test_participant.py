"""The abstract participant of the explorer keeps the rules of the inbox."""

from __future__ import annotations

import pytest

from orchestrator.machine.transition import Dispatch
from orchestrator.testing.exploring.model.participant import Participant
from orchestrator.testing.exploring.model.rows import Answer
from outbox.replies import Outcome


def command(id: str, *undoes: str) -> Dispatch:
    return Dispatch(id, "step", "hotels", "hotels.any.v1", "key", b"{}", undoes, False, None)


DO, UNDO, UNDO_AGAIN = command("do"), command("undo", "do"), command("undo again", "do")


YES, NO = Answer(Outcome.DONE), Answer(Outcome.REFUSED)
NOTHING, LATER = Answer(Outcome.NOTHING_TO_UNDO), Answer(Outcome.LOCKED)


def received(*commands: Dispatch, wish: Answer = YES) -> tuple[str, list[str]]:
    """What took effect, and the answers."""
    participant, answers = Participant(), []
    for each in commands:
        participant, answer = participant.receive(each, wish)
        answers.append(answer.outcome.value)
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
    participant, answer = Participant().receive(DO, NO)
    assert answer == NO
    assert participant.receive(DO, YES) == (participant, NO)
    undone, answer = participant.receive(UNDO, YES)
    assert (undone.effect("step"), answer) == ("", NOTHING)


def test_a_refused_undo_leaves_its_action_in_effect_for_the_next_one() -> None:
    participant, _ = Participant().receive(DO, YES)
    participant, answer = participant.receive(UNDO, NO)
    assert answer == NO
    participant, answer = participant.receive(UNDO_AGAIN, YES)
    assert (participant.effect("step"), answer) == ("AC", YES)


def test_a_locked_command_leaves_no_trace() -> None:
    participant = Participant()
    assert participant.receive(DO, LATER) == (participant, LATER)


def test_an_undo_that_finds_nothing_to_do_cannot_be_locked_or_refused() -> None:
    assert received(UNDO, wish=NO) == ("", ["nothing-to-undo"])


def test_without_the_barrier_only_duplicates_are_recognised() -> None:
    participant = Participant(barrier=False)
    for each in (UNDO, DO, DO):
        participant, answer = participant.receive(each, YES)
        assert answer == YES
    assert participant.effect("step") == "CA"


def test_an_expired_command_never_runs_and_leaves_nothing_to_undo() -> None:
    expired = Answer(Outcome.EXPIRED)
    participant, answer = Participant().receive(DO, expired)
    assert answer == expired
    assert participant.receive(DO, YES) == (participant, expired)
    undone, answer = participant.receive(UNDO, YES)
    assert (undone.effect("step"), answer) == ("", NOTHING)
