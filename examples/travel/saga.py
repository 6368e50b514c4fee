"""Book a trip: room and seat are reserved side by side, paid, and confirmed; or nothing is left."""

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Self

from orchestrator import Saga, compensatable, pivot, retriable
from travel.contract import (
    BOOK_TRIP,
    Booking,
    Charge,
    ConfirmRoom,
    ConfirmSeat,
    Refund,
    ReleaseRoom,
    ReleaseSeat,
    ReserveRoom,
    ReserveSeat,
    RoomReserved,
    SeatReserved,
)


@dataclass(frozen=True)
class Journey(Booking):
    """The input of the saga, and what it learns on the way."""

    room_price: int | None = None
    seat_price: int | None = None

    def note_room(self, reserved: RoomReserved) -> Self:
        return replace(self, room_price=reserved.price)

    def note_seat(self, reserved: SeatReserved) -> Self:
        return replace(self, seat_price=reserved.price)

    def charge(self) -> Charge:
        assert self.room_price is not None, "the room is reserved before the card is charged"
        assert self.seat_price is not None, "and so is the seat"
        return Charge(self.trip, self.card, self.room_price + self.seat_price)


book_trip = Saga(
    name=BOOK_TRIP.name,
    version=1,
    state=Journey,
    key=lambda it: it.trip,
    one_active=True,
    steps=[
        compensatable(
            "reserve room",
            lambda it: ReserveRoom(it.trip, it.room),
            on_reply=Journey.note_room,
            compensation=lambda it: ReleaseRoom(it.trip),
            after=(),
            deadline=timedelta(minutes=1),
        ),
        compensatable(
            "reserve seat",
            lambda it: ReserveSeat(it.trip, it.flight),
            on_reply=Journey.note_seat,
            compensation=lambda it: ReleaseSeat(it.trip),
            after=(),
            deadline=timedelta(minutes=1),
        ),
        compensatable(
            "charge card",
            Journey.charge,
            compensation=lambda it: Refund(it.trip),
            after=("reserve room", "reserve seat"),
            deadline=timedelta(minutes=1),
        ),
        pivot("confirm room", lambda it: ConfirmRoom(it.trip)),
        retriable("confirm seat", lambda it: ConfirmSeat(it.trip)),
    ],
)
