"""The shop: an order reserves goods, charges an account and is shipped, each in a transaction of
its own; what cannot be paid is given back."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated

from fastapi import Body, FastAPI, HTTPException
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import orchestrator
import outbox
from orchestrator import Saga, compensatable, pivot, retriable
from outbox.contract import SagaEnded
from outbox.messages import SagaRef

engine = create_async_engine(os.environ["SHOP_DATABASE_URL"])
service = outbox.Service("shop", engine)


class Base(DeclarativeBase):
    pass


class Item(Base):
    __tablename__ = "items"
    name: Mapped[str] = mapped_column(primary_key=True)
    free: Mapped[int]


class Account(Base):
    __tablename__ = "accounts"
    name: Mapped[str] = mapped_column(primary_key=True)
    credit: Mapped[int]  # in cents


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[str] = mapped_column(primary_key=True)  # and the id of its saga
    item: Mapped[str]
    account: Mapped[str]
    status: Mapped[str] = mapped_column(default="placed")


# What the steps ask for, each in a transaction of its own.


@dataclass(frozen=True)
class Reserve(outbox.Command[None], type="shop.reserve.v1", key="order"):
    order: str


@dataclass(frozen=True)
class Release(outbox.Command[None], type="shop.release.v1", key="order"):
    order: str


@dataclass(frozen=True)
class Charge(outbox.Command[None], type="shop.charge.v1", key="order"):
    order: str
    cents: int


@dataclass(frozen=True)
class Ship(outbox.Command[None], type="shop.ship.v1", key="order"):
    order: str


@service.on(Reserve)
async def reserve(
    session: AsyncSession, command: Reserve, _: outbox.Context
) -> outbox.Refused | None:
    order = await session.get_one(Order, command.order)
    item = await session.get(Item, order.item)
    if item is None or item.free == 0:
        return outbox.Refused("sold-out", f"there is no {order.item} left")
    item.free -= 1
    return None


@service.on(Release)
async def release(session: AsyncSession, command: Release, _: outbox.Context) -> None:
    order = await session.get_one(Order, command.order)
    (await session.get_one(Item, order.item)).free += 1


@service.on(Charge)
async def charge(
    session: AsyncSession, command: Charge, _: outbox.Context
) -> outbox.Refused | None:
    order = await session.get_one(Order, command.order)
    account = await session.get_one(Account, order.account)
    if account.credit < command.cents:
        return outbox.Refused("no-credit", f"{command.cents} cents are more than there is")
    account.credit -= command.cents
    return None


@service.on(Ship)
async def ship(session: AsyncSession, command: Ship, _: outbox.Context) -> None:
    (await session.get_one(Order, command.order)).status = "shipped"


@service.on(SagaEnded)
async def note_end(session: AsyncSession, event: SagaEnded, _: outbox.Context) -> None:
    if event.status != "COMPLETED":
        order = await session.get_one(Order, event.instance_id)
        order.status = f"not shipped: {event.reason}"


# How they belong together.


@dataclass(frozen=True)
class Placing:
    order: str
    cents: int


PLACE_ORDER = SagaRef[Placing]("place-order")

place_order = Saga(
    name=PLACE_ORDER.name,
    version=1,
    state=Placing,
    key=lambda it: it.order,
    steps=[
        compensatable(
            "reserve", lambda it: Reserve(it.order), compensation=lambda it: Release(it.order)
        ),
        pivot("charge", lambda it: Charge(it.order, it.cents)),
        retriable("ship", lambda it: Ship(it.order)),
    ],
)


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    yield
    await engine.dispose()


app = FastAPI(title="shop", lifespan=lifespan)
service.attach(app, messages=False)  # no other process sends it any
runs = orchestrator.attach(app, engine, sagas=[place_order], peers={"shop": service})


# What people ask for.


@app.post("/orders", status_code=202)
async def place(
    item: Annotated[str, Body()], account: Annotated[str, Body()], cents: Annotated[int, Body(ge=0)]
) -> dict[str, str]:
    order = service.new_id()
    async with service.sessions.begin() as session:
        session.add(Order(id=order, item=item, account=account))
        service.start(session, PLACE_ORDER, Placing(order, cents), id=order)
    return {"id": order}


@app.get("/orders/{order}")
async def get_order(order: str, wait: float = 10.0) -> dict[str, str]:
    """The order once its saga has ended, or as it stands after so many seconds."""
    try:
        saga = str((await runs.client.run(order).wait(wait)).status)
    except (TimeoutError, orchestrator.OrchestratorError):
        saga = "not known yet"
    async with service.sessions() as session:
        found = await session.get(Order, order)
    if found is None:
        raise HTTPException(404, f"there is no order {order}")
    return {"status": found.status, "saga": saga}


@app.put("/items/{name}", status_code=204)
async def put_item(name: str, free: Annotated[int, Body(embed=True)]) -> None:
    async with service.sessions.begin() as session:
        await session.merge(Item(name=name, free=free))


@app.put("/accounts/{name}", status_code=204)
async def put_account(name: str, credit: Annotated[int, Body(embed=True)]) -> None:
    async with service.sessions.begin() as session:
        await session.merge(Account(name=name, credit=credit))


@app.get("/items/{name}")
async def get_item(name: str) -> dict[str, int]:
    async with service.sessions() as session:
        item = await session.get(Item, name)
    return {"free": 0 if item is None else item.free}
