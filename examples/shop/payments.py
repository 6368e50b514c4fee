"""Payments: charges cards, each up to its limit."""

from typing import Annotated

from fastapi import APIRouter, Body, FastAPI, HTTPException
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import outbox
from shop.contract import Charge
from shop.service import Sessions, make_app

handlers = outbox.Handlers("payments")
router = APIRouter()


class Base(DeclarativeBase):
    pass


class Card(Base):
    __tablename__ = "cards"
    number: Mapped[str] = mapped_column(primary_key=True)
    limit: Mapped[int]  # in cents
    charged: Mapped[int] = mapped_column(default=0)


@handlers.on(Charge)
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


@router.put("/cards/{number}", status_code=204)
async def put_card(
    number: str, limit: Annotated[int, Body(embed=True, ge=0)], sessions: Sessions
) -> None:
    async with sessions.begin() as session:
        await session.merge(Card(number=number, limit=limit))


@router.get("/cards/{number}")
async def get_card(number: str, sessions: Sessions) -> dict[str, int]:
    async with sessions() as session:
        card = await session.get(Card, number)
    if card is None:
        raise HTTPException(404, "there is no such card")
    return {"limit": card.limit, "charged": card.charged}


def create_app() -> FastAPI:
    return make_app(handlers, router, Base.metadata, sends_to={})
