"""The airline's own addresses."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import FastAPI, HTTPException
from pydantic import BaseModel, Field

from travel.flight.database import Flight, engine, sessions
from travel.flight.service import service


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    yield
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
