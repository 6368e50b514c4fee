"""What the flight service does for trips: it keeps count of the seats, and the airline has them.

The airline takes an order at once, and confirms or rejects it later, by a webhook (`app.py`). Until
then the reservation is pending.
"""

import os
from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncSession

import outbox
from travel.contract import ConfirmSeat, ReleaseSeat, ReserveSeat, SeatReserved
from travel.flight.database import Flight, Seat, sessions
from travel.provider import ask, client

service = outbox.Service("flight", sessions)
airline = client("TRAVEL_AIRLINE_URL")

WEBHOOK = os.environ["TRAVEL_WEBHOOK_URL"]


async def hold(
    session: AsyncSession, command: ReserveSeat, _: outbox.Context
) -> outbox.Refused | None:
    flight = await session.get(Flight, command.flight, with_for_update=True)
    if flight is None:
        return outbox.Refused("unknown-flight", f"there is no flight {command.flight}")
    if flight.reserved >= flight.seats:
        return outbox.Refused("full", f"no seat is left on {flight.number}")
    flight.reserved += 1
    session.add(Seat(trip=command.trip, flight=flight.number))
    return None


async def forget_seat(session: AsyncSession, trip: str) -> None:
    """Take back what `hold` wrote. Fine where that was done before."""
    seat = await session.get(Seat, trip)
    if seat is not None:
        flight = await session.get_one(Flight, seat.flight, with_for_update=True)
        flight.reserved -= 1
        await session.delete(seat)


async def note_order(
    session: AsyncSession,
    command: ReserveSeat,
    reply: SeatReserved | outbox.Refused,
    _: outbox.Context,
) -> None:
    if isinstance(reply, outbox.Refused):
        await forget_seat(session, command.trip)


@service.outside(ReserveSeat, timeout=5, keyed=True, before=hold, after=note_order)
async def order_seat(
    command: ReserveSeat, context: outbox.Context
) -> outbox.Pending | outbox.Refused:
    order = {"reference": command.trip, "item": command.flight, "webhook": WEBHOOK}
    said = await ask(airline, "/orders", context.id, order)
    if isinstance(said, outbox.Refused):
        return said
    return outbox.Pending(note="the airline confirms the seat", expect=timedelta(seconds=30))


async def note_release(
    session: AsyncSession,
    command: ReleaseSeat,
    reply: outbox.Refused | None,
    _: outbox.Context,
) -> None:
    if reply is None:
        await forget_seat(session, command.trip)


@service.outside(ReleaseSeat, timeout=5, keyed=True, after=note_release)
async def cancel_order(_: ReleaseSeat, context: outbox.Context) -> outbox.Refused | None:
    """The keys of the orders are the ids of their commands. One that the airline has not seen can
    not come any more."""
    for key in context.undoes:
        said = await ask(airline, "/cancels", f"{context.id}/{key}", {"order": key})
        if isinstance(said, outbox.Refused):
            return said
    return None


@service.on(ConfirmSeat)
async def confirm(session: AsyncSession, command: ConfirmSeat, _: outbox.Context) -> None:
    seat = await session.get_one(Seat, command.trip)
    seat.is_confirmed = True
