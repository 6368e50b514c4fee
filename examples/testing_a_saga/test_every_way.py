"""One test that tries everything: `pytest test_every_way.py`."""

from trips import Base, Card, Hotel, Room, Trip, bank, book_trip, hotel

from orchestrator.testing import Run, SagaWorld, check_saga


def prepare(world: SagaWorld) -> None:
    with world.session("hotel") as session:
        session.add(Hotel(name="Grand", free=2))
    with world.session("bank") as session:
        session.add(Card(number="1234"))


def rooms_are_paid(world: SagaWorld, _: Run) -> None:
    with world.session("hotel") as at_hotel, world.session("bank") as at_bank:
        assert at_bank.get_one(Card, "1234").charged == 100 * at_hotel.query(Room).count()


def test_a_trip_is_booked_or_nothing_happened() -> None:
    check_saga(
        book_trip,
        Trip("Rome", card="1234"),
        participants={"hotel": hotel, "bank": bank},
        schema=Base.metadata,
        prepare=prepare,
        invariant=rooms_are_paid,
    )
