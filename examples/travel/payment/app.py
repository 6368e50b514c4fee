"""The payment service's own addresses."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Body, FastAPI, HTTPException

from travel.payment.database import Card, engine, sessions
from travel.payment.service import service


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    yield
    await engine.dispose()


app = FastAPI(title="payment", lifespan=lifespan)
service.attach(app)


@app.put("/cards/{number}", status_code=204)
async def put_card(number: str, limit: Annotated[int, Body(embed=True, ge=0)]) -> None:
    async with sessions.begin() as session:
        await session.merge(Card(number=number, limit=limit))


@app.get("/cards/{number}")
async def get_card(number: str) -> dict[str, int]:
    async with sessions() as session:
        card = await session.get(Card, number)
    if card is None:
        raise HTTPException(404, "there is no such card")
    return {"limit": card.limit, "charged": card.charged}
