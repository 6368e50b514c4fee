"""Two services of a user, and what they declare: a shop has orders, and a depot packs a
parcel for each. They agree by events alone."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from sqlalchemy import Connection, String, Uuid, delete
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import outbox
from outbox.clock import SystemClock
from outbox.ids import Ids
from outbox.inbox.handlers import Context, Handlers
from outbox.inbox.inbox import Inbox
from outbox.invariants import Invariants, Keeps, Mirrors, Refers, Wrong
from outbox.messages import Event
from outbox.tables import metadata
from outbox.transports.memory import MemoryTransport
from tests.support.outbox.relays import make_relay


@dataclass(frozen=True)
class OrderPlaced(Event, type="shop.order-placed.v1", key="order"):
    order: str


@dataclass(frozen=True)
class OrderCancelled(Event, type="shop.order-cancelled.v1", key="order"):
    order: str


class ShopBase(DeclarativeBase):
    pass


class DepotBase(DeclarativeBase):
    pass


class Order(ShopBase):
    """A cancelled one is deleted."""

    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)


class Parcel(DepotBase):
    """`packed_by` is the saga that packed it, if one did."""

    __tablename__ = "parcels"

    order: Mapped[str] = mapped_column(String(20), primary_key=True)
    packed_by: Mapped[str | None] = mapped_column(Uuid(as_uuid=False))


SHOP = Invariants("shop", keeps=[Keeps("order", id=Order.id)])
DEPOT = Invariants(
    "depot",
    rules=[
        Refers(
            "order",
            id=Parcel.order,
            by=Parcel.packed_by,
            wrong=Wrong("parcel-of-no-order", "every parcel belongs to an order"),
        ),
        Mirrors(
            "order",
            id=Parcel.order,
            missing=Wrong("parcel-missing", "every order has a parcel"),
        ),
    ],
)
EVENTS_ALONE = Invariants(
    "depot",
    rules=[
        Refers("order", id=Parcel.order, wrong=Wrong("parcel-of-no-order", "it has an order")),
    ],
)
"""The same service, if it knew no sagas."""


def shop_schema(connection: Connection) -> None:
    """The shop's tables."""
    metadata.create_all(connection)
    ShopBase.metadata.create_all(connection)


def depot_schema(connection: Connection) -> None:
    """The depot's tables."""
    metadata.create_all(connection)
    DepotBase.metadata.create_all(connection)


class Shop:
    """Places and cancels orders, and tells of it."""

    def __init__(self, engine: AsyncEngine) -> None:
        clock = SystemClock()
        self._sessions = async_sessionmaker(engine, expire_on_commit=False)
        self.bell = outbox.install(
            self._sessions,
            source="shop",
            routes={OrderPlaced: ["depot"], OrderCancelled: ["depot"]},
            clock=clock,
            ids=Ids(clock, os.urandom),
        ).bell

    async def place(self) -> int:
        async with self._sessions.begin() as session:
            order = Order()
            session.add(order)
            await session.flush()
            outbox.add(session, OrderPlaced(str(order.id)))
            return order.id

    async def cancel(self, order: int) -> None:
        async with self._sessions.begin() as session:
            await session.execute(delete(Order).where(Order.id == order))
            outbox.add(session, OrderCancelled(str(order)))


def depot_handlers() -> Handlers:
    """A parcel for each order, and none for what was cancelled."""
    handlers = Handlers("depot")

    @handlers.on(OrderPlaced)
    async def placed(session: AsyncSession, event: OrderPlaced, _: Context) -> None:
        session.add(Parcel(order=event.order))

    @handlers.on(OrderCancelled)
    async def cancelled(session: AsyncSession, event: OrderCancelled, _: Context) -> None:
        await session.execute(delete(Parcel).where(Parcel.order == event.order))

    return handlers


@asynccontextmanager
async def carrying(of_shop: AsyncEngine, of_depot: AsyncEngine) -> AsyncIterator[Shop]:
    """The shop, while what it tells is carried to the depot."""
    inbox = Inbox(
        depot_handlers(),
        async_sessionmaker(of_depot, expire_on_commit=False),
        clock=SystemClock(),
    )
    shop = Shop(of_shop)
    relay = make_relay(of_shop, {"depot": MemoryTransport(inbox.receive)}, bell=shop.bell)
    stop = asyncio.Event()
    running = asyncio.create_task(relay.run(stop))
    try:
        yield shop
    finally:
        stop.set()
        await running
