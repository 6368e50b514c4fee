"""What the payment service does for trips, and the event by which it tells the hotel."""

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

import outbox
from travel.contract import Charge, PaymentCharged, Refund
from travel.payment.database import Card, Entry, sessions

service = outbox.Service("payment", sessions, routes={PaymentCharged: ["hotel"]})


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
    session.add(Entry(trip=command.trip, card=card.number, amount=command.amount))
    outbox.add(session, PaymentCharged(command.trip, command.amount))
    return None


@service.on(Refund)
async def refund(session: AsyncSession, command: Refund, _: outbox.Context) -> None:
    charged = (await session.scalars(select(Entry).where(Entry.trip == command.trip))).one()
    card = await session.get_one(Card, charged.card, with_for_update=True)
    card.charged -= charged.amount
    session.add(Entry(trip=command.trip, card=card.number, amount=-charged.amount))
