"""What the hotel does for trips. Its handlers are plain functions, as its database is not async."""

from sqlalchemy.orm import Session

import outbox
from outbox.contract import SagaEnded
from travel.contract import ConfirmRoom, PaymentCharged, ReleaseRoom, ReserveRoom, RoomReserved
from travel.hotel.database import Receipt, Reservation, Room, Trip, sessions

service = outbox.Service("hotel", sessions)


@service.on(ReserveRoom, timeout=4)
def reserve(
    session: Session, command: ReserveRoom, _: outbox.Context
) -> RoomReserved | outbox.Refused:
    room = session.get(Room, command.room, with_for_update=True)
    if room is None:
        return outbox.Refused("unknown-room", f"there is no {command.room} room")
    if room.reserved >= room.number + room.spare:
        return outbox.Refused("full", f"no {room.kind} room is left")
    room.reserved += 1
    session.add(Reservation(trip=command.trip, room=room.kind))
    return RoomReserved(price=room.price)


@service.on(ReleaseRoom)
def release(session: Session, command: ReleaseRoom, _: outbox.Context) -> None:
    reservation = session.get_one(Reservation, command.trip)
    room = session.get_one(Room, reservation.room, with_for_update=True)
    room.reserved -= 1
    session.delete(reservation)


@service.on(ConfirmRoom)
def confirm(session: Session, command: ConfirmRoom, _: outbox.Context) -> outbox.Refused | None:
    reservation = session.get_one(Reservation, command.trip)
    room = session.get_one(Room, reservation.room, with_for_update=True)
    if room.confirmed >= room.number:
        return outbox.Refused("overbooked", f"all {room.kind} rooms are promised to others")
    room.confirmed += 1
    reservation.is_confirmed = True
    return None


@service.on(PaymentCharged)
def note_payment(session: Session, event: PaymentCharged, _: outbox.Context) -> None:
    session.add(Receipt(trip=event.trip, amount=event.amount))


@service.on(SagaEnded)
def note_end(session: Session, event: SagaEnded, _: outbox.Context) -> None:
    trip = session.get_one(Trip, event.instance_id)
    trip.ended = event.status
    trip.reason = event.reason
