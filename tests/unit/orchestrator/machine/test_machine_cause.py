"""Why a run turned back, or was ended by hand: the run knows it, and so does its row."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from orchestrator.machine.instance import Cause
from orchestrator.machine.signals import Cancel, Resolve, Terminate
from orchestrator.store.records import record_of
from outbox.replies import Outcome, Reply
from outbox.safe_text import MAX_REASON_LENGTH
from tests.support.orchestrator.stored_runs import row_of
from tests.support.orchestrator.story import REFUSED, Story, outcome
from tests.support.orchestrator.trips import BOOKING


def begun() -> Story:
    return Story(BOOKING)


def stuck() -> Story:
    story = begun().answers("reserve seat").answers("reserve room", reply=REFUSED)
    return story.answers("reserve seat", reply=outcome("unknown"))


@pytest.mark.parametrize(
    ("told", "cause"),
    [
        (lambda: begun().answers("reserve seat", "reserve room", "charge"), None),
        (lambda: begun().answers("reserve seat", reply=REFUSED), ("full", "nothing is left")),
        (
            lambda: begun().answers("reserve seat", reply=Reply(Outcome.REFUSED)),
            ("refused", "refused"),
        ),
        (
            lambda: begun().answers("reserve seat", reply=outcome("expired")),
            ("expired", "expired"),
        ),
        (
            lambda: begun().answers("reserve seat", reply=Reply(Outcome.REFUSED, code="full")),
            ("full", "refused"),
        ),
        (
            lambda: begun().answers("reserve seat", reply=outcome("too-old")),
            ("too-old", "too-old"),
        ),
        (
            lambda: begun().deadline("reserve seat"),
            ("deadline", "no definite answer by its deadline"),
        ),
        (
            lambda: begun().buried("reserve seat"),
            ("dead-letter", "its command became a dead letter of the orchestrator (sagabox "),
        ),
        (lambda: begun().hears(Cancel("ann", "a mistake")), ("cancelled", "a mistake")),
        (lambda: begun().hears(Terminate("ann", "gone")), ("terminated", "gone")),
        # What an operator did at the end says more than what turned it back.
        (lambda: stuck().hears(Resolve("ann", "by hand")), ("resolved", "by hand")),
        (
            lambda: begun().hears(Cancel("ann", "x" * 9999)),
            ("cancelled", "x" * MAX_REASON_LENGTH),
        ),
    ],
)
def test_a_run_knows_why_it_turned_back_or_was_ended(
    told: Callable[[], Story], cause: tuple[str, str] | None
) -> None:
    found = told().run.cause
    if cause is None:
        assert found is None
        return
    assert found is not None
    code, reason = cause
    assert found.code == code
    assert found.reason.startswith(reason)
    assert found.reason != f"{reason}: {code}"


def test_the_first_cause_of_turning_back_stays() -> None:
    story = begun().answers("reserve seat").answers("reserve room", reply=REFUSED)
    first = story.run.cause
    assert first is not None
    assert story.answers("reserve seat", reply=outcome("refused")).run.cause == first


def test_the_cause_is_stored_with_the_run_and_a_row_of_older_code_has_none() -> None:
    story = begun().answers("reserve seat", reply=REFUSED)
    assert record_of(row_of(story.run, BOOKING), BOOKING).instance == story.run
    assert story.run.cause == Cause("full", "nothing is left")
    assert record_of(row_of(story.run, BOOKING, "cause"), BOOKING).instance.cause is None
