"""A service of the shop's own, which reads its queue at the broker:

export SAGABOX_SECRETS=... SAGABOX_BROKER=nats://127.0.0.1:4222 SAGABOX_PEERS=
uvicorn foreign_events.stock:app --port 8001
"""

from __future__ import annotations

import os

from fastapi import FastAPI
from sqlalchemy import Column, MetaData, String, Table, insert, select
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

import outbox
from foreign_events.contract import OrderPlaced

engine = create_async_engine(
    os.environ.get("STOCK_DATABASE_URL", "sqlite+aiosqlite:///stock.sqlite")
)
app = FastAPI(title="stock")
metadata = MetaData()
packed = Table("packed", metadata, Column("item", String(100), nullable=False))

service = outbox.Service("stock", engine)
service.attach(app)


@service.on(OrderPlaced)
async def pack(session: AsyncSession, event: OrderPlaced, _: outbox.Context) -> None:
    await session.execute(insert(packed).values(item=event.item))


@app.get("/packed")
async def all_packed() -> list[str]:
    async with service.sessions() as session:
        return list(await session.scalars(select(packed.c.item)))
