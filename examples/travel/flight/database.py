"""The flight service's database, which knows nothing of the library."""

import os

from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

engine = create_async_engine(os.environ["TRAVEL_DATABASE_URL_FLIGHT"])
sessions = async_sessionmaker(engine)


class Base(DeclarativeBase):
    pass


class Flight(Base):
    __tablename__ = "flights"
    number: Mapped[str] = mapped_column(primary_key=True)
    price: Mapped[int]  # in cents
    seats: Mapped[int]
    reserved: Mapped[int] = mapped_column(default=0)


class Seat(Base):
    """A seat that is reserved."""

    __tablename__ = "seats"
    trip: Mapped[str] = mapped_column(primary_key=True)
    flight: Mapped[str]
    is_confirmed: Mapped[bool] = mapped_column(default=False)
