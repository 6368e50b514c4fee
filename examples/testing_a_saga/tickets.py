"""A ticket is paid at a provider, which is called outside of any transaction, and printed."""

from dataclasses import dataclass, field

from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from orchestrator import Saga, compensatable, pivot
from outbox import Command, Context, Handlers, Refused


@dataclass(frozen=True)
class Pay(Command[int], type="tickets.pay.v1", key="ticket"):
    ticket: str


@dataclass(frozen=True)
class PayBack(Command[None], type="tickets.pay-back.v1", key="ticket"):
    ticket: str


@dataclass(frozen=True)
class Print(Command[None], type="tickets.print.v1", key="ticket"):
    ticket: str


@dataclass(frozen=True)
class Ticket:
    number: str


sell_ticket = Saga(
    name="sell-ticket",
    version=1,
    state=Ticket,
    key=lambda it: it.number,
    steps=[
        compensatable(
            "pay",
            lambda it: Pay(it.number),
            compensation=lambda it: PayBack(it.number),
        ),
        pivot("print", lambda it: Print(it.number)),
    ],
)


class Base(DeclarativeBase):
    pass


class Printed(Base):
    __tablename__ = "printed"
    ticket: Mapped[str] = mapped_column(primary_key=True)


@dataclass
class Provider:
    """Stands for the client of a provider that honours keys."""

    charges: dict[str, int] = field(default_factory=dict)
    voided: set[str] = field(default_factory=set)

    async def charge(self, key: str) -> int | Refused:
        if key in self.voided:
            return Refused("void", "this key was voided")
        return self.charges.setdefault(key, 20)

    async def void(self, key: str) -> None:
        """Pay back what was charged under the key, and let nothing be charged under it later."""
        self.charges.pop(key, None)
        self.voided.add(key)


provider = Provider()
tickets = Handlers("tickets")


@tickets.outside(Pay, timeout=10, keyed=True)
async def pay(_: Pay, context: Context) -> int | Refused:
    return await provider.charge(context.id)


@tickets.outside(PayBack, timeout=10, keyed=True)
async def pay_back(_: PayBack, context: Context) -> None:
    for key in context.undoes:
        await provider.void(key)


@tickets.on(Print)
async def print_it(session: AsyncSession, command: Print, _: Context) -> None:
    session.add(Printed(ticket=command.ticket))
