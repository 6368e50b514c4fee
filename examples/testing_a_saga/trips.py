"""A trip: a room is held, the card is charged, the room is confirmed. Or nothing of it happened."""

from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from orchestrator import Saga, compensatable, pivot, retriable
from outbox import Command, Context, Handlers, Refused


@dataclass(frozen=True)
class HoldRoom(Command[None], type="hotel.hold-room.v1", key="trip"):
    trip: str


@dataclass(frozen=True)
class GiveRoomBack(Command[None], type="hotel.give-room-back.v1", key="trip"):
    trip: str


@dataclass(frozen=True)
class ConfirmRoom(Command[None], type="hotel.confirm-room.v1", key="trip"):
    trip: str


@dataclass(frozen=True)
class Charge(Command[None], type="bank.charge.v1", key="card"):
    card: str


@dataclass(frozen=True)
class Trip:
    name: str
    card: str


book_trip = Saga(
    name="book-trip",
    version=1,
    state=Trip,
    key=lambda it: it.name,
    steps=[
        compensatable(
            "hold room",
            lambda it: HoldRoom(it.name),
            compensation=lambda it: GiveRoomBack(it.name),
        ),
        pivot("charge card", lambda it: Charge(it.card)),
        retriable("confirm room", lambda it: ConfirmRoom(it.name)),
    ],
)


class Base(DeclarativeBase):
    pass


class Hotel(Base):
    __tablename__ = "hotels"
    name: Mapped[str] = mapped_column(primary_key=True)
    free: Mapped[int]


class Room(Base):
    __tablename__ = "rooms"
    trip: Mapped[str] = mapped_column(primary_key=True)
    confirmed: Mapped[bool] = mapped_column(default=False)


class Card(Base):
    __tablename__ = "cards"
    number: Mapped[str] = mapped_column(primary_key=True)
    charged: Mapped[int] = mapped_column(default=0)


hotel = Handlers("hotel")
bank = Handlers("bank")


@hotel.on(HoldRoom)
async def hold(session: AsyncSession, command: HoldRoom, _: Context) -> Refused | None:
    grand = await session.get_one(Hotel, "Grand", with_for_update=True)
    if not grand.free:
        return Refused("full", "there is no room left")
    grand.free -= 1
    session.add(Room(trip=command.trip))
    return None


@hotel.on(GiveRoomBack)
async def give_back(session: AsyncSession, command: GiveRoomBack, _: Context) -> None:
    grand = await session.get_one(Hotel, "Grand", with_for_update=True)
    grand.free += 1
    await session.delete(await session.get_one(Room, command.trip))


@hotel.on(ConfirmRoom)
async def confirm(session: AsyncSession, command: ConfirmRoom, _: Context) -> None:
    room = await session.get_one(Room, command.trip)
    room.confirmed = True


@bank.on(Charge)
async def charge(session: AsyncSession, command: Charge, _: Context) -> Refused | None:
    card = await session.get(Card, command.card, with_for_update=True)
    if card is None:
        return Refused("unknown-card", "there is no such card")
    card.charged += 100
    return None
