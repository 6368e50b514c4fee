"""Stock: takes orders and asks for the saga that places them; holds goods back, and ships."""

import os
from typing import Annotated

from fastapi import APIRouter, FastAPI, HTTPException
from pydantic import BaseModel, Field
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import outbox
from outbox.contract import SagaEnded, StartSaga
from shop.contract import Release, Reserve, Reserved, Ship
from shop.service import NewId, Sessions, make_app

handlers = outbox.Handlers("stock")
router = APIRouter()


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


@handlers.on(Reserve)
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


@handlers.on(Release)
async def release(session: AsyncSession, command: Release, _: outbox.Context) -> None:
    order = await session.get_one(Order, command.order_id)
    item = await session.get_one(Item, order.item, with_for_update=True)
    item.free += order.quantity
    order.status = "released"


@handlers.on(Ship)
async def ship(session: AsyncSession, command: Ship, _: outbox.Context) -> None:
    order = await session.get_one(Order, command.order_id)
    order.status = "shipped"


@handlers.on(SagaEnded)
async def note_end(session: AsyncSession, event: SagaEnded, _: outbox.Context) -> None:
    order = await session.get_one(Order, event.instance_id)
    order.saga = event.status


# What people ask for.


class NewOrder(BaseModel):
    item: str
    quantity: Annotated[int, Field(ge=1)]
    card: str


class Stored(BaseModel):
    price: Annotated[int, Field(ge=0)]
    free: Annotated[int, Field(ge=0)]


@router.post("/orders", status_code=202)
async def place(order: NewOrder, sessions: Sessions, order_id: NewId) -> dict[str, str]:
    async with sessions.begin() as session:
        session.add(Order(id=order_id, item=order.item, quantity=order.quantity))
        placing = {"order_id": order_id, "card": order.card}
        outbox.add(session, StartSaga("place-order", placing, instance_id=order_id))
    return {"id": order_id}


@router.get("/orders/{order_id}")
async def get_order(order_id: str, sessions: Sessions) -> dict[str, str | None]:
    async with sessions() as session:
        order = await session.get(Order, order_id)
    if order is None:
        raise HTTPException(404, f"there is no order {order_id}")
    return {"id": order_id, "status": order.status, "saga": order.saga}


@router.put("/items/{name}", status_code=204)
async def put_item(name: str, item: Stored, sessions: Sessions) -> None:
    async with sessions.begin() as session:
        await session.merge(Item(name=name, price=item.price, free=item.free))


@router.get("/items/{name}")
async def get_item(name: str, sessions: Sessions) -> Stored:
    async with sessions() as session:
        item = await session.get(Item, name)
    if item is None:
        raise HTTPException(404, f"there is no {name}")
    return Stored(price=item.price, free=item.free)


def create_app() -> FastAPI:
    sends_to = {"orchestrator": os.environ["SHOP_URL_ORCHESTRATOR"]}
    return make_app(handlers, router, Base.metadata, sends_to)
