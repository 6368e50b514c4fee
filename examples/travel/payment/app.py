"""The payment service's own addresses."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Body, FastAPI, HTTPException
from sqlalchemy import func, select

from travel.payment.database import Card, Entry, engine, sessions
from travel.payment.service import provider, service


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    yield
    await provider.aclose()
    await engine.dispose()


app = FastAPI(title="payment", lifespan=lifespan)
service.attach(app)


@app.put("/cards/{number}", status_code=204)
async def put_card(number: str, account: Annotated[str, Body(embed=True)]) -> None:
    async with sessions.begin() as session:
        await session.merge(Card(number=number, account=account))


@app.get("/cards/{number}")
async def get_card(number: str) -> dict[str, int]:
    charged = select(func.coalesce(func.sum(Entry.amount), 0)).where(Entry.card == number)
    async with sessions() as session:
        if await session.get(Card, number) is None:
            raise HTTPException(404, "there is no such card")
        return {"charged": await session.scalar(charged) or 0}
