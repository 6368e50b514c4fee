"""The flight service's own addresses, and the webhook that the airline calls."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Literal

from fastapi import FastAPI, HTTPException
from pydantic import BaseModel, Field
from sqlalchemy import select

import outbox
from travel.contract import SeatReserved
from travel.flight.database import Flight, engine, sessions
from travel.flight.service import airline, forget_seat, service


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    yield
    await airline.aclose()
    await engine.dispose()


app = FastAPI(title="flight", lifespan=lifespan)
service.attach(app)


class Offer(BaseModel):
    price: Annotated[int, Field(ge=0)]
    seats: Annotated[int, Field(ge=0)]


@app.put("/flights/{number}", status_code=204)
async def put_flight(number: str, offer: Offer) -> None:
    async with sessions.begin() as session:
        await session.merge(Flight(number=number, price=offer.price, seats=offer.seats))


@app.get("/flights/{number}")
async def get_flight(number: str) -> dict[str, int]:
    async with sessions() as session:
        flight = await session.get(Flight, number)
    if flight is None:
        raise HTTPException(404, f"there is no flight {number}")
    return {"price": flight.price, "seats": flight.seats, "reserved": flight.reserved}


class News(BaseModel):
    key: str  # of the order: the id of its command
    reference: str  # the trip
    item: str  # the flight
    status: Literal["received", "confirmed", "rejected"]


@app.post("/airline-news", status_code=204)
async def hear(news: News) -> None:
    """It may come twice, late, and before `received`."""
    if news.status == "received":
        return
    async with sessions.begin() as session:
        price = select(Flight.price).where(Flight.number == news.item)
        reply = (
            SeatReserved((await session.scalars(price)).one())
            if news.status == "confirmed"
            else outbox.Refused("rejected", "the airline gave the seat to another passenger")
        )
        try:
            await service.complete(session, news.key, reply)
        except (outbox.NotPendingYet, outbox.CallUnderWay) as error:
            raise HTTPException(503, "the order is being made; say it again") from error
        except (outbox.TooLate, outbox.AlreadyAnswered):
            return  # the trip is given up, and the order is being cancelled
        if isinstance(reply, outbox.Refused):
            await forget_seat(session, news.reference)
