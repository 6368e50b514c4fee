"""Commands whose answers come later: `pytest test_later_answers.py`."""

from collections.abc import Callable
from datetime import timedelta

import pytest
from parts import (
    Accept,
    Base,
    Build,
    Job,
    Part,
    accepted,
    built,
    declined,
    order_part,
    service,
)
from sqlalchemy.orm import Session

from orchestrator.testing import SagaWorld, check_saga
from outbox import Refused, TooLate


def workshop_builds(session: Session, command_id: str) -> None:
    built(session, command_id, "axle", weight=12)


def person_accepts(session: Session, command_id: str) -> None:
    accepted(session, command_id, "axle")


def person_declines(session: Session, command_id: str) -> None:
    declined(session, command_id, "axle")


def test_a_part_is_built_and_accepted_or_nothing_is_left_of_it() -> None:
    check_saga(
        order_part,
        Part("axle"),
        participants={"parts": service.handlers},
        schema=Base.metadata,
        completions={
            Build: [workshop_builds, Refused("no-steel", "there is no steel")],
            Accept: [person_accepts, person_declines],
        },
    )


@pytest.fixture
def world(saga_world: Callable[..., SagaWorld]) -> SagaWorld:
    return saga_world(order_part, participants={"parts": service.handlers}, schema=Base.metadata)


def test_a_run_waits_for_the_workshop_and_the_person(world: SagaWorld) -> None:
    run = world.run(Part("axle"))
    assert run.status == "RUNNING"
    assert list(run.pending) == ["build"]
    run = world.complete(run, "build", workshop_builds)
    assert list(run.pending) == ["accept"]
    run = world.complete(run, "accept", person_accepts)
    assert run.status == "COMPLETED"


def test_a_workshop_that_takes_too_long_is_told_so(world: SagaWorld) -> None:
    run = world.run(Part("axle"))
    ended = world.go_on(run, passing=timedelta(minutes=6))
    assert ended.status == "COMPENSATED"
    with pytest.raises(TooLate):
        world.complete(run, "build", workshop_builds)


def test_a_lost_message_costs_a_minute(world: SagaWorld) -> None:
    run = world.run(Part("axle"))
    world.lose_replies()
    with world.session("parts") as session:
        workshop_builds(session, run.pending["build"])
    run = world.go_on(run)
    assert list(run.pending) == ["accept"]
    with world.session("parts") as session:
        assert session.get_one(Job, "axle").weight == 12
