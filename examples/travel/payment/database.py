"""The database of the payment service, which knows nothing of the library."""

import os

from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, MappedAsDataclass, mapped_column

engine = create_async_engine(os.environ["TRAVEL_DATABASE_URL_PAYMENT"])
sessions = async_sessionmaker(engine)


class Base(DeclarativeBase):
    pass


class Card(Base):
    __tablename__ = "cards"
    number: Mapped[str] = mapped_column(primary_key=True)
    account: Mapped[str]  # at the provider


class Entry(MappedAsDataclass, Base):
    """A movement of money: what was charged, or less than 0 for what was given back."""

    __tablename__ = "entries"
    id: Mapped[int] = mapped_column(primary_key=True, init=False)
    trip: Mapped[str] = mapped_column(index=True)
    charge: Mapped[str]  # its id at the provider
    card: Mapped[str]
    amount: Mapped[int]  # in cents
