"""Two services, each with its own database; an order in one becomes a parcel in the other."""

import asyncio
import sys
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import String
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import outbox
from outbox import tables
from outbox.transports import MemoryTransport


# What the two services may know of each other.
@dataclass(frozen=True)
class OrderPlaced(outbox.Event, type="orders.order-placed.v1", key="order_id"):
    order_id: str
    item: str


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    item: Mapped[str]

    def place(self) -> OrderPlaced:
        return OrderPlaced(self.id, self.item)


class Parcel(Base):
    __tablename__ = "parcels"
    order_id: Mapped[str] = mapped_column(String(36), primary_key=True)
    item: Mapped[str]


async def open_database(path: Path) -> async_sessionmaker[AsyncSession]:
    engine = create_async_engine(f"sqlite+aiosqlite:///{path}")
    outbox.sqlite.configure(engine)  # SQLite's defaults lose writes
    async with engine.begin() as connection:  # a real service uses migrations: outbox.schema
        await connection.run_sync(tables.metadata.create_all)
        await connection.run_sync(Base.metadata.create_all)
    return async_sessionmaker(engine, expire_on_commit=False)


async def main(folder: Path) -> None:
    clock = outbox.SystemClock()

    # The receiving service: what it does with an event, in one transaction with the inbox.
    warehouse = await open_database(folder / "warehouse.sqlite")
    handlers = outbox.Handlers("warehouse")

    @handlers.on(OrderPlaced)
    async def pack(session: AsyncSession, event: OrderPlaced, _: outbox.Context) -> None:
        session.add(Parcel(order_id=event.order_id, item=event.item))

    inbox = outbox.Inbox(handlers, warehouse, clock=clock)

    # The sending service: the event leaves if and only if this transaction commits.
    orders = await open_database(folder / "orders.sqlite")
    installed = outbox.install(orders, source="orders", routes={OrderPlaced: ["warehouse"]})
    async with orders.begin() as session:
        order = Order(id=installed.ids(), item="a lamp")
        session.add(order)
        outbox.add(session, order.place())

    # The relay. Between processes it is HttpTransport here, and outbox.receiver(inbox, ...) there.
    engine = orders.kw["bind"]
    transports = {"warehouse": MemoryTransport(inbox.receive)}
    relay = outbox.Relay(engine, transports, owner="orders", clock=clock, bell=installed.bell)
    await relay.run_once()  # a service repeats this: relay.run(stop)
    await relay.aclose()

    async with warehouse() as session:
        parcel = await session.get_one(Parcel, order.id)
        print(f"packed {parcel.item} for order {parcel.order_id}")
    await engine.dispose()
    await warehouse.kw["bind"].dispose()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
