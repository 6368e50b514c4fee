"""What the airline does for trips."""

from sqlalchemy.ext.asyncio import AsyncSession

import outbox
from travel.contract import ConfirmSeat, ReleaseSeat, ReserveSeat, SeatReserved
from travel.flight.database import Flight, Seat, sessions

service = outbox.Service("flight", sessions)


@service.on(ReserveSeat)
async def reserve(
    session: AsyncSession, command: ReserveSeat, _: outbox.Context
) -> SeatReserved | outbox.Refused:
    flight = await session.get(Flight, command.flight, with_for_update=True)
    if flight is None:
        return outbox.Refused("unknown-flight", f"there is no flight {command.flight}")
    if flight.reserved >= flight.seats:
        return outbox.Refused("full", f"no seat is left on {flight.number}")
    flight.reserved += 1
    session.add(Seat(trip=command.trip, flight=flight.number))
    return SeatReserved(price=flight.price)


@service.on(ReleaseSeat)
async def release(session: AsyncSession, command: ReleaseSeat, _: outbox.Context) -> None:
    seat = await session.get_one(Seat, command.trip)
    flight = await session.get_one(Flight, seat.flight, with_for_update=True)
    flight.reserved -= 1
    await session.delete(seat)


@service.on(ConfirmSeat)
async def confirm(session: AsyncSession, command: ConfirmSeat, _: outbox.Context) -> None:
    seat = await session.get_one(Seat, command.trip)
    seat.is_confirmed = True
