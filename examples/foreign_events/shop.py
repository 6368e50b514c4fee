"""A shop that was a FastAPI application before. All that it knows of brokers is in settings:

export SAGABOX_SECRETS=...
export SAGABOX_PEERS=stock=nats://127.0.0.1:4222,partner=topic+nats://127.0.0.1:4222/shop.orders
export SHOP_PARCELS=topic+nats://127.0.0.1:4222/partner.parcels
uvicorn foreign_events.shop:app
"""

from __future__ import annotations

import os

from fastapi import FastAPI
from sqlalchemy import Column, MetaData, String, Table, insert, select, update
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

import outbox
from foreign_events.contract import OrderPlaced, ParcelDelivered

engine = create_async_engine(os.environ.get("SHOP_DATABASE_URL", "sqlite+aiosqlite:///shop.sqlite"))
app = FastAPI(title="shop")
metadata = MetaData()
orders = Table(
    "shop_order",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("item", String(100), nullable=False),
    Column("status", String(20), nullable=False),
)

service = outbox.Service("shop", engine, routes={OrderPlaced: ["stock", "partner"]})
service.attach(app)


@app.post("/orders/{order}")
async def place(order: str, item: str) -> dict[str, str]:
    async with service.sessions.begin() as session:
        await session.execute(insert(orders).values(id=order, item=item, status="placed"))
        outbox.add(session, OrderPlaced(order, item))
    return {"order": order}


@app.get("/orders/{order}")
async def status(order: str) -> dict[str, str | None]:
    async with service.sessions() as session:
        found = await session.scalar(select(orders.c.status).where(orders.c.id == order))
    return {"status": found}


def delivered(message: outbox.ForeignMessage) -> ParcelDelivered | None:
    parcel = message.json()
    if parcel["state"] != "delivered":
        return None
    return ParcelDelivered(parcel["reference"])


service.follow(os.environ["SHOP_PARCELS"], map=delivered, id="parcel-event")


@service.on(ParcelDelivered)
async def close(session: AsyncSession, event: ParcelDelivered, _: outbox.Context) -> None:
    closing = update(orders).where(orders.c.id == event.order).values(status="delivered")
    await session.execute(closing)
