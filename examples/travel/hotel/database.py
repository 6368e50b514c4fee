"""The hotel's database, which knows nothing of the library."""

import os

from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker

engine = create_engine(os.environ["TRAVEL_DATABASE_URL_HOTEL"])
sessions = sessionmaker(engine)


class Base(DeclarativeBase):
    pass


class Room(Base):
    """A kind of room. Some more are reserved than there are, as not every guest comes: whether
    there is one is known when it is confirmed."""

    __tablename__ = "rooms"
    kind: Mapped[str] = mapped_column(primary_key=True)
    price: Mapped[int]  # in cents
    number: Mapped[int]
    spare: Mapped[int]  # how many more may be reserved
    reserved: Mapped[int] = mapped_column(default=0)
    confirmed: Mapped[int] = mapped_column(default=0)  # of those that are reserved


class Reservation(Base):
    __tablename__ = "reservations"
    trip: Mapped[str] = mapped_column(primary_key=True)
    room: Mapped[str]
    is_confirmed: Mapped[bool] = mapped_column(default=False)


class Trip(Base):
    __tablename__ = "trips"
    id: Mapped[str] = mapped_column(primary_key=True)  # and the id of its saga
    ended: Mapped[str | None]  # how
    reason: Mapped[str | None]


class Receipt(Base):
    """A payment that the hotel was told of."""

    __tablename__ = "receipts"
    id: Mapped[int] = mapped_column(primary_key=True)
    trip: Mapped[str]
    amount: Mapped[int]
