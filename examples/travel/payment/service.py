"""What the payment service does for trips, and the event by which it tells the hotel.

A provider charges the cards. That it is asked is committed before, and what it answered after; in
between no transaction is open.
"""

from datetime import timedelta

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

import outbox
from travel.contract import Charge, Charged, PaymentCharged, Refund
from travel.payment.database import Card, Entry, sessions
from travel.provider import ask, client

service = outbox.Service("payment", sessions, routes={PaymentCharged: ["hotel"]})
provider = client("TRAVEL_PROVIDER_URL")

KEYS_ARE_VALID = timedelta(hours=24)  # as the provider promises


async def read_account(
    session: AsyncSession, command: Charge, _: outbox.Context
) -> str | outbox.Refused:
    card = await session.get(Card, command.card)
    if card is None:
        return outbox.Refused("unknown-card", "there is no such card")
    return card.account


async def note_charge(
    session: AsyncSession, command: Charge, reply: Charged | outbox.Refused, _: outbox.Context
) -> None:
    if isinstance(reply, Charged):
        session.add(Entry(command.trip, reply.charge, command.card, command.amount))
        outbox.add(session, PaymentCharged(command.trip, command.amount))


@service.outside(
    Charge,
    timeout=5,
    keyed=True,
    key_valid_for=KEYS_ARE_VALID,
    before=read_account,
    after=note_charge,
)
async def charge_card(command: Charge, context: outbox.Context) -> Charged | outbox.Refused:
    body = {"account": context.before, "amount": command.amount, "reference": command.trip}
    said = await ask(provider, "/charges", context.id, body)
    return said if isinstance(said, outbox.Refused) else Charged(said["id"])


async def note_refund(
    session: AsyncSession, command: Refund, reply: outbox.Refused | None, _: outbox.Context
) -> None:
    if reply is None:
        total = func.sum(Entry.amount)
        charged = select(Entry.charge, Entry.card, total).where(Entry.trip == command.trip)
        left = charged.group_by(Entry.charge, Entry.card).having(total > 0)
        for charge, card, amount in (await session.execute(left)).all():
            session.add(Entry(command.trip, charge, card, -amount))


@service.outside(Refund, timeout=5, keyed=True, key_valid_for=KEYS_ARE_VALID, after=note_refund)
async def refund_card(_: Refund, context: outbox.Context) -> outbox.Refused | None:
    """The keys of the charges are the ids of their commands: so it does not matter whether it is
    known that they came. A key that the provider has not seen is void from then on."""
    for key in context.undoes:
        said = await ask(provider, "/refunds", f"{context.id}/{key}", {"charge": key})
        if isinstance(said, outbox.Refused) and said.code != "already-refunded":
            return said
    return None
