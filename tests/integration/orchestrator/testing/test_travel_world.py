"""The saga of `examples/travel` with the handlers of its three services, in every way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from orchestrator.testing import Run, SagaWorld, check_saga
from outbox import Refused
from outbox.testing.provider.ledger import Ledger
from tests.support.checkout import ROOT
from tests.support.travel.provider import forget, in_process

with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(ROOT / "examples")
    # The services open their databases where they are imported, but connect to them only when used.
    patch.setenv("TRAVEL_DATABASE_URL_HOTEL", "sqlite:////nowhere/hotel.sqlite")
    patch.setenv("TRAVEL_DATABASE_URL_FLIGHT", "sqlite+aiosqlite:////nowhere/flight.sqlite")
    patch.setenv("TRAVEL_DATABASE_URL_PAYMENT", "sqlite+aiosqlite:////nowhere/payment.sqlite")
    patch.setenv("SAGABOX_PEERS", "hotel=http://127.0.0.1:1")
    patch.setenv("TRAVEL_PROVIDER_URL", "http://provider")
    patch.setenv("TRAVEL_AIRLINE_URL", "http://provider")
    patch.setenv("TRAVEL_WEBHOOK_URL", "http://flight/airline-news")
    from travel.contract import PaymentCharged, ReserveSeat, SeatReserved
    from travel.flight import database as at_flight
    from travel.flight.service import forget_seat
    from travel.flight.service import service as flight
    from travel.hotel import database as at_hotel
    from travel.hotel.service import service as hotel
    from travel.payment import database as at_payment
    from travel.payment.service import service as payment
    from travel.saga import Journey, book_trip

ROME = Journey("Rome", room="double", flight="SB7", card="1234")
SERVICES = {
    "hotel": hotel.handlers,
    "flight": flight.handlers,
    "payment": payment.handlers,
}
TABLES = {
    "hotel": at_hotel.Base.metadata,
    "flight": at_flight.Base.metadata,
    "payment": at_payment.Base.metadata,
}
ROUTES = {"payment": {PaymentCharged: ["hotel"]}}


@pytest.fixture(autouse=True)
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    """That of the provider, which is in this process."""
    path = tmp_path / "provider.sqlite"
    for service in ("payment.service.provider", "flight.service.airline"):
        monkeypatch.setattr(f"travel.{service}", in_process(path))
    made = Ledger(path)
    made.open_account("ada", 1_000_000_00)
    return made


async def seat_rejected(session: AsyncSession, order: str) -> None:
    """What the airline's webhook does when there is no seat after all."""
    await flight.complete(session, order, Refused("rejected", "another passenger has it"))
    await forget_seat(session, ROME.trip)


def prepare(world: SagaWorld) -> None:
    with world.session("hotel") as session:
        session.add(at_hotel.Room(kind="double", price=90_00, number=1, spare=1))
    with world.session("flight") as session:
        session.add(at_flight.Flight(number="SB7", price=120_00, seats=2))
    with world.session("payment") as session:
        session.add(at_payment.Card(number="1234", account="ada"))


def money_is_paid_for_rooms(world: SagaWorld, _: Run) -> None:
    with world.session("hotel") as hotel_session, world.session("payment") as payment_session:
        confirmed = hotel_session.get_one(at_hotel.Room, "double").confirmed
        entries = [(it.trip, it.amount) for it in payment_session.query(at_payment.Entry)]
    assert sum(amount for _, amount in entries) == 210_00 * confirmed
    assert len(set(entries)) == len(entries), "the card was charged twice"


# The run asks again after a minute, and that is the deadline of the seat.
LOST = "every message with a later answer is lost, while step 'confirm room' is refused"


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("only", "missed"),
    [
        pytest.param("'charge card'", [], id="the charge"),
        pytest.param("", [LOST], id="every way", marks=pytest.mark.soak),
    ],
)
def test_a_trip_is_booked_or_nothing_is_left_of_it_under_any_fault(
    ledger: Ledger, tmp_path: Path, only: str, missed: list[str]
) -> None:
    def money_is_paid_once(world: SagaWorld, run: Run) -> None:
        money_is_paid_for_rooms(world, run)
        charges = [it for it in ledger.told()["charges"] if not it["refunds"]]
        assert len(charges) == (run.status == "COMPLETED"), "charged once, or not at all"

    checked = check_saga(
        book_trip,
        ROME,
        participants=SERVICES,
        schema=TABLES,
        prepare=prepare,
        begin=lambda: forget(tmp_path / "provider.sqlite"),
        completions={ReserveSeat: [SeatReserved(120_00), seat_rejected]},
        invariant=money_is_paid_once,
        ignore=["entries"],  # a refund is an entry of its own
        routes=ROUTES,
        only=only,
    )
    assert checked.ways
    assert checked.missed == missed


@pytest.fixture
def world(saga_world: Callable[..., SagaWorld]) -> SagaWorld:
    made = saga_world(
        book_trip,
        participants=SERVICES,
        schema=TABLES,
        routes=ROUTES,
        completions={ReserveSeat: [SeatReserved(120_00)]},
    )
    prepare(made)
    return made


def test_the_hotel_is_told_of_a_payment(world: SagaWorld) -> None:
    assert world.run(ROME).status == "COMPLETED"
    ((type, data),) = world.sent("payment")
    assert (type, data) == ("payment.payment-charged.v1", {"trip": "Rome", "amount": 210_00})


def test_a_trip_that_the_hotel_cannot_keep_is_refunded(world: SagaWorld) -> None:
    assert world.run(ROME).status == "COMPLETED"
    paris = world.run(Journey("Paris", room="double", flight="SB7", card="1234"))
    assert paris.status == "COMPENSATED"
    assert paris.reasons["confirm room"].startswith("refused: overbooked")
    money_is_paid_for_rooms(world, paris)
    with world.session("payment") as session:
        entries = session.query(at_payment.Entry).filter_by(trip="Paris")
        assert [it.amount for it in entries.order_by("id")] == [210_00, -210_00]


def test_a_seat_that_is_reserved_in_vain_is_given_back(world: SagaWorld) -> None:
    run = world.run(Journey("Oslo", room="suite", flight="SB7", card="1234"))
    assert run.steps["reserve room"] == "REFUSED"
    assert run.steps["reserve seat"] == "UNDONE"
    with world.session("flight") as session:
        assert session.get_one(at_flight.Flight, "SB7").reserved == 0
