"""Stock: takes orders and asks for the saga that places them; holds goods back, and ships."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import FastAPI, HTTPException
from pydantic import BaseModel, Field
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import outbox
from outbox import tables
from outbox.contract import SagaEnded
from shop.contract import PLACE_ORDER, PlaceOrder, Release, Reserve, Reserved, Ship

engine = create_async_engine(os.environ["SAGABOX_DATABASE_URL_STOCK"])
service = outbox.Service("stock", engine)


class Base(DeclarativeBase):
    pass


class Item(Base):
    __tablename__ = "items"
    name: Mapped[str] = mapped_column(primary_key=True)
    price: Mapped[int]  # in cents
    free: Mapped[int]


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[str] = mapped_column(primary_key=True)  # and the id of its saga
    item: Mapped[str]
    quantity: Mapped[int]
    status: Mapped[str] = mapped_column(default="placed")
    saga: Mapped[str | None]  # how it ended


# What the saga asks for. No handler looks for duplicates, or whether there is anything to undo: the
# inbox knows, and calls none of them in vain.


@service.on(Reserve)
async def reserve(
    session: AsyncSession, command: Reserve, _: outbox.Context
) -> Reserved | outbox.Refused:
    order = await session.get(Order, command.order_id)
    if order is None:
        return outbox.Refused("unknown-order", f"there is no order {command.order_id}")
    item = await session.get(Item, order.item, with_for_update=True)
    if item is None or item.free < order.quantity:
        return outbox.Refused("sold-out", f"there are not {order.quantity} of {order.item}")
    item.free -= order.quantity
    order.status = "reserved"
    return Reserved(total=item.price * order.quantity)


@service.on(Release)
async def release(session: AsyncSession, command: Release, _: outbox.Context) -> None:
    order = await session.get_one(Order, command.order_id)
    item = await session.get_one(Item, order.item, with_for_update=True)
    item.free += order.quantity
    order.status = "released"


@service.on(Ship)
async def ship(session: AsyncSession, command: Ship, _: outbox.Context) -> None:
    order = await session.get_one(Order, command.order_id)
    order.status = "shipped"


@service.on(SagaEnded)
async def note_end(session: AsyncSession, event: SagaEnded, _: outbox.Context) -> None:
    order = await session.get_one(Order, event.instance_id)
    order.saga = event.status


# What people ask for.


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    async with engine.begin() as connection:  # a real service uses migrations: outbox.schema
        await connection.run_sync(tables.metadata.create_all)
        await connection.run_sync(Base.metadata.create_all)
    yield
    await engine.dispose()


app = FastAPI(title="stock", lifespan=lifespan)
service.attach(app)


class NewOrder(BaseModel):
    item: str
    quantity: Annotated[int, Field(ge=1)]
    card: str


class Stored(BaseModel):
    price: Annotated[int, Field(ge=0)]
    free: Annotated[int, Field(ge=0)]


@app.post("/orders", status_code=202)
async def place(order: NewOrder) -> dict[str, str]:
    order_id = service.new_id()
    async with service.sessions.begin() as session:
        session.add(Order(id=order_id, item=order.item, quantity=order.quantity))
        service.start(session, PLACE_ORDER, PlaceOrder(order_id, order.card), id=order_id)
    return {"id": order_id}


@app.get("/orders/{order_id}")
async def get_order(order_id: str) -> dict[str, str | None]:
    async with service.sessions() as session:
        order = await session.get(Order, order_id)
    if order is None:
        raise HTTPException(404, f"there is no order {order_id}")
    return {"id": order_id, "status": order.status, "saga": order.saga}


@app.put("/items/{name}", status_code=204)
async def put_item(name: str, item: Stored) -> None:
    async with service.sessions.begin() as session:
        await session.merge(Item(name=name, price=item.price, free=item.free))


@app.get("/items/{name}")
async def get_item(name: str) -> Stored:
    async with service.sessions() as session:
        item = await session.get(Item, name)
    if item is None:
        raise HTTPException(404, f"there is no {name}")
    return Stored(price=item.price, free=item.free)
