"""The database of the payment service, which knows nothing of the library."""

import os

from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

engine = create_async_engine(os.environ["TRAVEL_DATABASE_URL_PAYMENT"])
sessions = async_sessionmaker(engine)


class Base(DeclarativeBase):
    pass


class Card(Base):
    __tablename__ = "cards"
    number: Mapped[str] = mapped_column(primary_key=True)
    limit: Mapped[int]  # in cents
    charged: Mapped[int] = mapped_column(default=0)


class Entry(Base):
    """A movement of money: what was charged, or less than 0 for what was given back."""

    __tablename__ = "entries"
    id: Mapped[int] = mapped_column(primary_key=True)
    trip: Mapped[str] = mapped_column(index=True)
    card: Mapped[str]
    amount: Mapped[int]
