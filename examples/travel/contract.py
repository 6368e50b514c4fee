"""What the three services may be asked, what they answer and tell; and what begins the saga."""

from dataclasses import dataclass

from outbox import Command, Event, SagaRef


@dataclass(frozen=True)
class Booking:
    trip: str
    room: str  # a kind of room: single, double
    flight: str
    card: str


BOOK_TRIP = SagaRef[Booking]("book-trip")


@dataclass(frozen=True)
class RoomReserved:
    price: int  # in cents, as all amounts


@dataclass(frozen=True)
class ReserveRoom(Command[RoomReserved], type="hotel.reserve-room.v1", key="trip"):
    """Hold a room of that kind back. Refused: unknown-room, full."""

    trip: str
    room: str


@dataclass(frozen=True)
class ReleaseRoom(Command[None], type="hotel.release-room.v1", key="trip"):
    """Give back what ReserveRoom held."""

    trip: str


@dataclass(frozen=True)
class ConfirmRoom(Command[None], type="hotel.confirm-room.v1", key="trip"):
    """Promise the room that ReserveRoom held. Refused: overbooked."""

    trip: str


@dataclass(frozen=True)
class SeatReserved:
    price: int


@dataclass(frozen=True)
class ReserveSeat(Command[SeatReserved], type="flight.reserve-seat.v1", key="trip"):
    """Have a seat of that flight held back by the airline. Refused: unknown-flight, full, and later
    rejected."""

    trip: str
    flight: str


@dataclass(frozen=True)
class ReleaseSeat(Command[None], type="flight.release-seat.v1", key="trip"):
    """Give back what ReserveSeat held."""

    trip: str


@dataclass(frozen=True)
class ConfirmSeat(Command[None], type="flight.confirm-seat.v1", key="trip"):
    """Promise the seat that ReserveSeat held."""

    trip: str


@dataclass(frozen=True)
class Charged:
    charge: str  # the id that the provider gave it


@dataclass(frozen=True)
class Charge(Command[Charged], type="payment.charge.v1", key="trip"):
    """Take the money. Refused: unknown-card, and what the provider says, as limit-exceeded."""

    trip: str
    card: str
    amount: int


@dataclass(frozen=True)
class Refund(Command[None], type="payment.refund.v1", key="trip"):
    """Give back what Charge took."""

    trip: str


@dataclass(frozen=True)
class PaymentCharged(Event, type="payment.payment-charged.v1", key="trip"):
    trip: str
    amount: int
