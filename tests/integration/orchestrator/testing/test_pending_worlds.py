"""The worlds that users' tests get, with commands whose answers come later."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy.orm import Session

from orchestrator.machine.instance import Status, StepStatus
from orchestrator.testing import AsyncSagaWorld, NotReached, Run, SagaWorld
from outbox import AlreadyAnswered, Handlers, Refused, TooLate
from tests.support.checkout import ROOT

with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(ROOT / "examples" / "testing_a_saga")
    from parts import Accept, Base, Build, Job, Part, Question, order_part, service

AXLE = Part("axle")
Make = Callable[..., SagaWorld]
OPTIONS = {"participants": {"parts": service.handlers}, "schema": Base.metadata}
ANSWERS = {Build: [12, Refused("no-steel", "there is none")], Accept: [None]}


@pytest.fixture
def world(saga_world: Make) -> SagaWorld:
    return saga_world(order_part, **OPTIONS)


@pytest.fixture
def answering(saga_world: Make) -> SagaWorld:
    """A world that completes what is pending by itself."""
    return saga_world(order_part, **OPTIONS, completions=ANSWERS)


def left(world: SagaWorld) -> tuple[int, int]:
    """The jobs and questions that there are."""
    with world.session("parts") as session:
        return session.query(Job).count(), session.query(Question).count()


def seconds(run: Run) -> float:
    """The time of its last line."""
    return float(run.history[-1].split()[0])


def times_asked(run: Run, step: str) -> int:
    return sum("ongoing: pending" in line and repr(step) in line for line in run.history)


def test_a_run_rests_while_it_waits_for_the_test(world: SagaWorld) -> None:
    run = world.run(AXLE)
    assert (run.status, run.steps["build"]) == (Status.RUNNING, StepStatus.SENT)
    assert list(run.pending) == ["build"]
    assert not run.is_ended
    assert left(world) == (1, 0), "what the handler wrote is kept"


def test_an_answer_lets_the_run_go_on(world: SagaWorld) -> None:
    run = world.complete(world.run(AXLE), "build", 12)
    assert (run.steps["build"], list(run.pending)) == (StepStatus.DONE, ["accept"])
    assert seconds(run) < 1, "the message hurried it"
    run = world.complete(run, "accept", None)
    assert (run.status, dict(run.pending)) == (Status.COMPLETED, {})


def test_a_refusal_turns_the_run_back_and_undoes_what_its_handler_wrote(world: SagaWorld) -> None:
    run = world.complete(world.run(AXLE), "build", Refused("no-steel", "there is none"))
    assert run.status is Status.COMPENSATED
    assert left(world) == (0, 0)


def test_what_a_person_waits_for_no_longer_is_undone_or_stuck_by_its_step(world: SagaWorld) -> None:
    first = dropped(world, world.run(AXLE), "build")
    assert first.status is Status.COMPENSATED
    assert left(world) == (0, 0)
    second = dropped(world, world.complete(world.run(Part("wheel")), "build", 12), "accept")
    assert (second.status, second.steps["accept"]) == (Status.STUCK, StepStatus.STUCK)
    assert "no one answers" in second.reasons["accept"]


def dropped(world: SagaWorld, run: Run, step: str) -> Run:
    with world.session("parts") as session:
        service.pending.drop(session, run.pending[step], actor="ada", reason="no one answers")
    return world.go_on(run)


def test_a_step_that_was_not_pending_cannot_be_completed(world: SagaWorld) -> None:
    run = world.run(AXLE)
    with pytest.raises(ValueError, match="'accept' was not pending in this run; pending: 'build'"):
        world.complete(run, "accept", None)


def test_time_passes_and_the_deadline_undoes_what_is_pending(world: SagaWorld) -> None:
    run = world.run(AXLE)
    waiting = world.go_on(run, passing=timedelta(minutes=4))
    assert waiting.pending == run.pending
    ended = world.go_on(run, passing=timedelta(minutes=2))
    assert ended.status is Status.COMPENSATED
    assert left(world) == (0, 0)
    with pytest.raises(TooLate):
        world.complete(run, "build", 12)


def test_a_second_answer_is_refused_and_the_same_one_changes_nothing(world: SagaWorld) -> None:
    run = world.run(AXLE)
    later = world.complete(run, "build", 12)
    assert world.complete(run, "build", 12) == later
    with pytest.raises(AlreadyAnswered):
        world.complete(run, "build", 13)


def test_a_lost_reply_is_asked_for_after_a_minute(world: SagaWorld) -> None:
    run = world.run(AXLE)
    world.lose_replies()
    run = world.complete(run, "build", 12)
    assert list(run.pending) == ["accept"]
    assert 59 < seconds(run) < 120


def test_a_reply_that_comes_twice_and_again_at_the_end_counts_once(answering: SagaWorld) -> None:
    answering.duplicate()
    answering.arrive_again()
    run = answering.run(AXLE)
    assert run.status is Status.COMPLETED
    assert sum("late-answer" in line for line in run.history) == 4
    assert left(answering) == (1, 1)


def test_a_world_with_answers_completes_by_itself(answering: SagaWorld) -> None:
    run = answering.run(AXLE)
    assert run.status is Status.COMPLETED
    assert [times_asked(run, step) for step in ("build", "accept")] == [1, 1]


def test_an_answer_before_the_commit_comes_again(answering: SagaWorld) -> None:
    answering.answer("build", "early")
    assert answering.run(AXLE).status is Status.COMPLETED


def test_an_answer_may_overtake_the_news_that_it_comes_later(answering: SagaWorld) -> None:
    answering.answer("build", "at once")
    run = answering.run(AXLE)
    assert run.status is Status.COMPLETED
    lines = [line.split()[2:5] for line in run.history if "'build'" in line]
    late = ["late-answer", "'build'", "ongoing:"]
    assert lines.index(["answered", "'build'", "done"]) < lines.index(late)


def test_an_answer_after_the_deadline_of_a_compensatable_step_is_too_late(
    answering: SagaWorld,
) -> None:
    answering.answer("build", "late")
    assert answering.run(AXLE).status is Status.COMPENSATED
    answering.answer("accept", "late")
    run = answering.run(AXLE)
    assert run.status is Status.COMPLETED, "a pivot is waited for"
    assert seconds(run) > 3600


def test_another_answer_than_the_usual_one(answering: SagaWorld) -> None:
    answering.answer_otherwise("build")
    run = answering.run(AXLE)
    assert run.status is Status.COMPENSATED
    assert "no-steel" in " ".join(run.history)


def test_a_participant_that_dies_while_it_completes_is_told_again(answering: SagaWorld) -> None:
    answering.crash_at("inbox: completed, before commit")
    run = answering.run(AXLE)
    assert run.status is Status.COMPLETED
    assert seconds(run) > 5


def test_a_handler_that_gives_its_answer_at_once_leaves_nothing_to_answer(
    saga_world: Make,
) -> None:
    def at_once(session: Session, *_: object) -> int:
        session.add(Job(part="axle"))
        return 12

    handlers = Handlers("parts")
    handlers.on(Build)(at_once)
    handlers.on(Accept)(lambda *_: None)
    world = saga_world(
        order_part, participants={"parts": handlers}, schema=Base.metadata, completions=ANSWERS
    )
    world.answer("build", "twice")
    with pytest.raises(NotReached, match="step 'build' is completed twice"):
        world.run(AXLE)


def test_the_handlers_of_a_synchronous_service_run_in_threads(saga_world: Make) -> None:
    threads = set()

    def in_thread(*_: object) -> Any:
        threads.add(threading.current_thread())

    handlers = Handlers("parts")
    for command in (Build, Accept):
        handlers.on(command)(in_thread)
    world = saga_world(order_part, participants={"parts": handlers}, schema=Base.metadata)
    assert world.run(AXLE).status is Status.COMPLETED
    assert len(threads - {threading.current_thread()}) == 2


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        (lambda it: it.answer("accept", "too late"), "'accept' is not undone"),
        (lambda it: it.answer("build", "twice", undo=True), r"completions=\{Scrap: \[\.\.\.\]\}"),
        (lambda it: it.answer_otherwise("accept"), "has 1 answers, and this needs 2"),
    ],
)
def test_a_wish_that_needs_more_answers_is_refused(
    answering: SagaWorld, wrong: Callable[[SagaWorld], object], problem: str
) -> None:
    with pytest.raises(ValueError, match=problem):
        wrong(answering)


async def test_an_async_test_completes_too(async_saga_world: Callable[..., AsyncSagaWorld]) -> None:
    world = async_saga_world(order_part, **OPTIONS)
    run = await world.complete(await world.run(AXLE), "build", 12)
    run = await world.go_on(run, passing=timedelta(hours=2))
    assert list(run.pending) == ["accept"]
    assert (await world.complete(run, "accept", None)).status is Status.COMPLETED
