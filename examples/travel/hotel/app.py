"""The hotel's own addresses: its rooms, and the trips that it sells."""

from typing import Annotated

from fastapi import FastAPI, HTTPException
from pydantic import BaseModel, Field

from travel.contract import BOOK_TRIP, Booking
from travel.hotel.database import Room, Trip, sessions
from travel.hotel.service import service

app = FastAPI(title="hotel")
service.attach(app)

Count = Annotated[int, Field(ge=0)]


class Rooms(BaseModel):
    price: Count
    number: Count
    spare: Count = 0


class NewTrip(BaseModel):
    room: str
    flight: str
    card: str


@app.put("/rooms/{kind}", status_code=204)
def put_rooms(kind: str, rooms: Rooms) -> None:
    with sessions.begin() as session:
        session.merge(Room(kind=kind, **rooms.model_dump()))


@app.post("/trips", status_code=202)
def book(trip: NewTrip) -> dict[str, str]:
    trip_id = service.new_id()
    with sessions.begin() as session:
        session.add(Trip(id=trip_id))
        booking = Booking(trip_id, room=trip.room, flight=trip.flight, card=trip.card)
        service.start(session, BOOK_TRIP, booking, id=trip_id)
    return {"id": trip_id}


@app.get("/trips/{trip_id}")
def get_trip(trip_id: str) -> dict[str, str | None]:
    with sessions() as session:
        trip = session.get(Trip, trip_id)
        if trip is None:
            raise HTTPException(404, f"there is no trip {trip_id}")
        return {"id": trip.id, "ended": trip.ended, "reason": trip.reason}
