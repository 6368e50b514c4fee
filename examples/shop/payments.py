"""Payments: charges cards, each up to its limit."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Body, FastAPI, HTTPException
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import outbox
from outbox import tables
from shop.contract import Charge

engine = create_async_engine(os.environ["SAGABOX_DATABASE_URL_PAYMENTS"])
service = outbox.Service("payments", engine)


class Base(DeclarativeBase):
    pass


class Card(Base):
    __tablename__ = "cards"
    number: Mapped[str] = mapped_column(primary_key=True)
    limit: Mapped[int]  # in cents
    charged: Mapped[int] = mapped_column(default=0)


@service.on(Charge)
async def charge(
    session: AsyncSession, command: Charge, _: outbox.Context
) -> outbox.Refused | None:
    card = await session.get(Card, command.card, with_for_update=True)
    if card is None:
        return outbox.Refused("unknown-card", "there is no such card")
    if card.charged + command.amount > card.limit:
        return outbox.Refused("limit-exceeded", f"the card does not bear {command.amount} cents")
    card.charged += command.amount
    return None


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    async with engine.begin() as connection:  # a real service uses migrations: outbox.schema
        await connection.run_sync(tables.metadata.create_all)
        await connection.run_sync(Base.metadata.create_all)
    yield
    await engine.dispose()


app = FastAPI(title="payments", lifespan=lifespan)
service.attach(app)


@app.put("/cards/{number}", status_code=204)
async def put_card(number: str, limit: Annotated[int, Body(embed=True, ge=0)]) -> None:
    async with service.sessions.begin() as session:
        await session.merge(Card(number=number, limit=limit))


@app.get("/cards/{number}")
async def get_card(number: str) -> dict[str, int]:
    async with service.sessions() as session:
        card = await session.get(Card, number)
    if card is None:
        raise HTTPException(404, "there is no such card")
    return {"limit": card.limit, "charged": card.charged}
