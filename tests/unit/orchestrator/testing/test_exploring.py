"""What a user has of the explorer: invariants, stories, made up input, tests that are written."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator.definition.saga import Saga
from orchestrator.errors import InvalidInput
from orchestrator.machine import machine
from orchestrator.machine.instance import Status, StepStatus
from orchestrator.testing import (
    Crash,
    Event,
    Faults,
    PromiseBroken,
    TooManyWorlds,
    View,
    What,
    explore,
    replay,
)
from orchestrator.testing.exploring.walk.explorer import Rig
from outbox.replies import Outcome
from outbox.retry import RetryPolicy
from tests.support.mutants.mutation import mutated_machine
from tests.support.orchestrator.trip_rules import (
    a_run_that_completed_knows_its_seat,
    never_charged_without_a_seat,
    never_charged_without_a_ticket,
)
from tests.support.orchestrator.trips import (
    BOOKING,
    CHARGE,
    DEAF_SEAT,
    ROOM,
    SEAT,
    SIDE_BY_SIDE,
    TICKET,
    UNMAKEABLE_ROOM,
    Seat,
    Trip,
    trip,
)

NONE = Faults()
IMPATIENT = RetryPolicy(attempts=1)


# What is promised


def test_the_usual_faults_are_tried_when_no_others_are_given() -> None:
    found = explore(BOOKING).check()
    assert found.ends == {Status.COMPLETED, Status.COMPENSATED}
    assert found.worlds > 3_000
    assert found.edges > 5 * found.worlds // 2


def test_it_tells_how_far_each_step_was_taken() -> None:
    faults = Faults(locks=1, expiries=1, ongoing=1, burials=1, refusals=1)
    covered = explore(trip(replace(SEAT, retry=IMPATIENT), CHARGE), faults=faults).covered
    seat, charge = covered["reserve seat"], covered["charge"]
    handler = {Outcome.DONE, Outcome.REFUSED, Outcome.LOCKED, Outcome.ONGOING}
    assert seat.answers == handler | {Outcome.EXPIRED}
    assert seat.undo_answers == handler | {Outcome.NOTHING_TO_UNDO}
    assert charge.answers == handler
    assert (charge.undo_answers, StepStatus.STUCK in charge.statuses) == (frozenset(), True)


def test_a_person_may_end_a_run_at_any_moment_and_what_is_left_is_listed() -> None:
    faults = Faults(duplicates=1, terminations=1, resolutions=1, burials=1, late=1)
    found = explore(trip(SEAT, CHARGE, TICKET), faults=faults).check()
    assert {Status.TERMINATED, Status.RESOLVED, Status.STUCK} < found.ends


def test_an_end_by_hand_that_does_not_list_what_is_left_is_found() -> None:
    right = "elif run.action_ids and run.status in MAY_BE_IN_EFFECT | unknown:"
    wrong = "elif run.action_ids and run.status in MAY_BE_IN_EFFECT:"
    rig = Rig(machine=mutated_machine(right, wrong))
    violation = explore(BOOKING, faults=Faults(terminations=1), rig=rig).violation
    assert violation is not None
    assert violation.problem.startswith("TERMINATED, and step 'reserve seat' is in effect")
    assert violation.trace[-1].what in (What.TERMINATE, What.ARRIVES)


def test_a_command_that_expired_never_runs_and_its_run_is_undone() -> None:
    found = explore(SIDE_BY_SIDE, faults=Faults(expiries=1, losses=1, late=1)).check()
    assert found.ends == {Status.COMPLETED, Status.COMPENSATED}


def test_an_expired_command_that_is_taken_for_done_is_found() -> None:
    right = "        case Outcome.DONE:\n            take_in(builder, step, reply)"
    wrong = right.replace("case Outcome.DONE:", "case Outcome.DONE | Outcome.EXPIRED:")
    rig = Rig(machine=mutated_machine(right, wrong))
    found = explore(trip(CHARGE, TICKET), faults=Faults(expiries=1), rig=rig)
    assert found.violation is None  # nothing after the point of no return may expire
    found = explore(trip(replace(SEAT, on_reply=None), CHARGE), faults=Faults(expiries=1), rig=rig)
    assert found.violation is not None
    assert found.violation.promise == "P4"


def test_an_answer_that_was_in_memory_alone_when_the_orchestrator_crashed_comes_again() -> None:
    # No node asks again here: without a late deadline and a loss, the crash itself must see to it.
    found = explore(trip(TICKET), faults=Faults(crashes=1)).check()
    assert found.ends == {Status.COMPLETED}


def test_a_function_of_the_saga_that_raises_is_found_and_named() -> None:
    deaf = explore(trip(DEAF_SEAT), faults=NONE).violation
    unmakeable = explore(trip(SEAT, UNMAKEABLE_ROOM), faults=NONE).violation
    assert deaf is not None
    assert unmakeable is not None
    assert (deaf.promise, unmakeable.promise) == ("total", "total")
    assert "'reserve seat': its answer could not be taken in: RuntimeError" in deaf.problem
    assert "'reserve room': its command could not be made: RuntimeError" in unmakeable.problem


def test_one_that_raises_at_once_is_found_too() -> None:
    violation = explore(trip(UNMAKEABLE_ROOM), faults=NONE).violation
    assert violation is not None
    assert violation.trace == (Event(What.STARTS),)


def test_a_saga_that_is_too_much_is_refused_with_advice() -> None:
    with pytest.raises(TooManyWorlds, match="fewer faults at a time"):
        explore(BOOKING, at_most=100)


@pytest.mark.parametrize("faults", [{"crashes": -1}, {"crashes": 200, "losses": 200}])
def test_faults_that_cannot_be_tried_are_refused(faults: dict[str, int]) -> None:
    with pytest.raises(InvalidInput):
        Faults(**faults)


def test_progress_is_told_on_the_way() -> None:
    told: list[tuple[int, int]] = []
    explore(BOOKING, progress=lambda worlds, edges: told.append((worlds, edges)))
    assert told == sorted(told)
    assert told


# Invariants


def test_an_invariant_that_holds_everywhere_is_no_violation() -> None:
    rules = [never_charged_without_a_seat, a_run_that_completed_knows_its_seat]
    explore(BOOKING, invariants=rules).check()


def test_an_invariant_that_does_not_hold_is_named_and_its_reason_told() -> None:
    found = explore(BOOKING, invariants=[never_charged_without_a_ticket])
    with pytest.raises(PromiseBroken) as caught:
        found.check()
    violation = caught.value.violation
    assert violation.promise == "never_charged_without_a_ticket"
    assert violation.problem == "a customer paid and has no ticket"
    assert violation.trace[-1] == Event(What.ARRIVES, "charge", answer=Outcome.DONE)


def test_a_seat_that_is_given_back_before_the_money_is_found() -> None:
    # The author meant the seat to be given back last, and wrote the steps side by side.
    def the_seat_goes_last(view: View) -> bool:
        return not ("reserve room" in view.in_effect and view.steps["reserve seat"] == "UNDONE")

    explore(BOOKING, invariants=[the_seat_goes_last]).check()
    violation = explore(SIDE_BY_SIDE, invariants=[the_seat_goes_last]).violation
    assert violation is not None
    assert violation.promise == "the_seat_goes_last"
    assert violation.problem == "it does not hold"


def test_a_lambda_and_an_assertion_are_invariants_too() -> None:
    def asserts(view: View) -> bool:
        assert not view.ended, "it has ended"
        return True

    violation = explore(BOOKING, invariants=[lambda view: not view.ended]).violation
    assert violation is not None
    assert violation.promise == "<lambda>"
    violation = explore(BOOKING, invariants=[asserts]).violation
    assert violation is not None
    assert violation.problem.startswith("it has ended")


def test_an_invariant_that_raises_breaks_its_promise() -> None:
    def careless(view: View) -> bool:
        return view.state.no_such_field is None

    violation = explore(BOOKING, faults=NONE, invariants=[careless]).violation
    assert violation is not None
    assert "it raised AttributeError" in violation.problem


def test_an_invariant_that_says_neither_yes_nor_no_is_refused() -> None:
    def forgets_to_return(view: View) -> bool:
        return None  # type: ignore[return-value]  # a mistake that no type checker may have seen

    with pytest.raises(InvalidInput, match="forgets_to_return returned None"):
        explore(BOOKING, invariants=[forgets_to_return])


def test_all_that_a_participant_may_answer_is_tried() -> None:
    seats: set[str | None] = set()

    def sees(view: View) -> bool:
        seats.add(view.state.seat)
        return True

    replies = {"reserve seat": [Seat("1A"), Seat("1B")]}
    explore(BOOKING, Trip("t1"), faults=NONE, invariants=[sees], replies=replies).check()
    assert seats == {None, "1A", "1B"}


# The story


def test_a_story_is_told_in_the_words_of_the_saga() -> None:
    found = explore(trip(SEAT), faults=Faults(duplicates=1, late=1), rig=Rig(barrier=False))
    assert found.violation is not None
    assert found.violation.story.splitlines() == [
        "book-trip v1 breaks P3 (an action and its compensation never both stay in effect, and "
        "nothing happens twice): step 'reserve seat' was undone, before it was done. This "
        "happened:",
        "  1. the run starts; 'reserve seat' is sent",
        "  2. the deadline of 'reserve seat' passes, while its answer may yet come; the undo of "
        "'reserve seat' is sent; the run turns back",
        "  3. the undo of 'reserve seat' arrives and takes effect",
    ]


def test_a_crash_and_a_person_are_part_of_a_story() -> None:
    def is_never_stuck_after_a_crash(view: View) -> bool:
        return not (view.status == "TERMINATED" and view.steps["send ticket"] == "STUCK")

    faults = Faults(burials=1, crashes=1, terminations=1)
    found = explore(trip(TICKET), faults=faults, invariants=[is_never_stuck_after_a_crash])
    assert found.violation is not None
    lines = found.violation.story.splitlines()[1:]
    assert lines == [
        "  1. the run starts; 'send ticket' is sent",
        "  2. 'send ticket' becomes a dead letter; 'send ticket' is STUCK",
        "  3. a person terminates the run without undoing anything; the run is TERMINATED",
    ]


# Crashes: each story is only possible if exactly that was sent again.


def _arrives(step: str, answer: Outcome = Outcome.DONE) -> Event:
    return Event(What.ARRIVES, step, answer=answer)


def _answered(step: str, crash: Crash | None = None) -> Event:
    return Event(What.ANSWERED, step, answer=Outcome.DONE, crash=crash)


def _played(saga: Saga[Trip], *events: Event) -> list[str]:
    """The story of these events and of a charge after them, which breaks a promise."""
    trace = [Event(What.STARTS), *events, _arrives("charge")]
    with pytest.raises(PromiseBroken) as caught:
        replay(saga, {"trip": "t1"}, trace, invariants=[never_charged_without_a_ticket])
    assert caught.value.violation.trace == tuple(trace)
    return caught.value.violation.story.splitlines()[1:]


def test_after_a_crash_between_commits_what_is_awaited_is_sent_again() -> None:
    story = _played(
        SIDE_BY_SIDE,
        Event(What.CRASH),
        *(_arrives("reserve seat"), _arrives("reserve seat"), _answered("reserve seat")),
        *(_arrives("reserve room"), _arrives("reserve room"), _answered("reserve room")),
    )
    again = "at recovery 'reserve seat' and 'reserve room' are sent"
    assert story[1] == f"  2. the orchestrator crashes, and comes back; {again}"
    assert story[3] == "  4. 'reserve seat' arrives again, and is answered as before: done"


def test_an_answer_lost_in_a_crash_before_the_commit_comes_again() -> None:
    story = _played(
        SIDE_BY_SIDE,
        *(_arrives("reserve seat"), _answered("reserve seat", Crash.BEFORE_COMMIT)),
        *(_arrives("reserve seat"), _answered("reserve seat")),
        *(_arrives("reserve room"), _arrives("reserve room"), _answered("reserve room")),
    )
    crash = "the orchestrator crashes before it has stored that"
    assert story[2].startswith(f"  3. the answer to 'reserve seat' arrives: done; {crash}; at ")


def test_it_comes_again_also_where_its_command_is_not_awaited_just_then() -> None:
    # The seat is locked at first, so that it is asked for again later; its command is not settled.
    _played(
        BOOKING,
        Event(What.ARRIVES, "reserve seat", answer=Outcome.LOCKED, copy=True),
        Event(What.ANSWERED, "reserve seat", answer=Outcome.LOCKED),
        *(_arrives("reserve seat"), _answered("reserve seat", Crash.BEFORE_COMMIT)),
        *(_arrives("reserve seat"), _answered("reserve seat")),
        *(_arrives("reserve room"), _answered("reserve room")),
    )


def test_after_a_crash_between_commit_and_sending_all_that_is_awaited_is_sent() -> None:
    story = _played(
        SIDE_BY_SIDE,
        *(_arrives("reserve seat"), _answered("reserve seat", Crash.AFTER_COMMIT)),
        *(_arrives("reserve room"), _arrives("reserve room"), _answered("reserve room")),
    )
    crash = "the orchestrator stores that, and crashes before it has sent anything"
    again = "at recovery 'reserve room' is sent"
    assert story[2] == f"  3. the answer to 'reserve seat' arrives: done; {crash}; {again}"


# Playing it again


def test_a_story_that_breaks_a_promise_breaks_it_again() -> None:
    violation = explore(BOOKING, invariants=[never_charged_without_a_ticket]).violation
    assert violation is not None
    with pytest.raises(PromiseBroken) as caught:
        replay(
            BOOKING,
            violation.played.input,
            violation.trace,
            invariants=[never_charged_without_a_ticket],
        )
    assert caught.value.violation.story == violation.story


def test_a_story_that_cannot_happen_any_more_is_well() -> None:
    never = Event(What.ARRIVES, "charge", answer=Outcome.DONE)
    replay(BOOKING, {"trip": "t1"}, [Event(What.STARTS), never], invariants=[])


def test_a_run_that_does_not_end_after_a_story_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = "        builder.wait(name, Wait.SENDING)\n    builder.put_awaited"
    mutant = mutated_machine(right, "        pass\n    builder.put_awaited")
    monkeypatch.setattr(machine, "advance", mutant.advance)
    violation = explore(BOOKING, faults=Faults(losses=1)).violation
    assert violation is not None
    assert violation.promise == "end"
    with pytest.raises(PromiseBroken, match="breaks end"):
        replay(BOOKING, violation.played.input, violation.trace)


@pytest.mark.parametrize(
    ("right", "wrong", "promise"),
    [
        ("builder.saga.followers[step.name]", "()", "order"),
        (
            "    builder = TransitionBuilder(saga, instance, now)\n    match signal:",
            "    assert not isinstance(signal, Cancel)\n"
            "    builder = TransitionBuilder(saga, instance, now)\n    match signal:",
            "total",
        ),
        (
            "    builder.settle(name, StepStatus.UNDONE)\n",
            "    builder.settle(name, StepStatus.UNDONE)\n"
            "    builder.instance = "
            "replace(builder.instance, direction=type(builder.instance.direction).FORWARD)\n",
            "P5",
        ),
    ],
    ids=["at a participant", "the machine raises", "in the orchestrator"],
)
def test_a_story_whose_last_event_breaks_the_promise_breaks_it_again(
    right: str, wrong: str, promise: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mutant = mutated_machine(right, wrong)
    monkeypatch.setattr(machine, "advance", mutant.advance)
    violation = explore(BOOKING).violation
    assert violation is not None
    assert violation.promise == promise
    with pytest.raises(PromiseBroken) as caught:
        replay(BOOKING, violation.played.input, violation.trace)
    assert caught.value.violation.story == violation.story


@pytest.mark.parametrize(
    ("input", "events"),
    [
        ({}, [Event(What.STARTS)]),
        ({"trip": "t1"}, []),
        ({"trip": "t1"}, [Event(What.STARTS), Event(What.LOST, "hop on the bus")]),
    ],
    ids=["its input does not fit", "it does not begin", "another saga's step"],
)
def test_a_story_that_is_not_about_this_saga_is_refused(
    input: dict[str, str], events: list[Event]
) -> None:
    with pytest.raises(InvalidInput):
        replay(BOOKING, input, events)


# That the walk leaves out nothing


@pytest.mark.parametrize(
    ("saga", "faults"),
    [
        (trip(SEAT, CHARGE), Faults(duplicates=1, losses=1, crashes=1, late=1)),
        (trip(SEAT, TICKET), Faults(duplicates=2, burials=1, cancels=1)),
        (trip(SEAT, replace(ROOM, after=())), Faults(duplicates=1, late=1, cancels=1)),
        (trip(SEAT, CHARGE), Faults(accepted=1, losses=1, burials=1, late=1)),
        (trip(SEAT, CHARGE), Faults(duplicates=1, terminations=1, removals=2, starts=1)),
    ],
    ids=["pivot", "no pivot", "side by side", "accepted", "removed"],
)
def test_what_the_walk_leaves_out_leads_nowhere_else(
    saga: Saga[Trip], faults: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    reduced, shorter = _situations(saga, faults)
    with monkeypatch.context() as unreduced:
        where = "orchestrator.testing.exploring.model"
        unreduced.setattr(f"{where}.faults.Budget.covered", lambda self, left: 1 << left)
        unreduced.setattr(f"{where}.idle.Idle.is_idle", lambda *_: False)
        everything, longer = _situations(saga, faults)
    assert reduced == everything
    assert shorter < longer


def _situations(saga: Saga[Trip], faults: Faults) -> tuple[set[object], int]:
    """All that an invariant may ever see, and how many worlds that took."""
    seen: set[object] = set()

    def sees(view: View) -> bool:
        steps = tuple(view.steps.items())
        seen.add((view.status, steps, view.state, view.in_effect, view.not_undone))
        return True

    found = explore(saga, Trip("t1"), faults=faults, invariants=[sees]).check()
    return seen, found.worlds
