"""One way at a time, with the fixtures: `pytest test_one_way.py`."""

from collections.abc import Callable

import pytest
from trips import Base, Card, Hotel, Room, Trip, bank, book_trip, hotel

from orchestrator.testing import CrashPoints, SagaWorld

ROME = Trip("Rome", card="1234")


@pytest.fixture
def world(saga_world: Callable[..., SagaWorld]) -> SagaWorld:
    made = saga_world(book_trip, participants={"hotel": hotel, "bank": bank}, schema=Base.metadata)
    with made.session("hotel") as session:
        session.add(Hotel(name="Grand", free=1))
    with made.session("bank") as session:
        session.add(Card(number="1234"))
    return made


def test_the_last_room_goes_to_the_first_who_asks(world: SagaWorld) -> None:
    assert world.run(ROME).status == "COMPLETED"
    paris = world.run(Trip("Paris", card="1234"))
    assert paris.status == "COMPENSATED"
    assert paris.reasons["hold room"] == "refused: full: there is no room left"


def test_an_unknown_card_gives_the_room_back(world: SagaWorld) -> None:
    run = world.run(Trip("Rome", card="5678"))
    assert run.steps == {"hold room": "UNDONE", "charge card": "REFUSED", "confirm room": "PENDING"}
    with world.session("hotel") as session:
        assert session.get_one(Hotel, "Grand").free == 1


def test_a_bank_that_dies_after_its_commit_charges_once(world: SagaWorld) -> None:
    world.crash_at("inbox: after commit, before reply", hit=2)
    assert world.run(ROME).status == "COMPLETED"
    with world.session("bank") as session:
        assert session.get_one(Card, "1234").charged == 100


def test_a_hotel_that_cannot_confirm_needs_a_person(world: SagaWorld) -> None:
    world.fail("confirm room")
    run = world.run(ROME)
    assert run.status == "STUCK"
    assert "dead letter" in run.reasons["confirm room"]
    assert world.repair(run).status == "COMPLETED"
    with world.session("hotel") as session:
        assert session.get_one(Room, "Rome").confirmed


@pytest.mark.parametrize("hit", [1, 2, 3])
def test_an_orchestrator_that_dies_goes_on_where_it_was(
    world: SagaWorld, crash_points: CrashPoints, hit: int
) -> None:
    with crash_points("engine: before commit", hit=hit):
        assert world.run(ROME).status == "COMPLETED"
